//! Crashes at named windows, and what is kept of runs that have ended.

use super::*;
use crate::{
    definition::MAX_RUN_STEPS,
    run::{Inner, State},
    store::{DEFINITIONS, INPUTS, ITEM, ITEMS},
};

/// Where a handler breaks off: the host is killed there, and delivers again what it had not confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Window {
    /// The event is there; nothing was done yet.
    BeforeTheStart,
    /// The node is taken, and the tool not called.
    BeforeTheEffect,
    /// The tool has answered, and nobody wrote it down.
    BeforeTheRecord,
    /// It is written down, and the delivery is not confirmed.
    BeforeTheConfirmation,
    /// The transaction that records it and takes the next node never became durable.
    WithinTheRecord,
}

const WINDOWS: [Window; 5] = [
    Window::BeforeTheStart,
    Window::BeforeTheEffect,
    Window::BeforeTheRecord,
    Window::BeforeTheConfirmation,
    Window::WithinTheRecord,
];

/// Takes a node as a handler does, and breaks off at a window; whether there was a node.
fn break_off(delivery: &str, window: Window) -> bool {
    if window == Window::BeforeTheStart {
        return false;
    }
    let until_ms = now_ms() + 60_000;
    let Some(job) = transact(|t| work::take(t, delivery, until_ms, now_ms())).expect("taken") else { return false };
    if window == Window::BeforeTheEffect {
        return true;
    }
    let done = job.perform(Duration::from_secs(60), now_ms());
    let record = |t: &Transaction<'_>| work::record(t, delivery, &job, &done, (1, false));
    match window {
        Window::BeforeTheConfirmation => transact(record).expect("recorded"),
        Window::WithinTheRecord => {
            let lost = transact(|t| {
                record(t)?;
                Err::<(), _>(WorkflowError::Refused("the host is killed".into()))
            });
            assert!(lost.is_err());
        }
        _ => {}
    }
    true
}

/// Runs everything, where the handler of the event `at` breaks off; how many calls were made, and the states.
fn run_with_a_crash(at: usize, window: Window) -> (usize, Vec<String>) {
    clear();
    let undo = json!({ "action": "take_back", "inputs": { "n": "${result.n}" } });
    start(&draft(
        "r",
        json!([
            { "step_id": "a", "action": "echo", "inputs": { "n": 1 }, "undo": undo },
            { "step_id": "b", "action": "echo", "inputs": { "n": 2 }, "depends_on": ["a"] },
            { "step_id": "fan", "action": "echo", "inputs": { "i": "${item}" }, "for_each": { "items": [1, 2] }, "depends_on": ["b"] },
            { "step_id": "c", "action": "no", "depends_on": ["fan"] }
        ]),
        Value::Null,
    ));
    let mut deliveries = 0;
    loop {
        let emitted = memory::emitted();
        let seen = EVENTS.with_borrow_mut(|seen| std::mem::replace(seen, emitted.len()));
        let ready: Vec<_> =
            emitted.into_iter().enumerate().skip(seen).filter(|(_, event)| event.topic == "ready").collect();
        let timers: Vec<String> = memory::timers().into_keys().filter(|key| key != "watch").collect();
        if ready.is_empty() && timers.is_empty() {
            break;
        }
        for (number, _) in ready {
            let delivery = format!("event {number}");
            if deliveries == at {
                break_off(&delivery, window);
            }
            deliveries += 1;
            work(&delivery, 1).expect("delivered, or delivered again");
        }
        for key in timers {
            let timer = memory::take_timer(&key).expect("it is set");
            wake(&key, &format!("timer {key} {}", timer.at_ms)).expect("delivered");
        }
    }
    assert_eq!(shown("r").0, "failed", "{window:?} at {at}: {:?}", shown("r"));
    (effects().len(), shown("r").1)
}

#[test]
fn a_run_ends_as_without_a_crash_whatever_window_it_comes_in() {
    let (calls, states) = run_with_a_crash(usize::MAX, Window::BeforeTheStart);
    assert_eq!(calls, 6, "{:?}", effects());
    for window in WINDOWS {
        for at in 0..4 {
            let (with_crash, now) = run_with_a_crash(at, window);
            assert_eq!(now, states, "{window:?} at {at}");
            // Only an effect that nobody wrote down comes twice, and under one name.
            let may_repeat = matches!(window, Window::BeforeTheRecord | Window::WithinTheRecord);
            assert!(with_crash == calls || may_repeat && with_crash == calls + 1, "{window:?} at {at}: {with_crash}");
            let mut names = NAMES.with_borrow(Clone::clone);
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), calls, "{window:?} at {at}");
        }
    }
}

#[test]
fn ended_runs_are_kept_for_a_time_and_in_a_number_and_others_for_ever() {
    clear();
    let one = json!([{ "step_id": "a", "action": "echo", "inputs": { "x": "${input}" } }, { "step_id": "big", "action": "large" },
        { "step_id": "fan", "action": "echo", "inputs": { "i": "${item}" }, "for_each": { "items": [1, 2] } }]);
    for id in ["1", "2", "3"] {
        start(&draft(id, one.clone(), json!(7)));
        run_all();
        assert_eq!(shown(id).0, "completed");
    }
    start(&draft("open", json!([{ "step_id": "w", "action": "wait", "inputs": { "signal": "go" } }]), Value::Null));
    run_all();
    let there = || {
        let t = snapshot().expect("a snapshot");
        ["1", "2", "3", "open"].map(|id| find(&t, id).is_ok())
    };
    let now = now_ms();
    retention::forget(now, 100).expect("looked");
    assert_eq!(there(), [true; 4], "none is old, and they are few");
    retention::forget(now, 2).expect("looked");
    assert_eq!(there(), [false, true, true, true], "the one that ended first");
    retention::forget(now + KEEP_MS - 60_000, 100).expect("looked");
    assert_eq!(there(), [false, true, true, true]);
    retention::forget(now + KEEP_MS + 60_000, 100).expect("looked");
    assert_eq!(there(), [false, false, false, true]);
    let t = snapshot().expect("a snapshot");
    let id = "1".to_owned();
    assert!(NODES.under(&(&id,)).walk(&t).next().is_none() && RESULTS.under(&(&id,)).walk(&t).next().is_none());
    assert!(ITEM.under(&(&id,)).walk(&t).next().is_none());
    assert!(DEFINITIONS.get(&t, &id).expect("read").is_none());
    assert!(INPUTS.get(&t, &(&id, crate::store::ROOT)).expect("read").is_none());
}

#[test]
fn a_fan_out_that_an_earlier_build_began_ends_with_each_result_once() {
    clear();
    let fan = json!([{ "step_id": "fan", "action": "echo", "inputs": { "i": "${item}" }, "for_each": { "items": [1, 2, 3], "parallel": 1 } }]);
    start(&draft("r", fan, Value::Null));
    // The fan opens, its first item ends, and the second is ready.
    for _ in 0..2 {
        let job = transact(|t| work::take(t, "d", now_ms() + 60_000, now_ms())).expect("taken").expect("ready");
        let done = job.perform(Duration::from_secs(60), now_ms());
        transact(|t| work::record(t, "d", &job, &done, (1, false))).expect("recorded");
    }
    // That build listed the items' nodes in the fan's, had no index of them, and kept the items in one list.
    transact::<_, StoreError>(|t| {
        let items: Vec<(_, Value)> = ITEM.under(&("r".to_owned(), 0)).collect(t)?;
        assert_eq!(items.len(), 3);
        ITEMS.set(t, &("r", 0), &items.into_iter().map(|(_, item)| item).collect::<Vec<_>>())?;
        assert!(mcpp_tool::store::remove_collection(t, "item", 9)?);
        NODES.change(t, &("r".to_owned(), 0), |node| {
            let State::Open(Inner::Fan { begun, nodes, open, .. }) = &mut node.state else { panic!("{node:?}") };
            assert_eq!((*begun, nodes.len(), open.first()), (2, 0, Some(&2)));
            (*begun, *nodes) = (0, vec![1, 2]);
        })?;
        mcpp_tool::store::remove_collection(t, "within", 9).map(|all| assert!(all))
    })
    .expect("as it was");
    while deliver(0) {}
    assert_eq!(shown("r").0, "completed", "{:?}", shown("r"));
    assert_eq!(result("r", 0), json!([{ "i": 1 }, { "i": 2 }, { "i": 3 }]));
    assert_eq!(effects().len(), 3);
}

#[test]
fn a_fan_out_for_which_the_run_has_no_room_fails_and_keeps_no_item() {
    clear();
    let fan =
        json!([{ "step_id": "fan", "action": "echo", "inputs": { "i": "${item}" }, "for_each": { "items": [1, 2] } }]);
    start(&draft("r", fan, Value::Null));
    transact::<_, StoreError>(|t| RUNS.change(t, &"r".to_owned(), |run| run.tally.total = MAX_RUN_STEPS - 1).map(drop))
        .expect("a run with many steps");
    while deliver(0) {}
    assert_eq!(shown("r").0, "failed");
    let t = snapshot().expect("a snapshot");
    let node = NODES.get(&t, &("r", 0)).expect("read").expect("there");
    assert_eq!(node.error.as_deref(), Some("the run would have more than 10000 steps"));
    assert!(ITEM.under(&("r".to_owned(),)).walk(&t).next().is_none() && effects().is_empty());
}
