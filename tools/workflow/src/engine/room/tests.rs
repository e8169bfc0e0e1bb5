use mcpp_tool::{
    environment::now_ms,
    store::{memory, snapshot, transact},
};
use serde_json::{Value, json};

use super::*;
use crate::{
    engine::{
        Origin, submit,
        tests::{clear, draft, run_all, shown, start},
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
        assert!(refused.to_string().contains("the last 1048576 of its 8388608 bytes, the reserve"), "{refused}");
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
