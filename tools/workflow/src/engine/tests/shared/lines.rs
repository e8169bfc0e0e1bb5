//! Keys of steps: who waits, who is let on and when, and that the kept numbers are those of the steps.

use std::collections::BTreeMap;

use super::*;
use crate::{
    run::{Limited, Node, State},
    store::{
        READY,
        keys::{DUE_LINES, LINES, NEXT, OPENED, OPENS, SLOTS},
    },
};

fn nodes() -> Vec<(String, Node)> {
    let view = snapshot().expect("a snapshot");
    NODES.all().walk(&view).map(|row| row.map(|((run, _), node)| (run, node)).expect("read")).collect()
}

fn take(delivery: &str) -> Option<Job> {
    transact(|t| work::take(t, delivery, now_ms() + 60_000, now_ms())).expect("taken")
}

fn finish(delivery: &str, job: &Job) {
    let done = job.perform(Duration::from_secs(60), now_ms());
    transact(|t| work::record(t, delivery, job, &done, (1, false))).expect("recorded");
}

/// The kept numbers are those of the nodes, no key has more than its limit, and every line has someone who lets it on.
pub(super) fn check(limits: &BTreeMap<&str, i64>) {
    let (mut slots, mut next, mut lines) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for (_, node) in nodes() {
        if let Some(key) = node.slot() {
            *slots.entry(key.to_owned()).or_insert(0_i64) += 1;
        }
        if let Some(key) = node.next_of_rate() {
            *next.entry(key.to_owned()).or_insert(0_i64) += 1;
        }
        if let State::InLine(line) = &node.state {
            *lines.entry(line.clone()).or_insert(0_usize) += 1;
        }
    }
    let view = snapshot().expect("a snapshot");
    for key in ["a", "b", "r"] {
        assert_eq!(SLOTS.get(&view, key), Ok(slots.get(key).copied().unwrap_or_default()), "slots of {key}");
        assert_eq!(NEXT.get(&view, key), Ok(next.get(key).copied().unwrap_or_default()), "next of {key}");
        assert!(NEXT.get(&view, key).expect("read") <= 1);
        let most = limits.get(key).copied().unwrap_or(i64::MAX);
        assert!(SLOTS.get(&view, key).expect("read") <= most, "{key} has more than {most}: {slots:?}");
    }
    let due: Vec<(u64, bool, String)> = DUE_LINES.of(&()).collect(&view).expect("read");
    for (line, count) in lines {
        assert_eq!(LINES.of(&line.key()).walk(&view).count(), count, "the line of {line:?}");
        let is_due = due.iter().any(|(_, is_rate, key)| (*is_rate, key.as_str()) == line.key());
        let goes_on = match line.of {
            Limited::Concurrency => slots.contains_key(&line.key) || is_due,
            Limited::Rate => next.contains_key(&line.key) || is_due,
        };
        assert!(goes_on, "nobody lets on the line of {line:?}");
        assert!(due.is_empty() || memory::timers().contains_key("keys"));
    }
}

fn keyed(key: &str, limit: u32) -> Value {
    json!([{ "step_id": "s", "action": "echo", "concurrency": { "key": key, "limit": limit } }])
}

fn states(run: &str) -> Vec<String> {
    shown(run).1
}

#[test]
fn so_many_steps_of_a_key_run_at_once_in_all_runs_and_others_do_not_wait_for_them() {
    clear();
    for number in 0..5 {
        let input = json!({ "who": "ann", "n": number });
        start(&draft(&format!("r{number}"), keyed("render-${input.who}", 2), input));
    }
    start(&draft("z-other", keyed("render-${input.who}", 2), json!({ "who": "bob" })));
    let jobs: Vec<Job> = ["1", "2", "3"].into_iter().filter_map(take).collect();
    assert_eq!(jobs.iter().map(|job| job.run.as_str()).collect::<Vec<_>>(), ["r0", "r1", "z-other"]);
    assert_eq!(take("4"), None, "the others wait, and are not looked at again");
    assert!(READY.of(&()).is_empty(&snapshot().expect("a snapshot")).expect("read"));
    assert_eq!(states("r2"), ["s waiting"]);
    // One slot lets on one, the oldest.
    finish("1", &jobs[0]);
    assert_eq!(["r2", "r3", "r4"].map(|run| states(run).remove(0)), ["s ready", "s waiting", "s waiting"]);
    let view = snapshot().expect("a snapshot");
    let words = next_event(&view, &find(&view, "r4").expect("there"), 0, now_ms()).expect("read");
    assert_eq!(words, Next::Event("s: it waits for the key \"render-ann\", which 2 steps have".into()));
    let waiting = nodes().into_iter().find(|(run, _)| run == "r4").expect("there").1;
    assert_eq!(crate::tools::step(&waiting)["reason"], "waits for the key \"render-ann\"");
    finish("2", &jobs[1]);
    finish("3", &jobs[2]);
    run_all();
    assert_eq!(effects().len(), 6);
    let view = snapshot().expect("a snapshot");
    let left: Vec<_> = memory::entries().into_iter().filter(|(key, _)| key.starts_with(b"slots")).collect();
    assert_eq!((SLOTS.get(&view, "render-ann"), left.len()), (Ok(0), 0), "a key that nobody has takes no room");
}

#[test]
fn a_line_is_in_the_order_of_priority_and_age_and_each_step_has_its_own_limit() {
    clear();
    start(&draft("first", keyed("a", 3), Value::Null));
    let first = take("1").expect("a job");
    start(&draft("alone", keyed("a", 1), Value::Null));
    assert_eq!(take("2"), None, "it would be the second one");
    start(&draft("many", keyed("a", 3), Value::Null));
    assert_eq!(take("3"), None, "it does not pass the one before it");
    start(&Draft { priority: 0.5, ..draft("urgent", keyed("a", 3), Value::Null) });
    assert_eq!(take("4"), None, "it takes its place in the line");
    assert_eq!(["alone", "many", "urgent"].map(|run| states(run).remove(0)), ["s waiting", "s waiting", "s ready"]);
    let urgent = take("5").expect("it has its turn");
    finish("1", &first);
    assert_eq!(states("alone"), ["s waiting"], "the urgent one runs");
    finish("5", &urgent);
    assert_eq!((states("alone"), states("many")), (vec!["s ready".to_owned()], vec!["s ready".to_owned()]));
    run_all();
    assert_eq!(effects().len(), 4);
}

#[test]
fn a_slot_is_free_behind_a_failed_attempt_a_lost_lease_a_pause_and_a_cancel() {
    clear();
    let retry = json!({ "max_attempts": 2, "backoff_s": 0, "jitter": 0 });
    let steps = |tool: &str| json!([{ "step_id": "s", "action": tool, "retry": retry, "concurrency": { "key": "a", "limit": 1 } }]);
    let limits = BTreeMap::from([("a", 1)]);
    start(&draft("fails", steps("fail_1"), Value::Null));
    start(&draft("next", steps("echo"), Value::Null));
    let failing = take("1").expect("a job");
    assert_eq!(take("2"), None);
    finish("1", &failing);
    check(&limits);
    assert_eq!((states("fails"), states("next")), (vec!["s delayed".to_owned()], vec!["s ready".to_owned()]));
    // A retry waits in line again.
    let next = take("3").expect("a job");
    for (key, _) in memory::timers() {
        if key.starts_with("n:") {
            memory::take_timer(&key);
            wake(&key, "timer n").expect("delivered");
        }
    }
    assert_eq!(take("4"), None, "it waits in line");
    assert_eq!(states("fails"), ["s waiting"]);
    check(&limits);
    // Its handler is gone: with its lease the slot goes on.
    transact(|t| {
        let at = ("next".to_owned(), 0);
        let node = NODES.get(t, &at)?.expect("there");
        NODES.put(t, &at, &Node { state: State::Running { claim: "3".into(), until_ms: 1 }, ..node })
    })
    .expect("written");
    memory::take_timer("watch");
    upkeep::ring_watch(now_ms(), 100).expect("rung");
    check(&limits);
    assert_eq!((states("fails"), states("next")), (vec!["s ready".to_owned()], vec!["s ready".to_owned()]));
    let again = take("4").expect("a job");
    assert_eq!((again.run.as_str(), take("5")), ("fails", None));
    finish("3", &next);
    assert_eq!(states("next"), ["s waiting"], "it had lost its step");
    // By force a slot is free at once.
    transact(|t| cancel(t, "fails", ("no", true), Origin::Client, now_ms())).expect("cancelled");
    check(&limits);
    assert_eq!(states("next"), ["s ready"]);
    // Who is paused passes the turn on.
    start(&draft("last", steps("echo"), Value::Null));
    assert!(transact(|t| pause(t, "next", now_ms())).is_ok());
    let last = take("6").expect("a job");
    assert_eq!((last.run.as_str(), states("next")), ("last", vec!["s held".to_owned()]));
    finish("6", &last);
    // Who is cancelled leaves the line.
    transact(|t| resume(t, "next", Origin::Client, now_ms())).expect("resumed");
    start(&draft("over", steps("echo"), Value::Null));
    let next = take("7").expect("a job");
    assert_eq!((next.run.as_str(), take("8"), states("over")), ("next", None, vec!["s waiting".to_owned()]));
    transact(|t| cancel(t, "over", ("no", false), Origin::Client, now_ms())).expect("cancelled");
    assert_eq!(states("over"), ["s cancelled"]);
    check(&limits);
    finish("7", &next);
    run_all();
    check(&limits);
    assert_eq!(shown("next").0, "completed");
}

#[test]
fn steps_of_a_rate_begin_evenly() {
    clear();
    let step = |id: &str| json!({ "step_id": id, "action": "echo", "rate": { "key": "r", "limit": 10, "per_s": 20 } });
    start(&draft("r", json!([step("a"), step("b"), step("c")]), Value::Null));
    let now = now_ms();
    let at = |now: u64, delivery: &str| transact(|t| work::take(t, delivery, now + 60_000, now)).expect("taken");
    let first = at(now, "1").expect("the first begins at once");
    assert_eq!((first.number, at(now, "2")), (0, None));
    check(&BTreeMap::new());
    assert_eq!(memory::timers()["keys"].at_ms, now + 2_000);
    assert_eq!(states("r"), ["a running", "b waiting", "c waiting"]);
    keys::ring(now + 1_999).expect("rung");
    assert_eq!(states("r")[1], "b waiting", "the clock was set back: too soon");
    keys::ring(now + 2_000).expect("rung");
    check(&BTreeMap::new());
    assert_eq!(states("r"), ["a running", "b ready", "c waiting"]);
    // Who comes now, however urgent, stands behind the next one.
    start(&Draft { priority: 0.1, ..draft("urgent", json!([step("u")]), Value::Null) });
    assert_eq!(at(now + 2_100, "3").expect("b").number, 1);
    assert_eq!(states("urgent"), ["u waiting"]);
    transact(|t| cancel(t, "urgent", ("no", false), Origin::Client, now)).expect("cancelled");
    check(&BTreeMap::new());
    // The timer was late; the key makes up for it.
    assert_eq!(memory::timers()["keys"].at_ms, now + 4_000);
    let view = snapshot().expect("a snapshot");
    let run = find(&view, "r").expect("there");
    let waiting = nodes().remove(2).1;
    assert_eq!(
        next_of(&view, &run, &waiting, now + 4_000),
        Ok(Some(Next::Event("c: it waits for the rate of the key \"r\"".into())))
    );
    assert!(matches!(next_of(&view, &run, &waiting, now + 4_001 + GRACE_MS), Ok(Some(Next::Overdue(_)))));
    // A timer that the host gave up is set again by the watch, which rings until then.
    memory::take_timer("keys");
    memory::take_timer("watch");
    upkeep::ring_watch(now + 200_000, 100).expect("rung");
    assert!(memory::timers().contains_key("keys") && memory::timers().contains_key("watch"));
    // Much later it does not make up for the time in which its steps could have begun.
    keys::ring(now + 60_000).expect("rung");
    assert_eq!(at(now + 60_000, "4").expect("c").number, 2);
    let opens_us = OPENS.get(&snapshot().expect("a snapshot"), "r").expect("read").expect("there");
    assert_eq!(opens_us, (now + 61_000) * 1_000);
    keys::forget(now + 61_000).expect("forgotten");
    assert!(!OPENED.of(&()).is_empty(&snapshot().expect("a snapshot")).expect("read"));
    keys::forget(now + 62_001).expect("forgotten");
    assert_eq!(OPENS.get(&snapshot().expect("a snapshot"), "r"), Ok(None), "a key of the past takes no room");
}

#[test]
fn a_key_that_cannot_be_had_fails_its_step_and_a_condition_is_looked_at_first() {
    clear();
    let step = |id: &str, key: &str| json!({ "step_id": id, "action": "echo", "may_fail": true, "retry": { "max_attempts": 3 }, "concurrency": { "key": key, "limit": 1 } });
    let mut left_out = step("left_out", "${input.none}");
    left_out["when"] = json!({ "value": "${input.no}" });
    start(&draft(
        "r",
        json!([
            step("none", "${input.none}"),
            step("long", "${input.long}"),
            step("list", "${input.list}"),
            step("much", "k${input.much.0}"),
            step("number", "${input.number}"),
            left_out
        ]),
        json!({ "long": "k".repeat(257), "list": [], "number": 7, "no": false, "much": ["k"] }),
    ));
    let huge: Vec<u32> = (0..9_000).collect();
    start(&draft("large", json!([step("s", "k${input.much.0}")]), json!({ "much": huge })));
    run_all();
    let expected =
        ["none failed", "long failed", "list failed", "much completed", "number completed", "left_out skipped"];
    assert_eq!(states("r"), expected);
    let errors: Vec<String> = nodes().into_iter().filter_map(|(_, node)| node.error).collect();
    for (error, wanted) in errors.iter().zip([
        "what its placeholders are taken from takes",
        "at /concurrency/key: `${input.none}` has no value",
        "at /concurrency/key: a key has 1 to 256 bytes; this one has 257",
        "at /concurrency/key: a key is a text, a number or a boolean",
    ]) {
        assert!(error.contains(wanted), "{error}");
    }
    assert_eq!((errors.len(), effects().len()), (4, 2));
}

#[test]
fn items_wait_one_by_one_and_what_waits_costs_the_others_nothing() {
    clear();
    let items: Vec<u32> = (0..300).collect();
    let fan = json!([{ "step_id": "fan", "action": "echo", "inputs": { "n": "${item}" }, "for_each": { "items": items, "parallel": 100 }, "concurrency": { "key": "k-${item}", "limit": 1 } }]);
    start(&draft("each", fan, Value::Null));
    run_all();
    assert_eq!((shown("each").0, effects().len()), ("completed", 300), "each has a key of its own");
    clear();
    let limits = BTreeMap::from([("a", 1)]);
    let many: Vec<Value> = (0..400)
        .map(|number| json!({ "step_id": format!("s{number}"), "action": "echo", "concurrency": { "key": "a", "limit": 1 } }))
        .collect();
    start(&draft("many", many.into(), Value::Null));
    let first = take("1").expect("a job");
    while !READY.of(&()).is_empty(&snapshot().expect("a snapshot")).expect("read") {
        memory::spent();
        assert_eq!(take("2"), None);
        let spent = memory::spent();
        assert!(spent.writes < 2_000, "a transaction goes through a bounded number: {spent:?}");
    }
    start(&draft("other", keyed("b", 1), Value::Null));
    memory::spent();
    assert_eq!(take("3").map(|job| job.run), Some("other".to_owned()));
    finish("1", &first);
    let spent = memory::spent();
    assert!(spent.bytes < 64 << 10, "the line is not gone through: {spent:?}");
    check(&limits);
}

#[test]
fn a_handler_goes_past_more_steps_that_wait_than_one_transaction_does() {
    clear();
    let held = keyed("a", 1);
    start(&draft("first", held, Value::Null));
    let first = take("1").expect("a job");
    let many: Vec<Value> = (0..180)
        .map(|number| json!({ "step_id": format!("s{number}"), "action": "no", "may_fail": true, "concurrency": { "key": "${input}", "limit": 1 } }))
        .collect();
    start(&draft("many", many.into(), json!("a")));
    start(&draft("other", keyed("b", 1), Value::Null));
    work("2", 1).expect("worked");
    assert_eq!((effects().len(), shown("other").0), (1, "completed"));
    // Where the keys are of much, a transaction goes past fewer.
    clear();
    start(&draft("first", keyed("a", 1), Value::Null));
    let _still = (first, take("1").expect("a job"));
    let steps: Vec<Value> = (0..9)
        .map(|number| json!({ "step_id": format!("s{number}"), "action": "echo", "concurrency": { "key": "${input.key}", "limit": 1 } }))
        .collect();
    start(&draft("much", steps.into(), json!({ "key": "a", "text": "x".repeat(200_000) })));
    assert_eq!(take("2"), None);
    let waiting = states("much").iter().filter(|state| state.ends_with("waiting")).count();
    assert_eq!(waiting, 3, "each reads 200 KB");
}

#[test]
fn a_paused_run_and_a_fan_out_enter_no_line_and_the_watch_rings_while_one_waits() {
    clear();
    start(&draft("first", keyed("a", 1), Value::Null));
    let first = take("1").expect("a job");
    start(&draft("paused", keyed("a", 1), Value::Null));
    transact(|t| pause(t, "paused", now_ms())).expect("paused");
    assert_eq!((take("2"), states("paused")), (None, vec!["s held".to_owned()]));
    // A fan-out opens; its items wait.
    let fan = json!([{ "step_id": "fan", "action": "echo", "for_each": { "items": [1, 2] }, "concurrency": { "key": "a", "limit": 1 } }]);
    start(&draft("fan", fan, Value::Null));
    let opening = take("3").expect("it waits for nothing");
    finish("3", &opening);
    assert_eq!(
        (take("4"), states("fan")),
        (None, ["fan running", "fan/0 waiting", "fan/1 waiting"].map(str::to_owned).to_vec())
    );
    finish("1", &first);
    clear();
    let step = |id: &str| json!({ "step_id": id, "action": "echo", "rate": { "key": "r", "limit": 1, "per_s": 3600 } });
    start(&draft("r", json!([step("a"), step("b")]), Value::Null));
    run_all();
    assert_eq!(states("r"), ["a completed", "b waiting"]);
    memory::take_timer("watch");
    let now = now_ms();
    upkeep::ring_watch(now, 100).expect("rung");
    assert_eq!(memory::timers()["watch"].at_ms, now + upkeep::WATCH_MS);
}

#[test]
fn the_longest_key_of_a_run_with_the_longest_id_has_a_line() {
    clear();
    let step = json!([{ "step_id": "s", "action": "echo", "concurrency": { "key": "${input}", "limit": 1 }, "rate": { "key": "${input}", "limit": 1000, "per_s": 1 } }]);
    // A zero byte takes two in a key of the store.
    let key = json!("\0".repeat(256));
    let ids = ["a", "b", "c"].map(|id| id.repeat(128));
    for id in &ids {
        start(&draft(id, step.clone(), key.clone()));
    }
    let first = take("1").expect("a job");
    assert_eq!((take("2"), states(&ids[1])), (None, vec!["s waiting".to_owned()]));
    finish("1", &first);
    while deliver(1_000) {}
    assert_eq!(ids.map(|id| shown(&id).0), ["completed"; 3]);
}
