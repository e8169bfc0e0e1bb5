//! Resources, prompts and completions of a component, in both eras. What the official suite does not look at: pages, cursors, other principals, floods, and who is told of a change.

use std::collections::BTreeSet;

use mcpp::{
    auth::tokens::{NewToken, TokenFile},
    names::TenantId,
    tenant::{SCOPE_TOOLS, home::Homes},
};
use reqwest::Response;
use serde_json::{Value, json};

use crate::{
    command_line::{run, stdout},
    support::{PATIENCE, TestHost, answer, folder, grant, guest, http_client, modern_request, parse_messages},
};

const WATCHED: &str = "test://watched-resource";

async fn host() -> TestHost {
    TestHost::start(&[("conformance", &guest("conformance"))]).await
}

/// A request of the modern era, with the header that its name stands in too.
async fn ask(host: &TestHost, method: &str, params: Value) -> Value {
    let uri = params["uri"].as_str().map(str::to_owned);
    let request = host.modern(method, params);
    let request = match uri {
        Some(uri) => request.header("mcp-name", uri),
        None => request,
    };
    answer(request.send().await.expect("an answer")).await
}

fn names(answer: &Value, list: &str, key: &str) -> Vec<String> {
    let items = answer["result"][list].as_array().unwrap_or_else(|| panic!("a list: {answer}"));
    items.iter().map(|item| item[key].as_str().expect("text").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_come_in_pages_and_a_cursor_is_of_its_list() {
    let files = folder(&[("conformance", &guest("conformance"))]);
    let host = TestHost::start_with(files, |config| config.server.page_size = 2).await;
    let first = ask(&host, "resources/list", json!({})).await;
    assert_eq!(names(&first, "resources", "uri"), ["test://static-binary", "test://static-text"]);
    let cursor = &first["result"]["nextCursor"];
    let second = ask(&host, "resources/list", json!({ "cursor": cursor })).await;
    assert_eq!(names(&second, "resources", "uri"), [WATCHED]);
    assert!(second["result"].get("nextCursor").is_none(), "{second}");
    for (method, cursor) in
        [("prompts/list", cursor.clone()), ("resources/list", json!("x")), ("resources/list", json!(""))]
    {
        let refused = ask(&host, method, json!({ "cursor": cursor })).await;
        assert_eq!(refused["error"]["code"], -32602, "{method}: {refused}");
    }
    for (method, list) in [("resources/list", "resources"), ("resources/templates/list", "resourceTemplates")] {
        let listed = ask(&host, method, json!({})).await;
        assert!(listed["result"]["ttlMs"].is_u64() && listed["result"]["cacheScope"] == "private", "{listed}");
        assert!(listed["result"][list].is_array());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_resource_has_the_code_of_its_era_and_never_empty_contents() {
    let host = host().await;
    let modern = ask(&host, "resources/read", json!({ "uri": "test://none" })).await;
    assert_eq!((&modern["error"]["code"], &modern["error"]["data"]["uri"]), (&json!(-32602), &json!("test://none")));
    let session = host.initialize().await;
    let message = json!({ "jsonrpc": "2.0", "id": 5, "method": "resources/read", "params": { "uri": "test://none" } });
    let legacy = answer(host.legacy(&session, &message).send().await.expect("an answer")).await;
    assert_eq!((&legacy["error"]["code"], &legacy["error"]["data"]["uri"]), (&json!(-32002), &json!("test://none")));
    for uri in ["test://template/1/2/data", "test://template//data", &format!("test://{}", "x".repeat(5_000))] {
        let refused = ask(&host, "resources/read", json!({ "uri": uri })).await;
        assert_eq!(refused["error"]["code"], -32602, "{uri}: {refused}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_arguments_of_prompts_and_completions_are_wrong_params() {
    let host = host().await;
    let get = |name: &str, arguments: Value| json!({ "name": name, "arguments": arguments });
    for params in [
        get("none", json!({})),
        get("test_prompt_with_arguments", json!({ "arg1": "a" })),
        get("test_prompt_with_arguments", json!({ "arg1": "a", "arg2": "b", "arg3": "c" })),
        get("test_prompt_with_arguments", json!({ "arg1": "a", "arg2": 7 })),
    ] {
        let refused = ask(&host, "prompts/get", params.clone()).await;
        assert_eq!(refused["error"]["code"], -32602, "{params}: {refused}");
    }
    let complete =
        |reference: Value, argument: &str| json!({ "ref": reference, "argument": { "name": argument, "value": "1" } });
    let template = json!({ "type": "ref/resource", "uri": "test://template/{id}/data" });
    let found = ask(&host, "completion/complete", complete(template, "id")).await;
    assert_eq!(found["result"]["completion"]["values"], json!(["123", "124"]), "{found}");
    for (reference, argument) in [
        (json!({ "type": "ref/prompt", "name": "none" }), "arg1"),
        (json!({ "type": "ref/prompt", "name": "test_prompt_with_arguments" }), "none"),
        (json!({ "type": "ref/resource", "uri": "none://{x}" }), "x"),
    ] {
        let refused = ask(&host, "completion/complete", complete(reference.clone(), argument)).await;
        assert_eq!(refused["error"]["code"], -32602, "{reference}: {refused}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_serves_is_no_method_and_no_capability() {
    let host = TestHost::start(&[("probe", &guest("probe"))]).await;
    // A list waits until everything is loaded; before that, anything may still come.
    host.tools().await;
    let discovered = ask(&host, "server/discover", json!({})).await;
    let capabilities = &discovered["result"]["capabilities"];
    for (capability, method) in [("resources", "resources/list"), ("prompts", "prompts/list")] {
        assert!(capabilities.get(capability).is_none(), "{discovered}");
        assert_eq!(ask(&host, method, json!({})).await["error"]["code"], -32601, "{method}");
    }
    assert!(capabilities.get("completions").is_none(), "{discovered}");
    host.write("conformance", &guest("conformance"));
    host.until("the resources are there", async |host| {
        ask(host, "resources/list", json!({})).await["result"]["resources"].is_array()
    })
    .await;
    let discovered = ask(&host, "server/discover", json!({})).await;
    let capabilities = &discovered["result"]["capabilities"];
    assert_eq!(capabilities["resources"], json!({ "subscribe": true, "listChanged": true }), "{discovered}");
    assert!(capabilities["prompts"]["listChanged"] == true && capabilities["completions"].is_object(), "{discovered}");
}

/// A token of a tenant that has the suite's component; one that is bound to tools if there are any.
fn token(data: &std::path::Path, tenant: &str, tools: &[&str]) -> String {
    let (homes, tenant) = (Homes::new(data.to_owned()), TenantId::new(tenant).expect("legal"));
    let settings = toml::from_str("version = 1\npinned = false").expect("valid");
    let home = homes.find(&tenant).unwrap_or_else(|_| homes.add(&tenant, settings).expect("made"));
    let new = NewToken {
        tenant,
        subject: "user".into(),
        scopes: BTreeSet::from([SCOPE_TOOLS.to_owned()]),
        tools: tools.iter().map(|tool| tool.parse().expect("a pattern")).collect(),
        good_for: None,
    };
    let _home = home;
    TokenFile::new(homes.tokens()).create(new).expect("made").1
}

async fn ask_as(host: &TestHost, token: &str, method: &str, params: Value) -> Value {
    let uri = params["uri"].as_str().map(str::to_owned);
    let request = modern_request(&http_client(), &host.host.url(), method, params).bearer_auth(token);
    let request = match uri {
        Some(uri) => request.header("mcp-name", uri),
        None => request,
    };
    answer(request.send().await.expect("an answer")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_tenants_resources_are_not_there_and_a_token_for_tools_reads_none() {
    let files = folder(&[]);
    let data = files.path().join("data");
    let (owner, bound, stranger) = (token(&data, "a", &[]), token(&data, "a", &["test_*"]), token(&data, "b", &[]));
    let home = Homes::new(data).find(&TenantId::new("a").expect("legal")).expect("a home");
    std::fs::write(home.tools().join("conformance.wasm"), guest("conformance")).expect("written");
    let host = TestHost::start_with(files, |_| {}).await;
    let read = || json!({ "uri": "test://static-text" });
    host.until("the component is live", async |host| {
        ask_as(host, &owner, "resources/read", read()).await["result"]["contents"].is_array()
    })
    .await;
    for (who, token) in [("bound to tools", &bound), ("of another tenant", &stranger)] {
        for (method, params) in [
            ("resources/list", json!({})),
            ("resources/read", read()),
            ("prompts/list", json!({})),
            ("prompts/get", json!({ "name": "test_simple_prompt" })),
        ] {
            let refused = ask_as(&host, token, method, params).await;
            assert_eq!(refused["error"]["code"], -32601, "{who}: {method}: {refused}");
        }
        let listen = json!({ "notifications": { "resourceSubscriptions": [WATCHED], "promptsListChanged": true } });
        let mut stream = modern_request(&http_client(), &host.host.url(), "subscriptions/listen", listen)
            .bearer_auth(token)
            .send()
            .await
            .expect("an answer");
        let acknowledged = next(&mut stream, &mut String::new()).await;
        assert_eq!(acknowledged["params"]["notifications"], json!({}), "{who}: {acknowledged}");
    }
}

/// The next message of a stream.
pub(crate) async fn next(response: &mut Response, rest: &mut String) -> Value {
    let waiting = async {
        loop {
            if let Some((event, after)) = rest.split_once("\n\n").map(|(a, b)| (a.to_owned(), b.to_owned())) {
                *rest = after;
                if let Some(message) = parse_messages(&format!("{event}\n\n")).unwrap_or_default().pop() {
                    return message;
                }
                continue;
            }
            let chunk = response.chunk().await.expect("read").expect("the stream goes on");
            rest.push_str(&String::from_utf8_lossy(&chunk));
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("told in time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_change_reaches_every_client_once() {
    const LISTENERS: usize = 20;
    let host = host().await;
    let listen = || json!({ "notifications": { "resourceSubscriptions": [WATCHED, "test://none"] } });
    let mut streams = Vec::new();
    for _ in 0..LISTENERS {
        let request = modern_request(&http_client(), &host.host.url(), "subscriptions/listen", listen());
        let (mut stream, mut rest) = (request.send().await.expect("a stream"), String::new());
        let acknowledged = next(&mut stream, &mut rest).await;
        let accepted = &acknowledged["params"]["notifications"];
        assert_eq!(accepted, &json!({ "resourceSubscriptions": [WATCHED] }), "{acknowledged}");
        streams.push((stream, rest));
    }
    assert_eq!(host.text("test_change_resource", json!({})).await, "changed");
    for (stream, rest) in &mut streams {
        let told = next(stream, rest).await;
        assert_eq!(
            (&told["method"], &told["params"]["uri"]),
            (&json!("notifications/resources/updated"), &json!(WATCHED))
        );
        assert!(told["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"].is_number(), "{told}");
    }
    // The next message of each is that of the next change: the first came once.
    host.text("test_trigger_prompt_change", json!({})).await;
    host.text("test_change_resource", json!({})).await;
    for (stream, rest) in &mut streams {
        assert_eq!(next(stream, rest).await["method"], "notifications/resources/updated");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_legacy_session_is_told_of_what_it_subscribed_to() {
    let host = host().await;
    let session = host.initialize().await;
    let (mut stream, mut rest) = (host.stream(&session).send().await.expect("a stream"), String::new());
    let subscribe = |id: u64, method: &str, uri: &str| json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": { "uri": uri } });
    let refused = host.legacy(&session, &subscribe(2, "resources/subscribe", "test://none")).send().await;
    assert_eq!(answer(refused.expect("an answer")).await["error"]["code"], -32002);
    let accepted = host.legacy(&session, &subscribe(3, "resources/subscribe", WATCHED)).send().await;
    assert_eq!(answer(accepted.expect("an answer")).await["result"], json!({}));
    host.text("test_change_resource", json!({})).await;
    loop {
        let told = next(&mut stream, &mut rest).await;
        if told["method"] == "notifications/resources/updated" {
            assert_eq!(told["params"]["uri"], WATCHED);
            break;
        }
    }
}

/// A host with a component whose list is another one at every look.
async fn hostile_host() -> TestHost {
    let files = folder(&[("hostile", &guest("hostile"))]);
    let http = "[[components.hostile.http]]\nurl = 'http://127.0.0.1:9'\naddresses = ['127.0.0.1/32']\n";
    grant(&files, &format!("[components.hostile]\nstore = {{}}\n{http}"));
    TestHost::start_with(files, |_| {}).await
}

/// The URIs of a hostile component's list over a while. Each listing has another one.
async fn listings(host: &TestHost, between: impl AsyncFn(&TestHost)) -> BTreeSet<String> {
    let (mut seen, until) = (BTreeSet::new(), std::time::Instant::now() + std::time::Duration::from_secs(3));
    while std::time::Instant::now() < until {
        between(host).await;
        let listed = ask(host, "resources/list", json!({})).await;
        seen.extend(names(&listed, "resources", "uri"));
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_that_says_in_its_listing_that_its_list_has_changed_is_not_listed_again() {
    let host = hostile_host().await;
    assert_eq!(host.problems(), "");
    let first = listings(&host, async |_| {}).await;
    // The list of the load, and the one after the build is live.
    assert!((1..=2).contains(&first.len()), "{first:?}");
    // A word from outside a listing counts once.
    host.call("hostile_change", json!({})).await;
    let after = listings(&host, async |_| {}).await;
    assert!((1..=2).contains(&after.len()) && !after.is_subset(&first), "{first:?}, then {after:?}");
    let problem = listing_problem(&host).expect("an operator sees it");
    assert!(problem.contains("it says in its own listing that its lists have changed"), "{problem}");
}

/// The problem of a hostile component as the operator's command shows it; also to a person, and in the exit code.
fn listing_problem(host: &TestHost) -> Option<String> {
    let data = host.folder.path().join("data").display().to_string();
    let problems = |more: &[&str]| {
        let arguments = [&["tools", "--problems", "--data", &data], more].concat();
        tokio::task::block_in_place(|| run(&arguments, &[]))
    };
    let listed: Value = serde_json::from_str(&stdout(&problems(&["--json"]))).expect("JSON");
    let problem = listed[0]["error"].as_str()?.to_owned();
    assert_eq!((&listed[0]["component"], &listed[0]["is_live"]), (&json!("hostile"), &json!(true)));
    let shown = problems(&[]);
    assert_eq!((stdout(&shown).trim(), shown.status.code()), (format!("hostile:\n  {problem}").as_str(), Some(1)));
    Some(problem)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_that_says_without_a_pause_that_its_list_has_changed_is_listed_after_growing_pauses() {
    let host = hostile_host().await;
    let seen = listings(&host, async |host| drop(host.call("hostile_change", json!({})).await)).await;
    // After 0, 0.1, 0.2, 0.4 and 0.8 s, and those of the start.
    assert!((2..=9).contains(&seen.len()), "{} listings: {seen:?}", seen.len());
}
