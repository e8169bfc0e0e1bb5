//! Group commit. Transactions that are staged while the disk is busy go to it together, as one record of the log or, where that has no room, in one commit of the database.
//! Afterwards the host acknowledges all of them, or none.
//!
//! No thread works here while nothing is staged. The first staged transaction starts the work on a thread that may block, and the work ends when the queue
//! is empty.

use std::{
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{checkpoint::Checkpoint, file::DataFile, space::SpaceState, wal::Written};
use crate::{
    store::{StoreError, Unavailable},
    threads::start_blocking,
};

/// Transactions of one group. Further ones wait for the next, so that no acknowledgement waits for a group without end.
const MAX_GROUP: usize = 1_024;

/// A group of so many transactions shows that many clients write at once.
const MANY: usize = 5;

/// How long the next group waits for further transactions while many clients write. A flush costs hardly more with three times as many.
const GATHERING: Duration = Duration::from_millis(1);

type CommitDone = oneshot::Sender<Result<(), StoreError>>;

/// One transaction on its way to the disk.
#[derive(Debug)]
pub(super) struct Batch {
    written: Written,
    _room: OwnedSemaphorePermit,
    done: Option<CommitDone>,
}

impl Batch {
    pub(super) fn new(written: Written, room: OwnedSemaphorePermit) -> Self {
        Self { written, _room: room, done: None }
    }

    fn answer(self, answer: Result<(), StoreError>) {
        if let Some(done) = self.done {
            let _asker_may_be_gone = done.send(answer);
        }
    }
}

/// The transactions that are staged, in order.
#[derive(Debug)]
pub(super) struct Queue {
    staged: Mutex<Staged>,
    empty: Condvar,
}

#[derive(Debug)]
struct Staged {
    batches: Vec<Batch>,
    working: bool,
}

impl Queue {
    pub(super) fn new() -> Self {
        let staged = Staged { batches: Vec::new(), working: false };
        Self { staged: Mutex::new(staged), empty: Condvar::new() }
    }

    /// Blocks until nothing is staged.
    pub(super) fn wait_until_empty(&self) {
        drop(self.empty.wait_while(self.lock(), |staged| staged.working).unwrap_or_else(PoisonError::into_inner));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Staged> {
        self.staged.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for room to stage a transaction that takes this much memory.
pub(super) async fn room(file: &DataFile, bytes: usize) -> Result<OwnedSemaphorePermit, StoreError> {
    let kib = u32::try_from(bytes.div_ceil(1 << 10)).unwrap_or(u32::MAX).max(1);
    let room = Arc::clone(&file.room).acquire_many_owned(kib).await;
    room.map_err(|_| Unavailable::Closed { path: file.path.clone() }.into())
}

/// Makes a transaction visible to later ones, and puts it in the queue to the disk.
pub(super) fn stage(
    file: &Arc<DataFile>,
    space: &SpaceState,
    mut batch: Batch,
) -> oneshot::Receiver<Result<(), StoreError>> {
    let (done, answer) = oneshot::channel();
    batch.done = Some(done);
    let written = &batch.written;
    let mut view = space.view();
    if !written.writes.is_empty() {
        view.staged.add(written);
    }
    let mut queue = file.queue.lock();
    queue.batches.push(batch);
    if !queue.working {
        queue.working = true;
        let worked_on = Arc::clone(file);
        start_blocking(&file.workers, move || work(&worked_on));
    }
    answer
}

/// Commits group after group until nothing is staged.
fn work(file: &Arc<DataFile>) {
    let mut last = 0;
    loop {
        gather(last);
        let group = {
            let mut queue = file.queue.lock();
            let length = queue.batches.len().min(MAX_GROUP);
            let group: Vec<Batch> = queue.batches.drain(..length).collect();
            queue.working = !group.is_empty();
            if !queue.working {
                file.queue.empty.notify_all();
                return;
            }
            group
        };
        last = group.len();
        commit_group(file, group);
    }
}

/// Lets further transactions join the next group, where the last one had several. A lone client never waits.
#[allow(clippy::disallowed_methods, reason = "this thread may block: it waits for the disk too")]
fn gather(last: usize) {
    match last {
        0 | 1 => {}
        MANY.. => std::thread::sleep(GATHERING),
        // Costs nothing where no other thread has work.
        _ => std::thread::yield_now(),
    }
}

fn commit_group(file: &Arc<DataFile>, group: Vec<Batch>) {
    let outcome = settle(file, &group);
    for batch in group {
        batch.answer(outcome.clone());
    }
}

/// Writes a group. If that fails or panics, breaks the file off, so that no transaction waits for it any more; the next user opens it anew.
fn settle(file: &Arc<DataFile>, group: &[Batch]) -> Result<(), StoreError> {
    let number = file.logged().last_group.saturating_add(1);
    let error = match caught(|| write_group(file, group)) {
        // The file failed before, and nothing of the group was written.
        outcome @ (Ok(()) | Err(StoreError::Conflict)) => return outcome,
        Err(error) => error,
    };
    let outcome = caught(|| after_failure(file, error, number));
    file.break_off();
    outcome
}

/// Outcome of `work`; a panic is a failure that leaves the disk's state unknown.
pub(super) fn caught(work: impl FnOnce() -> Result<(), StoreError>) -> Result<(), StoreError> {
    // The queue and the views are whole between any two steps, and the host does not use the file again after a failure.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or(Err(StoreError::OutcomeUnknown))
}

/// Makes a group durable, and the state that all readers see.
fn write_group(file: &Arc<DataFile>, group: &[Batch]) -> Result<(), StoreError> {
    file.check_whole()?;
    let written: Vec<&Written> =
        group.iter().map(|batch| &batch.written).filter(|written| !written.writes.is_empty()).collect();
    if written.is_empty() {
        return Ok(());
    }
    let started = std::time::Instant::now();
    if !append(file, &written)? {
        Checkpoint::wait(file).with_group(&written)?;
    }
    file.tell(&written);
    metrics::histogram!("mcpp_store_commit_seconds").record(started.elapsed().as_secs_f64());
    metrics::counter!("mcpp_store_transactions_total", "tenant" => file.tenant.to_string())
        .increment(u64::try_from(group.len()).unwrap_or(u64::MAX));
    Ok(())
}

/// Writes a group to the log; false if that has no room.
fn append(file: &Arc<DataFile>, group: &[&Written]) -> Result<bool, StoreError> {
    let mut logged = file.logged();
    file.check_whole()?;
    let (number, is_behind) = (logged.last_group.saturating_add(1), logged.is_behind);
    let Some(wal) = &mut logged.wal else { return Ok(false) };
    let Some(record) = wal.record(number, group) else { return Ok(false) };
    let turns_over = !wal.has_room(&record);
    if turns_over {
        if is_behind {
            return Ok(false);
        }
        wal.turn_over();
        let behind = Arc::clone(file);
        start_blocking(&file.workers, move || drop(Checkpoint::wait(&behind).catch_up()));
    }
    wal.append(&record)?;
    (logged.last_group, logged.is_behind) = (number, is_behind || turns_over);
    file.publish(group);
    Ok(true)
}

/// Closes the file, and checks whether the group is on disk after all, because a failure in the midst of a commit does not say.
/// The next user opens the file anew.
fn after_failure(file: &Arc<DataFile>, error: StoreError, number: u64) -> Result<(), StoreError> {
    let _no_other_has_the_database = Checkpoint::wait(file);
    file.close(&mut file.logged());
    let on_disk = file.last_group_on_disk();
    tracing::error!(
        tenant = %file.tenant,
        error = crate::error::chain(&error),
        group_is_on_disk = on_disk.as_ref().ok().map(|last| *last >= number),
        "the store failed; it is opened anew"
    );
    metrics::counter!("mcpp_store_failures_total", "tenant" => file.tenant.to_string()).increment(1);
    file.break_off();
    match on_disk {
        Ok(last) if last >= number => Ok(()),
        Ok(_) => Err(error),
        Err(_) => Err(StoreError::OutcomeUnknown),
    }
}
