//! The scheduler on a store and a mesh in memory.

use std::{cell::RefCell, rc::Rc};

use mcpp_tool::{
    Output,
    environment::now_ms,
    internal::Definition,
    mesh::{PeerCallError, memory as mesh},
    store::{memory, snapshot, transact},
};
use scheduling::clock::VectorClock;
use serde_json::{Value, json};

use crate::{
    peers::{self, MAX_PEERS, PEER_TIMEOUT_MS},
    rounds::round,
    tasks::{self, MAX_OF_PEER, MAX_TASKS, SchedulerError, TASKS, tally},
    tools::*,
};

/// Calls a tool, and holds its answer to what all answers have.
fn call(tool: &Definition, arguments: Value) -> Value {
    let answer = (tool.call)(arguments).expect("an answer").structured.expect("structured");
    assert_eq!(answer["tool"], tool.name, "{answer}");
    assert!(answer["timestamp"].as_f64() > Some(1_700_000_000.0), "{answer}");
    answer
}

fn submit(id: &str, priority: u8) -> Value {
    let arguments = json!({ "task_id": id, "workflow_id": "wf1", "name": "n", "tags": ["P2P_ONLY", "unit-test", "new"], "priority": priority });
    call(&MCPP_TOOL_P2P_SUBMIT_TASK, arguments)
}

fn next() -> Value {
    call(&MCPP_TOOL_P2P_GET_NEXT_TASK, json!({}))
}

fn status() -> Value {
    call(&MCPP_TOOL_P2P_SCHEDULER_STATUS, json!({}))
}

fn state_of(peer: &str) -> Value {
    call(&MCPP_TOOL_P2P_UPDATE_PEER_STATE, json!({ "peer_id": peer, "clock_data": VectorClock::new(peer) }))
}

fn complete(id: &str) -> Value {
    call(&MCPP_TOOL_P2P_MARK_TASK_COMPLETE, json!({ "task_id": id }))["success"].clone()
}

/// Makes what was heard of all peers older.
fn age_peers(by_ms: u64) {
    let known = transact(|t| {
        let clock = peers::clock(t, None)?;
        peers::candidates(t, clock.node_id(), now_ms())
    });
    for peer in known.expect("read").into_iter().skip(1) {
        transact(|t| peers::heard(t, None, &peer.id, None, now_ms() - by_ms)).expect("older");
    }
}

/// Submits tasks until one is owned by a live peer: its id.
fn task_of_a_peer() -> String {
    for n in 0..200 {
        let id = format!("t{n}");
        submit(&id, 5);
        if next()["task"].is_null() {
            return id;
        }
        complete(&id);
    }
    panic!("no task has another owner")
}

#[test]
fn every_tool_answers_as_the_contract_says() {
    memory::clear();
    mesh::start("peer-a");
    let submitted = submit("t1", 7);
    assert_eq!(submitted["task_hash"], "beb43a15b6fb460810d343f9aa4fa9c7c1a8456a3d797d78172ac370b55c3570");
    assert_eq!((&submitted["success"], &submitted["priority"]), (&json!(true), &json!(7)), "{submitted}");
    assert_eq!(submit("t1", 5)["success"], false, "it waits");
    let status_now = status();
    let counts = ["pending_tasks", "assigned_tasks", "completed_tasks", "queue_size", "known_peers"]
        .map(|name| status_now[name].clone());
    assert_eq!((json!(counts), &status_now["peer_id"]), (json!([1, 0, 0, 1, 0]), &json!("peer-a")), "{status_now}");
    assert_eq!(status_now["merkle_clock"]["vector"], json!({ "peer-a": 1 }), "a task is an event");
    let clock = call(&MCPP_TOOL_P2P_GET_MERKLE_CLOCK, json!({}));
    assert_eq!(clock["merkle_root"], "654809be724f0a50a978f54f8327144aee684e6aee214825bb3bdd38c039ace3");
    assert_eq!(clock["node_id"], "peer-a");
    assert_eq!(complete("t1"), false, "it is not assigned");
    let task = next()["task"].clone();
    assert_eq!(
        task,
        json!({ "task_id": "t1", "workflow_id": "wf1", "name": "n", "tags": ["p2p-only", "unit-test"], "priority": 7,
            "task_hash": "beb43a15b6fb460810d343f9aa4fa9c7c1a8456a3d797d78172ac370b55c3570", "assigned_peer": "peer-a" })
    );
    assert_eq!((submit("t1", 5)["success"].clone(), status()["assigned_tasks"].clone()), (json!(false), json!(1)));
    let none = next();
    assert_eq!((&none["task"], &none["message"]), (&Value::Null, &json!("No tasks available for this peer")));
    assert_eq!((complete("t1"), complete("t1"), complete("nothing")), (json!(true), json!(false), json!(false)));
    assert_eq!((status()["completed_tasks"].clone(), submit("t1", 5)["success"].clone()), (json!(1), json!(true)));
    let tags = call(&MCPP_TOOL_P2P_CHECK_WORKFLOW_TAGS, json!({ "tags": ["P2P-Eligible", "unit-test"] }));
    assert_eq!((&tags["should_bypass_github"], &tags["is_p2p_only"]), (&json!(true), &json!(false)), "{tags}");
    assert_eq!(tags["tags"], json!(["P2P-Eligible", "unit-test"]));
    let updated = state_of("peer-b");
    assert_eq!((&updated["success"], &updated["peer_id"]), (&json!(true), &json!("peer-b")));
    assert_eq!(status()["known_peers"], 1);
}

#[test]
fn what_is_not_of_its_form_is_refused_and_changes_nothing() {
    memory::clear();
    let good = json!({ "task_id": "t", "workflow_id": "w", "name": "n", "tags": [] });
    let long = "x".repeat(201);
    for (field, value) in [
        ("task_id", json!("")),
        ("task_id", json!(long)),
        ("workflow_id", json!("a\nb")),
        ("name", json!(long)),
        ("priority", json!(0)),
        ("priority", json!(11)),
        ("tags", json!(vec!["unit-test"; 65])),
    ] {
        let mut arguments = good.clone();
        arguments[field] = value;
        let refused = call(&MCPP_TOOL_P2P_SUBMIT_TASK, arguments);
        assert!(refused["error"].as_str().is_some_and(|error| error.contains(field)), "{field}: {refused}");
        assert!(refused.get("success").is_none());
    }
    let mut forged = serde_json::to_value(VectorClock::new("peer-b")).expect("JSON");
    forged["vector"]["peer-b"] = json!(9);
    for (peer, clock, word) in [
        ("peer-b", forged, "merkle_root"),
        ("peer-b", json!({}), "clock_data"),
        ("", json!(VectorClock::new("b")), "peer_id"),
        ("a\nb", json!(VectorClock::new("b")), "peer_id"),
    ] {
        let refused = call(&MCPP_TOOL_P2P_UPDATE_PEER_STATE, json!({ "peer_id": peer, "clock_data": clock }));
        assert!(refused["error"].as_str().is_some_and(|error| error.contains(word)), "{word}: {refused}");
    }
    assert_eq!(complete(&long), false);
    let Value::Object(clock) = json!(VectorClock::new("peer-b")) else { panic!("an object") };
    assert!(update("peer-b".into(), clock.clone(), Some("peer-c")).is_err(), "a peer speaks for itself alone");
    assert!(memory::entries().is_empty(), "{:?}", memory::entries());
    assert!(update("peer-b".into(), clock, Some("peer-b")).is_ok());
}

#[test]
fn a_peer_damages_no_clock() {
    memory::clear();
    mesh::start("peer-a");
    submit("t1", 5);
    state_of("peer-b");
    let before = status()["merkle_clock"].clone();
    let clock = |vector: Vec<(String, u64)>| {
        let pairs: Vec<String> = vector.iter().map(|(node, count)| format!("[\"{node}\", {count}]")).collect();
        let root = scheduling::hash::Hash::of(&format!("[{}]", pairs.join(", "))).to_string();
        let vector: std::collections::BTreeMap<_, _> = vector.into_iter().collect();
        json!({ "node_id": "peer-c", "vector": vector, "merkle_root": root })
    };
    let told = |mut vector: Vec<(String, u64)>| {
        vector.sort();
        let Value::Object(clock) = clock(vector) else { panic!("an object") };
        update("peer-c".into(), clock, Some("peer-c"))
    };
    let own = ("peer-a".to_owned(), 9_007_199_254_740_991);
    let junk = |count: usize| (0..count).map(|n| (format!("{n:0>200}"), 1)).collect::<Vec<_>>();
    let with = |mut nodes: Vec<(String, u64)>, more: (String, u64)| {
        nodes.push(more);
        nodes
    };
    for (vector, word) in [
        (with(junk(3_900), own.clone()), "at most 4096"),
        (vec![own], "this node counts 2"),
        (vec![("peer-a".into(), 3)], "own state alone"),
        (vec![("peer-c".into(), 1 << 52)], "is taken"),
    ] {
        let refused = told(vector).expect_err("refused").to_string();
        assert!(refused.starts_with("clock_data: its vector") && refused.contains(word), "{refused}");
    }
    assert_eq!((&status()["merkle_clock"], &status()["known_peers"]), (&before, &json!(1)), "nothing has changed");
    let lies = [("peer-a".to_owned(), 2), ("peer-b".to_owned(), 7), ("peer-c".to_owned(), 4)];
    told(junk(1_000).into_iter().chain(lies).collect()).expect("its own part is taken");
    assert_eq!(status()["merkle_clock"]["vector"], json!({ "peer-a": 3, "peer-b": 0, "peer-c": 4 }));
}

#[test]
fn a_clock_that_an_earlier_build_let_a_peer_damage_heals() {
    const CLOCK: mcpp_tool::store::Map<(), VectorClock> = mcpp_tool::store::Map::new("clock");
    memory::clear();
    mesh::start("peer-a");
    state_of("peer-b");
    let stored = |nodes: usize, own: u64| {
        let mut clock = VectorClock::new("peer-a");
        for (node, count) in (0..nodes).map(|n| (format!("{n:0>200}"), 1)).chain([("peer-a".into(), own)]) {
            let text = format!("[[\"{node}\", {count}]]");
            let root = scheduling::hash::Hash::of(&text).to_string();
            let other = json!({ "node_id": "peer-c", "vector": { node: count }, "merkle_root": root });
            clock.merge(&serde_json::from_value(other).expect("a clock"));
        }
        transact(|t| CLOCK.set(t, &(), &clock)).expect("stored");
    };
    stored(0, 9_007_199_254_740_991);
    submit("t1", 5);
    assert_eq!(status()["merkle_clock"]["vector"], json!({ "peer-a": 1 }), "its clock goes on");
    stored(400, 3);
    let vector = status()["merkle_clock"]["vector"].clone();
    assert!(vector.as_object().is_some_and(|vector| vector.len() == 1), "{vector}");
    stored(3, 3);
    state_of("peer-b");
    let vector = status()["merkle_clock"]["vector"].clone();
    assert!(vector.as_object().is_some_and(|vector| vector.len() == 2), "{vector}");
    assert_eq!(vector["peer-b"], 0);
}

#[test]
fn the_most_important_task_is_next_and_then_the_oldest() {
    memory::clear();
    mesh::clear();
    for (id, priority) in [("low", 1), ("b", 5), ("a", 5), ("high", 10)] {
        submit(id, priority);
        let later = |task: &mut tasks::Task| task.created_ms = if id == "a" { 2 } else { 1 };
        transact(|t| TASKS.change(t, &id.to_owned(), later)).expect("changed");
    }
    let order: Vec<Value> = (0..4).map(|_| next()["task"]["task_id"].clone()).collect();
    assert_eq!(json!(order), json!(["high", "b", "a", "low"]));
    assert!(status()["peer_id"].as_str().is_some_and(|id| id.starts_with("peer-") && id.len() == 13));
    assert_eq!(status()["peer_id"], status()["peer_id"], "it keeps its name");
    let before = status()["merkle_clock"]["vector"].clone();
    mesh::start("12D3me");
    let after = status();
    assert_eq!(after["peer_id"], "12D3me", "the mesh's name is better");
    assert!(after["merkle_clock"]["vector"].as_object().is_some_and(|now| {
        before.as_object().is_some_and(|before| before.iter().all(|(node, n)| now.get(node) == Some(n)))
    }));
}

/// A peer that takes tasks and states; what it was told.
fn peer(id: &str, answer: impl Fn(&Value) -> Result<Value, PeerCallError> + 'static) -> Rc<RefCell<Vec<Value>>> {
    let told = Rc::new(RefCell::new(Vec::new()));
    let heard = Rc::clone(&told);
    mesh::add_tool(id, "p2p_submit_task", move |arguments| {
        heard.borrow_mut().push(arguments.clone());
        answer(arguments).map(|structured| Output { content: Vec::new(), structured: Some(structured) })
    });
    mesh::add_tool(id, "p2p_update_peer_state", |_| {
        Ok(Output { content: Vec::new(), structured: Some(json!({ "success": true })) })
    });
    told
}

#[test]
fn a_task_of_a_live_peer_is_kept_and_sent_there_and_ends_there() {
    memory::clear();
    mesh::start("peer-a");
    let told = peer("peer-b", |_| Ok(json!({ "success": true })));
    round(now_ms()).expect("a round");
    assert_eq!(status()["known_peers"], 1, "it answered, so it takes part");
    let id = task_of_a_peer();
    assert_eq!((status()["pending_tasks"].clone(), submit(&id, 5)["success"].clone()), (json!(1), json!(false)));
    for _ in 0..50 {
        // Each event changes the clock, and so the owner may.
        round(now_ms()).expect("a round");
        if status()["forwarded_tasks"] == 1 {
            break;
        }
        transact(|t| peers::tick(t, Some("peer-a"))).expect("ticked");
    }
    assert_eq!((told.borrow().len(), &told.borrow()[0]["task_id"]), (1, &json!(id)));
    assert_eq!(told.borrow()[0]["tags"], json!(["p2p-only", "unit-test"]));
    assert_eq!((status()["forwarded_tasks"].clone(), status()["pending_tasks"].clone()), (json!(1), json!(0)));
    round(now_ms()).expect("a round");
    assert_eq!(told.borrow().len(), 1, "once is enough");
    let ends = |by| transact(|t| tasks::complete(t, &id, by, now_ms())).expect("asked");
    assert_eq!((ends(None), ends(Some("peer-c")), ends(Some("peer-b"))), (false, false, true));
    assert_eq!(status()["forwarded_tasks"], 0);
}

#[test]
fn what_a_failed_peer_owns_or_has_is_taken_over_under_this_hosts_name() {
    memory::clear();
    mesh::start("peer-a");
    state_of("peer-b");
    let id = task_of_a_peer();
    age_peers(PEER_TIMEOUT_MS);
    let task = next()["task"].clone();
    assert_eq!((&task["task_id"], &task["assigned_peer"]), (&json!(id), &json!("peer-a")));
    // And what it has already.
    memory::clear();
    let told = peer("peer-b", |_| Ok(json!({ "success": true })));
    state_of("peer-b");
    let id = task_of_a_peer();
    while told.borrow().is_empty() {
        round(now_ms()).expect("a round");
        transact(|t| peers::tick(t, Some("peer-a"))).expect("ticked");
    }
    assert!(next()["task"].is_null());
    round(now_ms() + PEER_TIMEOUT_MS + 1).expect("a round");
    let task = next()["task"].clone();
    assert_eq!((&task["task_id"], &task["assigned_peer"]), (&json!(id), &json!("peer-a")));
}

#[test]
fn a_task_that_may_have_arrived_is_sent_to_the_same_peer_again() {
    memory::clear();
    mesh::start("peer-a");
    let calls = Rc::new(RefCell::new(0));
    let counted = Rc::clone(&calls);
    let told = peer("peer-b", move |_| {
        *counted.borrow_mut() += 1;
        if *counted.borrow() == 1 { Err(PeerCallError::TimedOut) } else { Ok(json!({ "success": true })) }
    });
    state_of("peer-b");
    task_of_a_peer();
    let start = now_ms();
    while told.borrow().is_empty() {
        round(start).expect("a round");
        transact(|t| peers::tick(t, Some("peer-a"))).expect("ticked");
    }
    round(start + 1_000).expect("a round");
    assert_eq!((*calls.borrow(), status()["forwarded_tasks"].clone()), (1, json!(1)), "not at once");
    assert!(next()["task"].is_null(), "it is not run here meanwhile");
    round(start + 60_001).expect("a round");
    assert_eq!(*calls.borrow(), 2);
    // A peer that has other work of this id does not take it: it stays.
    memory::clear();
    let refuses = peer("peer-c", |_| Ok(json!({ "success": false })));
    state_of("peer-c");
    let id = task_of_a_peer();
    while refuses.borrow().is_empty() {
        round(now_ms()).expect("a round");
        transact(|t| peers::tick(t, Some("peer-a"))).expect("ticked");
    }
    assert_eq!(next()["task"]["task_id"], id);
}

#[test]
fn the_peer_that_sent_a_task_is_told_of_its_end_until_it_hears() {
    memory::clear();
    mesh::start("peer-a");
    let sent = |id: &str| crate::tools::submit(id.into(), "wf".into(), "n".into(), &[], 5, Some("peer-b".into()));
    assert!(
        sent("t").is_ok_and(|taken| taken.success) && sent("t").is_ok_and(|taken| taken.success),
        "again is no other"
    );
    state_of("peer-b");
    state_of("peer-c");
    assert_eq!(next()["task"]["task_id"], "t", "a task that was sent here stays here");
    let heard = Rc::new(RefCell::new(0));
    let count = Rc::clone(&heard);
    mesh::add_tool("peer-b", "p2p_mark_task_complete", move |_| {
        *count.borrow_mut() += 1;
        if *count.borrow() == 1 { Err(PeerCallError::Unreachable("x".into())) } else { Ok(Output::default()) }
    });
    assert_eq!(complete("t"), true);
    assert!(sent("t").is_ok_and(|taken| taken.success), "it has had it");
    assert_eq!(status()["pending_tasks"], 0);
    for expected in [1, 2, 2] {
        round(now_ms()).expect("a round");
        assert_eq!(*heard.borrow(), expected);
    }
}

#[test]
fn tasks_and_peers_are_bounded_in_number_and_bytes() {
    memory::clear();
    mesh::start("peer-a");
    let long = |n: i64| format!("{n:0>200}");
    let put = |from: i64, count: i64, origin: Option<&str>| {
        for first in (from..from + count).step_by(500) {
            transact(|t| {
                for n in first..(first + 500).min(from + count) {
                    let task = tasks::Task {
                        workflow_id: long(n),
                        name: long(n),
                        tags: scheduling::tags::WorkflowTag::ALL.to_vec(),
                        priority: 5,
                        created_ms: now_ms(),
                        origin: origin.map(str::to_owned),
                        sent_to: None,
                        stays: false,
                        state: tasks::State::Pending,
                    };
                    tasks::submit(t, &long(n), &task)?;
                }
                Ok::<_, SchedulerError>(())
            })
            .expect("taken");
        }
    };
    put(0, MAX_OF_PEER, Some("peer-b"));
    let more = crate::tools::submit("one".into(), "w".into(), "n".into(), &[], 5, Some("peer-b".into()));
    assert!(matches!(more, Err(SchedulerError::Full(MAX_OF_PEER))), "{more:?}");
    put(MAX_OF_PEER, MAX_TASKS - MAX_OF_PEER, None);
    let full = submit("one", 5);
    assert!(full["error"].as_str().is_some_and(|error| error.contains("10000")), "{full}");
    assert_eq!(tally(&snapshot().expect("a snapshot")).expect("counted").open(), MAX_TASKS);
    for n in 0..MAX_PEERS {
        assert_eq!(state_of(&long(n))["success"], true);
    }
    assert!(state_of("another")["error"].as_str().is_some_and(|error| error.contains("256")));
    assert_eq!(state_of(&long(0))["success"], true, "one that is known");
    age_peers(25 * 3_600 * 1_000);
    assert_eq!((state_of("another")["success"].clone(), status()["known_peers"].clone()), (json!(true), json!(1)));
    let bytes: usize = memory::entries().iter().map(|(key, value)| key.len() + value.len()).sum();
    assert!(bytes < 32 << 20, "half of what the grant allows: {bytes}");
    assert!(next()["task"].is_object());
}
