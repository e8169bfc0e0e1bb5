//! Random histories of the queue, held to its promises. After every step:
//!
//! *counts*: indexes and counts agree with the records; *found*: every acknowledged task is found; *one-lease*: a task is held by one worker, and a token that was given before its last claim
//! changes nothing; *order*: a claim gives the best task that its worker may have, and none only if there is none; *dependencies*: nothing runs before what it depends on is
//! completed; *attempts*: never more than there may be; *paused*: nothing is handed out; *room*: nor to a worker that has as many as it may, or is leaving.

pub(crate) mod agreement;
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
    engine::{self, ClaimRequest, QueueError, Submission},
    queue::{self, KEYS, Paused, RUNNING, Settings, TASKS, WORKERS, canonical_type, rank, set_settings, settings},
    record::{Spec, State, Status, Task, Worker},
    rules::{Claim, Outcome, Refused},
};

const WORKERS_NAMES: [&str; 3] = ["w0", "w1", "w2"];
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
            Op::Claim(worker, types, session) => self.claim(WORKERS_NAMES[*worker], *types, *session)?,
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
                prop_assert_eq!(released.is_ok(), is_held_by(before.as_ref(), &by), "one-lease: release");
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
                let worker = Worker {
                    id: WORKERS_NAMES[*worker].into(),
                    capabilities: Vec::new(),
                    max_concurrent_tasks: *most,
                    resource_limits: None,
                    metadata: None,
                    registered_ms: now,
                    seen_ms: now,
                    leaves_ms: None,
                };
                run(|t| engine::register(t, worker.clone())).expect("registered");
            }
            Op::Unregister(worker, graceful) => {
                let patience = graceful.then_some(1_000);
                let _it_may_be_unknown = run(|t| engine::unregister(t, WORKERS_NAMES[*worker], patience, now));
            }
            Op::Keep(tasks) => set(|settings| settings.keep_tasks = *tasks),
        }
        Ok(())
    }

    fn submit(&mut self, wish: &Wish) -> Result<(), TestCaseError> {
        self.next_id += 1;
        // As an earlier version took them: with white space at the end.
        let new_id = format!("t {:03}{}", self.next_id, if wish.depends_on.is_some() { "\u{a0}" } else { "" });
        let depends_on = wish.depends_on.and_then(|which| self.acknowledged.get(which).cloned());
        let spec = Spec {
            priority: f64::from(wish.priority),
            dependencies: depends_on.clone().into_iter().collect(),
            session: wish.session.then(|| "s".to_owned()),
            sticky_worker: wish.sticky.map(|worker| WORKERS_NAMES[worker].to_owned()),
            idempotency_key: wish.key.map(|key| format!("key-{key}")),
            max_attempts: wish.max_attempts,
            timeout_ms: wish.timeout_ms,
            ..Spec::new(TYPES[wish.task_type], json!({ "work": wish.task_type, "fill": "x".repeat(self.fill_bytes) }))
        };
        let submission = Submission { id: None, not_before_ms: self.now + wish.delay_ms, spec };
        let known = submission.spec.idempotency_key.clone().and_then(|key| {
            let t = &snapshot().expect("a snapshot");
            KEYS.get(t, &key).expect("readable")
        });
        let now = self.now;
        match run(|t| engine::submit(t, &submission, &new_id, now)) {
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

    fn claim(&mut self, worker: &str, types: u8, session: bool) -> Result<(), TestCaseError> {
        let types: Vec<String> = TYPES
            .iter()
            .enumerate()
            .filter(|(bit, _)| types >> bit & 1 == 1)
            .map(|(_, name)| (*name).to_owned())
            .collect();
        let request =
            ClaimRequest { worker, types: types.clone(), session: session.then_some("s"), ..ClaimRequest::default() };
        let now = self.now;
        let due_before = due(&tasks(&snapshot().expect("a snapshot")), now);
        engine::look_after(now, 0.5).expect("looked after");
        // As the claim finds them: a lease that has ended does not count against its worker any more.
        let t = &snapshot().expect("a snapshot");
        let paused = settings(t).expect("readable").paused.is_some();
        let known = WORKERS.get(t, worker).expect("readable");
        let room = known.is_none_or(|known| {
            known.leaves_ms.is_none()
                && engine::has(t, worker, RUNNING).expect("readable") < known.max_concurrent_tasks.into()
        });
        let claimed = run(|t| engine::claim(t, &request, now)).expect("a claim is legal");
        // As the claim left them: the one that was given, and those that could have been.
        let all = tasks(&snapshot().expect("a snapshot"));
        // A claim has room for so many of each kind; the timer does the rest.
        let looked_after = if self.fill_bytes == 0 { 8 } else { 4 };
        for (before, after) in due_before.into_iter().zip(due(&all, now)) {
            let most = before.saturating_sub(looked_after);
            prop_assert!(after <= most, "order: {} are due, {} were, and nobody has looked", after, before);
        }
        if paused || !room {
            let why = if paused { "paused" } else { "room" };
            prop_assert!(claimed.is_none(), "{}: {:?}", why, claimed);
            return Ok(());
        }
        let may_have = |task: &Task| {
            (types.is_empty() || types.iter().any(|name| canonical_type(name) == canonical_type(&task.spec.task_type)))
                && task.spec.session.as_deref().is_none_or(|_| session)
                && task.spec.sticky_worker.as_deref().is_none_or(|sticky| sticky == worker)
        };
        let place = |task: &Task| (rank(task.spec.priority), task.line_ms(), task.id.clone());
        let best = all.values().filter(|task| task.state == State::Ready && may_have(task)).map(place).min();
        match claimed {
            None => prop_assert_eq!(best, None, "order: something is ready"),
            Some(task) => {
                prop_assert!(best.is_none_or(|best| place(&task) < best), "order: {:?}", task);
                prop_assert!(may_have(&task), "order: {:?}", task);
                for parent in &task.spec.dependencies {
                    let done = all.get(parent).is_none_or(|parent| parent.status() == Status::Completed);
                    prop_assert!(done, "dependencies: {:?}", task);
                }
                self.given.push(Given { task: task.id, worker: worker.to_owned(), token: task.fencing_token });
            }
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

    fn finish(&mut self, which: usize, outcome: u8, token_of: usize, token: bool) -> Result<(), TestCaseError> {
        let Some((given, by)) = self.pick(which, token_of) else { return Ok(()) };
        let before = self.task(&given.task);
        let outcome = match outcome {
            0 | 1 => Outcome::Completed(Some(json!({ "by": by.worker }))),
            2 => Outcome::Failed(None, "failed".into()),
            _ => Outcome::FailedForGood(None, "useless".into()),
        };
        let now = self.now;
        let claim = Claim { token: token.then_some(by.token), ..by.claim() };
        let finished = run(|t| engine::finish(t, &given.task, claim, outcome.clone(), now, 0.5));
        let may = match token {
            true => is_held_by(before.as_ref(), &by),
            false => before.as_ref().is_some_and(|task| task.worker() == Some(&*by.worker)),
        };
        prop_assert_eq!(finished.is_ok(), may, "one-lease: finish by {:?}: {:?}", by, before);
        if !may {
            prop_assert_eq!(self.task(&given.task), before, "one-lease: a stale token changed something");
            let reason = finished.expect_err("refused");
            let expected = [Refused::NotOwner, Refused::StaleToken, Refused::NotRunning, Refused::Ended];
            let named = match reason {
                QueueError::Refused(reason) => expected.contains(&reason),
                QueueError::NoTask(_) => true,
                _ => false,
            };
            prop_assert!(named);
        }
        Ok(())
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
            let due = match &task.state {
                State::Delayed { until_ms } => Some(*until_ms),
                State::Running(lease) => Some(lease.until_ms),
                _ => None,
            };
            let timer = memory::timers().get("upkeep").map(|timer| timer.at_ms);
            // One that was lost is set for now.
            let now = self.now;
            prop_assert!(
                due.is_none_or(|due| timer.is_some_and(|timer| timer <= due.max(now))),
                "found: nobody will look: {:?}",
                task
            );
            let waits = !task.waiting_for.is_empty();
            match task.state {
                State::Blocked => prop_assert!(waits, "dependencies: it waits for nothing: {:?}", task),
                State::Ready | State::Running(_) | State::Completed => prop_assert!(!waits, "dependencies: {:?}", task),
                State::Delayed { .. } | State::Failed | State::Cancelled => {}
            }
        }
        agree(t, &all).map_err(|what| TestCaseError::fail(format!("counts: {what}")))
    }
}

impl Given {
    fn claim(&self) -> Claim<'_> {
        Claim { worker: Some(&self.worker), token: Some(self.token) }
    }
}

fn is_held_by(task: Option<&Task>, by: &Given) -> bool {
    task.is_some_and(|task| task.worker() == Some(&*by.worker) && task.fencing_token == by.token)
}

/// How many delays are over, and how many leases.
fn due(all: &BTreeMap<String, Task>, now: u64) -> [usize; 2] {
    let count = |is_due: &dyn Fn(&State) -> bool| all.values().filter(|task| is_due(&task.state)).count();
    [
        count(&|state| matches!(state, State::Delayed { until_ms } if *until_ms <= now)),
        count(&|state| matches!(state, State::Running(lease) if lease.until_ms <= now)),
    ]
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
