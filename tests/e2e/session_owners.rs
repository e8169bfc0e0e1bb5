//! A session, and whatever else is open, is its principal's alone: nobody else's request touches it, and it ends with the right to come in.

use std::{collections::BTreeSet, path::Path};

use mcpp::{
    auth::tokens::{NewToken, TokenFile},
    memory::MemoryUse,
    names::TenantId,
    tenant::{SCOPE_TOOLS, home::Homes},
};
use reqwest::{RequestBuilder, StatusCode};
use serde_json::{Value, json};

use crate::support::{PATIENCE, TestHost, answer, folder, guest, initialize_message, modern_message, text_of};

fn tenant(name: &str) -> TenantId {
    TenantId::new(name).expect("legal")
}

/// A team with the probe, and a client of it.
fn team(data: &Path, name: &str) -> String {
    let homes = Homes::new(data.to_owned());
    let home = homes.add(&tenant(name), toml::from_str("version = 1\npinned = false").expect("valid")).expect("made");
    std::fs::write(home.tools().join("probe.wasm"), guest("probe")).expect("written");
    let scopes: BTreeSet<String> = [SCOPE_TOOLS.to_owned(), "metrics".to_owned()].into();
    let new = NewToken { tenant: tenant(name), subject: name.into(), scopes, tools: [].into(), good_for: None };
    tokens(data).create(new).expect("made").1
}

/// A host that parks sessions so soon, with a victim and an attacker; their tokens.
async fn two_teams(park_ms: u64) -> (TestHost, [String; 2]) {
    let files = folder(&[]);
    let data = files.path().join("data");
    let tokens = [team(&data, "victim"), team(&data, "attacker")];
    (TestHost::start_with(files, |config| config.sessions.park_ms = park_ms).await, tokens)
}

fn tokens(data: &Path) -> TokenFile {
    TokenFile::new(Homes::new(data.to_owned()).tokens())
}

struct User<'a> {
    host: &'a TestHost,
    token: &'a str,
}

impl User<'_> {
    fn post(&self, message: &Value) -> RequestBuilder {
        self.host.post(message.to_string()).bearer_auth(self.token)
    }

    async fn initialize(&self) -> String {
        let response = self.post(&initialize_message()).send().await.expect("an answer");
        let session = response.headers()["mcp-session-id"].to_str().expect("text").to_owned();
        response.text().await.expect("the whole answer");
        let initialized = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        self.post(&initialized).header("mcp-session-id", &session).send().await.expect("an answer");
        session
    }

    async fn call_in(&self, session: &str, tool: &str, arguments: Value) -> String {
        let params = json!({ "name": tool, "arguments": arguments });
        let call = json!({ "jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": params });
        let response = self.post(&call).header("mcp-session-id", session).send().await.expect("an answer");
        text_of(&answer(response).await)
    }

    async fn workers(&self) -> String {
        let url = format!("http://{}/metrics", self.host.host.address());
        let text = self.host.http.get(url).bearer_auth(self.token).send().await.expect("an answer").text().await;
        let text = text.expect("text");
        text.lines().find(|line| line.starts_with("mcpp_session_workers")).unwrap_or_default().to_owned()
    }

    async fn until_parked(&self) {
        self.host.until("all sessions are parked", async |_| self.workers().await == "mcpp_session_workers 0").await;
    }

    fn modern(&self, method: &str, params: Value) -> RequestBuilder {
        self.host.modern(method, params).bearer_auth(self.token)
    }
}

/// Every way to name a session, by method, version and era.
fn attacks(user: &User<'_>, session: &str) -> Vec<(String, RequestBuilder)> {
    let list = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {} });
    let initialized = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
    let cancelled = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 9 } });
    let level = json!({ "jsonrpc": "2.0", "id": 1, "method": "logging/setLevel", "params": { "level": "debug" } });
    let messages =
        [initialize_message(), list.clone(), modern_message("tools/list", json!({})), initialized, cancelled, level];
    let mut attacks = Vec::new();
    for version in [None, Some("2024-11-05"), Some("2025-11-25"), Some("2026-07-28"), Some("2027-01-01"), Some("zzz")] {
        let with = |request: RequestBuilder| {
            let request = request.header("mcp-session-id", session);
            match version {
                Some(version) => request.header("mcp-protocol-version", version),
                None => request,
            }
        };
        for message in &messages {
            let mut message = message.clone();
            for of_body in [None, Some("2026-07-28")] {
                if let (Some(version), Some(_)) = (of_body, message.pointer("/params/protocolVersion")) {
                    message["params"]["protocolVersion"] = json!(version);
                }
                let request = user.post(&message).header("mcp-method", message["method"].as_str().expect("text"));
                attacks.push((format!("{version:?} {message}"), with(request)));
            }
        }
        let url = user.host.host.url();
        let get = user.host.http.get(&url).header("accept", "text/event-stream").bearer_auth(user.token);
        attacks.push((format!("{version:?} GET"), with(get.try_clone().expect("no body"))));
        attacks.push((format!("{version:?} resume"), with(get.header("last-event-id", "0/0"))));
        attacks.push((format!("{version:?} DELETE"), with(user.host.http.delete(&url).bearer_auth(user.token))));
    }
    // The attacker's own session first, then the victim's, and the other way round.
    attacks.push((
        "two sessions".into(),
        user.post(&list).header("mcp-session-id", "mine").header("mcp-session-id", session),
    ));
    attacks
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_of_somebody_else_reaches_a_parked_session_or_restores_it_in_its_name() {
    let (host, tokens) = two_teams(20).await;
    let [victim, attacker] = tokens.each_ref().map(|token| User { host: &host, token });
    let session = victim.initialize().await;
    assert!(victim.call_in(&session, "probe_caller", json!({})).await.contains(r#"["victim","victim""#));
    for (attack, request) in attacks(&attacker, &session) {
        victim.until_parked().await;
        let response = request.send().await.expect("an answer");
        let status = response.status();
        drop(response);
        // The attacker may have opened a session of its own instead; the victim's is as it was.
        let who = victim.call_in(&session, "probe_caller", json!({})).await;
        assert!(who.contains(r#"["victim","victim""#), "{attack}: {status}: {who}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_of_somebody_else_reaches_a_live_session() {
    let (host, tokens) = two_teams(60_000).await;
    let [victim, attacker] = tokens.each_ref().map(|token| User { host: &host, token });
    let session = victim.initialize().await;
    let before = victim.workers().await;
    assert_eq!(before, "mcpp_session_workers 1", "it is not parked");
    for (attack, request) in attacks(&attacker, &session) {
        let response = request.send().await.expect("an answer");
        let named = response.headers().get("mcp-session-id").map(|id| id.to_str().expect("text").to_owned());
        assert_ne!(named.as_deref(), Some(session.as_str()), "{attack}");
        let text = if response.status().is_success() && attack.contains("GET") {
            panic!("{attack}: a stream of the victim's session");
        } else {
            response.text().await.expect("text")
        };
        assert!(!text.contains("victim"), "{attack}: {text}");
    }
    assert!(victim.call_in(&session, "probe_caller", json!({})).await.contains(r#"["victim","victim""#));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_modern_request_that_names_a_session_is_served_without_it() {
    let (host, tokens) = two_teams(20).await;
    let [victim, attacker] = tokens.each_ref().map(|token| User { host: &host, token });
    let session = victim.initialize().await;
    victim.until_parked().await;
    let call = attacker.modern("tools/call", json!({ "name": "probe_caller", "arguments": {} }));
    let answered = answer(call.header("mcp-session-id", &session).send().await.expect("an answer")).await;
    assert!(text_of(&answered).contains(r#"["attacker","attacker""#), "{answered}");
    assert_eq!(victim.workers().await, "mcpp_session_workers 0", "nothing was restored");
}

/// The calls and streams that one principal can have open, in both eras.
async fn open_everything(user: &User<'_>) -> Vec<tokio::task::JoinHandle<String>> {
    let session = user.initialize().await;
    let url = user.host.host.url();
    let get = user.host.http.get(&url).header("accept", "text/event-stream").header("mcp-session-id", &session);
    let sleep = json!({ "name": "probe_sleep", "arguments": { "ms": 60_000 }, "_meta": { "progressToken": 1 } });
    let quiet = json!({ "name": "probe_sleep", "arguments": { "ms": 60_000 } });
    let in_session = json!({ "jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": sleep });
    let listen = json!({ "notifications": { "toolsListChanged": true } });
    let streams = [
        get.bearer_auth(user.token),
        user.post(&in_session).header("mcp-session-id", &session),
        user.modern("subscriptions/listen", listen),
        user.modern("tools/call", sleep),
    ];
    let mut open = Vec::new();
    for stream in streams {
        let mut stream = stream.send().await.expect("a stream");
        assert_eq!(stream.status(), StatusCode::OK);
        let mut told =
            String::from_utf8_lossy(&stream.chunk().await.expect("read").expect("a first event")).into_owned();
        open.push(tokio::spawn(async move {
            // A body that is cut off ends as well.
            while let Ok(Some(chunk)) = stream.chunk().await {
                told.push_str(&String::from_utf8_lossy(&chunk));
            }
            told
        }));
    }
    // Here there is no head yet.
    let waiting = user.modern("tools/call", quiet).send();
    open.push(tokio::spawn(async move {
        let response = waiting.await.expect("an answer");
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        response.text().await.expect("text")
    }));
    user.host
        .until("the calls run", async |host| {
            let admission = host.host.registry().admission();
            admission.running() + admission.waiting() == 3
        })
        .await;
    open
}

async fn all_ended(host: &TestHost, open: Vec<tokio::task::JoinHandle<String>>) {
    for (number, stream) in open.into_iter().enumerate() {
        let ended = tokio::time::timeout(PATIENCE, stream).await;
        ended.unwrap_or_else(|_| panic!("stream {number} goes on")).expect("no panic");
    }
    host.until("its calls are stopped", async |host| {
        let admission = host.host.registry().admission();
        admission.running() + admission.waiting() == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_ends_every_stream_of_its_holder_in_both_eras_and_nobody_elses() {
    let files = folder(&[]);
    let data = files.path().join("data");
    let (one, two) = (team(&data, "one"), team(&data, "two"));
    let host = TestHost::start_with(files, |_| {}).await;
    let (one, two) = (User { host: &host, token: &one }, User { host: &host, token: &two });
    let open = open_everything(&one).await;
    let mut others = two
        .modern("subscriptions/listen", json!({ "notifications": { "toolsListChanged": true } }))
        .send()
        .await
        .expect("a stream");
    others.chunk().await.expect("read").expect("a first event");
    let file = tokens(&data);
    let id = file.read().expect("read").expect("there").into_iter().find(|token| token.tenant == tenant("one"));
    file.revoke(&id.expect("its token").id).expect("revoked");
    all_ended(&host, open).await;
    host.until("its sessions are gone", async |host| {
        host.host.registry().share(&tenant("one")).is_some_and(|share| share.memory.used(MemoryUse::Messages) == 0)
    })
    .await;
    let still = tokio::time::timeout(std::time::Duration::from_millis(200), others.chunk()).await;
    assert!(still.is_err(), "another's stream goes on: {still:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_tenant_has_nothing_open_any_more() {
    let files = folder(&[]);
    let data = files.path().join("data");
    let one = team(&data, "one");
    let host = TestHost::start_with(files, |_| {}).await;
    let one = User { host: &host, token: &one };
    let open = open_everything(&one).await;
    host.host.registry().close(&tenant("one"));
    all_ended(&host, open).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_says_of_itself_is_bounded_and_abandoned_sessions_stay_small() {
    let files = folder(&[]);
    let data = files.path().join("data");
    let one = team(&data, "one");
    let host = TestHost::start_with(files, |config| config.sessions.park_ms = 20).await;
    let one = User { host: &host, token: &one };
    let mut message = initialize_message();
    message["params"]["capabilities"] = json!({ "experimental": { "a": { "b": "x".repeat(4_000_000) } } });
    let refused = answer(one.post(&message).send().await.expect("an answer")).await;
    assert_eq!(refused["error"]["code"], -32602, "{refused}");
    assert_eq!(refused["error"]["message"], "the params of `initialize` have more than 65536 bytes");
    message["params"]["capabilities"] = json!({ "experimental": { "a": { "b": "x".repeat(60_000) } } });
    let memory = host.host.registry().share(&tenant("one")).expect("open").memory.clone();
    for _ in 0..50 {
        let opened = one.post(&message).send().await.expect("an answer");
        assert_eq!(opened.status(), StatusCode::OK);
        opened.text().await.expect("the whole answer");
    }
    one.until_parked().await;
    let used = memory.used(MemoryUse::Messages);
    assert_eq!(used, 50 * 4_096, "each parked session is paid for, whatever came with it");
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_end_where_the_tenants_memory_ends() {
    let files = folder(&[]);
    let data = files.path().join("data");
    let one = team(&data, "one");
    let limits = toml::from_str("message_bytes = 300000").expect("limits");
    let host = TestHost::start_with(files, |config| {
        config.tenant_limits = limits;
        config.sessions.park_ms = 60_000;
    })
    .await;
    let one = User { host: &host, token: &one };
    let mut opened = 0;
    let refused = loop {
        let response = one.post(&initialize_message()).send().await.expect("an answer");
        if response.status() != StatusCode::OK {
            break response;
        }
        response.text().await.expect("the whole answer");
        opened += 1;
        assert!(opened < 100, "no end");
    };
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    let message = answer(refused).await["error"]["message"].as_str().expect("text").to_owned();
    // Idle ones are parked to make room: 4 KiB each, and 52 for one that is live.
    let used = host.host.registry().share(&tenant("one")).expect("open").memory.used(MemoryUse::Messages);
    assert!((6..=61).contains(&opened), "{opened}: {used} {message} {}", one.workers().await);
    // The request itself takes 64 KiB and its body, which it has given back by now.
    assert!(used > 300_000 - 53_248 - (80 << 10), "{opened}: {used} {message} {}", one.workers().await);
    assert!(message.contains("message_bytes of this tenant are used up: it may have 300000"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_no_stream_does_not_keep_others_from_being_put_away() {
    let files = folder(&[]);
    let data = files.path().join("data");
    let one = team(&data, "one");
    let two = team(&data, "two");
    let host = TestHost::start_with(files, |config| config.sessions.park_ms = 50).await;
    let (one, two) = (User { host: &host, token: &one }, User { host: &host, token: &two });
    let session = one.initialize().await;
    let url = host.host.url();
    let get = host.http.get(&url).header("accept", "text/event-stream").header("mcp-session-id", &session);
    let _unread = get.bearer_auth(one.token).send().await.expect("a stream");
    // Its worker waits at the stream, and then nothing takes its requests any more.
    // Together more than the buffers of both ends of the connection take.
    let text = format!("{0}\n{0}", "x".repeat(8_000));
    let print = json!({ "name": "probe_print", "arguments": { "text": text } });
    let calls: Vec<_> = (0..600)
        .map(|id| {
            let call = json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": print });
            let request = one.post(&call).header("mcp-session-id", &session).timeout(std::time::Duration::from_secs(5));
            tokio::spawn(request.send())
        })
        .collect();
    for call in calls {
        let _some_are_answered = call.await.expect("no panic");
    }
    let ping = json!({ "jsonrpc": "2.0", "id": "p", "method": "ping" });
    let ping = one.post(&ping).header("mcp-session-id", &session).timeout(std::time::Duration::from_millis(500));
    let stuck = match ping.send().await {
        Ok(response) => response.text().await.is_err(),
        Err(_) => true,
    };
    assert!(stuck, "the worker waits");
    let others = two.initialize().await;
    host.until("another's session is parked", async |_| two.workers().await == "mcpp_session_workers 1").await;
    let file = tokens(&data);
    let id = file.read().expect("read").expect("there").into_iter().find(|token| token.tenant == tenant("one"));
    file.revoke(&id.expect("its token").id).expect("revoked");
    host.until("the session is gone", async |_| two.workers().await == "mcpp_session_workers 0").await;
    assert!(two.call_in(&others, "probe_caller", json!({})).await.contains(r#"["two","two""#));
}
