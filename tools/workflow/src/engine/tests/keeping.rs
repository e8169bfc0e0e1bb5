//! How many ended runs are kept, and how the watch keeps up with those that end.

use mcpp_tool::store::Budget;

use super::*;
use crate::store::{CLAIMS, ENDED, LISTED_COUNTS};

fn ended() -> usize {
    ENDED.of(&()).walk(&snapshot().expect("a snapshot")).count()
}

/// Ends so many runs.
fn end(from: usize, runs: usize) {
    for number in from..from + runs {
        start(&draft(&format!("r{number:04}"), json!([{ "step_id": "a", "action": "echo" }]), json!(number)));
    }
    run_all();
}

fn watch_at() -> u64 {
    memory::timers()["watch"].at_ms
}

/// Gives the first step of a run that has not begun an input of so many bytes, as builds may have stored it that did not check that.
pub(crate) fn enlarge(run: &str, bytes: usize) {
    let at = (run.to_owned(), 0);
    transact(|t| {
        let mut node = NODES.get(t, &at)?.expect("it is there");
        node.step.inputs.insert("text".into(), "x".repeat(bytes).into());
        NODES.put(t, &at, &node)
    })
    .expect("written");
}

#[test]
fn the_watch_removes_all_runs_that_are_over_and_looks_again_when_more_may_be() {
    clear();
    end(0, 130);
    assert_eq!(ended(), 130);
    let now = now_ms();
    upkeep::ring_watch(now, 100).expect("rung");
    assert_eq!((ended(), find(&snapshot().expect("a snapshot"), "r0029").is_ok()), (100, false));
    assert!(find(&snapshot().expect("a snapshot"), "r0030").is_ok(), "those that ended first are gone");
    assert!(watch_at() > now + 60_000, "nothing is over any more");
    assert_eq!(LISTED_COUNTS.get(&snapshot().expect("a snapshot"), &("completed", "")), Ok(100));
    // Runs that end afterwards set the watch for soon.
    end(130, 10);
    assert!(watch_at() <= now_ms() + upkeep::WATCH_MS);
    upkeep::ring_watch(now, 100).expect("rung");
    assert_eq!(ended(), 100);
}

#[test]
fn a_ring_has_bounded_work_and_the_next_one_follows_at_once() {
    clear();
    end(0, 40);
    let ring = Budget { entries: 10, ..Budget::UNBOUNDED };
    for left in [30, 20, 10] {
        assert_eq!(retention::forget_within(ring, now_ms(), 5), Ok(true));
        assert_eq!(ended(), left);
    }
    assert_eq!(retention::forget_within(ring, now_ms(), 5), Ok(false));
    assert_eq!(ended(), 5);
}

#[test]
fn a_run_of_many_and_large_steps_is_removed_too() {
    clear();
    let items: Vec<usize> = (0..350).collect();
    start(&draft(
        "large",
        json!([{ "step_id": "fan", "action": "text", "for_each": { "items": items } }]),
        Value::Null,
    ));
    enlarge("large", 20_000);
    run_all();
    end(0, 1);
    memory::spent();
    assert_eq!(retention::forget(now_ms(), 1), Ok(false));
    let bytes = memory::spent().bytes;
    assert!(bytes < 24 << 20, "{bytes} bytes: each node is read once");
    assert_eq!((ended(), NODES.under(&(&"large".to_owned(),)).walk(&snapshot().expect("a snapshot")).count()), (1, 0));
    let left = memory::entries().iter().filter(|(key, _)| key.windows(5).any(|part| part == b"large")).count();
    assert_eq!(left, 0, "nothing of it is left");
}

/// Entries of the store whose keys have this text in them.
fn entries_of(run: &str) -> usize {
    memory::entries().iter().filter(|(key, _)| key.windows(run.len()).any(|part| part == run.as_bytes())).count()
}

#[test]
fn a_client_removes_a_run_that_has_ended_and_its_id_is_free_again() {
    clear();
    end(0, 2);
    start(&draft("open", json!([{ "step_id": "a", "action": "wait", "inputs": { "signal": "go" } }]), json!(1)));
    run_all();
    let delete = |id: &str| transact(|t| delete(t, id, now_ms()));
    assert_eq!(delete("r0000"), Ok(true));
    assert_eq!((delete("r0000"), entries_of("r0000")), (Err(WorkflowError::NoRun("r0000".into())), 0));
    assert!(matches!(delete("open"), Err(WorkflowError::Refused(why)) if why.contains("cancel it first")));
    let counted = |status: &str| LISTED_COUNTS.get(&snapshot().expect("a snapshot"), &(status, ""));
    assert_eq!((counted("completed"), counted("running"), ended()), (Ok(1), Ok(1), 1));
    end(0, 1);
    assert_eq!(shown("r0000").0, "completed", "another run has its id");
}

#[test]
fn nobody_sees_a_large_run_while_it_is_removed() {
    clear();
    let items: Vec<usize> = (0..350).collect();
    let large =
        draft("large", json!([{ "step_id": "fan", "action": "text", "for_each": { "items": items } }]), Value::Null);
    start(&large);
    run_all();
    assert_eq!(transact(|t| delete(t, "large", now_ms())), Ok(false));
    assert!(matches!(find(&snapshot().expect("a snapshot"), "large"), Err(WorkflowError::NoRun(_))));
    assert_eq!(LISTED_COUNTS.get(&snapshot().expect("a snapshot"), &("", "")), Ok(0));
    let again = || transact(|t| submit(t, &large, &large.check(&Blind)?, Origin::Client, now_ms())).map(drop);
    assert!(matches!(again(), Err(WorkflowError::Refused(why)) if why.contains("is being removed")));
    // A delivery that had one of its nodes, and a timer of another, come late.
    transact(|t| CLAIMS.set(t, "late", &("large".to_owned(), 7))).expect("written");
    work("late", 0).expect("it is gone");
    wake("n:large:7", "late").expect("it is gone");
    assert!(watch_at() <= now_ms(), "the rest goes at once");
    upkeep::ring_watch(now_ms(), 100).expect("rung");
    assert_eq!(entries_of("large"), 0);
    again().expect("its id is free again");
}

#[test]
fn a_run_is_not_removed_before_those_that_wait_for_it_know_of_its_end() {
    clear();
    let steps = json!([{ "step_id": "a", "action": "echo" }]);
    start(&draft("first", steps.clone(), Value::Null));
    for number in 0..40 {
        let dependencies = vec!["first".to_owned()];
        start(&Draft { dependencies, ..draft(&format!("then{number}"), steps.clone(), Value::Null) });
    }
    while shown("first").0 != "completed" {
        let emitted = memory::emitted().len();
        work(&format!("only {emitted}"), 0).expect("delivered");
    }
    let delete = || transact(|t| delete(t, "first", now_ms()));
    assert!(matches!(delete(), Err(WorkflowError::Refused(why)) if why.contains("have not all been told")));
    run_all();
    assert_eq!((delete(), shown("then39").0), (Ok(true), "completed"));
}

#[test]
fn a_delivery_that_comes_late_does_nothing_to_another_run_with_its_id() {
    clear();
    let steps = |count: usize| {
        json!((0..count).map(|n| json!({ "step_id": format!("s{n}"), "action": "echo" })).collect::<Vec<_>>())
    };
    start(&draft("r", steps(9), Value::Null));
    let taken = transact(|t| {
        let mut taken = Vec::new();
        for number in 0..9 {
            taken.push(work::take(t, &format!("d{number}"), now_ms() + 60_000, now_ms())?.expect("a job"));
        }
        Ok::<_, WorkflowError>(taken)
    })
    .expect("taken");
    transact(|t| cancel(t, "r", ("no", true), Origin::Client, now_ms())).expect("cancelled");
    assert_eq!(transact(|t| delete(t, "r", now_ms())), Ok(true));
    start(&draft("r", steps(2), Value::Null));
    for (number, job) in taken.iter().enumerate() {
        // Some hosts were killed before they came so far.
        if number % 2 == 0 {
            let done = job.perform(Duration::from_secs(60), now_ms());
            work::record_alone(&format!("d{number}"), job, &done, (0, false)).expect("nobody asks for it");
        }
        work(&format!("d{number}"), 0).expect("the delivery may come again");
        wake(&format!("n:r:{number}"), "late").expect("a timer too");
    }
    run_all();
    assert_eq!(shown("r"), ("completed", vec!["s0 completed".to_owned(), "s1 completed".to_owned()]));
}
