//! Claims and the ends of attempts, one and many, held to what the records say.

use std::collections::BTreeMap;

use mcpp_tool::store::{View, memory, snapshot};
use proptest::prelude::*;
use serde_json::json;

use super::{Given, LINES, Play, TYPES, is_held_by, run, tasks};
use crate::{
    engine::{self, ClaimRequest, Completion, QueueError},
    queue::{self, Place, RUNNING, WORKERS, canonical_type, settings},
    record::{State, Status, Task},
    rules::{Claim, Outcome, Refused},
};

impl Play {
    pub(super) fn claim(
        &mut self,
        worker: &str,
        types: u8,
        session: bool,
        most: usize,
        same_type: bool,
    ) -> Result<(), TestCaseError> {
        let types: Vec<String> = TYPES
            .iter()
            .enumerate()
            .filter(|(bit, _)| types >> bit & 1 == 1)
            .map(|(_, name)| (*name).to_owned())
            .collect();
        let request = ClaimRequest {
            worker,
            types: types.clone(),
            session: session.then_some("s"),
            peer: None,
            same_type,
            lease_ms: None,
        };
        let now = self.now;
        let before_looking = tasks(&snapshot().expect("a snapshot"));
        let due_before = due(&before_looking, now);
        engine::look_after(now, 0.5).expect("looked after");
        // As the claim finds them: a lease that has ended does not count against its worker any more.
        let t = &snapshot().expect("a snapshot");
        let paused = settings(t).expect("readable").paused.is_some();
        let known = WORKERS.get(t, worker).expect("readable");
        let room = known.map_or(usize::MAX, |known| match known.leaves_ms {
            Some(_) => 0,
            None => {
                let running = engine::has(t, worker, RUNNING).expect("readable");
                (known.max_concurrent_tasks as usize).saturating_sub(running as usize)
            }
        });
        let ready_before = tasks(t).into_values().filter(|task| task.state == State::Ready);
        let ready_places: BTreeMap<String, Place> =
            ready_before.map(|task| (task.id.clone(), queue::place(&task))).collect();
        let claimed = run(|t| engine::claim_many(t, &request, most, now)).expect("a claim is legal");
        // As the claim left them: the one that was given, and those that could have been.
        let all = tasks(&snapshot().expect("a snapshot"));
        // A claim has room for so many of each kind; the timer does the rest. A large task with a key is written twice, if it is the key's turn.
        let has_keys = before_looking.values().any(|task| task.spec.line().is_some());
        let looked_after = match self.fill_bytes {
            0 => 8,
            _ if has_keys => 2,
            _ => 4,
        };
        for (before, after) in due_before.into_iter().zip(due(&all, now)) {
            let most = before.saturating_sub(looked_after);
            prop_assert!(after <= most, "order: {} are due, {} were, and nobody has looked", after, before);
        }
        let most = if paused { 0 } else { most.min(room) };
        prop_assert!(claimed.len() <= most, "room, paused: {} instead of {}", claimed.len(), most);
        let first_type = claimed.first().map(|task| task.spec.task_type.clone()).filter(|_| same_type);
        let may_have = |task: &Task| {
            (types.is_empty() || types.iter().any(|name| canonical_type(name) == canonical_type(&task.spec.task_type)))
                && task.spec.session.as_deref().is_none_or(|_| session)
                && task.spec.sticky_worker.as_deref().is_none_or(|sticky| sticky == worker)
        };
        let is_of_type = |task: &Task| {
            first_type.as_deref().is_none_or(|first| canonical_type(first) == canonical_type(&task.spec.task_type))
        };
        // A claimed task has had its turn.
        let turns: BTreeMap<String, Place> = ready_places;
        let place = |task: &Task| turns.get(&task.id).cloned().unwrap_or_else(|| queue::place(task));
        let left = || all.values().filter(|task| task.state == State::Ready && may_have(task));
        // The first one is the best of all, each one better than the next, and the last one better than what is left; but for those whose turn came only by this claim.
        let was_ready = |task: &Task| turns.contains_key(&task.id);
        let best = left().filter(|task| is_of_type(task) && was_ready(task)).map(place).min();
        let order: Vec<_> = claimed.iter().filter(|task| was_ready(task)).map(place).collect();
        prop_assert!(order.is_sorted(), "order: {:?}", order);
        prop_assert!(
            order.last().is_none_or(|last| best.as_ref().is_none_or(|best| last < best)),
            "order: {:?}",
            order
        );
        let overall = left().filter(|task| was_ready(task)).map(place).min();
        prop_assert!(order.first().is_none_or(|first| overall.is_none_or(|best| *first < best)), "order: {:?}", order);
        // Fewer than wanted are given only if there are no more, or if they are too large together.
        let is_full = claimed.len() >= 2 && self.fill_bytes > 0;
        if claimed.len() < most && !is_full {
            prop_assert_eq!(left().find(|task| is_of_type(task)), None, "order: something is ready");
        }
        let mut order: Vec<_> = claimed.iter().map(|task| &task.id).collect();
        order.sort_unstable();
        order.dedup();
        prop_assert_eq!(order.len(), claimed.len(), "one-lease: given twice");
        for task in claimed {
            if let Some((line, limit)) = self.limits.iter().find(|(line, _)| task.spec.line() == Some(LINES[**line])) {
                let [_, _, running] = engine::in_line(&snapshot().expect("a snapshot"), LINES[*line]).expect("counted");
                prop_assert!(
                    limit.concurrency.is_none_or(|most| running <= most.into()),
                    "turns: {} run: {:?}",
                    running,
                    task
                );
            }
            prop_assert!(may_have(&task) && is_of_type(&task), "order: {:?}", task);
            for parent in &task.spec.dependencies {
                let done = all.get(parent).is_none_or(|parent| parent.status() == Status::Completed);
                prop_assert!(done, "dependencies: {:?}", task);
            }
            self.given.push(Given { task: task.id, worker: worker.to_owned(), token: task.fencing_token });
        }
        Ok(())
    }

    pub(super) fn finish(
        &mut self,
        which: usize,
        outcome: u8,
        token_of: usize,
        token: bool,
    ) -> Result<(), TestCaseError> {
        let Some((given, by)) = self.pick(which, token_of) else { return Ok(()) };
        let before = self.task(&given.task);
        let outcome = outcome_of(outcome, &by);
        let now = self.now;
        let claim = Claim { token: token.then_some(by.token), ..by.claim() };
        let finished = run(|t| engine::finish(t, &given.task, claim, outcome.clone(), now, 0.5));
        let may = match token {
            true => is_held_by(before.as_ref(), &by),
            false => before.as_ref().is_some_and(|task| task.worker() == Some(&*by.worker)),
        };
        // The last holder's same word again is right, and changes nothing.
        let is_again = token
            && before.as_ref().is_some_and(|task| {
                task.parting.as_ref().is_some_and(|parting| parting.worker == by.worker)
                    && task.fencing_token == by.token
                    && task.worker().is_none()
            });
        if is_again && finished.is_ok() {
            prop_assert_eq!(self.task(&given.task), before, "again: the same end changed something");
            return Ok(());
        }
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

    /// Holds keys to their promises after every step.
    pub(super) fn check_turns(&self, t: &View<'_>, all: &BTreeMap<String, Task>) -> Result<(), TestCaseError> {
        for (number, line) in LINES.into_iter().enumerate() {
            let of = |is_it: fn(&State) -> bool| {
                all.values().filter(|task| task.spec.line() == Some(line) && is_it(&task.state)).count() as u64
            };
            let [held, ready, running] = [
                of(|state| *state == State::Held),
                of(|state| *state == State::Ready),
                of(|state| matches!(state, State::Running(_))),
            ];
            prop_assert_eq!(engine::in_line(t, line).expect("counted"), [held, ready, running], "counts: {:?}", line);
            let limit = self.limits.get(&number).cloned().unwrap_or_default();
            let most = limit.concurrency.map_or(u64::MAX, u64::from);
            prop_assert!(ready <= 1, "turns: {} of {:?} stand in line", ready, line);
            let is_open = running < most && held > 0 && ready == 0;
            // One that its rate holds back is looked after in time.
            let timer = memory::timers().get("upkeep").map(|timer| timer.at_ms);
            let is_rate = !line.0 && limit.rate.is_some();
            prop_assert!(
                !is_open || is_rate && timer.is_some_and(|at| at <= self.now.max(1) + 1_000),
                "turns: nobody has their turn: {:?}",
                line
            );
        }
        Ok(())
    }

    /// Each for itself; what ends twice in one call ends once.
    pub(super) fn finish_many(&mut self, ends: &[(usize, u8)]) -> Result<(), TestCaseError> {
        let picked: Vec<(Given, u8)> =
            ends.iter().filter_map(|(which, outcome)| Some((self.pick(*which, *which)?.1, *outcome))).collect();
        let completion = |(by, outcome): &(Given, u8)| Completion {
            task: by.task.clone(),
            worker: Some(by.worker.clone()),
            token: Some(by.token),
            outcome: outcome_of(*outcome, by),
        };
        let completions: Vec<Completion> = picked.iter().map(completion).collect();
        let (mut expected, mut may_be_again) = (Vec::new(), Vec::new());
        for (number, (by, outcome)) in picked.iter().enumerate() {
            let is_first =
                picked[..number].iter().all(|(earlier, _)| earlier.task != by.task || earlier.token != by.token);
            let before = self.task(&by.task);
            expected.push(is_first && is_held_by(before.as_ref(), by));
            // The last holder's same word again, in an earlier call or in this one.
            let has_parted = before.is_some_and(|task| {
                task.fencing_token == by.token && task.parting.is_some_and(|parting| parting.worker == by.worker)
            });
            let is_same = |(earlier, word): &(Given, u8)| {
                (&earlier.task, earlier.token) == (&by.task, by.token)
                    && outcome_of(*word, by) == outcome_of(*outcome, by)
            };
            may_be_again.push(has_parted || picked[..number].iter().any(is_same));
        }
        let now = self.now;
        let outcomes =
            engine::each(&completions, |completion| &completion.task, |t, completion| completion.apply(t, now, 0.5));
        let done: Vec<bool> = outcomes.iter().map(Result::is_ok).collect();
        for ((done, expected), again) in done.into_iter().zip(expected).zip(may_be_again) {
            prop_assert!(done == expected || (done && again), "one-lease: finish many: {:?}", outcomes);
        }
        Ok(())
    }
}

fn outcome_of(outcome: u8, by: &Given) -> Outcome {
    match outcome {
        0 | 1 => Outcome::Completed(Some(json!({ "by": by.worker }))),
        2 => Outcome::Failed(None, "failed".into()),
        _ => Outcome::FailedForGood(None, "useless".into()),
    }
}

/// How many delays are over, and how many leases.
fn due(all: &BTreeMap<String, Task>, now: u64) -> [usize; 2] {
    let count = |is_due: &dyn Fn(&State) -> bool| all.values().filter(|task| is_due(&task.state)).count();
    [
        count(&|state| matches!(state, State::Delayed { until_ms } if *until_ms <= now)),
        count(&|state| matches!(state, State::Running(lease) if lease.until_ms <= now)),
    ]
}
