//! Operations and timers in the middle of which the store fails. Nobody learns what has become of them, and the promises hold all the same.

use mcpp_tool::store::{
    StoreError,
    memory::{self, Failure},
    snapshot, transact,
};
use proptest::prelude::*;

use super::{LINES, Play, TYPES, WORKERS_NAMES, history::Op, limited, registered, tasks};
use crate::{
    engine::{self, ClaimRequest, Completion, Draft, QueueError},
    rules::Outcome,
};

impl Play {
    /// Does something of which a commit fails. Where that is its only one, nothing has changed, or all of it.
    pub(super) fn broken(&mut self, op: &Op, after: usize, failure: Failure) -> Result<(), TestCaseError> {
        let before = memory::entries();
        memory::fail_commit(after, failure);
        let ids = self.ids_of(op);
        let outcome = self.attempt(op);
        let has_failed = memory::mend();
        if let (true, Err(Some(error))) = (has_failed, &outcome) {
            let told = match failure {
                Failure::Lost(error) => error,
                Failure::Unheard => StoreError::OutcomeUnknown,
            };
            prop_assert_eq!(error, &told, "the error is another one");
        }
        // Many ends are tried again in smaller transactions.
        let is_one = after == 0 && !matches!(op, Op::FinishMany(_));
        if has_failed && is_one && matches!(failure, Failure::Lost(_)) && outcome.is_err() {
            prop_assert_eq!(memory::entries(), before, "whole: something is left of {:?}", op);
        }
        let all = tasks(&snapshot().expect("a snapshot"));
        let there = ids.iter().filter(|id| all.contains_key(*id)).count();
        if outcome != Ok(()) {
            prop_assert!(there == 0 || there == ids.len(), "all-or-none: {} of {:?} are there", there, ids);
        }
        for id in all.into_keys() {
            if !self.acknowledged.contains(&id) && !self.ended.contains(&id) {
                self.acknowledged.push(id);
            }
        }
        Ok(())
    }

    /// The tasks that an operation would submit, if it submits any under ids of its own.
    fn ids_of(&self, op: &Op) -> Vec<String> {
        let wishes = match op {
            Op::SubmitMany(wishes) if wishes.iter().all(|wish| wish.key.is_none()) => wishes.as_slice(),
            _ => return Vec::new(),
        };
        let id = |(number, wish): (u64, &super::history::Wish)| Self::new_id(self.next_id + 1 + number, wish);
        (0..).zip(wishes).map(id).collect()
    }

    /// Does it and learns only whether it was done; the store's error, if that is why not.
    fn attempt(&mut self, op: &Op) -> Result<(), Option<StoreError>> {
        let now = self.now;
        let done: Result<(), QueueError> = match op {
            Op::Submit(wish) => {
                let (submission, id, _) = self.submission(wish);
                let draft = Draft::new(submission, &id, now);
                transact(|t| engine::submit(t, &draft, now).map(drop))
            }
            Op::SubmitMany(wishes) => {
                let made: Vec<_> = wishes.iter().map(|wish| self.submission(wish)).collect();
                let drafts: Vec<Draft> = made.into_iter().map(|(one, id, _)| Draft::new(one, &id, now)).collect();
                transact(|t| engine::submit_all(t, &drafts, now).map(drop))
            }
            Op::Claim { worker, types, session, most, same_type } => {
                let named = TYPES.iter().enumerate().filter(|(bit, _)| types >> bit & 1 == 1);
                let request = ClaimRequest {
                    worker: WORKERS_NAMES[*worker],
                    types: named.map(|(_, name)| (*name).to_owned()).collect(),
                    session: session.then_some("s"),
                    peer: None,
                    lease_ms: None,
                    same_type: *same_type,
                };
                engine::look_after(now, 0.5)
                    .and_then(|()| transact(|t| engine::claim_many(t, &request, *most, now).map(drop)))
            }
            Op::Finish { which, token_of, .. } => {
                let Some((given, by)) = self.pick(*which, *token_of) else { return Ok(()) };
                transact(|t| engine::finish(t, &given.task, by.claim(), Outcome::Completed(None), now, 0.5).map(drop))
            }
            Op::FinishMany(ends) => {
                let given: Vec<_> = ends.iter().filter_map(|(which, _)| self.pick(*which, *which)).collect();
                let completion = |(_, by): &(super::Given, super::Given)| Completion {
                    task: by.task.clone(),
                    worker: Some(by.worker.clone()),
                    token: Some(by.token),
                    outcome: Outcome::Failed(None, "failed".into()),
                };
                let ends: Vec<Completion> = given.iter().map(completion).collect();
                engine::each(&ends, |end| &end.task, |t, end| end.apply(t, now, 0.5))
                    .into_iter()
                    .try_for_each(|end| end.map(drop))
            }
            Op::Renew { which, token_of } => {
                let Some((given, by)) = self.pick(*which, *token_of) else { return Ok(()) };
                transact(|t| engine::renew(t, &given.task, by.claim(), now).map(drop))
            }
            Op::Release(which) => {
                let Some((given, by)) = self.pick(*which, *which) else { return Ok(()) };
                transact(|t| engine::release(t, &given.task, by.claim(), "why not", now).map(drop))
            }
            Op::Cancel { which, force } => {
                let Some(id) = self.acknowledged.get(*which) else { return Ok(()) };
                transact(|t| engine::cancel(t, id, "no", *force, now).map(drop))
            }
            Op::Priority(which, priority) => {
                let Some(id) = self.acknowledged.get(*which) else { return Ok(()) };
                transact(|t| engine::set_priority(t, id, f64::from(*priority), false, now).map(drop))
            }
            Op::Retry(which) => {
                let Some(id) = self.acknowledged.get(*which) else { return Ok(()) };
                transact(|t| engine::retry(t, id, None, None, now).map(drop))
            }
            Op::Register(worker, most) => transact(|t| engine::register(t, registered(*worker, *most, now)).map(drop)),
            Op::Unregister(worker, graceful) => {
                let patience = graceful.then_some(1_000);
                transact(|t| engine::unregister(t, WORKERS_NAMES[*worker], patience, now).map(drop))
            }
            Op::Limit { line, concurrency, rate } => {
                let limit = limited(*concurrency, *rate);
                let set = transact(|t| engine::set_limit(t, LINES[*line], &limit, now).map(drop));
                let kept = engine::limit(&snapshot().expect("a snapshot"), LINES[*line]).expect("readable");
                self.limits.insert(*line, kept);
                set
            }
            // Nothing of these is one of the queue's own commits, or another operation breaks it.
            Op::Wait(ms) | Op::Late(ms) => {
                self.now += ms;
                Ok(())
            }
            Op::Pause(_) | Op::Keep(_) | Op::Age(_) | Op::Park | Op::Broken(..) | Op::FailingTimer { .. } => Ok(()),
        };
        done.map_err(|error| match error {
            QueueError::Store(error) => Some(error),
            _ => None,
        })
    }

    /// The timer's handler fails, at one commit after another; then the host delivers it once more, or gives it up, and somebody claims much later.
    pub(super) fn failing_timer(
        &mut self,
        after_ms: u64,
        fails_at: &[(usize, Failure)],
        gives_up: bool,
    ) -> Result<(), TestCaseError> {
        self.now += after_ms;
        let is_due = |now| memory::timers().get("upkeep").is_some_and(|timer| timer.at_ms <= now);
        if !is_due(self.now) {
            return Ok(());
        }
        let (mut has_failed, mut rings_again) = (false, false);
        for (after, failure) in fails_at {
            memory::take_timer("upkeep");
            memory::fail_commit(*after, *failure);
            let woken = engine::wake(self.now, 0.5);
            has_failed = memory::mend() && woken.is_err();
            self.check_but_the_timer()?;
            // Its first commit sets the alarm again, whatever comes later.
            rings_again = *after > 0 && matches!(failure, Failure::Lost(_));
            if has_failed && rings_again {
                self.check_timer(60_000)?;
            }
            // The host's pause before the next attempt.
            self.now += 1_000;
            if !has_failed {
                break;
            }
        }
        match (has_failed, gives_up) {
            (false, _) => self.wait(0),
            (true, false) => {
                engine::wake(self.now, 0.5).map_err(|error| TestCaseError::fail(error.to_string()))?;
                self.check()?;
                self.wait(0)
            }
            (true, true) if rings_again => self.wait(60_000),
            (true, true) => {
                self.now += 1_000_000;
                self.claim(WORKERS_NAMES[0], 0, true, 1, false)?;
                self.check()?;
                self.wait(0)
            }
        }
    }
}
