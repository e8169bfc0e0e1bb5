//! `POST /hooks/TOKEN`: others end a step that waits, with its one-time token and no other right.

use mcpp::names::ToolName;
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

use crate::{
    support::{TestHost, folder},
    tenants::token,
    workflow::{ask, ended},
};

/// A host that opens hooks to these components.
async fn host(hooks: &[&str]) -> TestHost {
    let hooks: Vec<String> = hooks.iter().map(|name| (*name).to_owned()).collect();
    TestHost::start_with(folder(&[]), |config| {
        config.tools.builtin = true;
        config.server.hooks = hooks;
    })
    .await
}

/// Begins a run that waits for a webhook; its token.
async fn waits(host: &TestHost, id: &str) -> String {
    let steps = json!([{ "step_id": "hook", "action": "wait", "inputs": { "webhook": true } }]);
    let submitted = ask(host, "workflow_submit", json!({ "workflow_id": id, "name": id, "steps": steps })).await;
    assert_eq!(submitted["success"], true, "{submitted}");
    let step = async || ask(host, "workflow_status", json!({ "workflow_id": id })).await["steps"][0].clone();
    host.until("it waits", async |_| step().await["status"] == "waiting").await;
    step().await["waits_for"]["token"].as_str().expect("a token").to_owned()
}

async fn post(host: &TestHost, token: &str, kind: &str, body: impl Into<reqwest::Body>) -> Response {
    let url = format!("http://{}/hooks/{token}", host.host.address());
    host.http.post(url).header("content-type", kind).body(body).send().await.expect("an answer")
}

async fn refusal(response: Response) -> (StatusCode, String) {
    (response.status(), response.text().await.expect("text"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_ends_its_step_once_and_a_used_token_looks_like_one_that_never_was() {
    let host = host(&["workflow"]).await;
    let [first, second] = [waits(&host, "a").await, waits(&host, "b").await];
    assert!(first.starts_with("local~workflow~workflow_signal~") && first != second, "{first}");
    let hook = host.host.registry().hook(&first).expect("it is this host's");
    let may = |tool: &str| hook.principal.may_use(&ToolName::new(tool).expect("legal"));
    assert_eq!([may("workflow_signal"), may("workflow_cancel"), may("text_hash")], [true, false, false]);
    assert_eq!(post(&host, &first, "application/json", r#"{"paid":7}"#).await.status(), StatusCode::NO_CONTENT);
    let result = ended(&host, "a").await;
    assert_eq!((&result["status"], &result["outputs"]["hook"]), (&json!("completed"), &json!({ "paid": 7 })));
    let used = refusal(post(&host, &first, "application/json", "{}").await).await;
    let mut never = second.clone();
    let last = if never.pop() == Some('0') { '1' } else { '0' };
    never.push(last);
    assert_eq!(refusal(post(&host, &never, "application/json", "{}").await).await, used);
    assert_eq!(refusal(post(&host, "nothing", "application/json", "{}").await).await, used);
    assert_eq!(used.0, StatusCode::NOT_FOUND, "{}", used.1);
    // Others than JSON are texts; what is neither, or too large, changes nothing.
    assert_eq!(post(&host, &second, "application/json", "{").await.status(), StatusCode::BAD_REQUEST);
    assert_eq!(post(&host, &second, "text/plain", vec![0xff]).await.status(), StatusCode::BAD_REQUEST);
    let large = "x".repeat((256 << 10) + 1);
    assert_eq!(post(&host, &second, "text/plain", large).await.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(post(&host, &second, "text/plain", "go").await.status(), StatusCode::NO_CONTENT);
    assert_eq!(ended(&host, "b").await["outputs"]["hook"], "go");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hooks_are_closed_unless_the_operator_opens_them_to_the_component() {
    let host = host(&[]).await;
    let step = waits(&host, "a").await;
    assert_eq!(post(&host, &step, "application/json", "{}").await.status(), StatusCode::NOT_FOUND);
    // With a token of the tenant it is good all the same.
    let given = ask(&host, "workflow_signal", json!({ "token": step, "payload": 1 })).await;
    assert_eq!(given["success"], true, "{given}");
    let other = self::host(&["other"]).await;
    let step = waits(&other, "a").await;
    assert!(!step.contains('~'), "{step}");
    assert_eq!(post(&other, &step, "application/json", "{}").await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hook_needs_no_token_of_the_tenant_and_gives_none_of_its_rights() {
    let files = folder(&[]);
    let all = token(&files.path().join("data"), "local", &["tools"], &["*"]);
    let host = TestHost::start_with(files, |config| {
        config.tools.builtin = true;
        config.server.hooks = vec!["workflow".into()];
    })
    .await;
    let call = async |tool: &str, arguments: Value| {
        let request = host.modern("tools/call", json!({ "name": tool, "arguments": arguments })).bearer_auth(&all);
        let answer: Value = request.send().await.expect("an answer").json().await.expect("JSON");
        answer["result"]["structuredContent"].clone()
    };
    let steps = json!([{ "step_id": "hook", "action": "wait", "inputs": { "webhook": true } }]);
    call("workflow_submit", json!({ "workflow_id": "a", "name": "a", "steps": steps })).await;
    let mut step = Value::Null;
    while step["status"] != "waiting" {
        step = call("workflow_status", json!({ "workflow_id": "a" })).await["steps"][0].clone();
    }
    let one_time = step["waits_for"]["token"].as_str().expect("a token").to_owned();
    // It opens nothing but its own door.
    let elsewhere = host.modern("tools/list", json!({})).bearer_auth(&one_time).send().await.expect("an answer");
    assert_eq!(elsewhere.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(post(&host, &one_time, "application/json", r#"{"workflow_id":"b"}"#).await.status(), 204);
    let result = call("workflow_result", json!({ "workflow_id": "a" })).await;
    assert_eq!(result["outputs"]["hook"], json!({ "workflow_id": "b" }), "{result}");
}
