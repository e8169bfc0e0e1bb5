//! Where steps ran.

use std::collections::BTreeMap;

use mcpp_tool::builds::{Place, PlacedCall};

use super::*;
use crate::{
    engine::{job::Done, place::HERE},
    run::{Node, State},
    scheduler::Outcome,
    tools::step,
};

const PEER: &str = "12D3KooWPeer";

thread_local! {
    /// The peers on which tools run. All others run here.
    static PEERS: RefCell<BTreeMap<String, String>> = const { RefCell::new(BTreeMap::new()) };
}

/// As [`provider`], with the place. A tool that does not exist runs nowhere.
pub(in crate::engine) fn placed(
    job: &Job,
    tool: &str,
    (arguments, timeout): (&Map<String, Value>, Duration),
) -> PlacedCall {
    let peer = PEERS.with_borrow(|peers| peers.get(tool).cloned());
    let answer = provider(job, tool, arguments, timeout);
    let place = (answer != Err(CallError::NotFound)).then(|| peer.map_or(Place::Here, Place::Peer));
    PlacedCall { answer, place }
}

fn on_peer(tool: &str, peer: &str) {
    PEERS.with_borrow_mut(|peers| drop(peers.insert(tool.to_owned(), peer.to_owned())));
}

/// The hosts of a run's steps, as its status shows them.
fn hosts(id: &str) -> BTreeMap<String, Value> {
    let t = snapshot().expect("a snapshot");
    let nodes = NODES.under(&(id,)).walk(&t).map(|row| row.expect("a node").1);
    nodes.map(|node| (node.path.clone(), step(&node)["host"].clone())).collect()
}

#[test]
fn a_step_keeps_the_place_of_its_last_attempt_and_its_undo_leaves_it() {
    clear();
    on_peer("gpu_render", PEER);
    on_peer("fail_9", PEER);
    on_peer("take_back", "another");
    start(&draft(
        "r",
        json!([
            { "step_id": "far", "action": "gpu_render", "undo": { "action": "take_back" } },
            { "step_id": "near", "action": "echo", "depends_on": ["far"] },
            { "step_id": "fan", "action": "gpu_render", "depends_on": ["near"], "for_each": { "items": [1] } },
            { "step_id": "pause", "action": "wait", "inputs": { "seconds": 0 }, "depends_on": ["fan"] },
            { "step_id": "fails", "action": "fail_9", "depends_on": ["pause"] },
            { "step_id": "never", "action": "echo", "depends_on": ["fails"] },
        ]),
        Value::Null,
    ));
    run_all();
    let expected = [
        ("fails", json!(PEER)),
        ("fan", Value::Null),
        ("fan/0", json!(PEER)),
        ("far", json!(PEER)),
        ("near", json!(HERE)),
        ("never", Value::Null),
        ("pause", Value::Null),
    ];
    assert_eq!(hosts("r"), expected.map(|(path, host)| (path.to_owned(), host)).into());
    assert!(effects().iter().any(|effect| effect.starts_with("take_back")), "the undo ran: {:?}", effects());
}

#[test]
fn an_id_that_is_too_long_to_be_one_is_not_kept() {
    clear();
    on_peer("gpu_render", &"x".repeat(128));
    on_peer("gpu_other", &"x".repeat(129));
    let steps = json!([{ "step_id": "a", "action": "gpu_render" }, { "step_id": "b", "action": "gpu_other" }]);
    start(&draft("r", steps, Value::Null));
    run_all();
    let expected = [("a".to_owned(), json!("x".repeat(128))), ("b".to_owned(), Value::Null)];
    assert_eq!(hosts("r"), expected.into());
}

#[test]
fn a_fan_out_that_runs_shows_the_numbers_of_all_its_items() {
    clear();
    start(&draft(
        "r",
        json!([{
            "step_id": "fan", "action": "fail_1", "for_each": { "items": [1, 2, 3] },
            "retry": { "max_attempts": 2, "backoff_s": 600 },
        }]),
        Value::Null,
    ));
    run_all();
    let t = snapshot().expect("a snapshot");
    let fan = NODES.get(&t, &("r", 0)).expect("read").expect("there");
    assert_eq!(step(&fan)["items"], json!({ "total": 3, "succeeded": 2, "failed": 0, "open": 1 }));
}

#[test]
fn a_step_that_runs_says_nothing_of_the_attempt_before_and_one_without_room_keeps_it() {
    clear();
    start(&draft("r", json!([{ "step_id": "a", "action": "echo" }]), Value::Null));
    run_all();
    let t = snapshot().expect("a snapshot");
    let ended = NODES.get(&t, &("r", 0)).expect("read").expect("there");
    assert_eq!(step(&ended)["host"], HERE);
    let mut running = Node { state: State::Running { claim: "d".into(), until_ms: 9 }, ..ended };
    assert_eq!(step(&running)["host"], Value::Null);
    crate::engine::place::note(&mut running, &Done::of(Outcome::Busy { again_ms: 9 }));
    assert_eq!(running.host.as_deref(), Some(HERE));
    crate::engine::place::note(&mut running, &Done::of(Outcome::Completed(Value::Null)));
    assert_eq!(running.host, None, "it called nothing");
}
