//! The threads on which the frames of peers are read.

use serde_json::{Value, json};

use crate::{
    limits::thread_ns,
    mesh_peers::{MeshHost, peer},
    support::{add, modern_message, text_of},
};

const BULK: &str = "mcpp-bulk";
const LOBBY: &str = "mcpp-lobby";

/// A call with so many numbers beside its arguments.
fn call(numbers: usize) -> Value {
    let padding: Vec<usize> = (0..numbers).collect();
    let meta = json!({ "padding": padding });
    modern_message("tools/call", json!({ "name": "add", "arguments": { "a": 1, "b": 2 }, "_meta": meta }))
}

/// The processor time that the threads of one name had meanwhile, in nanoseconds.
async fn during(name: &str, what: impl Future<Output = ()>) -> u64 {
    let before = thread_ns(name);
    what.await;
    thread_ns(name) - before
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_frame_is_read_on_threads_of_a_lower_priority() {
    let host = MeshHost::start(&[("add", &add())]).await;
    host.grant(&peer(0), "*");
    let mut stream = host.open(&peer(0));
    for _ in 0..2 {
        let small = during(BULK, async { assert_eq!(text_of(&stream.ask(&call(1)).await), r#"{"result":3}"#) }).await;
        let large =
            during(BULK, async { assert_eq!(text_of(&stream.ask(&call(300_000)).await), r#"{"result":3}"#) }).await;
        assert!(large > 1_000_000 && small < large / 4, "{small} ns and {large} ns");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_without_a_grant_is_served_in_the_lobby_and_one_with_a_grant_is_not() {
    let host = MeshHost::start(&[("add", &add())]).await;
    host.grant(&peer(0), "*");
    let asks = async |number| {
        for _ in 0..20 {
            let mut stream = host.open(&peer(number));
            stream.send(&call(1)).await;
            assert_eq!(stream.receive().await.expect("an answer").get("error").is_some(), number == 1);
        }
    };
    let stranger = during(LOBBY, asks(1)).await;
    let known = during(LOBBY, asks(0)).await;
    assert!(stranger > 0 && known < stranger / 4, "{stranger} ns and {known} ns");
}
