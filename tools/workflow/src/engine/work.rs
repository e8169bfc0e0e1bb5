//! A handler at work: it takes a ready node, does what there is to do outside of any transaction, and records it in the transaction that takes the next one. A delivery that comes
//! again finds by its id the node that it had.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use mcpp_tool::{
    caller,
    environment::{chance, id, millis, now_ms},
    store::{StoreError, Transaction, transact},
};

use super::{
    FOLLOWED, Origin, WorkflowError, builds, call_for, find, go_on,
    job::{Done, Job, failed, given},
    place, rehearsal, upkeep,
};
use crate::{
    scheduler::{self, Outcome},
    store::{CLAIMS, INPUTS, ITEM, NODES, READY, RUNS, StoredNodes, node},
};

/// How long a handler goes on to further nodes. A timer calls for the next handler then.
const AT_WORK: Duration = Duration::from_secs(2);
/// Bytes of the store after which it stops too: a quarter of what a call may read and write.
const AT_WORK_BYTES: u64 = 16 << 20;
/// How long behind the end of its time a handler keeps its node.
const LEASE: Duration = Duration::from_secs(60);

/// Works off nodes that are ready, for one delivery that stands so far in a chain of events.
///
/// # Errors
/// Those of the store. What was done and not recorded is done again then.
pub fn work(delivery: &str, hops: u32) -> Result<(), WorkflowError> {
    let begun = Instant::now();
    let take_one = |t: &Transaction<'_>| {
        let until_ms = now_ms().saturating_add(millis(caller::remaining().saturating_add(LEASE)));
        take(t, delivery, until_ms, now_ms())
    };
    let bytes = Cell::new(0_u64);
    let mut job = transact(take_one)?;
    while let Some(taken) = job {
        let at_work = taken.whole(now_ms())?;
        let done = at_work.perform(caller::remaining(), now_ms());
        let goes_on = begun.elapsed() < AT_WORK && bytes.get() < AT_WORK_BYTES;
        let take_next = |t: &Transaction<'_>| {
            if goes_on {
                let next = take_one(t)?;
                bytes.set(bytes.get().saturating_add(t.spent().bytes));
                return Ok::<_, WorkflowError>(next);
            }
            // What is ready has a handler of its own, but for what this one would have taken.
            if !READY.of(&()).is_empty(t)? {
                t.wake_at(&format!("w:{}", id()), now_ms(), b"")?;
            }
            Ok(None)
        };
        let together = transact(|t| {
            record(t, delivery, &at_work, &done, (hops, goes_on))?;
            take_next(t)
        });
        job = match together {
            Err(error) if is_refused_for_good(&error) => {
                // What was done is not lost with what another node cannot begin with.
                record_alone(delivery, &at_work, &done, (hops, goes_on))?;
                transact(take_next)?
            }
            other => other?,
        };
    }
    Ok(())
}

/// Whether the same transaction would be refused again.
fn is_refused_for_good(error: &WorkflowError) -> bool {
    use StoreError::{
        Conflict, Expired, OutcomeUnknown, QuotaExceeded, TooManySnapshots, TransactionOpen, Unavailable,
    };
    let passes = [Conflict, Expired, OutcomeUnknown, QuotaExceeded, TooManySnapshots, TransactionOpen, Unavailable];
    !matches!(error, WorkflowError::Store(error) if passes.contains(error))
}

/// Records what a handler did, and nothing else. What cannot be recorded has failed: nobody would ever hear of it otherwise.
pub(super) fn record_alone(delivery: &str, job: &Job, done: &Done, further: (u32, bool)) -> Result<(), WorkflowError> {
    match transact(|t| record(t, delivery, job, done, further)) {
        Err(error) if is_refused_for_good(&error) => {
            let failed = Done::of(failed(format!("what it did cannot be recorded: {error}")));
            transact(|t| record(t, delivery, job, &failed, further))
        }
        other => other,
    }
}

/// Takes the node that the delivery had, or the next one that is ready.
pub(super) fn take(
    t: &Transaction<'_>,
    delivery: &str,
    until_ms: u64,
    now_ms: u64,
) -> Result<Option<Job>, WorkflowError> {
    if let Some((run_id, number)) = CLAIMS.get(t, delivery)? {
        if let Some(run) = RUNS.get(t, &run_id)? {
            let node = node(t, &run_id, number)?;
            if scheduler::has(&node, delivery) {
                return Ok(Some(Job::of(t, &run, &node, now_ms)?));
            }
        }
        CLAIMS.remove(t, delivery)?;
    }
    for _ in 0..FOLLOWED {
        let Some((_, _, run_id, number)) = READY.of(&()).first(t)? else { return Ok(None) };
        let (mut run, mut nodes) = (find(t, &run_id)?, StoredNodes::new(t, &run_id));
        let is_taken = scheduler::claim(&mut run, &mut nodes, number, (delivery, until_ms), now_ms)?;
        RUNS.put(t, &run_id, &run)?;
        if is_taken {
            CLAIMS.set(t, delivery, &(run_id.clone(), number))?;
            upkeep::watch(t, now_ms)?;
            return Ok(Some(Job::of(t, &run, &node(t, &run_id, number)?, now_ms)?));
        }
    }
    // More are held back by pauses than one transaction goes through.
    t.wake_at(&format!("w:{}", id()), now_ms, b"")?;
    Ok(None)
}

/// Records what a handler did.
pub(super) fn record(
    t: &Transaction<'_>,
    delivery: &str,
    job: &Job,
    done: &Done,
    (hops, goes_on): (u32, bool),
) -> Result<(), WorkflowError> {
    let nodes = [job.number].into_iter().chain(job.dependents.iter().copied());
    let nodes = nodes.map(|number| NODES.key(&(&job.run, number)));
    t.read_ahead([CLAIMS.key(delivery), RUNS.key(&job.run)].into_iter().chain(nodes))?;
    CLAIMS.remove(t, delivery)?;
    let Some(mut run) = RUNS.get(t, &job.run)? else { return Ok(()) };
    let mut at = node(t, &job.run, job.number)?;
    if !scheduler::has(&at, delivery) {
        // Another one has it: this one took longer than its lease.
        return Ok(());
    }
    if !done.tools.is_empty() && !run.is_rehearsal {
        // As in `submit`: they are pinned already, and within this transaction nothing lets them go.
        run.builds = builds::join(&run.builds, builds::pin(&done.tools)?);
    }
    if let Some(input) = &done.input {
        INPUTS.set(t, &(&job.run, job.number), input)?;
    }
    // Each item by itself: whoever runs one reads no other.
    for (index, item) in (0..).zip(&done.items) {
        ITEM.set(t, &(&job.run, job.number, index), item)?;
    }
    let outcome = match given(t, &job.run, &done.outcome)? {
        Some(payload) => Outcome::Completed(payload),
        None => done.outcome.clone(),
    };
    place::note(&mut at, done);
    let (mut nodes, now) = (StoredNodes::new(t, &job.run), now_ms());
    scheduler::settle(&mut run, &mut nodes, at, outcome, (now, chance()))?;
    if let Some(called) = job.called(done) {
        rehearsal::note(t, &job.run, &called)?;
        if job.rehearsed.as_ref().is_some_and(|rehearsed| rehearsed.is_stepped) {
            run.paused_ms.get_or_insert(now);
        }
    }
    let origin = Origin::Handler(hops);
    let woken = go_on(t, run, nodes, now)?;
    // This handler takes one of them itself.
    let others = if goes_on { woken.saturating_sub(1) } else { woken };
    Ok(call_for(t, others, origin, now)?)
}
