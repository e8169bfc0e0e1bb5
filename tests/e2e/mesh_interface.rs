//! Calls that say what their caller knows: the interface of the tool, and the length of the chain of events that led to them.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use serde_json::{Value, json};

use crate::{
    event_loops,
    mesh_mounts_abuse::{End, Mounting},
    mesh_peers::{MeshHost, peer},
    support::{add, guest, modern_message, number, text_of},
};

/// A call whose `_meta` has one key more.
fn call(tool: &str, arguments: &Value, key: &str, value: &Value) -> Value {
    modern_message("tools/call", json!({ "name": tool, "arguments": arguments, "_meta": { key: value } }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_by_another_interface_is_refused_before_the_tool_runs() {
    let host = MeshHost::start(&[("probe", &guest("probe"))]).await;
    host.grant(&peer(0), "*");
    let mut stream = host.open(&peer(0));
    let sum = json!({ "a": 1, "b": 2 });
    for (key, value) in [("mcpp/interfaces", json!(5)), ("mcpp/hops", json!(0))] {
        let answer = stream.ask(&call("probe_add", &sum, key, &value)).await;
        assert_eq!(answer["result"]["structuredContent"]["result"], 3, "{answer}");
    }
    // It would run until its budget ends.
    let refused = stream.ask(&call("probe_spin", &json!({}), "mcpp/interface", &json!("0".repeat(64)))).await;
    assert_eq!(
        (&refused["error"]["code"], &refused["error"]["data"]["error"]),
        (&json!(-32602), &json!("other_interface")),
        "{refused}"
    );
    assert!(refused["error"]["message"].as_str().is_some_and(|text| text.contains("has not run")), "{refused}");
    // The arguments are not looked at: they may be right by the interface that the caller knows.
    let refused = stream.ask(&call("probe_add", &json!({ "a": "x" }), "mcpp/interface", &json!("0".repeat(64)))).await;
    assert_eq!(refused["error"]["data"]["error"], "other_interface", "{refused}");
    for malformed in [Value::Null, json!(5), json!("0"), json!("g".repeat(64)), json!("0".repeat(65)), json!(["0"])] {
        let refused = stream.ask(&call("probe_add", &sum, "mcpp/interface", &malformed)).await;
        let said = refused["error"]["message"].as_str().unwrap_or_default();
        assert!(said.contains("`mcpp/interface` is not 64 hexadecimal digits"), "{malformed}: {refused}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_peer_whose_tool_has_changed_is_passed_over_and_its_list_read_anew() {
    let old = MeshHost::start(&[("add", &add())]).await;
    let new = MeshHost::start(&[("add", &number("add", "i32.const 7"))]).await;
    for host in [&old, &new] {
        host.grant(&peer(0), "*");
    }
    let list = old.open(&peer(0)).ask(&modern_message("tools/list", json!({}))).await["result"].clone();
    let (here, fetched) = (Mounting::start().await, Arc::new(AtomicUsize::new(0)));
    let fetches = || fetched.load(Ordering::SeqCst);
    here.join(&peer(5), End::Stale(new.door.clone(), Arc::new(list), Arc::clone(&fetched)));
    here.join(&peer(6), End::Door(old.door.clone(), tokio_util::sync::CancellationToken::new()));
    let sum = async || here.host.test.call("far_add", json!({ "a": 1, "b": 2 })).await;
    here.mount(&[peer(5), peer(6)]).await;
    let row = here.accept().await;
    assert!(row.peers.iter().all(|peer| peer.serves == 1), "one interface, two peers: {row:?}");
    let before = fetches();
    here.host
        .test
        .until("the list is read anew", async |_| {
            let answer = sum().await;
            assert_eq!(answer["result"]["structuredContent"]["result"], 3, "{answer}");
            fetches() > before
        })
        .await;
    here.unmount().await;
    // With nobody else there, the caller is told that the call has not run.
    here.mount(&[peer(5)]).await;
    here.accept().await;
    let refused = text_of(&sum().await);
    assert!(refused.contains("another interface") && refused.contains("has not run"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_a_call_that_comes_from_a_chain_go_on_with_it() {
    let host = MeshHost::start_with(event_loops::host().await, |_| {});
    host.grant(&peer(0), "*");
    let mut stream = host.open(&peer(0));
    let data = host.test.folder.path().join("data");
    let order = json!({ "topic": "own", "key": "k", "payloads": ["emit 1"] });
    // A chain of a client's own is of 17 events.
    for (at, (chain, told)) in [(10, 7), (16, 8)].into_iter().enumerate() {
        let answer = stream.ask(&call("store_emit", &order, "mcpp/chain", &json!(chain))).await;
        assert!(!answer["result"]["isError"].as_bool().unwrap_or_default(), "{answer}");
        host.test.until("the chain ends", async |_| event_loops::parked(&data).len() > at).await;
        assert_eq!(event_loops::told(&host.test).await.len(), told, "from {chain} on");
    }
}
