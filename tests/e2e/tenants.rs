//! Many teams on one host: who comes in, what each sees, and that none learns anything of another.

use std::{collections::BTreeSet, path::Path, time::Duration};

use futures::StreamExt as _;
use mcpp::{
    auth::tokens::{NewToken, TokenFile},
    names::TenantId,
    tenant::{SCOPE_METRICS, SCOPE_TOOLS, home::Homes},
};
use reqwest::{RequestBuilder, StatusCode};
use serde_json::{Value, json};

use crate::{
    command_line::{run, stderr, stdout},
    support::{TestHost, add, answer, folder, grant, guest, http_client, initialize_message, modern_request, text_of},
};

pub fn tenant(name: &str) -> TenantId {
    TenantId::new(name).expect("legal")
}

/// A tenant with these components, and a token for it.
pub fn team(data: &Path, name: &str, components: &[(&str, &[u8])]) -> String {
    let homes = Homes::new(data.to_owned());
    let home = homes.add(&tenant(name), toml::from_str("version = 1\npinned = false").expect("valid")).expect("made");
    for (component, wasm) in components {
        std::fs::write(home.tools().join(format!("{component}.wasm")), wasm).expect("written");
    }
    token(data, name, &[SCOPE_TOOLS], &[])
}

pub fn token(data: &Path, name: &str, scopes: &[&str], tools: &[&str]) -> String {
    let new = NewToken {
        tenant: tenant(name),
        subject: format!("user-of-{name}"),
        scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect::<BTreeSet<_>>(),
        tools: tools.iter().map(|tool| tool.parse().expect("a pattern")).collect(),
        good_for: None,
    };
    let file = TokenFile::new(Homes::new(data.to_owned()).tokens());
    file.create(new).expect("made").1
}

/// A client with a token.
#[derive(Clone)]
pub struct User {
    pub http: reqwest::Client,
    pub url: String,
    pub token: String,
}

impl User {
    pub fn new(host: &TestHost, token: &str) -> Self {
        Self { http: http_client(), url: host.host.url(), token: token.to_owned() }
    }

    pub fn request(&self, method: &str, params: Value) -> RequestBuilder {
        modern_request(&self.http, &self.url, method, params).bearer_auth(&self.token)
    }

    pub async fn tools(&self) -> Vec<String> {
        let listed = answer(self.request("tools/list", json!({})).send().await.expect("an answer")).await;
        let tools = listed["result"]["tools"].as_array().cloned().unwrap_or_default();
        tools.iter().filter_map(|tool| Some(tool["name"].as_str()?.to_owned())).collect()
    }

    pub async fn call(&self, tool: &str, arguments: Value) -> Value {
        let params = json!({ "name": tool, "arguments": arguments });
        answer(self.request("tools/call", params).send().await.expect("an answer")).await
    }

    pub async fn text(&self, tool: &str, arguments: Value) -> String {
        text_of(&self.call(tool, arguments).await)
    }

    pub async fn status(&self, path: &str) -> (StatusCode, String) {
        let url = self.url.replace("/mcp", path);
        let response = self.http.get(url).bearer_auth(&self.token).send().await.expect("an answer");
        (response.status(), response.text().await.expect("text"))
    }

    /// Opens a legacy session.
    pub async fn initialize(&self) -> String {
        let request = self.http.post(&self.url).header("content-type", "application/json").bearer_auth(&self.token);
        let request = request.header("accept", "application/json, text/event-stream");
        let response = request.body(initialize_message().to_string()).send().await.expect("an answer");
        response.headers()["mcp-session-id"].to_str().expect("text").to_owned()
    }

    /// Asks in a legacy session: status and body.
    pub async fn ask_in(&self, session: &str, method: &str) -> (StatusCode, String) {
        let message = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": {} });
        let response = self.send_in(session, &message).await;
        (response.status(), response.text().await.expect("text"))
    }

    /// Sends a message in a legacy session.
    pub async fn send_in(&self, session: &str, message: &Value) -> reqwest::Response {
        let request = self.http.post(&self.url).header("content-type", "application/json").bearer_auth(&self.token);
        let request = request.header("accept", "application/json, text/event-stream").header("mcp-session-id", session);
        request.body(message.to_string()).send().await.expect("an answer")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_opens_its_own_tenant() {
    let files = folder(&[("local-add", &add())]);
    let data = files.path().join("data");
    let one = team(&data, "one", &[("probe", &guest("probe"))]);
    let two = team(&data, "two", &[("add", &add())]);
    let narrow = token(&data, "one", &[SCOPE_TOOLS], &["probe_c*"]);
    let measuring = token(&data, "one", &[SCOPE_METRICS], &[]);
    let host = TestHost::start_with(files, |_| {}).await;
    let [one, two, narrow, measuring] = [&one, &two, &narrow, &measuring].map(|token| User::new(&host, token));
    assert_eq!(two.tools().await, ["add"]);
    assert!(one.tools().await.contains(&"probe_add".to_owned()));
    let who: Value = serde_json::from_str(&one.text("probe_caller", json!({})).await).expect("JSON");
    assert_eq!((&who["result"][0], &who["result"][1]), (&json!("one"), &json!("user-of-one")));
    // Another's tool is as one that does not exist.
    let (others, nobodys) = (two.text("probe_add", json!({})).await, two.text("probe_abc", json!({})).await);
    assert_eq!(others.replace("probe_add", "X"), nobodys.replace("probe_abc", "X"));
    // A token for some tools sees and calls only these.
    assert_eq!(narrow.tools().await, ["probe_caller"]);
    assert!(narrow.text("probe_add", json!({ "a": 1, "b": 2 })).await.contains("unknown tool"));
    assert!(narrow.text("probe_caller", json!({})).await.contains("user-of-one"));
    // One for measuring measures, and calls nothing.
    assert_eq!(measuring.status("/metrics").await.0, StatusCode::OK);
    assert!(measuring.text("probe_add", json!({ "a": 1, "b": 2 })).await.contains("lacks the scope `tools`"));
    assert_eq!(one.status("/metrics").await.0, StatusCode::FORBIDDEN);
    assert_eq!(one.status("/health").await.1, r#"{"status":"ok"}"#);
    // Another's session is as one that does not exist.
    let session = one.initialize().await;
    assert_eq!(one.ask_in(&session, "tools/list").await.0, StatusCode::OK);
    let (theirs, nobodys) = (two.ask_in(&session, "tools/list").await, two.ask_in("no-such", "tools/list").await);
    assert_eq!(theirs, nobodys);
    assert_eq!(theirs.0, StatusCode::NOT_FOUND);
    let end = two.http.delete(&two.url).bearer_auth(&two.token).header("mcp-session-id", &session);
    assert_eq!(end.send().await.expect("an answer").status(), StatusCode::NOT_FOUND);
    assert_eq!(one.ask_in(&session, "tools/list").await.0, StatusCode::OK, "it was not ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_refused_at_every_path() {
    let files = folder(&[("add", &add())]);
    let data = files.path().join("data");
    std::fs::create_dir_all(&data).expect("made");
    let good = token(&data, "local", &[SCOPE_TOOLS], &[]);
    let host = TestHost::start_with(files, |_| {}).await;
    let list = |authorization: &[&str]| {
        let request = host.modern("tools/list", json!({}));
        authorization.iter().fold(request, |request, value| request.header("authorization", *value))
    };
    let good = format!("Bearer {good}");
    for (authorization, status, challenge) in [
        (&[][..], 401, "Bearer realm=\"mcpp\""),
        (&["Bearer"], 400, "Bearer realm=\"mcpp\", error=\"invalid_request\""),
        (&["Basic bG9jYWw6bG9jYWw="], 400, "Bearer realm=\"mcpp\", error=\"invalid_request\""),
        (&["Bearer nonsense"], 401, "Bearer realm=\"mcpp\", error=\"invalid_token\""),
        (&["Bearer mcpp_abc_def"], 401, "Bearer realm=\"mcpp\", error=\"invalid_token\""),
        (&[&good, &good], 400, "Bearer realm=\"mcpp\", error=\"invalid_request\""),
        (&[&good], 200, ""),
        (&[&good.replace("Bearer", "bearer")], 200, ""),
    ] {
        let response = list(authorization).send().await.expect("an answer");
        let challenged = response.headers().get("www-authenticate").map_or("", |value| value.to_str().expect("text"));
        assert_eq!((response.status().as_u16(), challenged), (status, challenge), "{authorization:?}");
    }
    for path in ["/metrics", "/mcp"] {
        let url = format!("http://{}{path}", host.host.address());
        assert_eq!(host.http.get(url).send().await.expect("an answer").status(), StatusCode::UNAUTHORIZED, "{path}");
    }
    // The host answers a load balancer's questions without saying anything more.
    for (path, says) in [("/live", "live\n"), ("/ready", "ready\n"), ("/health", r#"{"status":"ok"}"#)] {
        let url = format!("http://{}{path}", host.host.address());
        let response = host.http.get(url).send().await.expect("an answer");
        assert_eq!(response.text().await.expect("text"), says);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_come_and_go_while_the_host_serves() {
    let files = folder(&[]);
    let data = files.path().join("data");
    std::fs::create_dir_all(&data).expect("made");
    let host = TestHost::start_with(files, |_| {}).await;
    let at = data.display().to_string();
    let mcpp = |arguments: &[&str]| tokio::task::block_in_place(|| run(&[arguments, &["--data", &at]].concat(), &[]));
    let told = |arguments: &[&str]| {
        let done = mcpp(arguments);
        assert_eq!(done.status.code(), Some(0), "{arguments:?}: {}", stderr(&done));
        stdout(&done)
    };
    let refused = |arguments: &[&str]| {
        let done = mcpp(arguments);
        assert_eq!(done.status.code(), Some(1), "{arguments:?}: {}", stdout(&done));
        stderr(&done)
    };
    assert!(told(&["tenant", "add", "team", "--limit", "running=3"]).contains("added team"));
    assert!(refused(&["tenant", "add", "team"]).contains("already"));
    assert!(refused(&["tenant", "add", "other", "--limit", "runing=3"]).contains("runing"));
    assert!(refused(&["token", "create", "nobody", "x"]).contains("no tenant `nobody`"));
    assert!(refused(&["token", "create", "team", "x", "--scope", "root"]).contains("no scope"));
    let token = told(&["token", "create", "team", "alice", "--expires", "1h"]);
    let user = User::new(&host, token.trim());
    let homes = Homes::new(data.clone());
    let tools = homes.of(&tenant("team")).tools();
    grant_team(&homes, "store", "store = {}\ncall = ['x']\nsubscribe = ['other/*']\n");
    told(&["reload"]);
    std::fs::write(tools.join("store.wasm"), guest("store")).expect("written");
    // It is accepted by its operator before it serves: the folder of a tenant is pinned.
    host.until("it is seen", async |_| told_problem(&mcpp(&["info", "--tenant", "team", "--json"]))).await;
    assert!(told(&["accept", "store", "--tenant", "team"]).contains("accepted store"));
    host.until("it serves", async |_| user.tools().await.contains(&"store_set".to_owned())).await;
    user.call("store_set", json!({ "key": "k", "value": "kept" })).await;
    let info: Value = serde_json::from_str(&told(&["info", "--tenant", "team", "--json"])).expect("JSON");
    assert_eq!((&info["tenant"]["limits"]["running"], &info["components"][0]["name"]), (&json!(3), &json!("store")));
    told(&["tenant", "limit", "team", "--limit", "queued=5"]);
    let info: Value = serde_json::from_str(&told(&["info", "--tenant", "team", "--json"])).expect("JSON");
    assert_eq!((&info["tenant"]["limits"]["running"], &info["tenant"]["limits"]["queued"]), (&json!(3), &json!(5)));
    told(&["tenant", "suspend", "team"]);
    let suspended = user.request("tools/list", json!({})).send().await.expect("an answer");
    assert_eq!(suspended.status(), StatusCode::FORBIDDEN);
    assert!(told(&["tenant", "list"]).contains("suspended"));
    told(&["tenant", "resume", "team"]);
    host.until("it serves again", async |_| user.tools().await.contains(&"store_set".to_owned())).await;
    let kept = user.text("store_get", json!({ "key": "k" })).await;
    assert!(kept.contains("kept"), "{kept}");
    // Removal asks, copies what it is asked to copy, and leaves nothing.
    assert!(refused(&["tenant", "remove", "team"]).contains("--yes"));
    assert!(refused(&["tenant", "remove", "local", "--yes"]).contains("cannot be removed"));
    let export = host.folder.path().join("export").display().to_string();
    told(&["tenant", "remove", "team", "--yes", "--export", &export]);
    for file in ["data.redb", "tools/store.wasm", "grants/store.toml", "tenant.toml"] {
        assert!(Path::new(&export).join(file).exists(), "{file}");
    }
    let left = ["tenants/team", "store/team.redb", "compiled/team"].map(|left| data.join(left).exists());
    assert_eq!(left, [false; 3]);
    host.until("the token is worth nothing", async |_| {
        let answer = user.request("tools/list", json!({})).send().await.expect("an answer");
        answer.status() == StatusCode::UNAUTHORIZED
    })
    .await;
    // One of the same name is another.
    told(&["tenant", "add", "team"]);
    let token = told(&["token", "create", "team", "bob"]);
    assert!(User::new(&host, token.trim()).tools().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_of_one_tenant_leaves_the_others_as_they_are() {
    let files = folder(&[]);
    let data = files.path().join("data");
    std::fs::create_dir_all(&data).expect("made");
    let host = TestHost::start_with(files, |_| {}).await;
    let at = data.display().to_string();
    let reload = |arguments: &[&str]| -> Vec<String> {
        let done =
            tokio::task::block_in_place(|| run(&[&["reload", "--json", "--data", &at], arguments].concat(), &[]));
        assert_eq!(done.status.code(), Some(0), "{arguments:?}: {}", stderr(&done));
        let reports: Value = serde_json::from_str(&stdout(&done)).expect("JSON");
        reports.as_object().expect("reports").keys().cloned().collect()
    };
    let homes = Homes::new(data.clone());
    let is_open = |name: &str| host.host.registry().share(&tenant(name)).is_some();
    for name in ["one", "two"] {
        let added = tokio::task::block_in_place(|| run(&["tenant", "add", name, "--data", &at], &[]));
        assert_eq!(added.status.code(), Some(0), "{}", stderr(&added));
        host.until("it is open", async |_| is_open(name)).await;
    }
    // Its file says so, and the host looks at it only when it is asked to.
    homes.of(&tenant("two")).change(|settings| settings.suspended = true).expect("changed");
    assert_eq!(reload(&["--tenant", "one"]), ["one"]);
    assert!(is_open("one") && is_open("two"), "the other one stays as it is");
    assert!(reload(&["--tenant", "two"]).is_empty(), "it is suspended now");
    assert!(is_open("one") && !is_open("two"));
    homes.of(&tenant("two")).change(|settings| settings.suspended = false).expect("changed");
    assert_eq!(reload(&[]), ["local", "one", "two"], "all of them");
    assert!(is_open("two"));
}

fn grant_team(homes: &Homes, component: &str, body: &str) {
    let file = homes.of(&tenant("team")).grants().join(format!("{component}.toml"));
    std::fs::write(file, format!("version = 1\n{body}")).expect("written");
}

fn told_problem(info: &std::process::Output) -> bool {
    let info: Value = serde_json::from_str(&stdout(info)).unwrap_or_default();
    info["problems"][0]["error"].as_str().is_some_and(|error| error.contains("waits until it is accepted"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_revoked_ends_what_its_holder_has_open() {
    let files = folder(&[("add", &add())]);
    let data = files.path().join("data");
    std::fs::create_dir_all(&data).expect("made");
    let (mine, _other) = (token(&data, "local", &[SCOPE_TOOLS], &[]), token(&data, "local", &[SCOPE_METRICS], &[]));
    let host = TestHost::start_with(files, |_| {}).await;
    let user = User::new(&host, &mine);
    let session = user.initialize().await;
    let stream = user.http.get(&user.url).bearer_auth(&user.token).header("mcp-session-id", &session);
    let stream = stream.header("accept", "text/event-stream").send().await.expect("an answer");
    assert_eq!(stream.status(), StatusCode::OK);
    let file = TokenFile::new(Homes::new(data).tokens());
    let id = file.read().expect("read").expect("there").into_iter().find(|token| token.scopes.contains(SCOPE_TOOLS));
    file.revoke(&id.expect("mine").id).expect("revoked");
    let ended = tokio::time::timeout(Duration::from_secs(20), stream.text()).await;
    assert!(ended.is_ok(), "the stream goes on");
    assert_eq!(user.ask_in(&session, "tools/list").await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_revocation_is_in_force_when_its_command_has_ended() {
    let files = folder(&[("add", &add())]);
    let data = files.path().join("data");
    std::fs::create_dir_all(&data).expect("made");
    let at = data.display().to_string();
    let mut tokens: Vec<String> = (0..4).map(|_| token(&data, "local", &[SCOPE_TOOLS], &[])).collect();
    let file = TokenFile::new(Homes::new(data).tokens());
    let ids: Vec<String> = file.read().expect("read").expect("there").into_iter().map(|token| token.id).collect();
    let host = TestHost::start_with(files, |_| {}).await;
    // Again and again: the host may be about to look at the file by itself.
    for (id, token) in ids.iter().zip(tokens.drain(..)) {
        let user = User::new(&host, &token);
        let status = async || user.request("tools/list", json!({})).send().await.expect("an answer").status();
        assert_eq!(status().await, StatusCode::OK);
        let revoked = tokio::task::block_in_place(|| run(&["token", "revoke", id, "--data", &at], &[]));
        assert!(revoked.status.success(), "{}", stderr(&revoked));
        assert_eq!((status().await, stderr(&revoked)), (StatusCode::UNAUTHORIZED, String::new()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_calls_are_refused_until_later() {
    let files = folder(&[("add", &add())]);
    grant(&files, "[components.add.limits]\ncalls_per_minute = 2\n");
    let host = TestHost::start_with(files, |_| {}).await;
    let call = || host.modern("tools/call", json!({ "name": "add", "arguments": { "a": 1, "b": 2 } })).send();
    for _ in 0..2 {
        assert_eq!(call().await.expect("an answer").status(), StatusCode::OK);
    }
    let refused = call().await.expect("an answer");
    let wait: u64 = refused.headers()["retry-after"].to_str().expect("text").parse().expect("seconds");
    assert!((1..=30).contains(&wait), "{wait}");
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    let error = answer(refused).await;
    assert_eq!(error["error"]["data"]["error"], "too_many");
    // A tenant's own rate counts calls of what is not there, too.
    let files = folder(&[("add", &add())]);
    let limits = toml::from_str("calls_per_minute = 3").expect("limits");
    let host = TestHost::start_with(files, |config| config.tenant_limits = limits).await;
    for _ in 0..3 {
        assert!(host.text("nothing", json!({})).await.contains("unknown tool"));
    }
    assert!(host.text("nothing", json!({})).await.contains("too many calls: at most 3 in a minute for this tenant"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processor_time_is_a_budget_of_its_own() {
    let files = folder(&[("probe", &guest("probe"))]);
    grant(&files, "[components.probe.limits]\ncpu_ms = 60\n");
    let host = TestHost::start_with(files, |_| {}).await;
    let spun = host.text("probe_spin", json!({})).await;
    assert_eq!(spun, "error: budget `cpu_ms` exceeded: the tool was stopped at 60");
    // A call that only waits uses none.
    assert_eq!(host.text("probe_sleep", json!({ "ms": 200 })).await, "slept 200 ms");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receipt_is_given_on_request() {
    let host = TestHost::start(&[("probe", &guest("probe"))]).await;
    let call = async |meta: Value| {
        let mut params = json!({ "name": "probe_add", "arguments": { "a": 1, "b": 2 } });
        params["_meta"] = meta;
        answer(host.modern("tools/call", params).send().await.expect("an answer")).await
    };
    assert!(call(json!({})).await["result"].get("_meta").is_none_or(|meta| meta.get("mcpp/cost").is_none()));
    let answer = call(json!({ "mcpp/cost": true })).await;
    let cost = &answer["result"]["_meta"]["mcpp/cost"];
    assert!(cost["memory_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{answer}");
    assert!(cost["duration_ms"].as_f64().is_some_and(|ms| ms > 0.0) && cost["cpu_ms"].is_f64(), "{answer}");
    assert!(cost["host_calls"].is_u64(), "{answer}");
}

/// A host with the tenants `one` and `two`, each with the tool `add`, and a user of each.
async fn two_teams() -> (TestHost, User, User) {
    let files = folder(&[]);
    let data = files.path().join("data");
    let tokens = ["one", "two"].map(|name| team(&data, name, &[("add", &add())]));
    let host = TestHost::start_with(files, |_| {}).await;
    let [one, two] = tokens.map(|token| User::new(&host, &token));
    (host, one, two)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_refused_again_and_again_waits_for_it_and_nobody_else_does() {
    let (host, one, two) = two_teams().await;
    let stranger = User::new(&host, "mcpp_nobody");
    let held_back = async || {
        let metrics = mcpp::telemetry::render().await.expect("installed");
        let count = metrics.lines().find_map(|line| line.strip_prefix("mcpp_refusals_held_back_total "));
        count.map_or(0, |count| count.parse::<usize>().expect("a number"))
    };
    // At once there are more of them than come due meanwhile, and no more than there is room for connections of strangers.
    for asker in [&one, &stranger] {
        let before = held_back().await;
        let refusals = futures::stream::iter(0..900).map(|_| asker.text("no-such-tool", json!({})));
        let answers: Vec<String> = refusals.buffer_unordered(150).collect().await;
        assert!(
            answers.iter().all(|answer| answer.contains("unknown tool") || answer.contains("token")),
            "{answers:?}"
        );
        let more = held_back().await - before;
        assert!((1..=700).contains(&more), "{more} were held back");
    }
    let before = held_back().await;
    for _ in 0..20 {
        assert!(two.text("no-such-tool", json!({})).await.contains("unknown tool"));
        assert!(one.text("add", json!({ "a": 1, "b": 2 })).await.contains('3'), "what is there is served");
    }
    assert_eq!(held_back().await, before, "the other tenant's refusals are its own");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_one_tenant_waits_at_its_own_door() {
    let (host, one, two) = two_teams().await;
    let sum = json!({ "a": 1, "b": 2 });
    let door = std::sync::Arc::clone(&host.host.registry().share(&tenant("one")).expect("open").door.places);
    let places = door.available_permits();
    let all = door.clone().acquire_many_owned(u32::try_from(places).expect("few")).await.expect("open");
    let mut waits = tokio::spawn({
        let (one, sum) = (one.clone(), sum.clone());
        async move { one.text("add", sum).await }
    });
    for _ in 0..20 {
        assert!(two.text("add", sum.clone()).await.contains('3'));
    }
    assert!(futures::poll!(&mut waits).is_pending(), "it stands behind its own tenant's requests");
    drop(all);
    assert!(waits.await.expect("no panic").contains('3'));
    // A request that is answered, refused or given up has left the door.
    assert!(one.text("no-such-tool", json!({})).await.contains("unknown tool"));
    let all = door.clone().acquire_many_owned(u32::try_from(places).expect("few")).await.expect("open");
    let given_up = one.request("tools/list", json!({})).timeout(Duration::from_millis(50)).send().await;
    assert!(given_up.is_err());
    drop(all);
    host.until("everybody has left", async |_| door.available_permits() == places).await;
}
