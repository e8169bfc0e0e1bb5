//! Steps that wait for the outside, on the whole host: for an event of a component of which the grant lets workflows hear, and for a worker of the task queue.

use serde_json::json;

use crate::{
    command_line::{run, stderr, stdout},
    support::{TestHost, folder, grant, guest},
    workflow::{ask, ended},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_waits_for_an_event_that_the_operator_lets_workflows_hear_of() {
    let files = folder(&[("store", &guest("store"))]);
    grant(&files, "[components.store]\ncall = ['x']\nstore = {}\nsubscribe = ['other/topic']\n");
    let host = TestHost::start_with(files, |config| config.tools.builtin = true).await;
    assert_eq!(host.problems(), "");
    let submission = json!({ "workflow_id": "w", "name": "paid", "steps": [
        { "step_id": "paid", "action": "wait", "inputs": { "event": { "topic": "store/own", "key": "7" } } }
    ] });
    let refused = ask(&host, "workflow_submit", submission.clone()).await;
    let advice = "run `mcpp grant workflow 'subscribe = [\"store/own\"]'`";
    assert!(refused["error"].as_str().is_some_and(|error| error.contains(advice)), "{refused}");
    let data = host.folder.path().join("data").display().to_string();
    let arguments = ["grant", "workflow", "subscribe = [\"store/own\"]", "--data", &data];
    let done = tokio::task::block_in_place(|| run(&arguments, &[]));
    let text = stdout(&done);
    assert!(text.contains("taskqueue/ended") && text.contains("store/own"), "{text} {}", stderr(&done));
    host.until("the workflow component hears of the topic", async |host| {
        ask(host, "workflow_submit", submission.clone()).await["success"] == true
    })
    .await;
    host.until("the step waits", async |host| {
        let status = ask(host, "workflow_status", json!({ "workflow_id": "w" })).await;
        status["steps"][0]["waits_for"]["event"] == json!({ "topic": "store/own", "key": "7" })
    })
    .await;
    for (key, payload) in [("8", "{}"), ("7", r#"{"by":"ada"}"#)] {
        host.call("store_emit", json!({ "topic": "own", "key": key, "payloads": [payload] })).await;
    }
    let result = ended(&host, "w").await;
    assert_eq!(result["outputs"]["paid"]["payload"], json!({ "by": "ada" }), "{result}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_of_the_queue_does_a_step_and_the_run_goes_on_at_once() {
    let host = TestHost::start_with(folder(&[]), |config| config.tools.builtin = true).await;
    let steps = json!([
        { "step_id": "page", "action": "task", "inputs": { "task_type": "render", "payload": { "page": "${input.page}" } } },
        { "step_id": "hash", "action": "text_hash", "inputs": { "text": "${steps.page.result.text}" } }
    ]);
    let submission = json!({ "workflow_id": "w", "name": "pages", "input": { "page": 7 }, "steps": steps });
    let submitted = ask(&host, "workflow_submit", submission).await;
    assert_eq!(submitted["success"], true, "{submitted}");
    let wanted = json!({ "worker_id": "w7", "task_types": ["render"], "wait_s": 20 });
    let claimed = ask(&host, "task_claim", wanted).await["tasks"][0].clone();
    assert_eq!(claimed["payload"], json!({ "page": 7 }), "{claimed}");
    let end = json!({ "task_id": claimed["task_id"], "status": "completed", "result": { "text": "x" } });
    let begun = std::time::Instant::now();
    ask(&host, "task_complete_many", json!({ "tasks": [end] })).await;
    let result = ended(&host, "w").await;
    assert_eq!(
        (&result["status"], &result["outputs"]["page"]),
        (&json!("completed"), &json!({ "text": "x" })),
        "{result}"
    );
    assert!(begun.elapsed().as_secs() < 25, "the event ends the step, not the look after 30 s");
    let status = ask(&host, "workflow_status", json!({ "workflow_id": "w" })).await;
    assert_eq!((&status["steps"][0]["worker"], &status["steps"][0]["task_id"]), (&json!("w7"), &claimed["task_id"]));
}
