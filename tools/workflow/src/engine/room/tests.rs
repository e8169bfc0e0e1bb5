use mcpp_tool::{
    environment::now_ms,
    store::{memory, snapshot, transact},
};
use serde_json::{Value, json};

use super::*;
use crate::{
    engine::{
        Origin, cancel, delete, give, submit,
        tests::{clear, draft, run_all, shown, start},
        wake,
    },
    validate::Blind,
};

/// Its reserve is 1 MiB.
const QUOTA: u64 = 8 << 20;

fn put(id: &str, bytes: usize) -> Result<(), WorkflowError> {
    let steps = json!([{ "step_id": "a", "action": "echo", "inputs": { "n": 1 } }, { "step_id": "b", "action": "echo", "depends_on": ["a"] }]);
    let draft = draft(id, steps, Value::from("x".repeat(bytes)));
    let graph = draft.check(&Blind).expect("it fits together");
    transact(|t| submit(t, &draft, &graph, Origin::Client, now_ms()).map(drop))
}

/// Fills the store with runs; how many there are.
fn fill() -> usize {
    clear();
    memory::set_quota(QUOTA);
    let mut count = 0;
    for bytes in [200_000, 10_000, 0] {
        while put(&format!("r{count}"), bytes).is_ok() {
            count += 1;
        }
    }
    count
}

#[test]
fn a_full_store_takes_no_new_run_and_ends_those_that_there_are() {
    let count = fill();
    assert!(count > 30, "{count}");
    let usage = snapshot().expect("a snapshot").usage().expect("known");
    assert!(usage.free_bytes() >= reserve_bytes(QUOTA), "the runs leave the reserve alone: {usage:?}");
    let before = memory::entries();
    for bytes in [0, 5_000] {
        let refused = put("more", bytes).expect_err("there is no room");
        assert_eq!(refused, WorkflowError::Full { quota_bytes: QUOTA, kept_bytes: 1 << 20 });
        assert!(refused.to_string().contains("the last 1048576 of its 8388608 bytes to the ends"), "{refused}");
    }
    assert_eq!(memory::entries(), before, "what was refused left nothing");
    assert_eq!(put("r0", 200_000), Ok(()), "a run that is there is no new one");
    run_all();
    for number in 0..count {
        assert_eq!(shown(&format!("r{number}")).0, "completed", "r{number}");
    }
    memory::set_quota(2 * QUOTA);
    start(&draft("more", json!([{ "step_id": "a", "action": "echo" }]), Value::Null));
}

#[test]
fn what_does_not_fit_into_the_whole_quota_is_told_in_the_same_words() {
    clear();
    memory::set_quota(300_000);
    put("r", 100_000).expect("it fits");
    let refused = put("more", 250_000).expect_err("there is no room");
    assert!(matches!(refused, WorkflowError::Full { quota_bytes: 300_000, kept_bytes: 75_000 }), "{refused}");
}

fn is_half_left() -> bool {
    let usage = snapshot().expect("a snapshot").usage().expect("known");
    // The failures themselves are written into that half.
    usage.free_bytes() + (64 << 10) >= reserve_bytes(QUOTA) / 2
}

#[test]
fn signals_leave_room_for_what_cancels_and_removes_runs() {
    clear();
    memory::set_quota(QUOTA);
    start(&draft("r", json!([{ "step_id": "a", "action": "wait", "inputs": { "signal": "never" } }]), Value::Null));
    let signal = |number: usize, bytes: usize| {
        let payload = json!("p".repeat(bytes));
        transact(|t| give(t, "r", (&format!("s{number}"), &payload), Origin::Client, now_ms()))
    };
    let mut given = 0;
    for bytes in [200_000, 20_000, 2_000] {
        while signal(given, bytes).is_ok() {
            given += 1;
        }
    }
    assert!((30..100).contains(&given) && is_half_left(), "{given}");
    assert!(matches!(signal(given, 2_000), Err(WorkflowError::Full { kept_bytes: 524_288, .. })));
    transact(|t| cancel(t, "r", ("no", true), Origin::Client, now_ms())).expect("there is room for that");
    transact(|t| delete(t, "r", now_ms())).expect("there is room for that");
    wake("watch", "timer watch").expect("the rest goes");
    put("next", 200_000).expect("there is room again");
}

#[test]
fn results_that_do_not_fit_fail_their_steps_and_the_run_ends() {
    clear();
    memory::set_quota(QUOTA);
    let fan = json!({ "items": (0..60).collect::<Vec<_>>(), "parallel": 10 });
    let steps = json!([{ "step_id": "fan", "action": "echo", "inputs": { "text": "${input}" }, "for_each": fan, "may_fail": true },
        { "step_id": "last", "action": "echo", "depends_on": ["fan"] }]);
    start(&draft("r", steps, json!("x".repeat(200_000))));
    run_all();
    let (status, states) = shown("r");
    assert_eq!((status, states[1].as_str()), ("completed", "last completed"), "{states:?}");
    let failed = states.iter().filter(|state| state.starts_with("fan/") && state.ends_with("failed")).count();
    assert!(failed > 0 && is_half_left(), "{failed}");
    let t = snapshot().expect("a snapshot");
    let errors: Vec<String> =
        crate::store::NODES.under(&("r",)).walk(&t).filter_map(|row| row.expect("a node").1.error).collect();
    assert!(
        errors.iter().any(|error| error.starts_with("what it did cannot be recorded: the store of workflows is full")),
        "{errors:?}"
    );
}

#[test]
fn a_large_result_that_does_not_fit_leaves_no_pieces() {
    clear();
    memory::set_quota(QUOTA);
    let value = json!("x".repeat(5 << 20));
    assert_eq!(crate::blob::write(&value, 0).map(drop), Err(mcpp_tool::store::StoreError::QuotaExceeded));
    assert!(memory::entries().is_empty());
}
