//! Generated lives of runs whose steps share keys: whatever happens, the kept numbers are those of the steps, no key has too many, and every run ends.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{lines::check, *};

fn step(id: usize, kind: u32) -> Value {
    let retry = json!({ "max_attempts": 2, "backoff_s": 0, "jitter": 0 });
    let mut step = json!({ "step_id": format!("s{id}"), "action": "echo", "may_fail": true, "retry": retry });
    if kind.is_multiple_of(2) {
        step["concurrency"] = json!({ "key": if kind.is_multiple_of(3) { "a" } else { "b" }, "limit": 2 });
    }
    if kind.is_multiple_of(5) {
        step["rate"] = json!({ "key": "r", "limit": 1000, "per_s": 1 });
    }
    if kind.is_multiple_of(7) {
        step["action"] = "no".into();
    }
    if kind.is_multiple_of(4) {
        step["for_each"] = json!({ "items": [1, 2, 3], "parallel": 2 });
    }
    step
}

/// Everything that the host delivers, timers of lost handlers too.
fn deliver_all(limits: &BTreeMap<&str, i64>) {
    for _ in 0..1_000 {
        let is_more = deliver(100_000);
        check(limits);
        if !is_more {
            return;
        }
    }
    panic!("it does not end");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn the_numbers_of_keys_are_those_of_their_steps(
        kinds in proptest::collection::vec(proptest::collection::vec(0_u32..60, 1..5), 1..4),
        dice in proptest::collection::vec(any::<u16>(), 0..60),
    ) {
        clear();
        let limits = BTreeMap::from([("a", 2), ("b", 2)]);
        for (number, kinds) in kinds.iter().enumerate() {
            let steps: Vec<Value> = kinds.iter().enumerate().map(|(id, kind)| step(id, *kind)).collect();
            start(&Draft { priority: number as f64, ..draft(&format!("r{number}"), steps.into(), Value::Null) });
        }
        let mut jobs: Vec<(String, Job)> = Vec::new();
        for (turn, dice) in dice.into_iter().enumerate() {
            let (kind, which) = (dice % 16, usize::from(dice / 16));
            let run = format!("r{}", which % kinds.len());
            match kind {
                0..=5 => {
                    let delivery = format!("d{turn}");
                    let job = transact(|t| work::take(t, &delivery, now_ms() + 60_000, now_ms())).expect("taken");
                    jobs.extend(job.map(|job| (delivery, job)));
                }
                6..=10 if !jobs.is_empty() => {
                    let (delivery, job) = jobs.swap_remove(which % jobs.len());
                    let done = job.perform(Duration::from_secs(60), now_ms());
                    transact(|t| work::record(t, &delivery, &job, &done, (1, false))).expect("recorded");
                }
                11 if !jobs.is_empty() => {
                    // The handler is gone, and its lease is over.
                    let (_, job) = jobs.swap_remove(which % jobs.len());
                    transact(|t| {
                        let mut nodes = StoredNodes::new(t, &job.run);
                        scheduler::give_back(&mut nodes, job.number, u64::MAX)?;
                        let count = keys::let_on_all(t, &nodes.touched, now_ms())?;
                        // The watch calls for one that takes the node itself.
                        call_for(t, count.saturating_add(1), Origin::Unknown, now_ms())
                    })
                    .expect("given back");
                }
                12 => drop(transact(|t| pause(t, &run, now_ms()))),
                13 => drop(transact(|t| resume(t, &run, Origin::Client, now_ms()))),
                14 if which.is_multiple_of(4) => {
                    drop(transact(|t| cancel(t, &run, ("no", which.is_multiple_of(8)), Origin::Client, now_ms())));
                }
                _ => drop(deliver(0)),
            }
            check(&limits);
        }
        for (delivery, job) in jobs {
            let done = job.perform(Duration::from_secs(60), now_ms());
            transact(|t| work::record(t, &delivery, &job, &done, (1, false))).expect("recorded");
        }
        for number in 0..kinds.len() {
            drop(transact(|t| resume(t, &format!("r{number}"), Origin::Client, now_ms())));
        }
        deliver_all(&limits);
        for number in 0..kinds.len() {
            let view = snapshot().expect("a snapshot");
            let run = find(&view, &format!("r{number}")).expect("there");
            prop_assert!(run.phase.is_final(), "{:?}", shown(&run.id));
        }
    }
}
