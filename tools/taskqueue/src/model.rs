//! Random histories of the queue, held to its promises. After every step:
//!
//! *counts*: indexes and counts agree with the records; *found*: every acknowledged task is found; *one-lease*: a task is held by one worker, and a token that was given before its last claim
//! changes nothing; *order*: a claim gives the best task that its worker may have, and none only if there is none; *dependencies*: nothing runs before what it depends on is
//! completed; *attempts*: never more than there may be; *paused*: nothing is handed out; *room*: nor to a worker that has as many as it may, or is leaving; *all-or-none*: what is submitted
//! together is there together; *turns*: a key never has more running than it may, nor begins more than its rate allows, and has a task ready if it may have one; *whole*: where a
//! commit fails, all of it is there, or nothing.

pub(crate) mod agreement;
mod claiming;
mod failing;
mod history;

use std::collections::{BTreeMap, BTreeSet};

use mcpp_tool::store::{StoreError, Transaction, View, memory, snapshot, transact};
use proptest::prelude::*;
use serde_json::json;

use self::{
    agreement::agree,
    history::{Op, Wish, op},
};
use crate::{
    engine::{self, Draft, Limit, QueueError, Submission},
    queue::{self, KEYS, Paused, Settings, TASKS, set_settings, settings},
    record::{Aging, PartingWord, Spec, State, Status, Task, Worker},
    rules::Claim,
};

const WORKERS_NAMES: [&str; 3] = ["w0", "w1", "w2"];
/// Concurrency keys (true) and rate keys.
const LINES: [(bool, &str); 4] = [(true, "k0"), (true, "k1"), (false, "k0"), (false, "r")];
const TYPES: [&str; 3] = ["a", "b", "generation"];

/// The task that a claim gave, and to which worker.
#[derive(Debug, Clone)]
struct Given {
    task: String,
    worker: String,
    token: u64,
}

#[derive(Default)]
struct Play {
    now: u64,
    /// Every task that was acknowledged.
    acknowledged: Vec<String>,
    /// Those of them that were seen to have ended.
    ended: BTreeSet<String>,
    given: Vec<Given>,
    next_id: u64,
    /// The limits of the keys.
    limits: BTreeMap<usize, Limit>,
    /// How large payloads are.
    fill_bytes: usize,
}

fn tasks(t: &View<'_>) -> BTreeMap<String, Task> {
    TASKS
        .all()
        .walk(t)
        .map(|row| row.map(|(_, task)| (task.id.clone(), task)))
        .collect::<Result<_, _>>()
        .expect("readable")
}

fn run<T>(work: impl FnMut(&Transaction<'static>) -> Result<T, QueueError>) -> Result<T, QueueError> {
    let result = transact(work);
    assert!(!matches!(result, Err(QueueError::Store(_))), "the store refuses: {:?}", result.err());
    result
}

impl Play {
    fn step(&mut self, op: &Op) -> Result<(), TestCaseError> {
        let now = self.now;
        match op {
            Op::Submit(wish) => self.submit(wish)?,
            Op::SubmitMany(wishes) => self.submit_many(wishes)?,
            Op::Claim { worker, types, session, most, same_type } => {
                self.claim(WORKERS_NAMES[*worker], *types, *session, *most, *same_type)?;
            }
            Op::FinishMany(ends) => self.finish_many(ends)?,
            Op::Finish { which, outcome, token_of, token } => self.finish(*which, *outcome, *token_of, *token)?,
            Op::Late(ms) => self.now += ms,
            Op::Renew { which, token_of } => {
                let Some((given, by)) = self.pick(*which, *token_of) else { return Ok(()) };
                let before = self.task(&given.task);
                let renewed = run(|t| engine::renew(t, &given.task, by.claim(), now));
                prop_assert_eq!(renewed.is_ok(), is_held_by(before.as_ref(), &by), "one-lease: renew");
            }
            Op::Release(which) => {
                let Some((given, by)) = self.pick(*which, *which) else { return Ok(()) };
                let before = self.task(&given.task);
                let released = run(|t| engine::release(t, &given.task, by.claim(), "why not", now));
                let may = is_held_by(before.as_ref(), &by);
                prop_assert!(released.is_ok() || !may, "one-lease: release");
                if !may {
                    // The last holder may say it again.
                    let parted = before.as_ref().and_then(|task| task.parting.as_ref()).map(|parting| parting.word);
                    prop_assert!(released.is_err() || parted == Some(PartingWord::Released), "one-lease: release");
                    prop_assert_eq!(self.task(&given.task), before, "one-lease: a release changed something");
                }
            }
            Op::Cancel { which, force } => {
                let Some(id) = self.acknowledged.get(*which).cloned() else { return Ok(()) };
                let before = self.task(&id);
                let cancelled = run(|t| engine::cancel(t, &id, "no", *force, now));
                let may = before.is_some_and(|task| match task.status() {
                    Status::Queued => true,
                    Status::Running => *force,
                    _ => false,
                });
                prop_assert_eq!(cancelled.is_ok(), may);
            }
            Op::Priority(which, priority) => {
                let Some(id) = self.acknowledged.get(*which).cloned() else { return Ok(()) };
                let _it_may_have_ended =
                    run(|t| engine::set_priority(t, &id, f64::from(*priority), *priority % 2 == 0, now));
            }
            Op::Retry(which) => {
                let Some(id) = self.acknowledged.get(*which).cloned() else { return Ok(()) };
                if let Ok((task, _)) = run(|t| engine::retry(t, &id, None, None, now)) {
                    self.acknowledged.push(task.id);
                }
            }
            Op::Pause(pause) => set(|settings| {
                settings.paused = pause.then(|| Paused { since_ms: now, reason: None });
            }),
            Op::Wait(ms) => self.wait(*ms)?,
            Op::Register(worker, most) => {
                run(|t| engine::register(t, registered(*worker, *most, now))).expect("registered");
            }
            Op::Unregister(worker, graceful) => {
                let patience = graceful.then_some(1_000);
                let _it_may_be_unknown = run(|t| engine::unregister(t, WORKERS_NAMES[*worker], patience, now));
            }
            Op::Limit { line, concurrency, rate } => {
                let limit = limited(*concurrency, *rate);
                self.limits.insert(*line, limit.clone());
                run(|t| engine::set_limit(t, LINES[*line], &limit, now)).expect("set");
            }
            Op::Age(step_ms) => set(|settings| {
                settings.aging = step_ms.map(|step_ms| Aging { since_ms: now, step_ms });
            }),
            Op::Park => {
                memory::take_timer("upkeep");
                self.now += 1_000_000;
                self.claim(WORKERS_NAMES[0], 0, true, 1, false)?;
            }
            Op::Keep(tasks) => set(|settings| settings.keep_tasks = *tasks),
            Op::Broken(op, after, failure) => self.broken(op, *after, *failure)?,
            Op::FailingTimer { after_ms, fails_at, gives_up } => self.failing_timer(*after_ms, fails_at, *gives_up)?,
        }
        Ok(())
    }

    fn new_id(number: u64, wish: &Wish) -> String {
        // As an earlier version took them: with white space at the end.
        format!("t {number:03}{}", if wish.depends_on.is_some() { "\u{a0}" } else { "" })
    }

    /// The submission that a wish is, its new id, and the id of the task that it depends on.
    fn submission(&mut self, wish: &Wish) -> (Submission, String, Option<String>) {
        self.next_id += 1;
        let new_id = Self::new_id(self.next_id, wish);
        let depends_on = wish.depends_on.and_then(|which| self.acknowledged.get(which).cloned());
        let spec = Spec {
            priority: f64::from(wish.priority),
            dependencies: depends_on.clone().into_iter().collect(),
            session: wish.session.then(|| "s".to_owned()),
            sticky_worker: wish.sticky.map(|worker| WORKERS_NAMES[worker].to_owned()),
            idempotency_key: wish.key.map(|key| format!("key-{key}")),
            concurrency_key: wish.line.filter(|line| LINES[*line].0).map(|line| LINES[line].1.to_owned()),
            rate_key: wish.line.filter(|line| !LINES[*line].0).map(|line| LINES[line].1.to_owned()),
            max_attempts: wish.max_attempts,
            timeout_ms: wish.timeout_ms,
            ..Spec::new(TYPES[wish.task_type], &json!({ "work": wish.task_type, "fill": "x".repeat(self.fill_bytes) }))
        };
        (Submission { id: None, not_before_ms: self.now + wish.delay_ms, spec }, new_id, depends_on)
    }

    /// All or none: if one is refused, or all together are too large, nothing has changed.
    fn submit_many(&mut self, wishes: &[Wish]) -> Result<(), TestCaseError> {
        let made: Vec<_> = wishes.iter().map(|wish| self.submission(wish)).collect();
        let now = self.now;
        let drafts: Vec<Draft> = made.iter().map(|(one, id, _)| Draft::new(one.clone(), id, now)).collect();
        let ids: Vec<String> = made.iter().map(|(_, id, _)| id.clone()).collect();
        let before = memory::entries();
        match transact(|t| engine::submit_all(t, &drafts, now)) {
            Ok(tasks) => {
                prop_assert_eq!(tasks.len(), wishes.len());
                for (task, id) in tasks.iter().zip(&ids) {
                    // Another one was known by its key before, or by one of this batch.
                    if task.id == *id {
                        self.acknowledged.push(id.clone());
                    } else {
                        prop_assert!(task.spec.idempotency_key.is_some() && self.task(&task.id).is_some());
                    }
                }
            }
            Err(QueueError::Invalid(reason)) => {
                prop_assert!(reason.starts_with("tasks/"), "{}", reason);
                prop_assert_eq!(memory::entries(), before, "all-or-none: something is left of {}", reason);
            }
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        }
        Ok(())
    }

    fn submit(&mut self, wish: &Wish) -> Result<(), TestCaseError> {
        let (submission, new_id, depends_on) = self.submission(wish);
        let known = submission.spec.idempotency_key.clone().and_then(|key| {
            let t = &snapshot().expect("a snapshot");
            KEYS.get(t, &key).expect("readable")
        });
        let now = self.now;
        let draft = Draft::new(submission, &new_id, now);
        match run(|t| engine::submit(t, &draft, now)) {
            Ok(task) => {
                prop_assert_eq!(&task.id, known.as_ref().unwrap_or(&new_id));
                if known.is_none() {
                    self.acknowledged.push(task.id);
                }
            }
            Err(QueueError::OtherWork(_)) => prop_assert!(known.is_some()),
            Err(QueueError::Invalid(reason)) => {
                let parent = depends_on.and_then(|id| self.task(&id)).map(|task| task.status());
                prop_assert!(
                    !matches!(parent, Some(Status::Queued | Status::Running | Status::Completed)),
                    "{}",
                    reason
                );
            }
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        }
        Ok(())
    }

    /// One of the claims, and the worker and token of one, which may be another's of the same task.
    fn pick(&self, which: usize, token_of: usize) -> Option<(Given, Given)> {
        let given = self.given.get(which % self.given.len().max(1))?.clone();
        let of_the_same: Vec<&Given> = self.given.iter().filter(|other| other.task == given.task).collect();
        let by = (*of_the_same.get(token_of % of_the_same.len())?).clone();
        Some((given, by))
    }

    fn task(&self, id: &str) -> Option<Task> {
        queue::find(&snapshot().expect("a snapshot"), id).expect("readable")
    }

    fn wait(&mut self, ms: u64) -> Result<(), TestCaseError> {
        self.now += ms;
        // The host wakes the timer as often as it is due.
        for _ in 0..50 {
            let due = memory::timers().get("upkeep").is_some_and(|timer| timer.at_ms <= self.now);
            if !due {
                return Ok(());
            }
            let now = self.now;
            // The host removes a timer that it delivers, unless its handler sets it anew.
            memory::take_timer("upkeep");
            engine::wake(now, 0.5).map_err(|error| TestCaseError::fail(error.to_string()))?;
            self.check()?;
            self.now += 20;
        }
        Err(TestCaseError::fail("the timer never rests"))
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        self.check_but_the_timer()?;
        self.check_timer(0)?;
        let t = &snapshot().expect("a snapshot");
        self.check_turns(t, &tasks(t))
    }

    /// Holds that the timer wakes when something is due, or so many milliseconds from now at the latest.
    fn check_timer(&self, patience_ms: u64) -> Result<(), TestCaseError> {
        let timer = memory::timers().get("upkeep").map(|timer| timer.at_ms);
        for task in tasks(&snapshot().expect("a snapshot")).values() {
            let due = match &task.state {
                State::Delayed { until_ms } => Some(*until_ms),
                State::Running(lease) => Some(lease.until_ms),
                _ => None,
            };
            // One that was lost is set for now.
            let latest = due.map(|due| due.max(self.now + patience_ms));
            prop_assert!(
                latest.is_none_or(|latest| timer.is_some_and(|timer| timer <= latest)),
                "found: nobody will look: {:?}",
                task
            );
        }
        Ok(())
    }

    /// Everything that also holds while the host tries to deliver the timer.
    fn check_but_the_timer(&mut self) -> Result<(), TestCaseError> {
        let t = &snapshot().expect("a snapshot");
        let all = tasks(t);
        for id in std::mem::take(&mut self.acknowledged) {
            // Only what has ended is ever forgotten.
            match all.get(&id) {
                Some(task) if task.status().is_final() => drop(self.ended.insert(id.clone())),
                Some(_) => {}
                None => prop_assert!(self.ended.contains(&id), "found: {} is lost", id),
            }
            if all.contains_key(&id) {
                self.acknowledged.push(id);
            }
        }
        for task in all.values() {
            prop_assert!(task.spec.max_attempts == 0 || task.attempt <= task.spec.max_attempts, "attempts: {:?}", task);
            let waits = !task.waiting_for.is_empty();
            match task.state {
                State::Blocked => prop_assert!(waits, "dependencies: it waits for nothing: {:?}", task),
                State::Held | State::Ready | State::Running(_) | State::Completed => {
                    prop_assert!(!waits, "dependencies: {:?}", task)
                }
                State::Delayed { .. } | State::Failed | State::Cancelled => {}
            }
        }
        agree(t, &all).map_err(|what| TestCaseError::fail(format!("counts: {what}")))
    }
}

/// A worker that takes so many tasks at once.
fn registered(worker: usize, most: u32, now: u64) -> Worker {
    Worker {
        id: WORKERS_NAMES[worker].into(),
        capabilities: Vec::new(),
        max_concurrent_tasks: most,
        resource_limits: None,
        metadata: None,
        registered_ms: now,
        seen_ms: now,
        leaves_ms: None,
    }
}

/// The limits of a key, the rate in a second.
fn limited(concurrency: Option<u32>, rate: Option<u32>) -> Limit {
    Limit { concurrency, rate, period_ms: Some(1_000), ..Limit::default() }
}

impl Given {
    fn claim(&self) -> Claim<'_> {
        Claim { worker: Some(&self.worker), token: Some(self.token) }
    }
}

fn is_held_by(task: Option<&Task>, by: &Given) -> bool {
    task.is_some_and(|task| task.worker() == Some(&*by.worker) && task.fencing_token == by.token)
}

fn set(change: impl Fn(&mut Settings)) {
    let set: Result<(), StoreError> = transact(|t| {
        let mut settings = settings(t)?;
        change(&mut settings);
        set_settings(t, &settings)
    });
    set.expect("set");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn any_history_keeps_the_promises(ops in prop::collection::vec(op(), 1..60)) {
        memory::clear();
        let mut play = Play { now: 1_000_000, ..Play::default() };
        for op in &ops {
            play.step(op)?;
            play.check()?;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn a_history_of_the_largest_payloads_keeps_them_too(ops in prop::collection::vec(op(), 20..40)) {
        memory::clear();
        let fill_bytes = engine::MAX_PAYLOAD_BYTES - 100;
        let mut play = Play { now: 1_000_000, fill_bytes, ..Play::default() };
        for op in &ops {
            play.step(op)?;
            play.check()?;
        }
    }
}
