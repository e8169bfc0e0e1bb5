//! A component asks its client: in the modern era by parking the call, in the legacy era by a request on the stream of the call.

mod beside_tools;
mod owners;

use std::{collections::BTreeSet, path::Path};

use mcpp::{
    auth::tokens::{NewToken, TokenFile},
    memory::MemoryUse,
    names::TenantId,
    tenant::{SCOPE_TOOLS, home::Homes},
};
use serde_json::{Value, json};

use crate::support::{TestHost, answer, folder, grant, guest, initialize_message, text_of};

const ELICITATION: &str = "test_input_required_result_elicitation";
const MANY: &str = "test_input_required_result_multiple_inputs";
const ROUNDS: &str = "test_input_required_result_multi_round";

async fn host() -> TestHost {
    host_with("").await
}

/// A host whose component `conformance` has this grant.
async fn host_with(limits: &str) -> TestHost {
    let files = folder(&[("conformance", &guest("conformance"))]);
    if !limits.is_empty() {
        grant(&files, &format!("[components.conformance.limits]\n{limits}\n"));
    }
    let host = TestHost::start_with(files, |_| {}).await;
    assert_eq!(host.problems(), "");
    host
}

fn all_abilities() -> Value {
    json!({ "elicitation": { "form": {}, "url": {} }, "sampling": {}, "roots": {} })
}

fn params(tool: &str, more: Value) -> Value {
    let mut params = json!({
        "name": tool,
        "arguments": {},
        "_meta": { "io.modelcontextprotocol/clientCapabilities": all_abilities() },
    });
    for (name, value) in more.as_object().cloned().unwrap_or_default() {
        params[name] = value;
    }
    params
}

async fn call(host: &TestHost, tool: &str, more: Value) -> Value {
    answer(host.modern("tools/call", params(tool, more)).send().await.expect("an answer")).await
}

/// Calls a tool that asks; the questions and the state.
async fn ask(host: &TestHost, tool: &str) -> (Value, String) {
    asked(&call(host, tool, json!({})).await)
}

fn asked(answer: &Value) -> (Value, String) {
    let result = &answer["result"];
    assert_eq!(result["resultType"], "input_required", "{answer}");
    (result["inputRequests"].clone(), result["requestState"].as_str().expect("a state").to_owned())
}

fn name(name: &str) -> Value {
    json!({ "action": "accept", "content": { "name": name } })
}

fn retry(state: &str, responses: Value) -> Value {
    json!({ "requestState": state, "inputResponses": responses })
}

/// The name of a refusal.
fn refusal(answer: &Value) -> &str {
    assert_eq!(answer["error"]["code"], -32602, "{answer}");
    answer["error"]["data"]["error"].as_str().expect("a name")
}

fn waiting(host: &TestHost) -> usize {
    host.host.registry().admission().waiting()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_parks_the_call_and_the_retry_resumes_it() {
    let host = host().await;
    let (questions, state) = ask(&host, ELICITATION).await;
    let question = &questions["user_name"];
    assert_eq!(question["method"], "elicitation/create");
    assert_eq!(question["params"]["message"], "What is your name?");
    assert_eq!(question["params"]["requestedSchema"]["required"], json!(["name"]));
    host.until("the guest waits and does not run", async |host| {
        (waiting(host), host.host.registry().admission().running()) == (1, 0)
    })
    .await;
    // What nobody asked for is ignored.
    let responses = json!({ "user_name": name("Ada"), "other": { "x": 1 } });
    let answer = call(&host, ELICITATION, retry(&state, responses)).await;
    assert_eq!((answer["result"]["resultType"].as_str(), text_of(&answer).as_str()), (Some("complete"), "Hello, Ada!"));
    assert_eq!(waiting(&host), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_questions_and_several_rounds_go_to_the_same_instance() {
    let host = host().await;
    let (questions, state) = ask(&host, MANY).await;
    let methods = ["user_name", "greeting", "client_roots"].map(|name| questions[name]["method"].as_str());
    assert_eq!(methods, [Some("elicitation/create"), Some("sampling/createMessage"), Some("roots/list")]);
    // Two replies are missing, and one is none: the client is asked for these again, with a state that is good.
    let wrong = json!({ "user_name": { "action": "accept", "content": { "name": 7 } }, "greeting": {
        "role": "assistant", "content": { "type": "text", "text": "Good day" }, "model": "m", "stopReason": "endTurn" } });
    let (questions, again) = asked(&call(&host, MANY, retry(&state, wrong)).await);
    let names: Vec<&str> = questions.as_object().expect("by name").keys().map(String::as_str).collect();
    assert_eq!(names, ["client_roots", "user_name"]);
    let roots = json!({ "roots": [{ "uri": "file:///a" }, { "uri": "file:///b", "name": "b" }] });
    let rest = json!({ "user_name": name("Ada"), "client_roots": roots });
    assert_eq!(text_of(&call(&host, MANY, retry(&again, rest)).await), "Good day, Ada, with 2 roots");
    let (_, first) = ask(&host, ROUNDS).await;
    let (questions, second) = asked(&call(&host, ROUNDS, retry(&first, json!({ "step1": name("Ada") }))).await);
    assert_eq!(questions["step2"]["params"]["message"], "Step 2: What is your favorite color?");
    let color = json!({ "step2": { "action": "accept", "content": { "color": "blue" } } });
    assert_eq!(text_of(&call(&host, ROUNDS, retry(&second, color)).await), "Ada likes blue");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_is_good_once_and_only_as_it_was_for_the_request_that_it_was_for() {
    let host = host().await;
    let (_, state) = ask(&host, ELICITATION).await;
    let reply = || json!({ "user_name": name("Ada") });
    // Tampered with.
    for broken in [format!("{state}x"), state.replace(&state[60..64], "AAAA"), "x".into(), String::new()] {
        assert_eq!(
            refusal(&call(&host, ELICITATION, retry(&broken, reply())).await),
            "request_state_invalid",
            "{broken}"
        );
    }
    // For another tool, and for other arguments.
    assert_eq!(refusal(&call(&host, ROUNDS, retry(&state, reply())).await), "request_state_other_request");
    let mut other = retry(&state, reply());
    other["arguments"] = json!({ "more": 1 });
    assert_eq!(refusal(&call(&host, ELICITATION, other).await), "request_state_other_request");
    // None of that harmed the call; and the state is good once.
    assert_eq!(text_of(&call(&host, ELICITATION, retry(&state, reply())).await), "Hello, Ada!");
    assert_eq!(refusal(&call(&host, ELICITATION, retry(&state, reply())).await), "request_state_used");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_in_other_hands_opens_nothing_and_harms_nothing() {
    let files = folder(&[]);
    let data = files.path().join("data");
    let team = |team: &str, subject: &str| token(&data, team, subject);
    let (victim, colleague, attacker) = (team("victim", "ada"), team("victim", "bob"), team("attacker", "eve"));
    let host = TestHost::start_with(files, |_| {}).await;
    let call = async |token: &str, more: Value| {
        answer(host.modern("tools/call", params(ELICITATION, more)).bearer_auth(token).send().await.expect("an answer"))
            .await
    };
    let (_, state) = asked(&call(&victim, json!({})).await);
    let reply = || json!({ "user_name": name("Mallory") });
    for thief in [&colleague, &attacker] {
        assert_eq!(refusal(&call(thief, retry(&state, reply())).await), "request_state_invalid");
    }
    let answer = call(&victim, retry(&state, json!({ "user_name": name("Ada") }))).await;
    assert_eq!(text_of(&answer), "Hello, Ada!");
}

/// A token of a team, which is made if there is none.
fn token(data: &Path, team: &str, subject: &str) -> String {
    let (homes, tenant) = (Homes::new(data.to_owned()), TenantId::new(team).expect("legal"));
    let settings = toml::from_str("version = 1\npinned = false").expect("valid");
    if let Ok(home) = homes.add(&tenant, settings) {
        std::fs::write(home.tools().join("conformance.wasm"), guest("conformance")).expect("written");
    }
    let scopes: BTreeSet<String> = [SCOPE_TOOLS.to_owned()].into();
    let new = NewToken { tenant, subject: subject.into(), scopes, tools: [].into(), good_for: None };
    TokenFile::new(homes.tokens()).create(new).expect("made").1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parked_call_does_not_survive_a_restart_and_its_state_says_so() {
    let host = host().await;
    let (_, state) = ask(&host, ELICITATION).await;
    let files = host.stop().await;
    let host = TestHost::start_with(files, |_| {}).await;
    let refused = call(&host, ELICITATION, retry(&state, json!({ "user_name": name("Ada") }))).await;
    assert_eq!(refusal(&refused), "request_state_gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_come_back_gives_the_call_up_in_time() {
    let host = host_with("input_ms = 1500").await;
    let (_, state) = ask(&host, ELICITATION).await;
    host.until("the guest gave up", async |host| waiting(host) == 0).await;
    let refused = call(&host, ELICITATION, retry(&state, json!({ "user_name": name("Ada") }))).await;
    assert_eq!(refusal(&refused), "request_state_expired");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_deadline_stands_still_while_the_client_is_asked() {
    let host = host_with("deadline_ms = 2000").await;
    let (_, state) = ask(&host, ROUNDS).await;
    tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
    let (_, second) = asked(&call(&host, ROUNDS, retry(&state, json!({ "step1": name("Ada") }))).await);
    let color = json!({ "step2": { "action": "accept", "content": { "color": "red" } } });
    assert_eq!(text_of(&call(&host, ROUNDS, retry(&second, color)).await), "Ada likes red");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ability_that_the_client_did_not_declare_is_an_error_and_no_wait() {
    let host = host().await;
    let params = json!({ "name": "test_missing_capability", "arguments": {} });
    let response = host.modern("tools/call", params).send().await.expect("an answer");
    assert_eq!(response.status(), 400);
    let refused = answer(response).await;
    assert_eq!(refused["error"]["code"], -32021, "{refused}");
    assert_eq!(refused["error"]["data"]["requiredCapabilities"], json!({ "sampling": {} }));
    // A client that declared another ability is asked for that one alone.
    let more = json!({ "_meta": { "io.modelcontextprotocol/clientCapabilities": { "sampling": {} } } });
    let (questions, _) = asked(&call(&host, "test_input_required_result_capabilities", more).await);
    assert_eq!(questions.as_object().map(serde_json::Map::len), Some(1));
    assert_eq!(questions["greeting"]["method"], "sampling/createMessage");
    // In the legacy era it is the tool's own error.
    let session = host.initialize().await;
    let message = json!({ "jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": { "name": "test_missing_capability", "arguments": {} } });
    let text = text_of(&answer(host.legacy(&session, &message).send().await.expect("an answer")).await);
    assert!(text.starts_with("error: the client does not offer `sampling`"), "{text}");
}

/// A session of the legacy era whose client declared all abilities.
async fn able_session(host: &TestHost) -> String {
    let mut hello = initialize_message();
    hello["params"]["capabilities"] = all_abilities();
    let response = host.post(hello.to_string()).send().await.expect("an answer");
    let session = response.headers()["mcp-session-id"].to_str().expect("text").to_owned();
    response.text().await.expect("the whole answer");
    let ready = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
    host.legacy(&session, &ready).send().await.expect("an answer");
    session
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_legacy_client_is_asked_on_the_stream_of_its_call() {
    let host = host().await;
    let session = able_session(&host).await;
    let message =
        json!({ "jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": { "name": MANY, "arguments": {} } });
    let mut stream = host.legacy(&session, &message).send().await.expect("an answer");
    let (mut text, mut replied) = (String::new(), 0);
    while let Some(chunk) = stream.chunk().await.expect("a stream") {
        text.push_str(&String::from_utf8_lossy(&chunk));
        let Some(end) = text.rfind('\n') else { continue };
        let lines: String = text.drain(..=end).collect();
        for data in lines.lines().filter_map(|line| line.strip_prefix("data:")) {
            let Ok(message) = serde_json::from_str::<Value>(data) else { continue };
            let result = match message["method"].as_str() {
                Some("elicitation/create") => name("Ada"),
                Some("sampling/createMessage") => {
                    json!({ "role": "assistant", "content": { "type": "text", "text": "Good day" }, "model": "m" })
                }
                Some("roots/list") => json!({ "roots": [] }),
                _ => {
                    assert_eq!((replied, text_of(&message).as_str()), (3, "Good day, Ada, with 0 roots"));
                    return;
                }
            };
            replied += 1;
            let reply = json!({ "jsonrpc": "2.0", "id": message["id"], "result": result });
            assert_eq!(host.legacy(&session, &reply).send().await.expect("an answer").status(), 202);
        }
    }
    panic!("the stream ended without an answer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parked_calls_are_bounded_and_one_too_many_is_told() {
    let files = folder(&[("conformance", &guest("conformance"))]);
    let host = TestHost::start_with(files, |config| config.engine.max_waiting = 3).await;
    let mut states = Vec::new();
    for _ in 0..3 {
        states.push(ask(&host, ELICITATION).await.1);
    }
    let refused = text_of(&call(&host, ELICITATION, json!({})).await);
    assert_eq!(refused, "error: too many calls wait for their clients now; try again later");
    // The others are as they were, and a call that does not wait runs.
    assert_eq!(host.text("test_simple_text", json!({})).await, "This is a simple text response for testing.");
    for state in states {
        let answer = call(&host, ELICITATION, retry(&state, json!({ "user_name": name("Ada") }))).await;
        assert_eq!(text_of(&answer), "Hello, Ada!");
    }
}

/// Parks a thousand calls, says what memory each takes of its tenant, and resumes them all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_parked_calls_are_on_their_tenants_account() {
    const CALLS: usize = 1_000;
    let files = folder(&[("conformance", &guest("conformance"))]);
    let host = TestHost::start_with(files, |config| {
        config.engine.max_waiting = 1_024;
        config.tenant_limits = toml::from_str("waiting = 1024\nguest_bytes = 8589934592").expect("legal");
        config.memory.guest_bytes = 16 << 30;
    })
    .await;
    let used = |of: MemoryUse| host.host.registry().memory().used(of) as f64;
    let before = (used(MemoryUse::Guests), used(MemoryUse::Messages));
    let mut states = Vec::new();
    for _ in 0..CALLS {
        states.push(ask(&host, ELICITATION).await.1);
    }
    assert_eq!(waiting(&host), CALLS);
    let each = |after: f64, before: f64| (after - before) / CALLS as f64;
    let guest = each(used(MemoryUse::Guests), before.0);
    let messages = each(used(MemoryUse::Messages), before.1);
    eprintln!("a parked call takes {guest:.0} bytes of guest_bytes and {messages:.0} of message_bytes");
    assert!(guest >= 65_536.0, "a guest has a page of memory at least: {guest}");
    assert!(messages >= 4_096.0, "its record and its questions: {messages}");
    for state in states {
        let answer = call(&host, ELICITATION, retry(&state, json!({ "user_name": name("Ada") }))).await;
        assert_eq!(text_of(&answer), "Hello, Ada!");
    }
    host.until("all memory is back", async |_| {
        used(MemoryUse::Guests) <= before.0 && used(MemoryUse::Messages) <= before.1 + 65_536.0
    })
    .await;
}
