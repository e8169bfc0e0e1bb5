//! Runs go on with the builds that they began with, whatever is swapped, revoked or restarted meanwhile.

use mcpp::{call::build::BuildId, names::TenantId};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    command_line::{run, stdout},
    support::{TestHost, folder, grant, guest},
    swap::{serves, version},
    workflow::{ask, ended},
    workflow_kills::build,
};

/// A step, a wait for `go`, and the step once more.
fn twice(action: &str, inputs: &Value) -> Value {
    json!([
        { "step_id": "first", "action": action, "inputs": inputs },
        { "step_id": "go", "action": "wait", "inputs": { "signal": "go" }, "depends_on": ["first"] },
        { "step_id": "second", "action": action, "inputs": inputs, "depends_on": ["go"] }
    ])
}

/// Begins a run that waits for `go` behind its first step.
async fn begin(host: &TestHost, id: &str, steps: Value) {
    let submitted = ask(host, "workflow_submit", json!({ "workflow_id": id, "name": id, "steps": steps })).await;
    assert_eq!(submitted["success"], true, "{submitted}");
    host.until("it waits for the signal", async |host| {
        ask(host, "workflow_status", json!({ "workflow_id": id })).await["steps"][1]["status"] == "waiting"
    })
    .await;
}

/// Lets a run go on to its end; the result.
async fn go(host: &TestHost, id: &str) -> Value {
    let given = ask(host, "workflow_signal", json!({ "workflow_id": id, "signal": "go" })).await;
    assert_eq!(given["success"], true, "{given}");
    ended(host, id).await
}

/// What the two steps of a run answered that has completed.
fn answers(result: &Value) -> [u64; 2] {
    assert_eq!(result["status"], "completed", "{result}");
    ["first", "second"].map(|step| result["outputs"][step]["result"].as_u64().expect("a number"))
}

/// The pinned builds of `v`, as digests.
fn pinned(host: &TestHost) -> Vec<String> {
    let pins = host.host.registry().pins(&TenantId::local()).expect("the tenant keeps builds");
    pins.of("v").into_iter().map(|(BuildId { digest, .. }, _)| digest).collect()
}

async fn start(files: TempDir) -> TestHost {
    TestHost::start_with(files, |config| config.tools.builtin = true).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swap_in_the_middle_of_a_run_does_not_change_what_its_later_steps_call() {
    let host = start(folder(&[("v", &version(1))])).await;
    begin(&host, "old", twice("v", &json!({}))).await;
    host.write("v", &version(2));
    serves(&host, 2).await;
    begin(&host, "new", twice("v", &json!({}))).await;
    host.write("v", &version(3));
    serves(&host, 3).await;
    assert_eq!(pinned(&host).len(), 2, "one build for each of the runs");
    let data = format!("--data={}", host.folder.path().join("data").display());
    let shown = tokio::task::block_in_place(|| stdout(&run(&["info", &data], &[])));
    let rows: Vec<&str> = shown.lines().filter(|line| line.contains("replaced") && line.contains("workflow")).collect();
    assert_eq!(rows.len(), 2, "{shown}");
    let url = format!("--url={}", host.host.url());
    let tools = |more: &[&str]| {
        let arguments = [&["tools", &url, &data], more].concat();
        tokio::task::block_in_place(|| stdout(&run(&arguments, &[])))
    };
    let shown = tools(&[]);
    let row = shown.lines().last().expect("a row").split_whitespace().collect::<Vec<_>>();
    assert!(row.starts_with(&["v", "2", "2"]) && row.ends_with(&["workflow"]), "a person sees it at a glance: {shown}");
    let listed: Vec<Value> = serde_json::from_str(&tools(&["--json"])).expect("JSON");
    let v = listed.iter().find(|tool| tool["name"] == "v").expect("listed");
    let builds: Vec<_> = v["pinned_builds"].as_array().expect("a list").iter().collect();
    assert_eq!((builds.len(), &v["component"]), (2, &json!("v")), "{v}");
    assert!(builds.iter().all(|build| build["live"] == false && build["by"] == json!(["workflow"])), "{v}");
    assert_eq!(answers(&go(&host, "old").await), [1, 1]);
    assert_eq!(answers(&go(&host, "new").await), [2, 2]);
    // What is done again is done by today's tools, and says who wanted it.
    let forked = json!({ "workflow_id": "old", "new_workflow_id": "fork", "step_id": "second" });
    assert_eq!(ask(&host, "workflow_fork", forked).await["success"], true);
    assert_eq!(answers(&ended(&host, "fork").await), [1, 3]);
    let status = ask(&host, "workflow_status", json!({ "workflow_id": "fork" })).await;
    assert_eq!((&status["forked_from"]["run"], &status["forked_from"]["by"]), (&json!("old"), &json!("local-user")));
    assert_eq!(status["builds"][0]["component"], "v", "{status}");
    host.until("nothing is pinned any more", async |host| pinned(host).is_empty()).await;
    assert!(!tools(&[]).contains("Older builds"), "{}", tools(&[]));
    let in_memory = |host: &TestHost| host.host.registry().catalog(&TenantId::local()).pinned().count();
    host.until("the builds are gone from memory", async |host| in_memory(host) == 0).await;
    let catalog = host.host.registry().catalog(&TenantId::local());
    let left = std::fs::read_dir(host.folder.path().join("data/pinned")).expect("a folder");
    let left: Vec<String> = left.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into()).collect();
    let live = catalog.component("v").expect("it serves").digest.clone();
    let kept: Vec<&String> = left.iter().filter(|name| name.starts_with("v.")).collect();
    assert_eq!(kept, [&format!("v.{live}.wasm")], "{left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_has_its_builds_after_a_restart_too() {
    let host = start(folder(&[("v", &version(1))])).await;
    begin(&host, "r", twice("v", &json!({}))).await;
    let files = host.stop().await;
    // The file changes while no host runs.
    std::fs::write(files.path().join("tools/v.wasm"), version(2)).expect("written");
    let host = start(files).await;
    serves(&host, 2).await;
    assert_eq!(answers(&go(&host, "r").await), [1, 1]);
    host.until("what the first run held is given back", async |host| pinned(host).is_empty()).await;
    // Without its bytes a step fails, and says which build is missing.
    begin(&host, "s", twice("v", &json!({}))).await;
    let digest = pinned(&host).remove(0);
    let files = host.stop().await;
    std::fs::write(files.path().join("tools/v.wasm"), version(3)).expect("written");
    std::fs::write(files.path().join(format!("data/pinned/v.{digest}.wasm")), version(4)).expect("written");
    let host = start(files).await;
    serves(&host, 3).await;
    let result = go(&host, "s").await;
    assert_eq!(result["status"], "failed", "{result}");
    let error = result.to_string();
    assert!(error.contains(&format!("v {}", &digest[..12])) && error.contains("is not loaded"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_revoked_or_taken_away_is_gone_for_pinned_builds_too() {
    let caller = guest("caller");
    let files = folder(&[("caller", &build(&caller, 0)), ("v", &version(1))]);
    grant(&files, "[components.caller]\ncall = ['v', 'text_hash']\n");
    let host = start(files).await;
    let steps = || twice("caller_call", &json!({ "tool": "text_hash", "arguments": { "text": "x" } }));
    begin(&host, "revoked", steps()).await;
    begin(&host, "gone", steps()).await;
    let live = |host: &TestHost| {
        let catalog = host.host.registry().catalog(&TenantId::local());
        catalog.component("caller").map(|live| live.digest.clone())
    };
    let before = live(&host);
    host.write("caller", &build(&caller, 1));
    host.until("the new build serves", async |host| live(host).is_some_and(|now| Some(now) != before)).await;
    grant(&host.folder, "[components.caller]\ncall = ['v']\n");
    host.host.reload().await.expect("reloaded");
    let result = go(&host, "revoked").await;
    assert_eq!(result["status"], "failed", "{result}");
    assert!(result["outputs"]["first"].is_object() && result.to_string().contains("NotFound"), "{result}");
    std::fs::remove_file(host.tools_folder().join("caller.wasm")).expect("removed");
    host.until("it is gone", async |host| live(host).is_none()).await;
    let result = go(&host, "gone").await;
    assert!(result.to_string().contains("the component is not there any more"), "{result}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_may_begin_in_any_moment_of_a_swap() {
    const RUNS: usize = 150;
    let host = start(folder(&[("v", &version(0))])).await;
    let submitting = async {
        for run in 0..RUNS {
            let steps = json!([{ "step_id": "only", "action": "v", "inputs": {} }]);
            let run = json!({ "workflow_id": format!("r{run}"), "name": "r", "steps": steps });
            let submitted = ask(&host, "workflow_submit", run).await;
            assert_eq!(submitted["success"], true, "{submitted}");
        }
    };
    let swapping = async {
        for next in 1.. {
            host.write("v", &version(next));
            host.host.reload().await.expect("reloaded");
        }
    };
    tokio::select! {
        () = submitting => {}
        () = swapping => unreachable!("it swaps until all are submitted"),
    }
    for run in 0..RUNS {
        assert_eq!(ended(&host, &format!("r{run}")).await["status"], "completed");
    }
}
