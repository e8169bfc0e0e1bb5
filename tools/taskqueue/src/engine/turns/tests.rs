//! Keys: turns, limits, rates, and what becomes of too much.

use mcpp_tool::store::{Transaction, memory, snapshot, transact};
use serde_json::json;

use super::*;
use crate::{
    engine::{self, ClaimRequest, Draft, Submission, claim_many, finish, look_after, submit_all},
    record::{Spec, State, Status},
    rules::{Claim, Outcome},
};

const NOW: u64 = 1_800_000_000_000;

fn run<T>(work: impl FnMut(&Transaction<'static>) -> Result<T, QueueError>) -> Result<T, QueueError> {
    transact(work)
}

/// Submits tasks of a key, `<key>-<number>`.
fn submit(key: &str, numbers: std::ops::Range<usize>, change: fn(&mut Spec)) -> Result<Vec<Task>, QueueError> {
    let all: Vec<usize> = numbers.collect();
    let mut submitted = Vec::new();
    for some in all.chunks(500) {
        let ids: Vec<String> = some.iter().map(|number| format!("{key}-{number:05}")).collect();
        let submission = |id: &String| {
            let mut spec = Spec { concurrency_key: Some(key.to_owned()), ..Spec::new("kind", &json!({})) };
            change(&mut spec);
            Submission { id: Some(id.clone()), not_before_ms: 0, spec }
        };
        let drafts: Vec<Draft> = ids.iter().map(|id| Draft::new(submission(id), id, NOW)).collect();
        submitted.extend(run(|t| submit_all(t, &drafts, NOW))?);
    }
    Ok(submitted)
}

fn claim(most: usize, now_ms: u64) -> Vec<String> {
    look_after(now_ms, 0.5).expect("looked after");
    let request = ClaimRequest { worker: "w", ..ClaimRequest::default() };
    let claimed = run(|t| claim_many(t, &request, most, now_ms)).expect("a claim is legal");
    claimed.into_iter().map(|task| task.id).collect()
}

fn complete(id: &str, now_ms: u64) {
    run(|t| finish(t, id, Claim::default(), Outcome::Completed(None), now_ms, 0.5)).expect("completed");
}

fn limit_key(line: Line<'_>, limit: &Limit) {
    run(|t| set_limit(t, line, limit, NOW)).expect("set");
}

fn state(id: &str) -> State {
    engine::find(&snapshot().expect("a snapshot"), id).expect("it is there").state
}

#[test]
fn a_key_with_a_long_line_takes_turns_with_others() {
    memory::clear();
    submit("many", 0..5_000, |_| {}).expect("submitted");
    assert_eq!(claim(4, NOW), ["many-00000", "many-00001", "many-00002", "many-00003"]);
    submit("few", 0..3, |_| {}).expect("submitted");
    submit("other", 0..3, |_| {}).expect("submitted");
    let mut order = Vec::new();
    for later in 1..10 {
        order.extend(claim(1, NOW + later));
    }
    let expected = [
        "many-00004",
        "few-00000",
        "other-00000",
        "many-00005",
        "few-00001",
        "other-00001",
        "many-00006",
        "few-00002",
        "other-00002",
    ];
    assert_eq!(order, expected, "one of each in turn, whoever came first");
    // Also in one claim, within a millisecond.
    submit("a", 0..20, |_| {}).expect("submitted");
    submit("b", 0..20, |_| {}).expect("submitted");
    let of_b = claim(12, NOW + 10).iter().filter(|id| id.starts_with("b-")).count();
    assert!((3..=5).contains(&of_b), "{of_b}");
    assert_eq!(in_line(&snapshot().expect("a snapshot"), (true, "few")), Ok([0, 0, 3]));
    memory::spent();
    claim(1, NOW + 20);
    assert!(memory::spent().ops < 100, "the length of a line costs nothing: {:?}", memory::spent());
}

/// How many claims are made until each task of `few` is given, while `many` has so many waiting.
fn claims_until_given(many: usize) -> Vec<usize> {
    memory::clear();
    submit("many", 0..many, |_| {}).expect("submitted");
    claim(1, NOW);
    submit("few", 0..20, |_| {}).expect("submitted");
    let given = (1_u64..100).flat_map(|later| claim(1, NOW + later));
    given.enumerate().filter(|(_, id)| id.starts_with("few-")).map(|(before, _)| before + 1).collect()
}

#[test]
fn a_long_line_at_most_doubles_the_wait_of_another_key() {
    let (alone, beside) = (claims_until_given(0), claims_until_given(20_000));
    assert_eq!((alone.len(), beside.len()), (20, 20));
    for (number, (alone, beside)) in alone.iter().zip(&beside).enumerate() {
        assert!(*beside <= 2 * alone, "task {number}: {beside} claims instead of {alone}");
    }
}

#[test]
fn only_so_many_tasks_of_a_key_run_at_once_and_the_limit_can_change() {
    memory::clear();
    limit_key((true, "k"), &Limit { concurrency: Some(2), ..Limit::default() });
    submit("k", 0..9, |_| {}).expect("submitted");
    submit("free", 0..1, |_| {}).expect("submitted");
    assert_eq!(claim(9, NOW), ["k-00000", "free-00000", "k-00001"]);
    assert!(claim(9, NOW).is_empty());
    complete("k-00000", NOW);
    assert_eq!(claim(9, NOW), ["k-00002"]);
    limit_key((true, "k"), &Limit { concurrency: Some(4), ..Limit::default() });
    assert_eq!(claim(9, NOW), ["k-00003", "k-00004"]);
    // Lowered while one is ready already.
    complete("k-00001", NOW);
    assert_eq!(state("k-00005"), State::Ready);
    limit_key((true, "k"), &Limit { concurrency: Some(1), ..Limit::default() });
    assert!(claim(9, NOW).is_empty() && state("k-00005") == State::Held);
    for id in ["k-00002", "k-00003", "k-00004"] {
        complete(id, NOW);
    }
    assert_eq!(claim(9, NOW), ["k-00005"]);
    limit_key((true, "k"), &Limit::default());
    assert_eq!(claim(9, NOW).len(), 3, "without a limit");
}

#[test]
fn tasks_of_a_rate_key_begin_evenly_also_from_several_lines() {
    memory::clear();
    limit_key((false, "r"), &Limit { rate: Some(4), ..Limit::default() });
    submit("a", 0..10, |spec| spec.rate_key = Some("r".into())).expect("submitted");
    submit("b", 0..10, |spec| spec.rate_key = Some("r".into())).expect("submitted");
    let mut begun = Vec::new();
    for later in (0..3_000).step_by(10) {
        begun.extend(claim(9, NOW + later).into_iter().map(|id| (id, later)));
    }
    let times: Vec<u64> = begun.iter().map(|(_, at)| *at).collect();
    assert_eq!(times, (0..3_000).step_by(250).collect::<Vec<u64>>());
    assert!(
        begun[..6].iter().filter(|(id, _)| id.starts_with('b')).count() >= 2,
        "both lines have their turns: {begun:?}"
    );
    // The alarm lets the next one on by itself.
    let timer = memory::timers().get("upkeep").cloned().expect("the alarm is set");
    assert!(timer.at_ms <= NOW + 3_000, "{timer:?}");
    engine::wake(NOW + 3_000, 0.5).expect("it rings");
    let ready = [("a", 0..10), ("b", 0..10)]
        .into_iter()
        .flat_map(|(key, numbers)| numbers.map(move |number: i32| state(&format!("{key}-{number:05}"))));
    assert!(ready.filter(|state| *state == State::Ready).count() >= 1);
}

#[test]
fn what_is_too_much_waits_or_is_refused_or_cancels_the_oldest() {
    for overflow in [Overflow::Queue, Overflow::DropNewest, Overflow::CancelOldest] {
        memory::clear();
        limit_key((true, "k"), &Limit { max_waiting: Some(3), overflow, ..Limit::default() });
        submit("k", 0..4, |_| {}).expect("one is next, three wait");
        let fifth = submit("k", 4..5, |_| {});
        let cancelled = state("k-00001") == State::Cancelled;
        let [held, ready, _] = in_line(&snapshot().expect("a snapshot"), (true, "k")).expect("counted");
        match overflow {
            Overflow::Queue => assert!(fifth.is_ok() && !cancelled && held == 4),
            Overflow::DropNewest => {
                assert!(fifth == Err(QueueError::Invalid(format!("tasks/0: {}", Refused::Full))) && held == 3)
            }
            Overflow::CancelOldest => assert!(fifth.is_ok() && cancelled && held == 3),
        }
        assert_eq!(ready, 1);
        assert_eq!(claim(1, NOW), ["k-00000"]);
        assert_eq!(
            engine::find(&snapshot().expect("a snapshot"), "k-00000").expect("it is there").status(),
            Status::Running
        );
    }
}

#[test]
fn waiting_raises_the_priority_where_that_is_wanted() {
    let submit_at = |id: &str, priority: f64, now_ms: u64| {
        let spec = Spec { priority, ..Spec::new("kind", &json!({})) };
        let draft = Draft::new(Submission { id: Some(id.to_owned()), not_before_ms: 0, spec }, "", now_ms);
        run(|t| engine::submit(t, &draft, now_ms)).expect("submitted");
    };
    for (step_s, expected) in [(None, ["higher", "high", "low"]), (Some(60), ["higher", "low", "high"])] {
        memory::clear();
        crate::rpc::handle(&json!({ "op": "configure", "age_s": step_s.unwrap_or(0) }));
        let now = mcpp_tool::environment::now_ms();
        submit_at("low", 1.0, now);
        // A minute is one priority: after ten of them "low" stands before one of priority 10.
        submit_at("higher", 20.0, now + 60_000);
        submit_at("high", 10.0, now + 600_000);
        assert_eq!(claim(9, now + 600_000), expected);
    }
}
