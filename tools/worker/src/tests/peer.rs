//! The queue of a peer.

use super::*;

/// The queue of a peer, with a store of its own.
struct Peer(mpsc::Sender<(Value, mpsc::Sender<Value>)>);

impl Peer {
    fn start() -> Self {
        let (requests, waiting) = mpsc::channel::<(Value, mpsc::Sender<Value>)>();
        std::thread::spawn(move || {
            for (request, reply) in waiting {
                reply.send(taskqueue::rpc::handle(&request)).unwrap();
            }
        });
        Self(requests)
    }

    fn ask(&self, request: &Value) -> Value {
        let (reply, answer) = mpsc::channel();
        self.0.send((request.clone(), reply)).unwrap();
        answer.recv().unwrap()
    }
}

#[test]
fn a_peers_queue_is_served_also_by_the_operations_of_before() {
    clear();
    mesh::start("me");
    serve(json!({ "peer_id": "them" }));
    claim("s").unwrap();
    assert!(tally()["last_error"].as_str().unwrap().starts_with("claim: "), "{}", tally());
    let them = Rc::new(Peer::start());
    let there = Rc::clone(&them);
    mesh::add_tool("them", "task_queue.rpc", move |request| {
        let reply = match request["op"].as_str() {
            Some("claim_many" | "task.heartbeat") => json!({ "ok": false, "error": "unknown_op" }),
            _ => there.ask(request),
        };
        Ok::<_, PeerCallError>(Output { content: Vec::new(), structured: Some(reply) })
    });
    let payload = json!({ "tool": "echo", "args": {}, "task_id": "t1" });
    them.ask(&json!({ "op": "submit", "task_type": "tool.call", "payload": payload }));
    claim("s").unwrap();
    let held = all().unwrap();
    assert_eq!((held.len(), held[0].1.worker.as_str()), (1, "mcpp/me/s"));
    beat(now_ms()).unwrap();
    assert_eq!(all().unwrap()[0].1.stage, Stage::Claimed, "it has no heartbeat, and the task is not lost");
    work();
    assert_eq!(them.ask(&json!({ "op": "get", "task_id": "t1" }))["task"]["status"], "completed");
}
