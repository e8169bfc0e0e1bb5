//! One component for each released WIT package, built once and never again: what they were promised is kept.

mod answers;

use serde_json::json;

use crate::support::TestHost;

const TOOL_0_1_0: &[u8] = include_bytes!("../guests/frozen/tool-0.1.0.wasm");
const ENDPOINT_0_1_0: &[u8] = include_bytes!("../guests/frozen/endpoint-0.1.0.wasm");
const DELEGATION_0_1_0: &[u8] = include_bytes!("../guests/frozen/delegation-0.1.0.wasm");
/// Made for `mcpp:hooks` 0.1.0 too.
const DELEGATION_0_1_3: &[u8] = include_bytes!("../guests/frozen/delegation-0.1.3.wasm");
const STORE_EVENTS_0_1_0: &[u8] = include_bytes!("../guests/frozen/store-events-0.1.0.wasm");
const STORE_EVENTS_0_1_1: &[u8] = include_bytes!("../guests/frozen/store-events-0.1.1.wasm");
const TOLD_0_1_2: &[u8] = include_bytes!("../guests/frozen/told-0.1.2.wasm");
const BATCH_0_1_0: &[u8] = include_bytes!("../guests/frozen/batch-0.1.0.wasm");
const MESH_0_1_0: &[u8] = include_bytes!("../guests/frozen/mesh-0.1.0.wasm");
const CLIENT_0_1_0: &[u8] = include_bytes!("../guests/frozen/client-0.1.0.wasm");
const TASKS_0_1_0: &[u8] = include_bytes!("../guests/frozen/tasks-0.1.0.wasm");
/// Made for `mcpp:delegation` 0.1.2 too.
const CONTAINER_0_1_0: &[u8] = include_bytes!("../guests/frozen/container-0.1.0.wasm");
const STORE_MIGRATION_0_1_0: &[u8] = include_bytes!("../guests/frozen/store-migration-0.1.0.wasm");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mcpp_tool_0_1_0() {
    let host = TestHost::start(&[("frozen", TOOL_0_1_0)]).await;
    assert_eq!(host.problems(), "");
    let wrong = host.text("text_replace", json!({ "text": "a", "find": "", "replace": "" })).await;
    assert_eq!(wrong, "error: invalid argument at `/find`: must not be empty");
    let hash = host.call("text_hash", json!({ "text": "abc" })).await;
    assert!(
        hash["result"]["structuredContent"]["digest"].as_str().expect("a digest").starts_with("ba7816bf"),
        "{hash}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mcpp_batch_0_1_0() {
    let files = crate::support::folder(&[("frozen", BATCH_0_1_0)]);
    crate::support::grant(&files, "[components.frozen]\nstore = { quota_bytes = 1048576 }\n");
    let host = TestHost::start_with(files, |_| {}).await;
    assert_eq!(host.problems(), "");
    let work = |number: usize| host.call("batch_work", json!({ "name": format!("w{number}"), "ms": 50 }));
    let answers = futures::future::join_all((0..8).map(work)).await;
    let together = |answer: &serde_json::Value| answer["result"]["structuredContent"]["together"].as_u64();
    assert!(answers.iter().all(|answer| together(answer).is_some()), "{answers:?}");
    assert!(answers.iter().filter_map(together).any(|together| together > 1), "{answers:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mcpp_endpoint_0_1_0() {
    let files = crate::support::folder(&[("frozen", ENDPOINT_0_1_0)]);
    crate::support::grant(&files, "[components.frozen]\ncall = ['*']\n");
    let host = TestHost::start_with(files, |_| {}).await;
    assert_eq!(host.problems(), "");
    assert_eq!(host.text("frozen_recurse", json!({ "depth": 0 })).await, r#"{"result":8}"#);
    let seen = host.text("frozen_look", json!({})).await;
    assert!(seen.contains("local") && seen.contains("local-user") && seen.contains("00-"), "{seen}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mcpp_delegation_0_1_0() {
    let files = crate::support::folder(&[("frozen", DELEGATION_0_1_0), ("probe", &crate::support::guest("probe"))]);
    crate::support::grant(&files, "[components.frozen]\ncall = ['*']\n");
    let host = TestHost::start_with(files, |_| {}).await;
    assert_eq!(host.problems(), "");
    assert_eq!(host.text("frozen_rights", json!({ "tool": "nothing" })).await, "None None");
    let seen = host.text("frozen_rights", json!({ "tool": "probe_caller" })).await;
    assert!(seen.starts_with("None Some((String(\"object\"), "), "{seen}");
    let within = |tools| json!({ "tools": tools, "tool": "probe_caller", "arguments": {} });
    assert!(!host.text("frozen_within", within(json!(["probe_*"]))).await.starts_with("error"));
    assert!(!host.text("frozen_within", within(json!(null))).await.starts_with("error"));
    let refused = host.text("frozen_within", within(json!(["other"]))).await;
    assert!(refused.starts_with("error: there is no such tool"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mcpp_delegation_0_1_3_and_hooks_0_1_0() {
    let files = crate::support::folder(&[("frozen", DELEGATION_0_1_3), ("add", &crate::support::add())]);
    crate::support::grant(&files, "[components.frozen]\ncall = ['*']\nstore = {}\n");
    let host = TestHost::start_with(files, |config| config.server.hooks = vec!["frozen".into()]).await;
    assert_eq!(host.problems(), "");
    let sum = |is_pinned| json!({ "tool": "add", "arguments": { "a": 1, "b": 2 }, "is_pinned": is_pinned });
    let effect = json!({ "tool": "frozen_effect", "arguments": {}, "is_pinned": false });
    for (tool, arguments, answer) in [
        ("frozen_pin", json!({ "tools": ["nothing"] }), "error: there is no tool `nothing`"),
        ("frozen_pin", json!({ "tools": ["add"] }), "add 64"),
        ("frozen_pinned", json!({ "tool": "add" }), "1 true"),
        ("frozen_pinned", json!({ "tool": "frozen_pin" }), "1 false"),
        ("frozen_call", sum(true), r#"{"result":3}"#),
        ("frozen_call", sum(false), r#"{"result":3}"#),
        ("frozen_call", effect, "64"),
        ("frozen_effect", json!({}), "0"),
        ("frozen_unpin", json!({}), "0"),
        ("frozen_token", json!({ "tool": "frozen_hook", "name": "not legal" }), "none"),
    ] {
        assert_eq!(host.text(tool, arguments.clone()).await, answer, "{tool} {arguments}");
    }
    let token = host.text("frozen_token", json!({ "tool": "frozen_hook", "name": "n" })).await;
    let url = format!("http://{}/hooks/{token}", host.host.address());
    let taken = crate::support::http_client().post(&url).json(&json!({ "a": 1 })).send().await.expect("an answer");
    assert!(taken.status().is_success(), "{}", taken.status());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mcpp_store_and_events_0_1_0() {
    store_and_events(STORE_EVENTS_0_1_0).await;
}

/// Its transactions read and write many entries, and emit many events, with one call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mcpp_store_and_events_0_1_1() {
    store_and_events(STORE_EVENTS_0_1_1).await;
    let files = crate::support::folder(&[("frozen", STORE_EVENTS_0_1_1)]);
    crate::support::grant(&files, "[components.frozen]\ncall = ['x']\nstore = {}\nsubscribe = ['other/*']\n");
    let host = TestHost::start_with(files, |_| {}).await;
    host.call("store_tell", json!({ "topic": "own", "key": "k", "payloads": ["one", "two"] })).await;
    let values = host.text("store_get_many", json!({ "keys": ["two", "none", "one"] })).await;
    assert_eq!(values, r#"{"result":["own",null,"own"]}"#);
    host.until("both are delivered", async |host| {
        let told = host.text("store_told", json!({})).await;
        told.contains("frozen/own k one") && told.contains("frozen/own k two")
    })
    .await;
}

/// It asks for a form, a message of a model and the roots at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mcpp_client_0_1_0() {
    let host = TestHost::start(&[("frozen", CLIENT_0_1_0)]).await;
    assert_eq!(host.problems(), "");
    let abilities = json!({ "elicitation": {}, "sampling": {}, "roots": {} });
    let call = async |more: serde_json::Value| {
        let mut params = json!({ "name": "test_input_required_result_multiple_inputs", "arguments": {} });
        params["_meta"] = json!({ "io.modelcontextprotocol/clientCapabilities": abilities.clone() });
        params.as_object_mut().expect("an object").extend(more.as_object().cloned().expect("an object"));
        crate::support::answer(host.modern("tools/call", params).send().await.expect("an answer")).await
    };
    let asked = call(json!({})).await;
    let replies = json!({
        "user_name": { "action": "accept", "content": { "name": "Ada" } },
        "greeting": { "role": "assistant", "content": { "type": "text", "text": "Hi" }, "model": "m" },
        "client_roots": { "roots": [] },
    });
    let state = &asked["result"]["requestState"];
    let answer = call(json!({ "requestState": state, "inputResponses": replies })).await;
    assert_eq!(crate::support::text_of(&answer), "Hi, Ada, with 0 roots");
}

/// Each function of the package is asked; the host is its own only peer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mcpp_mesh_0_1_0() {
    let files = crate::support::folder(&[("frozen", MESH_0_1_0)]);
    crate::support::grant(
        &files,
        "[components.frozen]\nstore = {}\n[components.frozen.mesh]\nsee = true\nconnect = ['*']\ncall = ['*: *']\n\
         provide = ['gpu']\ndiscover = ['gpu']\nannounce = ['ready']\nhear = ['frozen/*']\n",
    );
    let host = TestHost::start_with(files, |_| {}).await;
    assert_eq!(host.problems(), "");
    let me = host.host.mesh().expect("a mesh").id().clone();
    let seen = host.call("mesh_look", json!({})).await["result"]["structuredContent"].clone();
    assert_eq!((&seen["id"], &seen["peers"]), (&json!(me), &json!([])), "{seen}");
    for (tool, arguments, answer) in [
        ("mesh_metrics", json!({ "peer": me }), "error: NotFound"),
        ("mesh_connect", json!({ "peer": me, "timeout_ms": 1 }), "error: NotFound"),
        ("mesh_disconnect", json!({ "peer": me }), "error: NotFound"),
        ("mesh_provide", json!({ "service": "gpu", "lease_s": 60 }), "error: Off"),
        ("mesh_withdraw", json!({ "service": "gpu" }), r#"{"result":false}"#),
        ("mesh_discover", json!({ "service": "gpu", "timeout_ms": 1 }), "error: Off"),
        ("mesh_announce", json!({ "topic": "ready", "letters": 1 }), "error: Off"),
        ("mesh_heard", json!({ "topic": "frozen/ready" }), r#"{"result":[]}"#),
        ("mesh_call", json!({ "peer": me, "tool": "add", "arguments": {} }), "error: NotFound"),
    ] {
        assert_eq!(host.text(tool, arguments).await, answer, "{tool}");
    }
}

async fn store_and_events(component: &[u8]) {
    let files = crate::support::folder(&[("frozen", component)]);
    crate::support::grant(&files, "[components.frozen]\ncall = ['x']\nstore = {}\nsubscribe = ['other/*']\n");
    let host = TestHost::start_with(files, |_| {}).await;
    assert_eq!(host.problems(), "");
    host.call("store_set", json!({ "key": "a", "value": "one" })).await;
    assert!(host.text("store_get", json!({ "key": "a" })).await.contains("one"));
    host.call("store_emit", json!({ "topic": "own", "key": "k", "payloads": ["event"] })).await;
    host.call("store_wake", json!({ "key": "t", "at_ms": 0, "payload": "timer" })).await;
    host.until("both are delivered", async |host| {
        let told = host.text("store_told", json!({})).await;
        told.contains("frozen/own k event") && told.contains("timer t timer")
    })
    .await;
    // Its successor, with another form of the data.
    host.write("frozen", STORE_MIGRATION_0_1_0);
    host.until("the data is migrated", async |host| {
        host.text("store_get", json!({ "key": "a" })).await == r#"{"result":[3,"one"]}"#
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mcpp_tasks_0_1_0() {
    let host = TestHost::start(&[("frozen", TASKS_0_1_0)]).await;
    assert_eq!(host.problems(), "");
    let call = async |tool: &str, arguments: serde_json::Value, declared: serde_json::Value| {
        let meta = json!({ "io.modelcontextprotocol/clientCapabilities": { "extensions": declared } });
        let params = json!({ "name": tool, "arguments": arguments, "_meta": meta });
        crate::support::answer(host.modern("tools/call", params).send().await.expect("an answer")).await
    };
    let tasks = || json!({ "io.modelcontextprotocol/tasks": {} });
    assert_eq!(crate::support::text_of(&call("greet", json!({ "name": "Ada" }), tasks()).await), "Hello, Ada!");
    assert_eq!(call("protocol_error_job", json!({}), tasks()).await["result"]["resultType"], "task");
    assert_eq!(call("protocol_error_job", json!({}), json!({})).await["error"]["code"], -32021);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mcpp_container_0_1_0() {
    let files = crate::support::folder(&[("frozen", CONTAINER_0_1_0)]);
    let engine = crate::containers::Engine::start(files.path());
    crate::support::grant(
        &files,
        "[components.frozen]\ncall = ['*']\nstore = {}\ncontainer = { images = ['here:*', 'far:*', 'none:*'] }\n",
    );
    let host = TestHost::start_with(files, |config| {
        config.containers.socket = Some(engine.socket());
        config.containers.images = vec!["*".to_owned()].try_into().expect("images");
        config.containers.output_bytes = 1_024;
        config.containers.disk_bytes = 1 << 20;
    })
    .await;
    assert_eq!(host.problems(), "");
    for (image, command, told) in [
        ("far:1", vec!["say", "hello"], "Pulling; Running; Stdout \"hello\\n\"; Exited Some(0)"),
        ("here:1", vec!["fail", "3"], "Running; Stderr \"it went wrong\\n\"; Exited Some(3)"),
        ("here:1", vec!["big"], "Running; OutOfMemory Some(137)"),
        ("here:1", vec!["work"], "Running; Stdout \"working\\n\"; TimedOut None"),
        ("here:1", vec!["fill", "1048577"], "Running; Stdout \"working\\n\"; TooMuchDisk None"),
        ("none:1", vec![], "Failed(\"manifest unknown\")"),
        ("other:1", vec![], "NotAllowed(\"the image \\\"other:1\\\"\")"),
        ("--privileged", vec![], "Invalid(\"\\\"--privileged\\\" is no image's name\")"),
    ] {
        let order = json!({ "image": image, "command": command, "timeout_ms": 3_000 });
        assert_eq!(host.text("frozen_container", order).await, told, "{image} {command:?}");
    }
    let order = json!({ "image": "here:1", "command": ["flood"], "timeout_ms": 3_000 });
    let loud = host.text("frozen_container", order).await;
    assert!(loud.ends_with("; TooMuchOutput None"), "{loud}");
}

/// A component that forgets its handle, in an instance that stays: the container ends with the call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_ends_with_its_call_also_where_the_instance_stays() {
    let files = crate::support::folder(&[("frozen", CONTAINER_0_1_0)]);
    let engine = crate::containers::Engine::start(files.path());
    crate::support::grant(
        &files,
        "[components.frozen]\ncall = ['*']\nstore = {}\ncontainer = { images = ['*'] }\nreuse = {}\n",
    );
    let host = TestHost::start_with(files, |config| {
        config.containers.socket = Some(engine.socket());
        config.containers.images = vec!["*".to_owned()].try_into().expect("images");
    })
    .await;
    assert_eq!(host.problems(), "");
    let left = host.text("frozen_forget", json!({ "image": "here:1", "command": ["work"] })).await;
    assert_eq!(left, "Ok(Some(Phase(Running)))");
    crate::containers::all_gone(&host, &engine).await;
    assert_eq!(engine.count("POST /containers/mcpp-"), 3, "attach, start, kill");
}

/// A call for an effect, and one that another call ends early.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mcpp_delegation_0_1_2() {
    let files = crate::support::folder(&[("frozen", CONTAINER_0_1_0), ("probe", &crate::support::guest("probe"))]);
    crate::support::grant(&files, "[components.frozen]\ncall = ['*']\nstore = {}\ncontainer = {}\n");
    let host = TestHost::start_with(files, |_| {}).await;
    assert_eq!(host.problems(), "");
    assert_eq!(host.text("frozen_key", json!({})).await, "None false");
    let effect = async |effect: &str, tools: serde_json::Value| {
        let call = json!({ "tools": tools, "effect": effect, "tool": "frozen_key", "arguments": {} });
        host.text("frozen_effect", call).await
    };
    let (one, again, two) =
        (effect("one", json!(null)).await, effect("one", json!(["frozen_*"])).await, effect("two", json!(null)).await);
    assert!(one.starts_with("Some(") && one == again && one != two, "{one} {again} {two}");
    assert!(effect("one", json!(["other"])).await.starts_with("error: there is no such tool"));
    let until = json!({ "tool": "probe_sleep", "arguments": { "ms": 60_000 } });
    let waiting = host.modern("tools/call", json!({ "name": "frozen_until", "arguments": until })).send();
    let waiting = tokio::spawn(async move { crate::support::answer(waiting.await.expect("an answer")).await });
    host.until("the call runs", async |host| host.host.registry().calls() >= 2).await;
    assert_eq!(host.text("frozen_change", json!({ "value": "other" })).await, "changed");
    assert_eq!(crate::support::text_of(&waiting.await.expect("an answer")), "Changed");
}

/// Made for `mcpp:store` and `mcpp:events` 0.1.2, and for `mcpp:delegation` 0.1.4: what the host tells a component.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mcpp_store_and_events_0_1_2_and_delegation_0_1_4() {
    let files = crate::support::folder(&[("frozen", TOLD_0_1_2), ("add", &crate::support::add())]);
    let grant = "[components.frozen]\ncall = ['add']\nstore = { quota_bytes = 100000 }\nsubscribe = ['other/*']\n";
    crate::support::grant(&files, grant);
    let host = TestHost::start_with(files, |_| {}).await;
    assert_eq!(host.problems(), "");
    let usage = async |text: &str| -> Vec<u64> {
        let told = host.text("frozen_usage", json!({ "key": "k", "text": text })).await;
        told.split(' ').map(|number| number.parse().expect(&told)).collect()
    };
    let (first, second) = (usage("").await, usage("twelve bytes").await);
    assert_eq!((first[1], first[0], second[0]), (100_000, first[2], first[0] + 12), "{first:?} {second:?}");
    assert_eq!(host.text("frozen_subscribed", json!({})).await, "other/*");
    for (tool, told) in [("add", "here: true"), ("nothing", "nowhere: false")] {
        assert_eq!(host.text("frozen_placed", json!({ "tool": tool, "arguments": { "a": 1, "b": 2 } })).await, told);
    }
}
