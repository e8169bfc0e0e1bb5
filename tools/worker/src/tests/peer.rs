//! The queue of a peer.

use super::*;

const THEM: &str = "12D3KooWCFAPi3qBEhJtJtiPJBVD3cTSHe64FtCKMx4McEyiC9jT";

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
    serve(json!({ "peer_id": THEM }));
    claim("s").unwrap();
    assert!(tally()["last_error"].as_str().unwrap().starts_with("claim: "), "{}", tally());
    let them = Rc::new(Peer::start());
    let there = Rc::clone(&them);
    mesh::add_tool(THEM, "task_queue.rpc", move |request| {
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

#[test]
fn a_service_names_a_peer_or_this_host() {
    clear();
    mesh::start("12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo");
    for wrong in ["bad", "12D3KooWCFAPi3qBEhJtJtiPJBVD3cTSHe64FtCKMx4McEyiC9j0", &"a".repeat(129)] {
        let refused = serve(json!({ "peer_id": wrong }));
        assert!(refused["error"].as_str().is_some_and(|error| error.starts_with("peer_id \"")), "{refused}");
    }
    assert_eq!(tally(), json!(null), "nothing was set up");
    serve(json!({ "peer_id": THEM }));
    claim("s").unwrap();
    assert_eq!((&tally()["peer_id"], tally()["last_error"].is_string()), (&json!(THEM), true), "{}", tally());
    let own = serve(json!({ "peer_id": "12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo" }));
    assert_eq!((&own["success"], &own["peer_id"]), (&json!(true), &Value::Null), "{own}");
    assert_eq!(own["last_error"], Value::Null, "that was the other queue's");
    submit("t1", "echo");
    work();
    assert_eq!(task("t1")["status"], "completed");
}

#[test]
fn a_report_whose_answer_was_lost_is_told_again_and_nothing_is_lost() {
    clear();
    mesh::start("me");
    serve(json!({ "peer_id": THEM }));
    let them = Rc::new(Peer::start());
    let (there, reports) = (Rc::clone(&them), Rc::new(RefCell::new(Vec::new())));
    let heard = Rc::clone(&reports);
    mesh::add_tool(THEM, "task_queue.rpc", move |request| {
        let reply = there.ask(request);
        if matches!(request["op"].as_str(), Some("complete" | "release")) {
            heard.borrow_mut().push(request.clone());
            let count = heard.borrow().iter().filter(|one| one["task_id"] == request["task_id"]).count();
            match count {
                1 => return Err(PeerCallError::TimedOut),
                // The queue may be of any build: one of before refuses the repetition.
                2 if request["task_id"] != "t1" => {
                    let refused = json!({ "ok": false, "error": "refused", "detail": "the task has ended" });
                    return Ok(Output { content: Vec::new(), structured: Some(refused) });
                }
                2 => {
                    let passing = json!({ "ok": false, "error": "unauthorized" });
                    return Ok(Output { content: Vec::new(), structured: Some(passing) });
                }
                _ => {}
            }
        }
        Ok(Output { content: Vec::new(), structured: Some(reply) })
    });
    for (id, tool) in [("t1", "echo"), ("t2", "echo"), ("t3", "fails"), ("t4", "gone"), ("t5", "busy")] {
        let payload = json!({ "tool": tool, "args": { "task_id": id }, "task_id": id });
        them.ask(&json!({ "op": "submit", "task_type": "tool.call", "payload": payload }));
        claim("s").unwrap();
        let timers: Vec<String> = memory::timers().into_keys().filter(|key| key.starts_with("t:")).collect();
        for key in timers {
            memory::take_timer(&key);
            run(&key[2..]).unwrap();
        }
        assert_eq!(all().unwrap().len(), 1, "the end is not told for certain: {tool}");
        beat(now_ms()).unwrap();
        if id == "t1" {
            assert_eq!(all().unwrap().len(), 1, "that says nothing of the task");
            beat(now_ms()).unwrap();
        }
        assert_eq!(all().unwrap().len(), 0, "{}", tally());
        call(&MCPP_TOOL_WORKER_DRAIN, json!({ "service": "s" }));
        serve(json!({ "peer_id": THEM }));
        if tool == "busy" {
            break;
        }
    }
    let told = reports.borrow();
    for (one, again) in told.iter().zip(told.iter().skip(1)).filter(|(one, again)| one["task_id"] == again["task_id"]) {
        assert_eq!(one, again, "with the same token");
    }
    let counts = ["completed", "failed", "released", "lost"].map(|name| tally()[name].clone());
    assert_eq!(json!(counts), json!([2, 2, 1, 0]), "{}", tally());
}

#[test]
fn an_end_that_another_worker_has_told_is_lost() {
    clear();
    serve(json!({}));
    submit("t1", "cut_off");
    work();
    assert_eq!(all().unwrap().len(), 1);
    IS_AWAY.set(false);
    // The queue gave it to another worker meanwhile.
    let held = all().unwrap()[0].1.clone();
    rpc(held.request("release", json!({ "reason": "late" })));
    let other = rpc(json!({ "op": "claim", "worker_id": "other" }))["task"].clone();
    assert_eq!(other["task_id"], "t1");
    beat(now_ms()).unwrap();
    assert_eq!((&tally()["lost"], &tally()["completed"], all().unwrap().len()), (&json!(1), &json!(0), 0));
}
