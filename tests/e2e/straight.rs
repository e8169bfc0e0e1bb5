//! The straight way and the protocol engine's give the same answers: each request is sent twice, once as it is and once with something in it that only the engine reads and that means nothing.
//!
//! That something is a progress token of a wrong type: for the engine there is none, for the straight way such a request is not plain.

use mcpp::{
    mcp::{
        Endpoint,
        stdio::{self, LineLimits},
    },
    tenant::Principal,
};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio_util::sync::CancellationToken;

use crate::{
    fuzz::targets::random::Random,
    support::{PATIENCE, TestHost, add, folder, guest, http_client, messages, parse_messages},
};

/// A request: what is in the message, and what in its headers.
#[derive(Debug, Clone)]
struct Case {
    /// With `@` where the other way's mark is put into `_meta`, so that also what is no JSON object can be sent.
    message: String,
    headers: Vec<(&'static str, String)>,
}

/// The answer to a client.
#[derive(Debug, PartialEq)]
struct Told {
    status: u16,
    retry_after: bool,
    /// All messages; a stream and a single answer say the same.
    messages: Vec<Value>,
}

const CALLS: [(&str, &str); 22] = [
    ("probe_add", r#"{"a":1,"b":2}"#),
    ("probe_add", r#"{"a":1.0,"b":2e0}"#),
    ("probe_add", r#"{"a":1}"#),
    ("probe_add", r#"{"a":"1","b":2}"#),
    ("probe_add", r#"{"a":1,"b":2,"c":3}"#),
    ("probe_add", r#"{"a":9223372036854775807,"b":-9223372036854775808}"#),
    ("probe_add", r#"{"a":1,"a":3,"b":2}"#),
    ("probe_add", r#"{"a":1e999,"b":2}"#),
    ("probe_add", r#"[1,2]"#),
    ("probe_add", "null"),
    ("probe_caller", "{}"),
    ("probe_panic", "{}"),
    ("probe_lie", "{}"),
    ("probe_print", r#"{"text":"\u00e9 \ud83d\ude00 \\ \""}"#),
    ("probe_print", r#"{"text":"cut \ud83d"}"#),
    ("test_simple_text", "{}"),
    ("test_multiple_content_types", "{}"),
    ("test_error_handling", r#"{"any":1}"#),
    ("test_tool_with_logging", "{}"),
    ("add_add", r#"{"a":1,"b":2}"#),
    ("nothing", "{}"),
    ("not a name", "{}"),
];

const PING: &str = r#"{"jsonrpc":"2.0","id":"ping","method":"ping"}"#;
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const META: [&str; 10] = [
    "",
    r#","mcpp/cost":false"#,
    r#","traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01""#,
    r#","traceparent":7"#,
    r#","com.example/own":1e400"#,
    r#","com.example/own":{"deep":[1,{}]}"#,
    r#","io.modelcontextprotocol/logLevel":"debug""#,
    r#","io.modelcontextprotocol/logLevel":"loud""#,
    r#","io.modelcontextprotocol/clientInfo":{"name":"c","version":"1"}"#,
    r#","io.modelcontextprotocol/clientInfo":7"#,
];

const ERA_META: [&str; 5] = [
    r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}"#,
    r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{}}"#,
    r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":7"#,
    r#""io.modelcontextprotocol/protocolVersion":"2025-11-25""#,
    r#""x":1"#,
];

fn pick<'a, T>(random: &mut Random, from: &'a [T]) -> &'a T {
    &from[random.below(from.len())]
}

/// Usually the first, now and then another.
fn mostly<'a, T>(random: &mut Random, from: &'a [T]) -> &'a T {
    if random.below(4) > 0 { &from[0] } else { pick(random, from) }
}

fn params(random: &mut Random, era_meta: &str) -> (&'static str, String, String) {
    let (name, arguments) = *pick(random, &CALLS);
    let more = *mostly(random, &META);
    let meta = format!(r#""_meta":{{{era_meta}{more}@}}"#);
    if random.below(5) == 0 {
        let cursor = *pick(
            random,
            &["", r#""cursor":null,"#, r#""cursor":"","#, r#""cursor":"cHJvYmVfYWRk","#, r#""cursor":"?","#],
        );
        return ("tools/list", String::new(), format!("{{{cursor}{meta}}}"));
    }
    let given = format!(r#""arguments":{arguments},"#);
    let arguments = *mostly(random, &[given.as_str(), "", r#""task":{},"#]);
    ("tools/call", name.to_owned(), format!(r#"{{"name":"{name}",{arguments}{meta}}}"#))
}

fn message(random: &mut Random, method: &str, params: &str) -> String {
    let id = *mostly(random, &["7", r#""text""#, "-3", r#""""#, "18446744073709551615"]);
    let extra = *mostly(random, &["", r#","own":1"#, r#","own":1e400"#, r#","own":"cut \ud83d""#]);
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}{extra}}}"#)
}

fn modern_case(random: &mut Random) -> Case {
    let era_meta = *mostly(random, &ERA_META);
    let (method, name, params) = params(random, era_meta);
    let mut headers = vec![("mcp-protocol-version", (*mostly(random, &["2026-07-28", "2027-01-01"])).to_owned())];
    match random.below(12) {
        0 => {}
        1 => headers.push(("mcp-method", "tools/other".to_owned())),
        2 => headers.extend([("mcp-method", method.to_owned()), ("mcp-method", method.to_owned())]),
        _ => headers.push(("mcp-method", method.to_owned())),
    }
    if method == "tools/call" && random.below(12) > 0 {
        headers.push(("mcp-name", (*mostly(random, &[name.as_str(), "other", "=?base64?cHJvYmVfYWRk?="])).to_owned()));
    }
    if random.below(12) == 0 {
        headers.push(("mcp-param-region", "here".to_owned()));
    }
    Case { message: message(random, method, &params), headers }
}

fn legacy_case(random: &mut Random, session: &str) -> Case {
    let (method, _, params) = params(random, r#""x":1"#);
    let mut headers = vec![("mcp-session-id", session.to_owned())];
    if random.below(3) > 0 {
        let versions = ["2025-11-25", "2025-06-18", "2024-11-05", "2023-01-01"];
        headers.push(("mcp-protocol-version", (*mostly(random, &versions)).to_owned()));
    }
    Case { message: message(random, method, &params), headers }
}

async fn told(host: &TestHost, http: &reqwest::Client, case: &Case, straight: bool) -> Told {
    let mark = if straight { "" } else { r#","progressToken":[]"# };
    let mut request = http
        .post(host.host.url())
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
        .body(case.message.replace('@', mark));
    for (name, value) in &case.headers {
        request = request.header(*name, value);
    }
    let response = request.send().await.expect("an answer");
    let (status, retry_after) = (response.status().as_u16(), response.headers().contains_key("retry-after"));
    let messages = messages(response).await.into_iter().map(without_ids).collect();
    Told { status, retry_after, messages }
}

/// The message without what is made up for each call: the place of an error, the span, and the trace where the client said none.
fn without_ids(message: Value) -> Value {
    let text = message.to_string();
    let mut parts = text.split("\"00-");
    let mut same = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (trace, rest) = part.split_at_checked(32).unwrap_or((part, ""));
        same.push_str(if trace == TRACE { "\"client's" } else { "\"new" });
        same.push_str(rest.get(17..).unwrap_or_default());
    }
    // Where a message cannot be read, its mark has moved the place.
    let (before, after) = same.split_once(" at line 1 column ").unwrap_or((&same, ""));
    let same = format!("{before}{}", after.trim_start_matches(|digit: char| digit.is_ascii_digit()));
    serde_json::from_str(&same).unwrap_or_else(|error| panic!("{error}: {same}"))
}

async fn host() -> TestHost {
    let components = [("probe", guest("probe")), ("conformance", guest("conformance")), ("add", add())];
    let components: Vec<(&str, &[u8])> = components.iter().map(|(name, wasm)| (*name, wasm.as_slice())).collect();
    TestHost::start_with(folder(&components), |config| config.server.page_size = 5).await
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ways_say_the_same() {
    let (host, http, mut random) = (host().await, http_client(), Random(8));
    let session = host.initialize().await;
    let (mut plain, mut refused, mut different) = (0, 0, Vec::new());
    for number in 0..400 {
        let case = if number % 2 == 0 { modern_case(&mut random) } else { legacy_case(&mut random, &session) };
        let (straight, engine) = (told(&host, &http, &case, true).await, told(&host, &http, &case, false).await);
        if straight != engine {
            different.push(format!("{case:?}\nstraight {straight:?}\nengine   {engine:?}"));
        }
        plain += usize::from(straight.status == 200);
        refused += usize::from(straight.status != 200);
    }
    assert!(different.is_empty(), "{} differ:\n{}", different.len(), different.join("\n\n"));
    assert!(plain > 150 && refused > 30, "{plain} served, {refused} refused");
    let ways = host.metric("mcpp_requests_total").await.join("\n");
    assert!(ways.contains(r#"way="straight""#) && ways.contains(r#"way="engine""#), "{ways}");
}

/// On standard input, in the modern era: what is plain goes straight there too, beside everything else.
#[tokio::test(flavor = "multi_thread")]
async fn both_ways_say_the_same_on_standard_input() {
    let (host, mut random) = (host().await, Random(9));
    let (client, door) = tokio::io::duplex(1 << 20);
    let (input, output) = tokio::io::split(door);
    let endpoint = Endpoint::new(host.host.registry().clone(), "mcpp".to_owned(), 5);
    let limits = LineLimits { max_bytes: 1 << 20, max_depth: 64 };
    let serving = tokio::spawn(async move {
        stdio::serve(&endpoint, Principal::local_user(), limits, input, output, CancellationToken::new()).await
    });
    let (answers, mut requests) = tokio::io::split(client);
    let mut answers = BufReader::new(answers).lines();
    let mut different = Vec::new();
    for _ in 0..200 {
        let era_meta = *mostly(&mut random, &ERA_META);
        let (method, _, params) = params(&mut random, era_meta);
        let message = message(&mut random, method, &params);
        let mut told = Vec::new();
        for mark in ["", r#","progressToken":[]"#] {
            let line = format!("{}\n{PING}\n", message.replace('@', mark));
            requests.write_all(line.as_bytes()).await.expect("sent");
            // The answer to a ping says that nothing else comes, once the request's own is there.
            let mut said: Vec<Value> = Vec::new();
            let is_ping = |message: &Value| message["id"] == "ping";
            while said.iter().all(is_ping) || !said.iter().any(is_ping) {
                let line = tokio::time::timeout(PATIENCE, answers.next_line()).await.expect("in time");
                let line = line.expect("read").expect("a line");
                said.push(without_ids(serde_json::from_str(&line).expect("JSON")));
            }
            said.retain(|message| !is_ping(message) && message["method"] != "notifications/message");
            told.push(said);
        }
        if told[0] != told[1] {
            different.push(format!("{message}\nstraight {:?}\nengine   {:?}", told[0], told[1]));
        }
    }
    assert!(different.is_empty(), "{} differ:\n{}", different.len(), different.join("\n\n"));
    drop(requests);
    drop(answers);
    serving.await.expect("no panic").expect("the client has left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_legacy_call_that_takes_long_is_taken_over_by_a_stream_and_runs_once() {
    let host = host().await;
    let session = host.initialize().await;
    let call = |ms: u64| {
        json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": { "name": "probe_sleep", "arguments": { "ms": ms } } })
    };
    let mut calls = 0;
    let mut media_type = async |ms: u64| {
        calls += 1;
        let response = host.legacy(&session, &call(ms)).send().await.expect("an answer");
        let media_type = response.headers()["content-type"].to_str().expect("text").to_owned();
        let told = messages(response).await;
        assert_eq!(told.iter().filter(|message| message["id"] == 1).count(), 1, "{told:?}");
        assert_eq!(told.last().expect("an answer")["result"]["isError"], false, "{told:?}");
        media_type
    };
    assert_eq!(media_type(500).await, "text/event-stream");
    // On a slow machine a short call may be long too, but not for ever.
    let short = async { while media_type(0).await != "application/json" {} };
    assert!(tokio::time::timeout(PATIENCE, short).await.is_ok(), "no short call was answered at once");
    assert_eq!(host.metric(r#"mcpp_calls_total{tenant="local",tool="probe_sleep",outcome="ok""#).await.len(), 1);
    let (counted, all) = (host.metric("mcpp_calls_total").await.join("\n"), format!(" {calls}"));
    assert!(counted.lines().any(|line| line.contains("probe_sleep") && line.ends_with(&all)), "{counted}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_legacy_call_goes_on_without_its_client_and_a_modern_one_does_not() {
    let host = host().await;
    let session = host.initialize().await;
    let arguments = json!({ "name": "probe_sleep", "arguments": { "ms": 300 } });
    let legacy = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": arguments });
    let outcome = async |host: &TestHost, outcome: &str| {
        host.until(outcome, async |host| {
            let calls = host.metric("mcpp_calls_total").await.join("\n");
            calls.lines().any(|line| line.contains("probe_sleep") && line.contains(outcome))
        })
        .await;
    };
    let calling = tokio::spawn(host.legacy(&session, &legacy).send());
    host.until("it runs", async |host| host.host.registry().calls() == 1).await;
    calling.abort();
    outcome(&host, r#"outcome="ok""#).await;
    let calling = tokio::spawn(host.modern("tools/call", arguments).send());
    host.until("it runs", async |host| host.host.registry().calls() == 1).await;
    calling.abort();
    host.until("the call has ended", async |host| host.host.registry().calls() == 0).await;
    let calls = host.metric("mcpp_calls_total").await.join("\n");
    assert!(calls.lines().any(|line| line.contains("probe_sleep") && line.ends_with(" 1")), "{calls}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_legacy_client_cancels_a_call_on_the_straight_way() {
    let host = host().await;
    let session = host.initialize().await;
    let call = json!({ "jsonrpc": "2.0", "id": "c", "method": "tools/call",
        "params": { "name": "probe_spin", "arguments": {} } });
    let cancel = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": "c" } });
    let calling = tokio::spawn(host.legacy(&session, &call).send());
    host.until("it runs", async |host| host.host.registry().calls() == 1).await;
    assert_eq!(host.legacy(&session, &cancel).send().await.expect("an answer").status(), 202);
    host.until("it is stopped", async |host| host.host.registry().calls() == 0).await;
    let answer = calling.await.expect("no panic").expect("an answer");
    // On a slow machine the engine has taken it over by then, whose stream begins with an event that is no message.
    let text = answer.text().await.expect("text");
    assert_eq!(
        parse_messages(&text).unwrap_or_default(),
        [] as [Value; 0],
        "a request that was cancelled gets no answer: {text}"
    );
}
