//! MCP tasks: a call that goes on after its request was answered, on disk before anybody has its id, and there for its caller alone.

use std::{collections::BTreeSet, path::Path};

use mcpp::{
    auth::tokens::{NewToken, Token, TokenFile},
    names::{TenantId, ToolPattern},
    tenant::{SCOPE_TOOLS, home::Homes},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    primitives::next,
    support::{PATIENCE, TestHost, answer, folder, grant, guest, text_of},
};

const ACCEPT: &str = "accept";

/// A folder with the component whose tools run as tasks, under these limits.
fn files(limits: &str) -> TempDir {
    let files = folder(&[("conformance", &guest("conformance"))]);
    grant(&files, &format!("[components.conformance.limits]\n{limits}\n"));
    files
}

async fn host(limits: &str, tenant_limits: &'static str) -> TestHost {
    let host = TestHost::start_with(files(limits), |config| {
        config.tenant_limits = toml::from_str(tenant_limits).expect("limits");
    })
    .await;
    assert_eq!(host.problems(), "");
    host
}

/// The capabilities of a client that knows tasks and answers forms.
fn declared() -> Value {
    json!({ "elicitation": { "form": {} }, "extensions": { "io.modelcontextprotocol/tasks": {} } })
}

fn with_meta(mut params: Value, capabilities: Value) -> Value {
    params["_meta"] = json!({ "io.modelcontextprotocol/clientCapabilities": capabilities });
    params
}

/// A request of a client that knows tasks.
pub(crate) async fn ask(host: &TestHost, method: &str, params: Value, token: Option<&str>) -> Value {
    let mut request = host.modern(method, with_meta(params, declared()));
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    answer(request.send().await.expect("an answer")).await
}

pub(crate) async fn call(host: &TestHost, tool: &str, arguments: Value) -> Value {
    ask(host, "tools/call", json!({ "name": tool, "arguments": arguments }), None).await
}

/// The id of the task that an answer hands out.
pub(crate) fn task_of(answer: &Value) -> String {
    assert_eq!(answer["result"]["resultType"], "task", "{answer}");
    answer["result"]["taskId"].as_str().expect("an id").to_owned()
}

pub(crate) async fn get(host: &TestHost, task: &str) -> Value {
    ask(host, "tasks/get", json!({ "taskId": task }), None).await
}

pub(crate) async fn update(host: &TestHost, task: &str, responses: Value) -> Value {
    ask(host, "tasks/update", json!({ "taskId": task, "inputResponses": responses }), None).await
}

/// The task once it has one of these states.
pub(crate) async fn until(host: &TestHost, task: &str, states: &[&str]) -> Value {
    let mut last = Value::Null;
    host.until(&format!("{task} is {states:?}"), async |host| {
        last = get(host, task).await;
        last["result"]["status"].as_str().is_some_and(|status| states.contains(&status))
    })
    .await;
    last["result"].clone()
}

pub(crate) async fn ended(host: &TestHost, task: &str) -> Value {
    until(host, task, &["completed", "failed", "cancelled"]).await
}

fn running(host: &TestHost) -> usize {
    host.host.registry().calls()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_becomes_a_task_only_for_a_client_that_says_with_it_that_it_knows_tasks() {
    let host = host("task_after_ms = 1000", "").await;
    let arguments = json!({ "seconds": 2, "label": "a" });
    let task = task_of(&call(&host, "slow_compute", arguments.clone()).await);
    // It is there at once, and nothing of its end is.
    let working = get(&host, &task).await["result"].clone();
    assert_eq!((working["resultType"].as_str(), working["taskId"].as_str()), (Some("complete"), Some(task.as_str())));
    assert_eq!((working.get("result"), working.get("error"), working.get("requestState")), (None, None, None));
    assert!(working["ttlMs"].is_u64() && working["pollIntervalMs"].is_u64(), "{working}");
    let done = ended(&host, &task).await;
    assert_eq!(done["status"], "completed");
    assert_eq!(done["result"]["content"][0]["text"], "computed a");
    // What ends soon is no task; nor is what never is one, nor any call of another client.
    assert_eq!(text_of(&call(&host, "slow_compute", json!({ "seconds": 0, "label": "b" })).await), "computed b");
    assert_eq!(text_of(&call(&host, "greet", json!({ "name": "Ada" })).await), "Hello, Ada!");
    assert_eq!(host.text("slow_compute", arguments).await, "computed a");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tool_that_has_to_be_a_task_refuses_a_client_that_knows_none() {
    let host = host("", "").await;
    let refused =
        host.modern("tools/call", json!({ "name": "failing_job", "arguments": {} })).send().await.expect("sent");
    assert_eq!(refused.status(), 400);
    let refused = answer(refused).await;
    assert_eq!(refused["error"]["code"], -32021, "{refused}");
    let required = &refused["error"]["data"]["requiredCapabilities"]["extensions"];
    assert!(required["io.modelcontextprotocol/tasks"].is_object(), "{refused}");
    assert_eq!(running(&host), 0);
    for method in ["tasks/get", "tasks/cancel", "tasks/update"] {
        let params = json!({ "taskId": "0".repeat(32), "inputResponses": {} });
        let refused = answer(host.modern(method, params).send().await.expect("sent")).await;
        assert_eq!(refused["error"]["code"], -32021, "{method}: {refused}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tools_own_error_is_a_result_and_a_crash_has_failed() {
    let host = host("", "").await;
    let task = task_of(&call(&host, "failing_job", json!({})).await);
    let done = ended(&host, &task).await;
    assert_eq!((done["status"].as_str(), &done["result"]["isError"]), (Some("completed"), &json!(true)), "{done}");
    let task = task_of(&call(&host, "protocol_error_job", json!({})).await);
    let failed = ended(&host, &task).await;
    assert_eq!((failed["status"].as_str(), &failed["error"]["code"]), (Some("failed"), &json!(-32603)), "{failed}");
    assert!(failed["error"]["message"].as_str().expect("a reason").contains("crashed"), "{failed}");
    assert_eq!(failed.get("result"), None);
    // Arguments that are none are an error of the tool too.
    let task = task_of(&call(&host, "confirm_delete", json!({})).await);
    let wrong = ended(&host, &task).await;
    assert_eq!((wrong["status"].as_str(), &wrong["result"]["isError"]), (Some("completed"), &json!(true)), "{wrong}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_outlives_the_host_and_a_call_that_ran_has_failed() {
    let host = host("task_after_ms = 50", "").await;
    let large = task_of(&call(&host, "large_job", json!({ "bytes": 1_300_000 })).await);
    let before = ended(&host, &large).await;
    let text = |task: &Value| task["result"]["content"][0]["text"].as_str().expect("a text").len();
    assert_eq!((before["status"].as_str(), text(&before)), (Some("completed"), 1_300_000));
    let asking = task_of(&call(&host, "confirm_delete", json!({ "filename": "f" })).await);
    until(&host, &asking, &["input_required"]).await;
    let files = host.stop().await;
    let host = TestHost::start_with(files, |_| {}).await;
    let after = get(&host, &large).await["result"].clone();
    assert_eq!((after["status"].as_str(), text(&after)), (Some("completed"), 1_300_000));
    assert_eq!(after["ttlMs"], before["ttlMs"]);
    let failed = get(&host, &asking).await["result"].clone();
    assert_eq!(failed["status"], "failed", "{failed}");
    assert!(failed["error"]["message"].as_str().expect("a reason").contains("the host stopped"), "{failed}");
    assert_eq!(failed["error"]["data"]["error"], "interrupted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_asks_while_it_runs_and_goes_on_with_the_last_answer() {
    let host = host("", "").await;
    let task = task_of(&call(&host, "multi_input", json!({ "again": true })).await);
    let asked = until(&host, &task, &["input_required"]).await;
    let names = |task: &Value| task["inputRequests"].as_object().expect("by name").keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&asked), ["confirm", "name"]);
    let form = |content: Value| json!({ "action": ACCEPT, "content": content });
    // What is no answer, or to nothing that is asked, changes nothing.
    let wrong =
        json!({ "name": form(json!({ "name": 7 })), "other": form(json!({})), "confirm": { "action": "maybe" } });
    let acknowledged = update(&host, &task, wrong).await;
    assert_eq!(acknowledged["result"], json!({ "resultType": "complete" }));
    assert_eq!(names(&until(&host, &task, &["input_required"]).await), ["confirm", "name"]);
    update(&host, &task, json!({ "name": form(json!({ "name": "Ada" })) })).await;
    // The first answer is the answer.
    update(&host, &task, json!({ "name": form(json!({ "name": "Eve" })) })).await;
    assert_eq!(names(&until(&host, &task, &["input_required"]).await), ["confirm"]);
    update(&host, &task, json!({ "confirm": form(json!({ "confirm": true })) })).await;
    // Its next question has a name that no question of the task had.
    let again = until(&host, &task, &["input_required"]).await;
    assert_eq!(names(&again), ["name#2"]);
    update(&host, &task, json!({ "name": form(json!({ "name": "Eve" })) })).await;
    update(&host, &task, json!({ "name#2": form(json!({ "name": "Augusta" })) })).await;
    let done = ended(&host, &task).await;
    assert_eq!(done["result"]["content"][0]["text"], "Ada: true, Augusta");
    // One that has ended is asked for nothing.
    let acknowledged = update(&host, &task, json!({ "name": form(json!({ "name": "x" })) })).await;
    assert_eq!(acknowledged["result"], json!({ "resultType": "complete" }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_asks_soon_asks_in_its_answer_and_is_a_task_afterwards() {
    let host = host("task_after_ms = 600", "").await;
    let asked = call(&host, "test_tool_with_task", json!({})).await["result"].clone();
    assert_eq!((asked["resultType"].as_str(), asked.get("taskId")), (Some("input_required"), None), "{asked}");
    let retry = json!({
        "name": "test_tool_with_task", "arguments": {}, "requestState": asked["requestState"],
        "inputResponses": { "user_name": { "action": ACCEPT, "content": { "name": "Alice" } } },
    });
    let task = task_of(&ask(&host, "tools/call", retry, None).await);
    assert_eq!(ended(&host, &task).await["result"]["content"][0]["text"], "Hello, Alice!");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_task_stops_and_one_that_has_ended_stays_as_it_is() {
    let host = host("task_after_ms = 50", "").await;
    let task = task_of(&call(&host, "slow_compute", json!({ "seconds": 60 })).await);
    let cancel = async |task: &str| ask(&host, "tasks/cancel", json!({ "taskId": task }), None).await;
    assert_eq!(running(&host), 1);
    assert_eq!(cancel(&task).await["result"], json!({ "resultType": "complete" }));
    let cancelled = ended(&host, &task).await;
    assert_eq!((cancelled["status"].as_str(), cancelled.get("result")), (Some("cancelled"), None));
    assert_eq!(running(&host), 0);
    assert_eq!(cancel(&task).await["result"], json!({ "resultType": "complete" }));
    let done = task_of(&call(&host, "slow_compute", json!({ "seconds": 0.2 })).await);
    ended(&host, &done).await;
    cancel(&done).await;
    assert_eq!(ended(&host, &done).await["status"], "completed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_that_races_the_end_leaves_one_end() {
    let host = host("task_after_ms = 10", "").await;
    let mut ends = BTreeSet::new();
    for turn in 0..24_u64 {
        let task = task_of(&call(&host, "slow_compute", json!({ "seconds": 0.05 })).await);
        tokio::time::sleep(std::time::Duration::from_millis(turn * 4)).await;
        ask(&host, "tasks/cancel", json!({ "taskId": task }), None).await;
        let first = ended(&host, &task).await;
        assert_eq!(first.get("result").is_some(), first["status"] == "completed", "{first}");
        let again = get(&host, &task).await["result"].clone();
        assert_eq!(again, first, "an end is the end");
        ends.insert(first["status"].as_str().expect("a status").to_owned());
    }
    assert!(ends.iter().all(|end| end == "completed" || end == "cancelled"), "{ends:?}");
    assert_eq!(running(&host), 0);
}

/// A token of a team, which is made if there is none.
fn token(data: &Path, team: &str, subject: &str, tools: &[&str]) -> String {
    new_token(data, team, subject, tools).1
}

/// The same, with its record.
pub(crate) fn new_token(data: &Path, team: &str, subject: &str, tools: &[&str]) -> (Token, String) {
    let (homes, tenant) = (Homes::new(data.to_owned()), TenantId::new(team).expect("legal"));
    let settings = toml::from_str("version = 1\npinned = false").expect("valid");
    if let Ok(home) = homes.add(&tenant, settings) {
        std::fs::write(home.tools().join("conformance.wasm"), guest("conformance")).expect("written");
    }
    let scopes: BTreeSet<String> = [SCOPE_TOOLS.to_owned()].into();
    let tools = tools.iter().map(|tool| ToolPattern::try_from((*tool).to_owned()).expect("legal")).collect();
    let new = NewToken { tenant, subject: subject.into(), scopes, tools, good_for: None };
    TokenFile::new(homes.tokens()).create(new).expect("made")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_is_there_for_its_caller_alone() {
    let files = folder(&[]);
    let data = files.path().join("data");
    let owner = token(&data, "victim", "ada", &[]);
    let others = [
        token(&data, "victim", "bob", &[]),
        token(&data, "attacker", "ada", &[]),
        // The same name with fewer rights: the tool of the task is not among them.
        token(&data, "victim", "ada", &["greet"]),
    ];
    let host = TestHost::start_with(files, |_| {}).await;
    let made = json!({ "name": "confirm_delete", "arguments": { "filename": "f" } });
    let task = task_of(&ask(&host, "tools/call", made, Some(&owner)).await);
    let guessed = "f".repeat(32);
    let unknown = ask(&host, "tasks/get", json!({ "taskId": guessed }), Some(&owner)).await["error"].clone();
    assert_eq!(unknown["code"], -32602, "{unknown}");
    let stolen = json!({ "confirm": { "action": ACCEPT, "content": { "confirm": true } } });
    for thief in &others {
        for method in ["tasks/get", "tasks/update", "tasks/cancel"] {
            let params = json!({ "taskId": task, "inputResponses": stolen });
            let refused = ask(&host, method, params, Some(thief)).await;
            assert_eq!(refused["error"], unknown, "{method}: as if there were none");
        }
    }
    for (who, accepted) in others.iter().map(|thief| (thief, json!({}))).chain([(&owner, json!({ "taskIds": [task] }))])
    {
        let asked = json!({ "notifications": { "taskIds": [task] } });
        let request = host.modern("subscriptions/listen", with_meta(asked, declared())).bearer_auth(who);
        let acknowledged = next(&mut request.send().await.expect("a stream"), &mut String::new()).await;
        assert_eq!(acknowledged["params"]["notifications"], accepted, "{acknowledged}");
    }
    for wrong in ["x", &task.to_uppercase(), &format!("{task}0"), "../../x"] {
        let refused = host.modern("tasks/get", with_meta(json!({ "taskId": wrong }), declared()));
        let refused = answer(refused.bearer_auth(&owner).send().await.expect("sent")).await;
        assert_eq!(refused["error"]["code"], -32602, "{wrong:?}: {refused}");
    }
    // None of that harmed it.
    let no = json!({ "confirm": { "action": ACCEPT, "content": { "confirm": false } } });
    host.until("it asks", async |host| {
        let got = ask(host, "tasks/get", json!({ "taskId": task }), Some(&owner)).await;
        got["result"]["status"] == "input_required"
    })
    .await;
    ask(&host, "tasks/update", json!({ "taskId": task, "inputResponses": no }), Some(&owner)).await;
    host.until("it has ended", async |host| {
        let got = ask(host, "tasks/get", json!({ "taskId": task }), Some(&owner)).await;
        got["result"]["result"]["content"][0]["text"] == "kept f"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_token_stops_its_tasks() {
    let files = folder(&[]);
    let data = files.path().join("data");
    let (record, owner) = new_token(&data, "team", "ada", &[]);
    let host = TestHost::start_with(files, |config| config.sessions.park_ms = 100).await;
    let made = json!({ "name": "slow_compute", "arguments": { "seconds": 3_600 } });
    task_of(&ask(&host, "tools/call", made, Some(&owner)).await);
    assert_eq!(running(&host), 1);
    TokenFile::new(Homes::new(data).tokens()).revoke(&record.id).expect("revoked");
    host.until("its call has stopped", async |host| running(host) == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_have_a_bound_in_number_which_their_time_gives_back() {
    let host = host("deadline_ms = 1000\ntask_ttl_s = 3\ntask_after_ms = 50", "tasks = 2").await;
    let call = async |tool: &str, arguments: Value| call(&host, tool, arguments).await;
    let tasks = [call("failing_job", json!({})).await, call("failing_job", json!({})).await].map(|made| task_of(&made));
    // A third that has to be one does not run; one that may be one is waited for.
    let refused = call("failing_job", json!({})).await;
    assert_eq!(
        (&refused["error"]["code"], &refused["error"]["data"]["error"]),
        (&json!(-32000), &json!("busy")),
        "{refused}"
    );
    assert!(refused["error"]["data"]["retryAfterMs"].is_u64(), "{refused}");
    assert_eq!(text_of(&call("slow_compute", json!({ "seconds": 0.2 })).await), "computed nothing");
    for task in &tasks {
        let done = ended(&host, task).await;
        assert!(done["ttlMs"].as_u64().is_some_and(|ms| ms >= 4_000), "{done}");
    }
    for task in &tasks {
        // Kept for as long as it was promised, and no longer.
        host.until("its time is over", async |host| get(host, task).await["error"]["code"] == -32602).await;
    }
    let third = task_of(&call("failing_job", json!({})).await);
    assert_eq!(ended(&host, &third).await["status"], "completed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_have_a_bound_in_bytes_and_a_lost_one_says_so() {
    let host = host("", "task_bytes = 3000000").await;
    let made = async |bytes: usize| {
        let task = task_of(&call(&host, "large_job", json!({ "bytes": bytes })).await);
        ended(&host, &task).await
    };
    assert_eq!(made(2_000_000).await["status"], "completed");
    let lost = made(2_000_000).await;
    assert_eq!(lost["status"], "failed", "{lost}");
    let reason = lost["error"]["message"].as_str().expect("a reason");
    assert!(reason.contains("its result was lost") && reason.contains("3000000"), "{reason}");
    // What was written of it is gone again: there is room for a smaller one.
    assert_eq!(made(900_000).await["status"], "completed");
    // A small result has no room either, when all is taken.
    let full = host_with_no_bytes().await;
    let refused = call(&full, "failing_job", json!({})).await;
    assert_eq!(refused["error"]["data"]["error"], "busy", "{refused}");
}

async fn host_with_no_bytes() -> TestHost {
    host("", "task_bytes = 10").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_is_told_of_its_tasks_and_of_no_others() {
    let host = host("task_after_ms = 0", "").await;
    let slow = async || task_of(&call(&host, "slow_compute", json!({ "seconds": 1, "label": "a" })).await);
    let (task, over) = (slow().await, slow().await);
    ended(&host, &over).await;
    let task = if get(&host, &task).await["result"]["status"] == "working" { task } else { slow().await };
    let asked =
        json!({ "notifications": { "taskIds": [task, over, task, "0".repeat(32), "none"], "toolsListChanged": true } });
    let request = host.modern("subscriptions/listen", with_meta(asked.clone(), declared()));
    let (mut stream, mut rest) = (request.send().await.expect("a stream"), String::new());
    let acknowledged = next(&mut stream, &mut rest).await;
    assert_eq!(acknowledged["method"], "notifications/subscriptions/acknowledged", "{acknowledged}");
    let accepted = json!({ "toolsListChanged": true, "taskIds": [task, over] });
    assert_eq!(acknowledged["params"]["notifications"], accepted, "{acknowledged}");
    let subscription = acknowledged["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"].clone();
    assert!(!subscription.is_null(), "{acknowledged}");
    // How each is now, then its end.
    let mut told: Vec<(String, String)> = Vec::new();
    while told.iter().filter(|(_, status)| status == "completed").count() < 2 {
        let notification = next(&mut stream, &mut rest).await;
        assert_eq!(notification["method"], "notifications/tasks", "{notification}");
        let params = &notification["params"];
        assert_eq!(params["_meta"]["io.modelcontextprotocol/subscriptionId"], subscription, "{notification}");
        let text = |key: &str| params[key].as_str().expect("a text").to_owned();
        told.push((text("taskId"), text("status")));
        if text("status") == "completed" {
            assert_eq!(params["result"]["content"][0]["text"], "computed a", "{notification}");
        }
    }
    assert!(told.contains(&(task.clone(), "working".to_owned())), "{told:?}");
    assert_eq!(told.iter().filter(|(id, status)| *id == over && status == "completed").count(), 1, "{told:?}");
    // A client that does not say that it knows tasks is told of none.
    let request = host.modern("subscriptions/listen", asked);
    let acknowledged = next(&mut request.send().await.expect("a stream"), &mut String::new()).await;
    assert_eq!(acknowledged["params"]["notifications"], json!({ "toolsListChanged": true }), "{acknowledged}");
    // The name that the doors use inside is nobody else's.
    let inner = ask(&host, "mcpp/subscriptions/listen", json!({ "notifications": {} }), None);
    let inner = tokio::time::timeout(PATIENCE, inner).await.expect("an answer and no stream");
    assert_eq!(inner["error"]["code"], -32601, "{inner}");
    let invalid = ask(&host, "subscriptions/listen", json!({ "notifications": { "taskIds": 7 } }), None).await;
    assert_eq!(invalid["error"]["code"], -32602, "{invalid}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_gets_large_results_whole() {
    let host = host("task_after_ms = 0", "").await;
    let large = async || task_of(&call(&host, "large_job", json!({ "bytes": 1_300_000 })).await);
    let tasks = [large().await, large().await];
    for task in &tasks {
        ended(&host, task).await;
    }
    let asked = json!({ "notifications": { "taskIds": tasks } });
    let request = host.modern("subscriptions/listen", with_meta(asked, declared()));
    let (mut stream, mut rest) = (request.send().await.expect("a stream"), String::new());
    next(&mut stream, &mut rest).await;
    for _ in &tasks {
        let told = next(&mut stream, &mut rest).await["params"].take();
        let asked = get(&host, told["taskId"].as_str().expect("an id")).await["result"].take();
        assert!(told["result"].to_string().len() > 1_300_000, "{} bytes", told["result"].to_string().len());
        assert_eq!((&told["result"], &told["status"]), (&asked["result"], &asked["status"]));
    }
}
