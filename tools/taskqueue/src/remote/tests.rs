//! Requests to other hosts' queues. A peer's queue is a thread of its own, as each thread has a store in memory.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
};

use mcpp_tool::{
    Output, config,
    internal::Definition,
    mesh::{Measures, PeerCallError, memory as mesh},
    store::memory,
};

use super::*;
use crate::tools::{docker::*, p2p::*};

const PEER: &str = "12D3KooWpeer";

/// A queue on a thread of its own.
fn queue() -> impl Fn(&Value) -> Value {
    let (requests, waiting): (SyncSender<Value>, Receiver<Value>) = sync_channel(1);
    let (answers, replies): (SyncSender<Value>, Receiver<Value>) = sync_channel(1);
    std::thread::spawn(move || {
        mesh::start(PEER);
        waiting.iter().all(|request| answers.send(rpc::handle(&request)).is_ok())
    });
    move |request| {
        requests.send(request.clone()).expect("it runs");
        replies.recv().expect("it answers")
    }
}

fn output(structured: Value) -> Output {
    Output { content: Vec::new(), structured: Some(structured) }
}

/// A mesh with one peer that answers so; the requests that it got.
fn peer(id: &str, answer: impl Fn(&Value) -> Result<Output, PeerCallError> + 'static) -> Rc<RefCell<Vec<Value>>> {
    let asked = Rc::new(RefCell::new(Vec::new()));
    let heard = Rc::clone(&asked);
    mesh::add_tool(id, TOOL, move |request| {
        heard.borrow_mut().push(request.clone());
        answer(request)
    });
    asked
}

fn start() {
    memory::clear();
    config::memory::clear();
    mesh::start("12D3KooWme");
}

fn call(tool: &Definition, mut arguments: Value, (name, value): (&str, &str)) -> Value {
    arguments[name] = json!(value);
    (tool.call)(arguments).expect("an answer").structured.expect("structured")
}

#[test]
fn every_tool_reaches_another_hosts_queue_by_address_and_by_id() {
    start();
    let remote = queue();
    let asked = peer(PEER, move |request| Ok(output(remote(request))));
    let address = format!("/ip4/192.0.2.1/tcp/9710/p2p/{PEER}");
    let by_id = |tool: &Definition, arguments: Value| call(tool, arguments, ("remote_peer_id", PEER));
    let task = json!({ "task_type": "kind", "model_name": "m", "payload": { "n": 1 } });
    let submitted = call(&MCPP_TOOL_P2P_TASKQUEUE_SUBMIT, task, ("peer_id", PEER));
    assert_eq!((&submitted["ok"], &submitted["peer_id"]), (&json!(true), &json!(PEER)), "{submitted}");
    let id = submitted["task_id"].clone();
    assert!(memory::entries().is_empty(), "nothing of it is here");
    let listed =
        call(&MCPP_TOOL_P2P_TASKQUEUE_LIST_TASKS, json!({ "status": "queued" }), ("remote_multiaddr", &address));
    assert_eq!((&listed["tasks"][0]["task_id"], &listed["peer_id"]), (&id, &json!(PEER)), "{listed}");
    let status = call(&MCPP_TOOL_P2P_TASKQUEUE_STATUS, json!({ "detail": true }), ("peer_id", PEER));
    assert_eq!((&status["queue"]["queued"], &status["detail"]["queue"]["queued"]), (&json!(1), &json!(1)), "{status}");
    let clock = json!(scheduling::clock::VectorClock::new("w"));
    let claimed = by_id(
        &MCPP_TOOL_P2P_TASKQUEUE_CLAIM_NEXT,
        json!({ "worker_id": "w", "supported_task_types": ["kind"], "peer_id": "w", "clock": clock }),
    );
    assert_eq!((&claimed["task"]["task_id"], &claimed["task"]["payload"]), (&id, &json!({ "n": 1 })), "{claimed}");
    let beat = by_id(&MCPP_TOOL_P2P_TASKQUEUE_HEARTBEAT, json!({ "peer_id": "w", "clock": clock }));
    assert_eq!(beat["scheduler"]["clock"]["vector"], json!({ "taskqueue-service": 2, "w": 0 }), "{beat}");
    let done = by_id(&MCPP_TOOL_P2P_TASKQUEUE_COMPLETE_TASK, json!({ "task_id": id, "result": { "r": 2 } }));
    assert_eq!((&done["ok"], &done["task_id"], &done["peer_id"]), (&json!(true), &id, &json!(PEER)), "{done}");
    let waited = by_id(&MCPP_TOOL_P2P_TASKQUEUE_WAIT_TASK, json!({ "task_id": id }));
    assert_eq!(waited["task"]["result"], json!({ "r": 2 }), "{waited}");
    assert_eq!(by_id(&MCPP_TOOL_P2P_TASKQUEUE_GET_TASK, json!({ "task_id": id }))["task"], waited["task"]);
    assert_eq!(by_id(&MCPP_TOOL_P2P_TASKQUEUE_GET_TASK, json!({ "task_id": "x" }))["task"], Value::Null);
    assert_eq!(by_id(&MCPP_TOOL_P2P_TASKQUEUE_CALL_TOOL, json!({ "tool_name": "t" }))["error"], "tools_disabled");
    assert_eq!(by_id(&MCPP_TOOL_P2P_TASKQUEUE_CACHE_SET, json!({ "key": "k", "value": [1], "ttl_s": 60 }))["ok"], true);
    let got = by_id(&MCPP_TOOL_P2P_TASKQUEUE_CACHE_GET, json!({ "key": "k" }));
    assert_eq!((&got["hit"], &got["value"]), (&json!(true), &json!([1])), "{got}");
    assert!(by_id(&MCPP_TOOL_P2P_TASKQUEUE_SUBMIT_DOCKER_HUB, json!({ "image": "i" }))["task_id"].is_string());
    let github = json!({ "repo_url": "https://example.com/r" });
    assert!(by_id(&MCPP_TOOL_P2P_TASKQUEUE_SUBMIT_DOCKER_GITHUB, github)["task_id"].is_string());
    assert!(memory::entries().is_empty(), "nor of all that");
    let count = asked.borrow().len();
    let own = call(&MCPP_TOOL_P2P_TASKQUEUE_CACHE_GET, json!({ "key": "k" }), ("remote_peer_id", "12D3KooWme"));
    assert_eq!(
        (&own["hit"], &own["peer_id"], asked.borrow().len()),
        (&json!(false), &json!("12D3KooWme"), count),
        "this host itself"
    );
}

#[test]
fn a_request_is_made_again_only_where_that_is_safe() {
    let unreachable = || PeerCallError::Unreachable("no".into());
    let interrupted = || PeerCallError::Interrupted("broke".into());
    type Make = fn() -> PeerCallError;
    let errors: [(Make, &str); 7] = [
        (|| PeerCallError::Unreachable("no".into()), "unreachable"),
        (|| PeerCallError::Busy(Duration::from_millis(5)), "busy"),
        (|| PeerCallError::Interrupted("broke".into()), "interrupted"),
        (|| PeerCallError::TimedOut, "timeout"),
        (|| PeerCallError::TooDeep, "too_deep"),
        (|| PeerCallError::InvalidArguments("x".into()), "invalid_message"),
        (|| PeerCallError::Failed(Output::default()), "internal_error"),
    ];
    let plain = json!({ "op": "submit", "payload": {} });
    let keyed = json!({ "op": "submit", "payload": { "idempotency_key": "k" } });
    let claim = json!({ "op": "claim", "worker_id": "w" });
    let status = json!({ "op": "status" });
    for (error, word) in errors {
        for request in [&plain, &keyed, &claim, &status] {
            start();
            let asked = peer(PEER, move |_| Err(error()));
            let reply = ask(["", PEER], request.clone());
            let (safe, passes) = (request == &keyed || request == &status, matches!(word, "unreachable" | "busy"));
            let expected = if passes || (safe && word == "interrupted") { 3 } else { 1 };
            assert_eq!((reply["error"].as_str(), asked.borrow().len()), (Some(word), expected), "{request} {reply}");
        }
    }
    start();
    let times = Rc::new(RefCell::new(0));
    let count = Rc::clone(&times);
    let asked = peer(PEER, move |_| {
        *count.borrow_mut() += 1;
        match *count.borrow() {
            1 => Err(unreachable()),
            2 => Err(interrupted()),
            _ => Ok(output(json!({ "ok": true, "task": 7 }))),
        }
    });
    assert_eq!(ask(["", PEER], json!({ "op": "get", "task_id": "t" })), json!({ "ok": true, "task": 7 }));
    assert_eq!(asked.borrow().len(), 3);
    let late = peer("late", |_| Err(PeerCallError::TimedOut));
    assert_eq!(ask(["", "late"], json!({ "op": "wait", "task_id": "t" })), json!({ "ok": true, "task": null }));
    assert_eq!(late.borrow().len(), 1);
}

#[test]
fn a_remote_that_is_no_remote_is_refused_by_name() {
    start();
    let error = |remote: [&str; 2]| ask(remote, json!({ "op": "status" }))["error"].clone();
    for address in ["192.0.2.1:9710", "/ip4/192.0.2.1/tcp/9710", "/p2p/", "/ip4/192.0.2.1/p2p/a/p2p-circuit"] {
        assert_eq!(error([address, ""]), "invalid_message", "{address}");
    }
    assert_eq!(error(["/ip4/192.0.2.1/tcp/1/p2p/a", "b"]), "invalid_message");
    assert_eq!(error(["", "nobody"]), "unauthorized");
    assert_eq!(error(["", "*"]), "unreachable");
    peer(PEER, |_| Ok(Output::text("no object")));
    assert_eq!(error(["", PEER]), "invalid_response");
    mesh::clear();
    assert_eq!((error(["", PEER]), error(["", "*"])), (json!("mesh_disabled"), json!("mesh_disabled")));
    assert_eq!(
        ask(["", ""], json!({ "op": "status" }))["peer_id"],
        "local",
        "without a mesh the queue is here all the same"
    );
}

#[test]
fn any_peer_is_the_nearest_that_answers() {
    start();
    for (id, ms, error) in
        [("far", 90, None), ("near", 5, Some(PeerCallError::Unreachable("no".into()))), ("mid", 40, None)]
    {
        let id_of = id.to_owned();
        peer(id, move |_| match &error {
            Some(error) => Err(error.clone()),
            None => Ok(output(json!({ "ok": true, "peer_id": id_of }))),
        });
        mesh::set_measures(id, Measures { round_trip: Some(Duration::from_millis(ms)), ..Measures::default() });
    }
    mesh::add_peer("closed");
    assert_eq!(ask(["", "*"], json!({ "op": "status" }))["peer_id"], "mid");
    mcpp_tool::mesh::connect("far", Duration::ZERO).expect("connected");
    assert_eq!(ask(["", "*"], json!({ "op": "status" }))["peer_id"], "far", "it is connected");
    start();
    peer("a", |_| Err(PeerCallError::Interrupted("broke".into())));
    let other = peer("b", |_| Ok(output(json!({ "ok": true }))));
    assert_eq!(ask(["", "*"], json!({ "op": "submit" }))["error"], "interrupted", "it may have run there");
    assert!(other.borrow().is_empty());
}

#[test]
fn the_cache_is_copied_only_where_the_operator_says_so_and_within_its_bounds() {
    let set = |value: Value, more: Value| {
        let mut request = json!({ "op": "cache.set", "key": "k", "value": value });
        for (name, value) in more.as_object().expect("an object") {
            request[name] = value.clone();
        }
        assert_eq!(rpc::handle(&request)["ok"], true);
    };
    start();
    let copies: Vec<_> = (0..8).map(|n| peer(&format!("p{n}"), |_| Ok(output(json!({ "ok": true }))))).collect();
    (0..7).for_each(|n| drop(mcpp_tool::mesh::connect(&format!("p{n}"), Duration::ZERO)));
    let count = || copies.iter().map(|asked| asked.borrow().len()).sum::<usize>();
    set(json!(1), json!({}));
    assert_eq!(count(), 0, "it is off");
    config::memory::set(REPLICATE, "1");
    set(json!(1), json!({}));
    assert_eq!(count(), DEFAULT_COPIES);
    let copy = copies[0].borrow()[0].clone();
    assert_eq!(
        copy,
        json!({ "op": "cache.set", "key": "k", "value": 1, "replicate": false, "origin_peer_id": "12D3KooWme" })
    );
    set(json!(1), json!({ "replicate": false }));
    set(json!(1), json!({ "origin_peer_id": "p1" }));
    set(json!("x".repeat(MAX_COPY_BYTES)), json!({}));
    assert_eq!(count(), DEFAULT_COPIES, "nothing goes in circles, and nothing large goes out");
    config::memory::set(REPLICATE_PEERS, "100");
    set(json!(2), json!({}));
    assert_eq!(count(), DEFAULT_COPIES + 7, "those that are connected");
}

/// The words of the host for a peer that it leaves alone.
fn rests(ms: u64) -> String {
    format!("it could not be reached, and is left alone for another {ms} ms")
}

#[test]
fn a_peer_that_is_left_alone_is_asked_when_its_rest_is_over() {
    start();
    let times = Rc::new(RefCell::new(0_u32));
    let count = Rc::clone(&times);
    peer(PEER, move |_| {
        *count.borrow_mut() += 1;
        match *count.borrow() {
            1 | 4 => Err(PeerCallError::Unreachable("connection refused".into())),
            2 | 3 | 5 => Err(PeerCallError::Unreachable(rests(430))),
            _ => Ok(output(json!({ "ok": true, "task_id": "t" }))),
        }
    });
    assert_eq!(ask(["", PEER], json!({ "op": "submit", "payload": {} })), json!({ "ok": true, "task_id": "t" }));
    let rest = rest_of(&PeerCallError::Unreachable(rests(430)));
    assert_eq!(rest, Some(Duration::from_millis(430)), "in the host's words");
    assert_eq!(rest_of(&PeerCallError::Unreachable("connection refused".into())), None);
    // A host that never stops saying so is not asked for ever.
    start();
    let asked = peer(PEER, |_| Err(PeerCallError::Unreachable(rests(1))));
    assert_eq!(ask(["", PEER], json!({ "op": "status" }))["error"], "unreachable");
    assert_eq!(asked.borrow().len(), MAX_RESTS as usize + RETRIES as usize + 1);
    // Not beyond the request's time.
    start();
    let asked = peer(PEER, |_| Err(PeerCallError::Unreachable(rests(4_000))));
    let reply = ask(["", PEER], json!({ "op": "status", "timeout_s": 1 }));
    assert_eq!((&reply["error"], asked.borrow().len()), (&json!("unreachable"), 1), "{reply}");
}

#[test]
fn a_time_that_is_none_is_refused_before_a_peer_is_asked() {
    start();
    let asked = peer(PEER, |_| Ok(output(json!({ "ok": true, "task": null }))));
    for timeout in [json!(-5), json!(0), json!(f64::NAN), json!(1e300), json!(86_401), json!("soon")] {
        for op in ["status", "call_tool", "cache.get", "cache.set", "wait"] {
            for remote in [["", PEER], ["", ""], ["", "*"]] {
                let reply = ask(remote, json!({ "op": op, "timeout_s": timeout, "task_id": "t", "key": "k" }));
                let is_legal = op == "wait" && timeout == json!(0);
                assert_eq!(reply["error"] != "invalid_message", is_legal, "{op} {timeout}: {reply}");
                if !is_legal {
                    let detail = reply["detail"].as_str().expect("a detail");
                    assert!(detail.contains("`timeout_s`") && detail.contains("86400"), "{detail}");
                }
            }
        }
    }
    assert_eq!(asked.borrow().len(), 2, "only the waits that look once");
}
