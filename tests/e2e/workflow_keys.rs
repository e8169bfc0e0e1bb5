//! Steps that wait for a key that others have, in all runs of a tenant, and steps that take the results of earlier ones.

use serde_json::{Value, json};

use crate::{
    support::{TestHost, folder, guest},
    workflow::{ask, ended},
};

/// Submits a run of these steps.
async fn submit(host: &TestHost, id: &str, steps: Value) {
    let submitted = ask(host, "workflow_submit", json!({ "workflow_id": id, "name": id, "steps": steps })).await;
    assert_eq!(submitted["success"], true, "{submitted}");
}

async fn status(host: &TestHost, id: &str) -> Value {
    ask(host, "workflow_status", json!({ "workflow_id": id, "from_step": 0 })).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steps_of_a_rate_wait_and_those_of_other_keys_go_on() {
    let host = TestHost::start_with(folder(&[]), |config| config.tools.builtin = true).await;
    let step = |id: &str, key: &str, per_s: f64| {
        json!([{ "step_id": id, "action": "text_hash", "inputs": { "text": id },
                 "concurrency": { "key": format!("all-{key}"), "limit": 1 }, "rate": { "key": key, "limit": 1, "per_s": per_s } }])
    };
    submit(&host, "first", step("a", "slow", 3_600.0)).await;
    ended(&host, "first").await;
    submit(&host, "second", step("b", "slow", 3_600.0)).await;
    host.until("the second one waits", async |host| status(host, "second").await["steps"][0]["status"] == "waiting")
        .await;
    let waiting = status(&host, "second").await;
    assert_eq!(waiting["steps"][0]["reason"], "waits for the rate of the key \"slow\"", "{waiting}");
    assert_eq!(waiting["next_event"], "b: it waits for the rate of the key \"slow\"", "{waiting}");
    submit(&host, "other", step("c", "other", 0.3)).await;
    assert_eq!(ended(&host, "other").await["status"], "completed");
    submit(&host, "soon", step("d", "other", 0.3)).await;
    assert_eq!(ended(&host, "soon").await["status"], "completed", "a timer lets it on");
    let doctor = ask(&host, "workflow_doctor", json!({})).await;
    assert_eq!((&doctor["healthy"], &doctor["stuck"]), (&json!(true), &json!([])), "{doctor}");
    let cancelled = ask(&host, "workflow_cancel", json!({ "workflow_id": "second" })).await;
    assert_eq!(cancelled["success"], true, "{cancelled}");
    assert_eq!(ended(&host, "second").await["status"], "cancelled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_has_the_result_of_an_earlier_one_on_the_same_build() {
    let host = TestHost::start_with(folder(&[("probe", &guest("probe"))]), |config| config.tools.builtin = true).await;
    let steps = |text: &str| {
        json!([
            { "step_id": "hash", "action": "text_hash", "inputs": { "text": text }, "cache": { "ttl_s": 60 } },
            { "step_id": "other", "action": "probe_caller", "cache": { "ttl_s": 60 } }
        ])
    };
    for (id, text, cached) in [("one", "x", [false, false]), ("two", "x", [true, true]), ("three", "y", [false, true])]
    {
        submit(&host, id, steps(text)).await;
        assert_eq!(ended(&host, id).await["status"], "completed");
        let status = status(&host, id).await;
        assert_eq!(
            [0_usize, 1].map(|step| status["steps"][step]["cached"].clone()),
            cached.map(Value::Bool),
            "{status}"
        );
    }
    let result = async |id: &str| ask(&host, "workflow_result", json!({ "workflow_id": id })).await["outputs"].clone();
    let (one, two, three) = (result("one").await, result("two").await, result("three").await);
    assert_eq!(one, two);
    assert_ne!(one["hash"], three["hash"], "{one} {three}");
}
