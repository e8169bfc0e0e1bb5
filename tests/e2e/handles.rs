//! Resources of plain components as handles: whose they are, how long they are good, and instances that are used again.

use std::{collections::BTreeSet, time::Duration};

use mcpp::{
    auth::tokens::{NewToken, TokenFile},
    names::TenantId,
    secrets::{KeySource, SecretName, Secrets},
    tenant::{SCOPE_TOOLS, home::Homes},
};
use serde_json::{Value, json};

use crate::{
    doors::team,
    support::{TestHost, answer, folder, grant, guest, text_of, wat},
    upstream::{Upstream, WebHost, log, ok, rule},
};

/// Counters. `new` traps at 13, `add` spins for 99 and traps for 98; `absorb` takes one over into another; `lots` gives many.
fn counters() -> Vec<u8> {
    wat(r#"(component
        (core module $destructor (func (export "end") (param i32)))
        (core instance $destructor (instantiate $destructor))
        (type $counter (resource (rep i32) (dtor (core func $destructor "end"))))
        (type $label (resource (rep i32)))
        (core func $new-label (canon resource.new $label))
        (core func $new (canon resource.new $counter))
        (core func $rep (canon resource.rep $counter))
        (core func $drop (canon resource.drop $counter))
        (core module $code
            (import "r" "new" (func $new (param i32) (result i32)))
            (import "r" "new-label" (func $new-label (param i32) (result i32)))
            (import "r" "rep" (func $rep (param i32) (result i32)))
            (import "r" "drop" (func $drop (param i32)))
            (memory (export "memory") 1)
            (func (export "label") (result i32) (call $new-label (i32.const 2048)))
            (global $next (mut i32) (i32.const 1024))
            (func $make (export "make") (param i32) (result i32)
                (if (i32.eq (local.get 0) (i32.const 13)) (then unreachable))
                (global.set $next (i32.add (global.get $next) (i32.const 4)))
                (i32.store (global.get $next) (local.get 0))
                (call $new (global.get $next)))
            (func $add (export "add") (param i32 i32) (result i32)
                (if (i32.eq (local.get 1) (i32.const 99)) (then (loop br 0)))
                (if (i32.eq (local.get 1) (i32.const 98)) (then unreachable))
                (i32.store (local.get 0) (i32.add (i32.load (local.get 0)) (local.get 1)))
                (i32.load (local.get 0)))
            (func (export "absorb") (param i32 i32) (result i32)
                (call $add (local.get 0) (i32.load (call $rep (local.get 1))))
                (call $drop (local.get 1)))
            (func (export "feed") (param i32 i32) (result i32)
                (call $add (local.get 1) (i32.load (call $rep (local.get 0))))
                (call $drop (local.get 0)))
            (func (export "lots") (param $n i32) (result i32)
                (local $i i32)
                (loop $more
                    (i32.store (i32.add (i32.const 16384) (i32.mul (local.get $i) (i32.const 4))) (call $make (i32.add (local.get $i) (i32.const 100))))
                    (local.set $i (i32.add (local.get $i) (i32.const 1)))
                    (br_if $more (i32.lt_u (local.get $i) (local.get $n))))
                (i32.store (i32.const 8) (i32.const 16384))
                (i32.store (i32.const 12) (local.get $n))
                (i32.const 8))
            (func (export "calls") (result i32)
                (i32.store (i32.const 4) (i32.add (i32.load (i32.const 4)) (i32.const 1)))
                (i32.load (i32.const 4))))
        (core instance $resource (export "new-label" (func $new-label)) (export "new" (func $new)) (export "rep" (func $rep)) (export "drop" (func $drop)))
        (core instance $i (instantiate $code (with "r" (instance $resource))))
        (export $exported "counter" (type $counter))
        (func (export "[constructor]counter") (param "start" u32) (result (own $exported)) (canon lift (core func $i "make")))
        (func (export "[method]counter.add") (param "self" (borrow $exported)) (param "by" u32) (result u32)
            (canon lift (core func $i "add")))
        (func (export "[method]counter.absorb") (param "self" (borrow $exported)) (param "other" (own $exported)) (result u32)
            (canon lift (core func $i "absorb")))
        (func (export "feed") (param "food" (own $exported)) (param "to" (borrow $exported)) (result u32)
            (canon lift (core func $i "feed")))
        (export $exported-label "label" (type $label))
        (func (export "[constructor]label") (result (own $exported-label)) (canon lift (core func $i "label")))
        (func (export "lots") (param "n" u32) (result (list (own $exported)))
            (canon lift (core func $i "lots") (memory (core memory $i "memory"))))
        (func (export "calls") (result u32) (canon lift (core func $i "calls"))))"#)
}

/// The same, with one more byte: another build.
fn another_build() -> Vec<u8> {
    let mut wasm = counters();
    wasm.extend([0, 2, 1, b'x']);
    wasm
}

fn result_of(answer: &Value) -> &Value {
    &answer["result"]["structuredContent"]["result"]
}

fn handle(answer: &Value) -> String {
    result_of(answer).as_str().unwrap_or_else(|| panic!("no handle: {answer}")).to_owned()
}

async fn new(host: &TestHost, start: u32) -> String {
    handle(&host.call("c_counter_new", json!({ "start": start })).await)
}

async fn add(host: &TestHost, counter: &str, by: u32) -> Value {
    host.call("c_counter_add", json!({ "self": counter, "by": by })).await
}

/// How many calls the instance has served that serves this one.
async fn calls(host: &TestHost, component: &str) -> Value {
    result_of(&host.call(&format!("{component}_calls"), json!({})).await).clone()
}

fn is_expired(answer: &Value) -> bool {
    text_of(answer).contains("handle-expired: you have no such `counter` open")
}

fn kept(host: &TestHost) -> usize {
    host.host.registry().keeper().count().get(&TenantId::local()).copied().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resource_is_a_handle() {
    let host = TestHost::start(&[("c", &counters())]).await;
    let tools = [
        "c_calls",
        "c_counter_absorb",
        "c_counter_add",
        "c_counter_drop",
        "c_counter_new",
        "c_feed",
        "c_label_drop",
        "c_label_new",
        "c_lots",
    ];
    assert_eq!(host.tools().await, tools, "{}", host.problems());
    let (one, two) = (new(&host, 5).await, new(&host, 100).await);
    assert_ne!(one, two);
    assert_eq!(result_of(&add(&host, &one, 2).await), 7);
    assert_eq!(result_of(&add(&host, &two, 1).await), 101);
    assert_eq!(kept(&host), 1, "all of a principal's resources live in one instance");
    // Handed over for good, a resource is gone; unless the call did not come about.
    let absorb = |other: Value| host.call("c_counter_absorb", json!({ "self": one, "other": other }));
    let wrong = host.call("c_feed", json!({ "food": two, "to": "h_0123456789012345678901" })).await;
    assert!(is_expired(&wrong), "{wrong}");
    let twice = host.call("c_feed", json!({ "food": two, "to": two })).await;
    assert!(is_expired(&twice), "{twice}");
    assert_eq!(result_of(&absorb(json!(two)).await), 108);
    assert!(is_expired(&add(&host, &two, 1).await) && is_expired(&absorb(json!(two)).await));
    let itself = absorb(json!(one)).await;
    assert!(text_of(&itself).contains("`/other`: is used in the same call"), "{itself}");
    // The host refuses a value that is no handle where it stands.
    for (bad, says) in [(json!("counter"), "/other"), (json!(1), "/other"), (json!(null), "/other")] {
        assert!(text_of(&absorb(bad).await).contains(says));
    }
    // So is one of another kind, and nothing is lost by that.
    let label = handle(&host.call("c_label_new", json!({})).await);
    for (tool, arguments) in
        [("c_counter_drop", json!({ "self": label })), ("c_counter_add", json!({ "self": label, "by": 1 }))]
    {
        let mixed_up = host.text(tool, arguments).await;
        assert!(mixed_up.contains("`/self`: is the handle of a `label`, not of a `counter`"), "{mixed_up}");
    }
    assert_eq!(result_of(&add(&host, &one, 0).await), 108);
    let fresh = new(&host, 1).await;
    assert!(text_of(&host.call("c_counter_drop", json!({ "self": fresh })).await).is_empty());
    assert!(is_expired(&add(&host, &fresh, 1).await));
    // A function without resources has its own fresh instance, as always.
    assert_eq!((calls(&host, "c").await, calls(&host, "c").await), (json!(1), json!(1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_goes_with_its_last_handle_and_with_every_failure() {
    let host = TestHost::start_with(folder(&[("c", &counters())]), |config| {
        config.limits.deadline_ms = toml::Value::Integer(500).try_into().ok();
    })
    .await;
    let only = new(&host, 1).await;
    assert_eq!(kept(&host), 1);
    host.call("c_counter_drop", json!({ "self": only })).await;
    assert_eq!(kept(&host), 0);
    for (by, says) in [(98, "unreachable"), (99, "deadline_ms")] {
        let (first, second) = (new(&host, 1).await, new(&host, 2).await);
        let failed = text_of(&add(&host, &first, by).await);
        assert!(failed.contains(says), "{failed}");
        assert!(is_expired(&add(&host, &second, 1).await), "what stood beside it is gone too");
        assert_eq!(kept(&host), 0);
    }
    // A constructor that fails leaves nothing, and takes what was there along.
    let before = new(&host, 1).await;
    assert!(host.text("c_counter_new", json!({ "start": 13 })).await.contains("unreachable"));
    assert!(is_expired(&add(&host, &before, 1).await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handles_are_bounded() {
    let host = TestHost::start(&[("c", &counters())]).await;
    let many = host.call("c_lots", json!({ "n": 256 })).await;
    let handles = result_of(&many).as_array().unwrap_or_else(|| panic!("no handles: {many}")).clone();
    assert_eq!(handles.len(), 256);
    let more = host.text("c_counter_new", json!({ "start": 1 })).await;
    assert!(more.contains("budget `handles` exceeded: the tool was stopped at 256"), "{more}");
    // It was refused before it ran: the others are still good.
    assert_eq!(result_of(&add(&host, handles[9].as_str().expect("text"), 1).await), 110);
    host.call("c_counter_drop", json!({ "self": handles[0] })).await;
    let last = new(&host, 1).await;
    assert_eq!(result_of(&add(&host, &last, 1).await), 2);
    // A call that gives more handles at once than there may be loses all.
    host.call("c_counter_drop", json!({ "self": last })).await;
    let over = host.text("c_lots", json!({ "n": 2 })).await;
    assert!(over.contains("budget `handles` exceeded"), "{over}");
    assert_eq!(kept(&host), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handle_is_good_for_its_session_and_its_build_alone() {
    let host = TestHost::start(&[("c", &counters())]).await;
    let (one, two) = (host.initialize().await, host.initialize().await);
    let call = async |session: &str, tool: &str, arguments: Value| {
        let params = json!({ "name": tool, "arguments": arguments });
        let message = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params });
        answer(host.legacy(session, &message).send().await.expect("an answer")).await
    };
    let of_one = handle(&call(&one, "c_counter_new", json!({ "start": 1 })).await);
    let of_two = handle(&call(&two, "c_counter_new", json!({ "start": 10 })).await);
    let of_nobody = new(&host, 100).await;
    assert_eq!(kept(&host), 3);
    for (session, counter, good) in
        [(&one, &of_one, true), (&one, &of_two, false), (&two, &of_two, true), (&two, &of_nobody, false)]
    {
        let added = call(session, "c_counter_add", json!({ "self": counter, "by": 1 })).await;
        assert_eq!(is_expired(&added), !good, "{added}");
    }
    assert!(is_expired(&add(&host, &of_one, 1).await));
    // A session that ends takes its resources along.
    let ended = host.http.delete(host.host.url()).header("mcp-session-id", &one).send().await.expect("an answer");
    assert!(ended.status().is_success(), "{ended:?}");
    host.until("the session's instance is gone", async |host| kept(host) == 2).await;
    // So does a build that is replaced; its handles say so.
    host.write("c", &another_build());
    host.until("the new build answers", async |host| is_expired(&add(host, &of_nobody, 1).await)).await;
    host.until("the old build's instances are gone", async |host| kept(host) == 0).await;
    assert!(is_expired(&call(&two, "c_counter_add", json!({ "self": of_two, "by": 1 })).await));
    let again = new(&host, 1).await;
    assert_eq!(result_of(&add(&host, &again, 1).await), 2);
}

/// A token for a user of the tenant `local`.
fn token(data: &std::path::Path, subject: &str) -> String {
    let new = NewToken {
        tenant: TenantId::local(),
        subject: subject.to_owned(),
        scopes: BTreeSet::from([SCOPE_TOOLS.to_owned()]),
        tools: Vec::new(),
        good_for: None,
    };
    TokenFile::new(Homes::new(data.to_owned()).tokens()).create(new).expect("made").1
}

async fn call_as(host: &TestHost, token: &str, tool: &str, arguments: Value) -> Value {
    let params = json!({ "name": tool, "arguments": arguments });
    answer(host.modern("tools/call", params).bearer_auth(token).send().await.expect("an answer")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handle_is_good_for_its_principal_alone() {
    let files = folder(&[("c", &counters())]);
    let (alice, bob) = (token(&files.path().join("data"), "alice"), token(&files.path().join("data"), "bob"));
    let host = TestHost::start_with(files, |_| {}).await;
    let call = async |token: &str, tool: &str, arguments: Value| call_as(&host, token, tool, arguments).await;
    let counter = handle(&call(&alice, "c_counter_new", json!({ "start": 1 })).await);
    let bobs = handle(&call(&bob, "c_counter_new", json!({ "start": 1 })).await);
    assert_eq!(kept(&host), 2);
    let stolen = call(&bob, "c_counter_add", json!({ "self": counter, "by": 1 })).await;
    let made_up = call(&bob, "c_counter_add", json!({ "self": "h_0123456789012345678901", "by": 1 })).await;
    // Another's is as one that never was.
    assert!(is_expired(&stolen) && stolen == made_up, "{stolen}");
    let dropped = call(&bob, "c_counter_drop", json!({ "self": counter })).await;
    assert!(is_expired(&dropped));
    assert_eq!(result_of(&call(&alice, "c_counter_add", json!({ "self": counter, "by": 1 })).await), 2);
    assert_eq!(result_of(&call(&bob, "c_counter_add", json!({ "self": bobs, "by": 2 })).await), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_is_room_for_so_many_and_who_was_idle_longest_goes() {
    let files = folder(&[("a", &counters()), ("b", &counters()), ("c", &counters())]);
    let host = TestHost::start_with(files, |config| {
        config.tenant_limits = toml::from_str("kept = 2").expect("limits");
    })
    .await;
    let mut handles = Vec::new();
    for component in ["a", "b", "c"] {
        let tool = format!("{component}_counter_new");
        handles.push(handle(&host.call(&tool, json!({ "start": 1 })).await));
    }
    assert_eq!(kept(&host), 2);
    for (component, counter, good) in [("a", &handles[0], false), ("b", &handles[1], true), ("c", &handles[2], true)] {
        let added = host.call(&format!("{component}_counter_add"), json!({ "self": counter, "by": 1 })).await;
        assert_eq!(is_expired(&added), !good, "{component}: {added}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_one_instance_wait_for_each_other() {
    let host = TestHost::start(&[("c", &counters())]).await;
    let counter = new(&host, 0).await;
    let adding = (0..50).map(|_| add(&host, &counter, 1));
    let mut seen: Vec<u64> =
        futures::future::join_all(adding).await.iter().filter_map(|added| result_of(added).as_u64()).collect();
    seen.sort_unstable();
    assert_eq!(seen, (1..=50).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_is_used_again_where_the_operator_says_so() {
    let files = folder(&[("c", &counters()), ("d", &counters())]);
    grant(&files, "[components.c.tools.c_calls]\nreuse = { calls = 3 }\n[components.d]\nreuse = { idle_s = 0 }");
    let host = TestHost::start_with(files, |_| {}).await;
    let mut seen = Vec::new();
    for _ in 0..7 {
        seen.push(calls(&host, "c").await);
    }
    assert_eq!(seen, [1, 2, 3, 1, 2, 3, 1], "{}", host.problems());
    // One at a time: calls beside each other have instances of their own.
    let beside = futures::future::join_all((0..4).map(|_| calls(&host, "c"))).await;
    assert!(beside.iter().all(|count| count.as_u64().is_some_and(|count| (1..=3).contains(&count))), "{beside:?}");
    // Out of its time an instance is not used again.
    assert_eq!((calls(&host, "d").await, calls(&host, "d").await), (json!(1), json!(1)));
    // Nor by another build.
    host.until("an instance rests", async |host| kept(host) > 0).await;
    host.write("c", &another_build());
    host.until("the build before is gone", async |host| kept(host) == 0).await;
}

/// Two tools, `say` and `also`, that count the calls of their instance together; each traps at 13.
fn counting() -> Vec<u8> {
    wat(r#"(component
        (core module $m
            (global $calls (mut i32) (i32.const 0))
            (func (export "f") (param i32) (result i32)
                (if (i32.eq (local.get 0) (i32.const 13)) (then unreachable))
                (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
                (global.get $calls)))
        (core instance $i (instantiate $m))
        (func (export "say") (param "x" u32) (result u32) (canon lift (core func $i "f")))
        (func (export "also") (param "x" u32) (result u32) (canon lift (core func $i "f"))))"#)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_is_used_again_for_its_tool_alone_and_not_after_a_trap() {
    let files = folder(&[("t", &counting())]);
    grant(&files, "[components.t]\nreuse = {}");
    let host = TestHost::start_with(files, |_| {}).await;
    let call = async |tool: &str, x: u32| host.call(tool, json!({ "x": x })).await;
    let count = async |tool: &str, x: u32| result_of(&call(tool, x).await).clone();
    assert_eq!((count("t_say", 1).await, count("t_also", 1).await), (json!(1), json!(1)));
    assert_eq!((count("t_say", 1).await, count("t_also", 1).await), (json!(2), json!(2)));
    assert!(text_of(&call("t_say", 13).await).contains("unreachable"));
    assert_eq!((count("t_say", 1).await, count("t_also", 1).await), (json!(1), json!(3)));
    // A call that is refused before it runs costs nobody an instance.
    assert!(text_of(&host.call("t_say", json!({ "x": "y" })).await).contains("/x"));
    assert_eq!(count("t_say", 1).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_for_reuse_makes_room_for_one_of_another_tool_and_one_with_resources_does_not() {
    let files = folder(&[("c", &counters()), ("t", &counting())]);
    grant(&files, "[components.t]\nreuse = {}");
    let host = TestHost::start_with(files, |config| {
        config.tenant_limits = toml::from_str("kept = 1").expect("limits");
    })
    .await;
    let count = async |tool: &str| result_of(&host.call(tool, json!({ "x": 1 })).await).clone();
    let rest = || tokio::time::sleep(Duration::from_millis(1_100));
    assert_eq!(count("t_say").await, 1);
    rest().await;
    assert_eq!((count("t_also").await, count("t_also").await), (json!(1), json!(2)), "{}", host.problems());
    let counter = new(&host, 5).await;
    rest().await;
    assert_eq!((count("t_say").await, count("t_say").await), (json!(1), json!(1)));
    assert_eq!(*result_of(&add(&host, &counter, 1).await), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_full_host_another_tenants_instance_for_reuse_goes_before_any_with_resources() {
    let files = folder(&[("t", &counting())]);
    grant(&files, "[components.t]\nreuse = {}");
    let data = files.path().join("data");
    let (me, many) = (token(&data, "me"), team(&data, "many", &[("c", &counters()), ("d", &counters())]));
    let other = team(&data, "other", &[("c", &counters())]);
    let host = TestHost::start_with(files, |config| config.engine.max_kept = 3).await;
    let call = async |token: &str, tool: &str, arguments: Value| call_as(&host, token, tool, arguments).await;
    let new = async |token: &str, tool: &str| handle(&call(token, tool, json!({ "start": 1 })).await);
    assert_eq!(result_of(&call(&me, "t_say", json!({ "x": 1 })).await), 1);
    let counters = [new(&many, "c_counter_new").await, new(&many, "d_counter_new").await];
    new(&other, "c_counter_new").await;
    for (component, counter) in ["c", "d"].into_iter().zip(counters) {
        let added = call(&many, &format!("{component}_counter_add"), json!({ "self": counter, "by": 1 })).await;
        assert_eq!(result_of(&added), 2, "{component}");
    }
    assert_eq!(result_of(&call(&me, "t_say", json!({ "x": 1 })).await), 1, "its instance is gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_with_something_of_the_store_open_is_not_used_again() {
    let files = folder(&[("store", &guest("store"))]);
    grant(&files, "[components.store]\nstore = {}\ncall = ['*']\nsubscribe = ['other/*']\nreuse = {}");
    let host = TestHost::start_with(files, |_| {}).await;
    let mut seen = Vec::new();
    for open in [false, false, true, false] {
        let answer = host.call("store_leave_open", json!({ "open": open })).await;
        seen.push(result_of(&answer).clone());
    }
    assert_eq!(seen, [1, 2, 3, 1], "{}", host.problems());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_of_a_call_before_is_hidden_too() {
    const VALUE: &str = "s3cr3t-value";
    let upstream = Upstream::start(|request| ok(request.split("authorization: ").nth(1).unwrap_or("nothing"))).await;
    let grants = format!(
        "[components.web.secrets]\nAPI_KEY = ['http://api.test:{}']\n[components.web.reuse]\n{}",
        upstream.port,
        rule(upstream.port)
    );
    let web = WebHost::start(&grants).await;
    let dir = web.host.folder.path().join("data");
    let secrets = Secrets::new(&Homes::new(dir.clone()).of(&TenantId::local()), KeySource::new(&dir, |_| None));
    secrets.set(&SecretName::new("API_KEY").expect("a name"), VALUE.as_bytes()).expect("set");
    let url = format!("http://api.test:{}/", upstream.port);
    let arguments = json!({ "url": url, "authorization": "Bearer {{secret:API_KEY}}" });
    assert_eq!(web.host.text("web_remember", arguments).await, "kept", "{}", web.host.problems());
    let recalled = web.host.text("web_remember", json!({})).await;
    assert!(recalled.starts_with("Bearer {{secret:API_KEY}}"), "{recalled}");
    assert!(!log().contains(VALUE));
}
