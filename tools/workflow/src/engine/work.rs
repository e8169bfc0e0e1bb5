//! A handler at work: it takes a ready node, does what there is to do outside of any transaction, and records it in the transaction that takes the next one. A delivery that comes
//! again finds by its id the node that it had.

use std::{
    cell::Cell,
    collections::BTreeSet,
    time::{Duration, Instant},
};

use mcpp_tool::{
    caller,
    environment::{chance, millis, now_ms},
    store::{StoreError, Transaction, transact},
};

use super::{
    FOLLOWED, Origin, WorkflowError, at_once, builds,
    cache::{self, Lookup},
    call_for, find, go_on,
    job::{Done, Job, Work, failed},
    keys::{self, Gate},
    place, rehearsal,
    room::leave_half,
    task, upkeep,
};
use crate::{
    run::Line,
    scheduler::{self, Nodes as _, Outcome},
    store::{CLAIMS, INPUTS, ITEM, NODES, READY, RUNS, StoredNodes, node, stored_run},
};

/// How long a handler goes on to further nodes. It calls for the next one then.
pub(super) const AT_WORK: Duration = Duration::from_secs(2);
/// Bytes of the store after which it stops too: a quarter of what a call may read and write.
pub(super) const AT_WORK_BYTES: u64 = 16 << 20;
/// Bytes of memory that a transaction reads for keys before it leaves the next steps to another one.
const MAX_KEYS_READ: usize = 512 << 10;
/// Bytes that the record of a step writes behind which the host is asked for the room that is left.
const MUCH_BYTES: u64 = 8 << 10;
/// How long behind the end of its time a handler keeps its node.
const LEASE: Duration = Duration::from_secs(60);

/// Works off nodes that are ready, for one delivery that stands so far in a chain of events.
///
/// # Errors
/// Those of the store. What was done and not recorded is done again then.
pub fn work(delivery: &str, hops: u32) -> Result<(), WorkflowError> {
    let (begun, bytes, has_more) = (Instant::now(), Cell::new(0_u64), Cell::new(false));
    let goes_on = || begun.elapsed() < AT_WORK && bytes.get() < AT_WORK_BYTES;
    let take_one = |t: &Transaction<'_>| {
        let until_ms = now_ms().saturating_add(millis(caller::remaining().saturating_add(LEASE)));
        let taken = take_for(t, delivery, until_ms, Origin::Handler(hops), now_ms())?;
        has_more.set(taken.has_more);
        bytes.set(bytes.get().saturating_add(t.spent().bytes));
        Ok::<_, WorkflowError>(taken.job)
    };
    // Where more steps wait for their turns than one transaction goes through, others come behind them.
    let take_on = |mut job: Option<Job>| {
        while job.is_none() && has_more.get() {
            if !goes_on() {
                has_more.set(false);
                transact(|t| call_for(t, 1, Origin::Handler(hops), now_ms()))?;
                break;
            }
            job = transact(take_one)?;
        }
        Ok::<_, WorkflowError>(job)
    };
    let mut job = take_on(transact(take_one)?)?;
    while let Some(taken) = job {
        let at_work = taken.whole(now_ms())?;
        let done = at_work.perform(caller::remaining(), now_ms());
        let goes_on = goes_on();
        let take_next = |t: &Transaction<'_>| {
            if goes_on {
                return take_one(t);
            }
            has_more.set(false);
            // What is ready has a handler of its own, but for what this one would have taken.
            if !READY.of(&()).is_empty(t)? {
                call_for(t, 1, Origin::Handler(hops), now_ms())?;
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
        job = take_on(job)?;
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

/// What a handler takes.
#[derive(Debug)]
pub(super) struct Taken {
    /// A node; none if none is ready.
    pub(super) job: Option<Job>,
    /// Whether the transaction did not go through all nodes that are ready.
    pub(super) has_more: bool,
}

/// Takes the node that the delivery had, or the next one that is ready.
#[cfg(test)]
pub(super) fn take(
    t: &Transaction<'_>,
    delivery: &str,
    until_ms: u64,
    now_ms: u64,
) -> Result<Option<Job>, WorkflowError> {
    take_for(t, delivery, until_ms, Origin::Unknown, now_ms).map(|taken| taken.job)
}

/// Takes the node that the delivery had, or the next one that is ready and has its turn, and lets on those whose turn comes by that.
fn take_for(
    t: &Transaction<'_>,
    delivery: &str,
    until_ms: u64,
    origin: Origin,
    now_ms: u64,
) -> Result<Taken, WorkflowError> {
    if let Some((run_id, number)) = CLAIMS.get(t, delivery)? {
        if let Some(run) = stored_run(t, &run_id)? {
            // Another run may have the id by now, with fewer nodes.
            if let Some(node) = NODES.get(t, &(&run_id, number))?.filter(|node| scheduler::has(node, delivery)) {
                return Ok(Taken { job: Some(Job::of(t, &run, &node, now_ms)?), has_more: false });
            }
        }
        CLAIMS.remove(t, delivery)?;
    }
    let mut touched = BTreeSet::new();
    let taken = take_ready(t, (delivery, until_ms), &mut touched, now_ms)?;
    if taken.job.is_some() || !touched.is_empty() {
        upkeep::watch(t, now_ms)?;
    }
    let count = keys::let_on_all(t, &touched, now_ms)?;
    call_for(t, count, origin, now_ms)?;
    Ok(taken)
}

/// Takes the next node that is ready and has its turn. The lines of keys that may go on then are `touched`.
fn take_ready(
    t: &Transaction<'_>,
    (delivery, until_ms): (&str, u64),
    touched: &mut BTreeSet<Line>,
    now_ms: u64,
) -> Result<Taken, WorkflowError> {
    let mut read = 0_usize;
    for _ in 0..FOLLOWED {
        let Some((_, _, run_id, number)) = READY.of(&()).first(t)? else {
            return Ok(Taken { job: None, has_more: false });
        };
        let (mut run, mut nodes) = (find(t, &run_id)?, StoredNodes::new(t, &run_id));
        let at = nodes.node(number)?;
        let (gate, bytes) = keys::gate(t, &run, &mut nodes, at, now_ms)?;
        read = read.saturating_add(bytes);
        let mut is_taken = false;
        if gate != Gate::Waits {
            is_taken = scheduler::claim(&mut run, &mut nodes, number, (delivery, until_ms), now_ms)?;
            RUNS.put(t, &run_id, &run)?;
        }
        touched.append(&mut nodes.touched);
        if is_taken {
            CLAIMS.set(t, delivery, &(run_id.clone(), number))?;
            let mut node = node(t, &run_id, number)?;
            task::note(t, &run, &mut node)?;
            let mut job = Job::of(t, &run, &node, now_ms)?;
            if let Gate::Wrong(why) = gate {
                job.work = Work::Known(Box::new(Done::of(failed(why))));
            }
            return Ok(Taken { job: Some(job), has_more: false });
        }
        if nodes.is_full() || read > MAX_KEYS_READ {
            break;
        }
    }
    // More are held back by pauses, or wait for their turns, than one transaction goes through.
    Ok(Taken { job: None, has_more: true })
}

/// Records what a handler did.
pub(super) fn record(
    t: &Transaction<'_>,
    delivery: &str,
    job: &Job,
    done: &Done,
    (hops, goes_on): (u32, bool),
) -> Result<(), WorkflowError> {
    let before = t.spent().written_bytes;
    let nodes = [job.number].into_iter().chain(job.dependents.iter().copied());
    let nodes = nodes.map(|number| NODES.key(&(&job.run, number)));
    t.read_ahead([CLAIMS.key(delivery), RUNS.key(&job.run)].into_iter().chain(nodes))?;
    CLAIMS.remove(t, delivery)?;
    let Some(mut run) = stored_run(t, &job.run)? else { return Ok(task::too_late(t, job, None, done)?) };
    let found = NODES.get(t, &(&job.run, job.number))?;
    let Some(mut at) = found.as_ref().filter(|node| scheduler::has(node, delivery)).cloned() else {
        // Another one has it: this one took longer than its lease.
        return Ok(task::too_late(t, job, found.filter(|_| run.key == job.run_key).as_ref(), done)?);
    };
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
    let known = at_once::known(t, &run, &done.outcome)?;
    let outcome = known.unwrap_or_else(|| task::outcome(&run, &at, done.outcome.clone()));
    place::note(&mut at, done);
    let (mut nodes, now) = (StoredNodes::new(t, &job.run), now_ms());
    match (&done.cached, &outcome) {
        (Some(Lookup::Hit), _) => at.is_cached = true,
        (Some(Lookup::Miss(key)), Outcome::Completed(result)) => cache::keep(t, key, result, now)?,
        _ => {}
    }
    scheduler::settle(&mut run, &mut nodes, at, outcome, (now, chance()))?;
    if let Some(called) = job.called(done) {
        rehearsal::note(t, &job.run, &called)?;
        if job.rehearsed.as_ref().is_some_and(|rehearsed| rehearsed.is_stepped) {
            run.paused_ms.get_or_insert(now);
        }
    }
    let origin = Origin::Handler(hops);
    let woken = go_on(t, run, nodes, origin, now)?.woken;
    // Most steps write little: the host need not be asked for each.
    if t.spent().written_bytes.saturating_sub(before) > MUCH_BYTES {
        leave_half(t)?;
    }
    // This handler takes one of them itself.
    let others = if goes_on { woken.saturating_sub(1) } else { woken };
    Ok(call_for(t, others, origin, now)?)
}
