//! Tools that call tools: only with a grant, only what it names, as the same caller, within the same time, and not too deep.

use serde_json::json;

use crate::support::{TestHost, add, folder, guest};

async fn host(call: &str) -> TestHost {
    let files = folder(&[("caller", &guest("caller")), ("probe", &guest("probe")), ("add", &add())]);
    crate::support::grant(&files, &format!("[components.caller]\ncall = {call}\n"));
    TestHost::start_with(files, |config| config.engine.max_running = 2).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_opens_what_it_names_and_nothing_else() {
    let host = host(r#"["add", "probe_*"]"#).await;
    assert_eq!(host.problems(), "");
    let call = |tool: &str, arguments| json!({ "tool": tool, "arguments": arguments });
    assert_eq!(host.text("caller_call", call("add", json!({ "a": 1, "b": 2 }))).await, r#"{"result":3}"#);
    assert_eq!(host.text("caller_call", call("probe_add", json!({ "a": 1, "b": 2 }))).await, r#"{"result":3}"#);
    // Not granted, and not there at all: the caller cannot tell.
    assert_eq!(host.text("caller_call", call("caller_recurse", json!({ "depth": 0 }))).await, "error: NotFound");
    assert_eq!(host.text("caller_call", call("nothing", json!({}))).await, "error: NotFound");
    let wrong = host.text("caller_call", call("add", json!({ "a": 1 }))).await;
    assert!(wrong.contains("InvalidArguments"), "{wrong}");
    let crashed = host.text("caller_call", call("probe_panic", json!({}))).await;
    assert!(crashed.contains("Aborted") && crashed.contains("unreachable"), "{crashed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nested_call_is_the_same_callers() {
    let host = host(r#"["*"]"#).await;
    let direct = host.call("probe_caller", json!({})).await["result"]["structuredContent"]["result"].clone();
    assert_eq!((&direct[0], &direct[1]), (&json!("local"), &json!("local-user")));
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let params = json!({ "name": "caller_call", "arguments": { "tool": "probe_caller", "arguments": {} }, "_meta": { "traceparent": parent } });
    let response = host.modern("tools/call", params).send().await.expect("an answer");
    let nested = crate::support::answer(response).await["result"]["structuredContent"]["result"].clone();
    assert_eq!((&nested[0], &nested[1]), (&json!("local"), &json!("local-user")));
    let trace = nested[2].as_str().expect("a traceparent");
    assert!(trace.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && trace != parent, "{trace}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recursion_ends_at_depth_eight_and_does_not_deadlock() {
    let host = host(r#"["caller_recurse"]"#).await;
    assert_eq!(host.text("caller_recurse", json!({ "depth": 0 })).await, r#"{"result":8}"#);
    assert_eq!((host.host.registry().admission().running(), host.host.registry().admission().waiting()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nested_call_ends_with_its_callers_deadline() {
    let files = folder(&[("caller", &guest("caller")), ("probe", &guest("probe"))]);
    let grants = "[components.caller]\ncall = ['*']\n[components.caller.limits]\ndeadline_ms = 300\n";
    crate::support::grant(&files, grants);
    let host = TestHost::start_with(files, |_| {}).await;
    let text = host.text("caller_call", json!({ "tool": "probe_spin", "arguments": {} })).await;
    assert!(text.contains("budget `deadline_ms` exceeded"), "{text}");
    host.until("nothing runs", async |host| host.host.registry().admission().running() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn taking_a_grant_away_takes_the_component_away() {
    let host = host(r#"["add"]"#).await;
    std::fs::remove_file(host.folder.path().join("data/grants/caller.toml")).expect("removed");
    let report = host.host.reload().await.expect("reloaded");
    let error = &report.failed["caller"];
    assert!(error.contains("add `call = [\"TOOL\"]` to `grants/caller.toml`"), "{error}");
    assert!(
        !host.tools().await.contains(&"caller_call".to_owned()),
        "a build serves on that its grant no longer covers"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_grants_file_changes_nothing() {
    let host = host(r#"["add"]"#).await;
    let file = host.folder.path().join("data/grants/caller.toml");
    std::fs::write(&file, "version = 1\nallow-all = true\n").expect("written");
    let report = host.host.reload().await.expect("reloaded");
    assert!(report.failed["caller"].contains("unknown field `allow-all`"), "{report:?}");
    assert_eq!(
        host.text("caller_call", json!({ "tool": "add", "arguments": { "a": 1, "b": 2 } })).await,
        r#"{"result":3}"#
    );
}
