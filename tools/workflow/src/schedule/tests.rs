use mcpp_tool::{
    environment::{now_ms, parse_rfc3339, rfc3339},
    store::{
        StoreError,
        memory::{self, Failure},
        snapshot, transact,
    },
};
use serde_json::json;

use super::*;
use crate::engine::tests::{clear, draft, effects, run_all};
use crate::store::RUNS;

#[test]
fn times_follow_the_clock_of_the_zone_over_its_changes() {
    let next = |cron: &str, zone: &str, after: &str| {
        next_time(cron, zone, parse_rfc3339(after).expect("a time")).expect("legal").map(rfc3339)
    };
    for (cron, zone, after, time) in [
        ("*/5 * * * *", "UTC", "2026-11-27T13:42:00Z", "2026-11-27T13:45:00Z"),
        ("30 9 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", "2026-10-25T08:30:00Z"),
        ("30 9 * * *", "Europe/Berlin", "2026-07-01T12:00:00Z", "2026-07-02T07:30:00Z"),
        // On the day on which 02:30 is left out.
        ("0 0 1 1 *", "America/New_York", "2026-06-01T00:00:00Z", "2027-01-01T05:00:00Z"),
        ("0 12 * * MON", "UTC", "2026-11-27T00:00:00Z", "2026-11-30T12:00:00Z"),
    ] {
        assert_eq!(next(cron, zone, after).as_deref(), Some(time), "{cron} {zone}");
    }
    assert_eq!(next("0 0 30 2 *", "UTC", "2026-11-27T00:00:00Z"), None);
    for (cron, zone) in [("61 * * * *", "UTC"), ("* * * * *", "Mars/Base"), ("", "UTC"), (&*"*".repeat(200), "UTC")] {
        assert!(next_time(cron, zone, 0).is_err(), "{cron} {zone}");
    }
}

fn every_minute(overlap: Overlap, next_ms: u64) -> Schedule {
    Schedule {
        name: "s".into(),
        cron: Some("* * * * *".into()),
        time_zone: "UTC".into(),
        overlap,
        catch_up_ms: 150_000,
        is_paused: false,
        steps: draft("x", json!([{ "step_id": "w", "action": "wait", "inputs": { "signal": "go" } }]), Value::Null)
            .steps,
        tags: vec!["nightly".into()],
        input: Value::Null,
        by: "test".into(),
        rights: Rights::default(),
        next_ms: Some(next_ms),
        last_run: None,
        runs: 0,
        left_out: 0,
        last_error: None,
    }
}

fn seen() -> Schedule {
    schedule(&snapshot().expect("a snapshot"), "s").expect("there")
}

#[test]
fn a_time_begins_one_run_and_what_is_too_late_or_overlaps_is_left_out() {
    const MINUTE: u64 = 60_000;
    let now = now_ms() / MINUTE * MINUTE;
    for (overlap, running, ended) in [(Overlap::Skip, 1, 0), (Overlap::Allow, 2, 0), (Overlap::Cancel, 1, 1)] {
        clear();
        transact(|t| put(t, &every_minute(overlap, now))).expect("written");
        due("s", now).expect("due");
        // A delivery that comes again finds another time.
        due("s", now).expect("due");
        assert_eq!((seen().runs, seen().next_ms), (1, Some(now + MINUTE)));
        run_all();
        due("s", now + MINUTE).expect("due");
        run_all();
        let t = snapshot().expect("a snapshot");
        let count = |status: &str| crate::store::LISTED_COUNTS.get(&t, &(status, "nightly")).expect("read");
        assert_eq!((count("running"), count("cancelled")), (running, ended), "{overlap:?}");
        assert_eq!(memory::timers()["s:s"].at_ms, now + 2 * MINUTE);
    }
    // The host was down for ten minutes: what is within the window begins, what is older does not.
    clear();
    transact(|t| put(t, &every_minute(Overlap::Allow, now))).expect("written");
    let back = now + 10 * MINUTE;
    while seen().next_ms.expect("a time") <= back {
        due("s", back).expect("due");
    }
    assert_eq!((seen().runs, seen().left_out), (3, 8), "{:?}", seen());
    assert_eq!(effects(), Vec::<String>::new());
}

#[test]
fn a_pause_takes_the_timer_away_and_one_time_is_one_run() {
    clear();
    let now = now_ms();
    let once = Schedule { cron: None, ..every_minute(Overlap::Skip, now) };
    transact(|t| put(t, &Schedule { is_paused: true, ..once.clone() })).expect("written");
    assert!(!memory::timers().contains_key("s:s"));
    due("s", now).expect("due");
    assert_eq!(seen().runs, 0);
    transact(|t| put(t, &once)).expect("written");
    due("s", now).expect("due");
    assert_eq!((seen().runs, seen().next_ms, memory::timers().contains_key("s:s")), (1, None, false));
}

/// Nothing but its next time is in the way of a schedule.
fn submit_other(id: &str) {
    let other = crate::engine::Draft {
        id: id.into(),
        ..draft("x", json!([{ "step_id": "other", "action": "echo" }]), Value::Null)
    };
    let graph = other.check(&crate::validate::Blind).expect("legal");
    transact(|t| crate::engine::submit(t, &other, &graph, crate::engine::Origin::Client, 1)).expect("submitted");
}

#[test]
fn an_error_is_noted_and_the_schedule_goes_on() {
    const MINUTE: u64 = 60_000;
    let now = now_ms() / MINUTE * MINUTE;
    // Another client has taken the id of the run.
    clear();
    transact(|t| put(t, &every_minute(Overlap::Allow, now))).expect("written");
    submit_other(&format!("s-{now}"));
    due("s", now).expect("noted");
    assert!(seen().last_error.is_some_and(|error| error.contains("submitted before with other work")));
    assert_eq!((seen().runs, seen().next_ms), (0, Some(now + MINUTE)));
    assert_eq!(memory::timers()["s:s"].at_ms, now + MINUTE);
    due("s", now + MINUTE).expect("due");
    assert_eq!((seen().runs, seen().last_error), (1, None));
    // One time only: it is over.
    let once = Schedule { cron: None, ..every_minute(Overlap::Allow, now) };
    transact(|t| put(t, &once)).expect("written");
    due("s", now).expect("noted");
    assert!(seen().last_error.is_some() && seen().next_ms.is_none());
    // An expression that is not legal any more.
    let broken = Schedule { cron: Some("never".into()), ..every_minute(Overlap::Allow, now) };
    transact(|t| put(t, &broken)).expect("written");
    due("s", now).expect("noted");
    assert!(seen().last_error.is_some_and(|error| error.contains("no cron expression")));
}

#[test]
fn a_time_that_the_store_has_no_room_for_is_tried_again_until_it_is_too_late() {
    const MINUTE: u64 = 60_000;
    let now = now_ms() / MINUTE * MINUTE;
    for error in [StoreError::QuotaExceeded, StoreError::Unavailable, StoreError::OutcomeUnknown] {
        clear();
        transact(|t| put(t, &every_minute(Overlap::Allow, now))).expect("written");
        memory::fail_commit(1, Failure::Lost(error));
        due("s", now).expect("noted");
        assert!(memory::mend());
        assert_eq!((seen().runs, seen().next_ms, seen().last_error), (0, Some(now), Some(error.to_string())));
        assert_eq!(memory::timers()["s:s"].at_ms, now + 30_000);
        due("s", now + 30_000).expect("due");
        assert_eq!((seen().runs, seen().next_ms, seen().last_error), (1, Some(now + MINUTE), None));
        assert!(RUNS.get(&snapshot().expect("a snapshot"), &format!("s-{now}")).expect("read").is_some());
    }
    // Even where nothing can be noted it rings again.
    clear();
    transact(|t| put(t, &every_minute(Overlap::Allow, now))).expect("written");
    memory::take_timer("s:s");
    memory::fail_commit(0, Failure::Lost(StoreError::Unavailable));
    due("s", now).expect_err("the host calls again");
    due("s", now).expect("due");
    assert_eq!(memory::timers()["s:s"].at_ms, now + MINUTE);
    // What comes too late is left out, and the reason stays.
    memory::fail_commit(1, Failure::Lost(StoreError::QuotaExceeded));
    due("s", now + MINUTE).expect("noted");
    due("s", now + 10 * MINUTE).expect("due");
    assert!(seen().last_error.is_some() && seen().left_out > 0, "{:?}", seen());
}

#[test]
fn a_time_for_which_there_is_only_the_reserve_is_tried_again() {
    const MINUTE: u64 = 60_000;
    clear();
    let now = now_ms() / MINUTE * MINUTE;
    transact(|t| put(t, &every_minute(Overlap::Allow, now))).expect("written");
    let used_bytes = snapshot().expect("a snapshot").usage().expect("known").used_bytes;
    memory::set_quota(used_bytes + 1_000);
    due("s", now).expect("noted");
    let seen_full = seen();
    assert_eq!((seen_full.runs, seen_full.next_ms), (0, Some(now)));
    assert!(
        seen_full.last_error.as_ref().is_some_and(|error| error.contains("to the ends of the runs")),
        "{seen_full:?}"
    );
    memory::set_quota(1 << 20);
    due("s", now + 30_000).expect("due");
    assert_eq!((seen().runs, seen().last_error), (1, None));
}

#[test]
fn a_time_that_rings_a_little_late_begins_also_without_catching_up() {
    let now = now_ms() / 1_000 * 1_000;
    let every_second =
        |catch_up_ms| Schedule { cron: Some("* * * * * *".into()), catch_up_ms, ..every_minute(Overlap::Allow, now) };
    clear();
    transact(|t| put(t, &every_second(0))).expect("written");
    for second in 0..4 {
        due("s", now + second * 1_000 + 20).expect("due");
    }
    assert_eq!((seen().runs, seen().left_out), (4, 0));
    // It rings three seconds late: the latest time begins.
    due("s", now + 7_020).expect("due");
    assert_eq!((seen().runs, seen().left_out, seen().next_ms), (5, 3, Some(now + 8_000)));
    // The host was down.
    let once = Schedule { cron: None, ..every_second(0) };
    transact(|t| put(t, &once)).expect("written");
    due("s", now + 60_000).expect("due");
    assert_eq!((seen().runs, seen().left_out, seen().next_ms), (0, 1, None));
    // All times of a gap are counted.
    transact(|t| put(t, &every_second(3_000))).expect("written");
    let back = now + 14_000;
    while seen().next_ms.expect("a time") <= back {
        due("s", back).expect("due");
    }
    assert_eq!((seen().runs, seen().left_out), (4, 11));
    // Of a year not all are.
    transact(|t| put(t, &every_second(0))).expect("written");
    let year = now + 366 * 24 * 3_600_000;
    due("s", year).expect("due");
    assert_eq!((seen().runs, seen().left_out), (0, 10_000));
    assert!(seen().next_ms.is_some_and(|next| next <= year + 1_000));
}
