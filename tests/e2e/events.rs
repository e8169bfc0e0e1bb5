//! Events and timers, through a real SDK component: delivered after the commit, in order, again after a failure and a restart, and parked in sight of the operator.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::{
    command_line::{run, stdout},
    store::{result, store_host},
    support::{TestHost, folder, grant, guest},
};

async fn told(host: &TestHost) -> Vec<String> {
    let told = result(host, "store_told", json!({})).await;
    told.as_array().expect("a list").iter().map(|text| text.as_str().expect("text").to_owned()).collect()
}

async fn until_told(host: &TestHost, number: usize) -> Vec<String> {
    host.until(&format!("{number} deliveries"), async |host| told(host).await.len() >= number).await;
    told(host).await
}

fn in_ms(ms: u64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    u64::try_from(now.as_millis()).expect("soon") + ms
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_delivered_in_order_after_the_commit_and_name_their_cause() {
    let host = store_host("store = {}").await;
    let payloads: Vec<String> = (0..50).map(|number| number.to_string()).collect();
    let ids = result(&host, "store_emit", json!({ "topic": "own", "key": "k", "payloads": payloads })).await;
    host.call("store_emit", json!({ "topic": "own", "key": "k", "payloads": ["50"] })).await;
    assert_eq!(ids.as_array().map(Vec::len), Some(50));
    let expected: Vec<String> =
        (0..51).map(|number| format!("store/own k {number} <- tool store_emit by local-user")).collect();
    assert_eq!(until_told(&host, 51).await, expected);
    // Uncommitted events were not emitted, and no component is subscribed to this topic.
    host.call("store_emit_and_fail", json!({ "topic": "own" })).await;
    host.call("store_emit", json!({ "topic": "nobody", "key": "k", "payloads": ["lost"] })).await;
    host.call("store_emit", json!({ "topic": "own", "key": "k", "payloads": ["last"] })).await;
    assert_eq!(
        until_told(&host, 52).await.last().map(String::as_str),
        Some("store/own k last <- tool store_emit by local-user")
    );
    for (topic, key, says) in
        [("a/b", "k", "a topic's name"), ("", "k", "a topic's name"), ("own", &*"k".repeat(257), "too long")]
    {
        let refused = host.text("store_emit", json!({ "topic": topic, "key": key, "payloads": ["x"] })).await;
        assert!(refused.contains(says), "{refused}");
    }
    let large = host.text("store_emit", json!({ "topic": "own", "key": "k", "payloads": ["x".repeat(65_537)] })).await;
    assert_eq!(large, "error: an event's payload is larger than 64 KiB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_fails_is_called_again_and_holds_up_only_its_own_key() {
    let host = store_host("store = {}").await;
    host.call("store_emit", json!({ "topic": "own", "key": "a", "payloads": ["fail-once", "after"] })).await;
    host.call("store_emit", json!({ "topic": "own", "key": "b", "payloads": ["other"] })).await;
    let told = until_told(&host, 3).await;
    assert!(told[0].starts_with("store/own b other"), "{told:?}");
    assert!(told[1].starts_with("store/own a fail-once"), "{told:?}");
    assert!(told[2].starts_with("store/own a after"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_for_good_is_parked_and_the_operator_decides() {
    let host = store_host("store = {}\nlimits = { cpu_ms = 500 }").await;
    for (key, payloads) in [("a", ["fail", "after"]), ("b", ["spin", "after"])] {
        host.call("store_emit", json!({ "topic": "own", "key": key, "payloads": payloads })).await;
    }
    host.call("store_wake", json!({ "key": "t", "at_ms": 0, "payload": "fail" })).await;
    // Eight attempts take 0.1 + 0.2 + … + 6.4 s, and the spinning ones half a second each.
    tokio::time::timeout(Duration::from_secs(60), async {
        while told(&host).await.len() < 2 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .expect("the keys go on behind what was parked");
    let data = host.folder.path().join("data");
    let data = data.display().to_string();
    let events = |arguments: &[&str]| {
        let arguments = [&["events", "--json", "--data", &data], arguments].concat();
        tokio::task::block_in_place(|| run(&arguments, &[]))
    };
    host.until("three are parked", async |_| {
        let listed: Vec<Value> = serde_json::from_str(&stdout(&events(&[]))).expect("JSON");
        listed.iter().filter(|event| event["reason"].is_string()).count() == 3
    })
    .await;
    let list = events(&["list"]);
    assert_eq!(list.status.code(), Some(1), "something was given up");
    let listed: Vec<Value> = serde_json::from_str(&stdout(&list)).expect("JSON");
    let of = |key: &str| listed.iter().find(|event| event["key"] == key).cloned().expect("parked");
    assert_eq!(of("a")["reason"], "attempt 8 fails");
    assert_eq!((of("a")["from"].clone(), of("a")["topic"].clone()), (json!("store"), json!("store/own")));
    assert!(of("b")["reason"].as_str().expect("text").contains("cpu_ms"), "{}", of("b"));
    assert_eq!((of("t")["topic"].clone(), of("t")["attempts"].clone()), (json!("timer"), json!(8)));
    let id = of("b")["id"].as_str().expect("text").to_owned();
    assert_eq!(stdout(&events(&["drop", &id])).trim(), "1");
    assert_eq!(events(&["drop", &id]).status.code(), Some(1), "it is gone");
    assert_eq!(stdout(&events(&["retry", "--all"])).trim(), "2");
    let listed: Vec<Value> = serde_json::from_str(&stdout(&events(&[]))).expect("JSON");
    assert!(listed.iter().all(|event| event["reason"].is_null()), "{listed:?}");
    assert_eq!(events(&["drop"]).status.code(), Some(2), "neither an id nor --all");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timers_fire_when_due_can_be_moved_and_cancelled_and_set_anew_by_their_handler() {
    let host = store_host("store = {}").await;
    let wake = async |key: &str, at_ms: u64, payload: &str| {
        host.call("store_wake", json!({ "key": key, "at_ms": at_ms, "payload": payload })).await
    };
    wake("moved", in_ms(3_600_000), "first").await;
    wake("moved", in_ms(200), "second").await;
    wake("past", 0, "at once").await;
    wake("cancelled", in_ms(300), "never").await;
    wake("later", in_ms(3_600_000), "never").await;
    assert_eq!(result(&host, "store_cancel_wake", json!({ "key": "cancelled" })).await, true);
    assert_eq!(result(&host, "store_cancel_wake", json!({ "key": "cancelled" })).await, false);
    assert_eq!(until_told(&host, 2).await, ["timer past at once", "timer moved second"]);
    wake("chain", in_ms(100), "again 3").await;
    let chain = ["timer chain again 3", "timer chain again 2", "timer chain again 1", "timer chain again 0"];
    assert_eq!(until_told(&host, 6).await[2..], chain);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_survives_a_restart() {
    let host = store_host("store = {}").await;
    host.call("store_emit", json!({ "topic": "own", "key": "k", "payloads": ["fail-once"] })).await;
    host.call("store_wake", json!({ "key": "t", "at_ms": in_ms(1_000), "payload": "after" })).await;
    let folder = host.stop().await;
    let host = TestHost::start_with(folder, |_| {}).await;
    let mut told = until_told(&host, 2).await;
    told.sort();
    assert_eq!(told, ["store/own k fail-once <- tool store_emit by local-user", "timer t after"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_component_is_told_with_a_grant_even_if_it_was_away() {
    let files = folder(&[("store", &guest("store")), ("other", &renamed())]);
    grant(
        &files,
        "[components.store]\ncall = ['x']\nstore = {}\nsubscribe = ['other/topic']\n[components.other]\ncall = ['x']\nstore = {}\nsubscribe = ['other/*']\n",
    );
    let host = TestHost::start_with(files, |_| {}).await;
    assert_eq!(host.problems(), "");
    host.call("other_emit", json!({ "topic": "topic", "key": "k", "payloads": ["hello"] })).await;
    assert_eq!(until_told(&host, 1).await, ["other/topic k hello <- tool other_emit by local-user"]);
    // A build that does not load leaves the one before, and a file that is not there at a start is no end of the subscription.
    let folder = host.stop().await;
    let away = folder.path().join("away.wasm");
    std::fs::rename(folder.path().join("tools/store.wasm"), &away).expect("moved");
    let host = TestHost::start_with(folder, |_| {}).await;
    host.call("other_emit", json!({ "topic": "topic", "key": "k", "payloads": ["meanwhile"] })).await;
    std::fs::rename(&away, host.tools_folder().join("store.wasm")).expect("moved back");
    host.until("it is back", async |host| host.tools().await.contains(&"store_told".to_owned())).await;
    assert_eq!(until_told(&host, 2).await[1], "other/topic k meanwhile <- tool other_emit by local-user");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_components_topic_needs_a_grant() {
    let files = folder(&[("store", &guest("store"))]);
    grant(&files, "[components.store]\ncall = ['x']\nstore = {}\n");
    let host = TestHost::start_with(files, |_| {}).await;
    assert!(
        host.problems().contains("add `subscribe = [\"other/topic\"]` to `grants/store.toml`"),
        "{}",
        host.problems()
    );
}

/// The component `store` with other names for its tools: the names are in its bytes, and as long.
fn renamed() -> Vec<u8> {
    let mut wasm = guest("store");
    for place in 0..wasm.len() - 6 {
        if &wasm[place..place + 6] == b"store_" {
            wasm[place..place + 6].copy_from_slice(b"other_");
        }
    }
    wasm
}
