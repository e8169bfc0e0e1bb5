//! Group commit. Transactions that are staged while the disk is busy go to it together, in one durable commit of the file.
//! Afterwards the host acknowledges all of them, or none.
//!
//! No thread works here while nothing is staged. The first staged transaction starts the work on a thread that may block, and the work ends when the queue
//! is empty.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use redb::Durability;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{
    base::{Base, ENTRIES, Pending, full_key, stored},
    file::{ABOUT, DataFile, LAST_GROUP, SPACES},
    space::SpaceState,
    unavailable,
};
use crate::{
    names::ComponentName,
    store::{Section, Space, StoreError, Unavailable},
    threads::start_blocking,
};

/// Transactions of one group. Further ones wait for the next, so that no acknowledgement waits for a group without end.
const MAX_GROUP: usize = 1_024;

/// A group of so many transactions shows that many clients write at once.
const MANY: usize = 5;

/// How long the next group waits for further transactions while many clients write. A commit takes about as long, and costs hardly more with three times as many transactions.
const GATHERING: Duration = Duration::from_millis(1);

type CommitDone = oneshot::Sender<Result<(), StoreError>>;

/// One transaction on its way to the disk.
#[derive(Debug)]
pub(super) struct Batch {
    space: Arc<SpaceState>,
    version: u64,
    writes: BTreeMap<Bytes, Option<Bytes>>,
    used_bytes: u64,
    _room: OwnedSemaphorePermit,
    done: Option<CommitDone>,
}

impl Batch {
    pub(super) fn new(
        space: Arc<SpaceState>,
        version: u64,
        writes: BTreeMap<Bytes, Option<Bytes>>,
        used_bytes: u64,
        room: OwnedSemaphorePermit,
    ) -> Self {
        Self { space, version, writes, used_bytes, _room: room, done: None }
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
    last_group: u64,
}

impl Queue {
    pub(super) fn new(last_group: u64) -> Self {
        let staged = Staged { batches: Vec::new(), working: false, last_group };
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

/// Waits for room to stage a transaction of this size.
pub(super) async fn room(file: &DataFile, bytes: usize) -> Result<OwnedSemaphorePermit, StoreError> {
    let kib = u32::try_from(bytes.div_ceil(1 << 10)).unwrap_or(u32::MAX).max(1);
    let room = Arc::clone(&file.room).acquire_many_owned(kib).await;
    room.map_err(|_| Unavailable::Closed { path: file.path.clone() }.into())
}

/// Makes a transaction visible to later ones, and puts it in the queue to the disk.
pub(super) fn stage(file: &Arc<DataFile>, mut batch: Batch) -> oneshot::Receiver<Result<(), StoreError>> {
    let (done, answer) = oneshot::channel();
    batch.done = Some(done);
    let space = Arc::clone(&batch.space);
    let mut view = space.view();
    if !batch.writes.is_empty() {
        for (key, value) in &batch.writes {
            view.staged.insert_mut(key.clone(), Pending { version: batch.version, value: value.clone() });
        }
        view.used_bytes = batch.used_bytes;
        view.version = batch.version;
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
        let (group, number) = {
            let mut queue = file.queue.lock();
            let length = queue.batches.len().min(MAX_GROUP);
            let group: Vec<Batch> = queue.batches.drain(..length).collect();
            queue.working = !group.is_empty();
            if !queue.working {
                file.queue.empty.notify_all();
                return;
            }
            queue.last_group = queue.last_group.saturating_add(1);
            (group, queue.last_group)
        };
        last = group.len();
        commit_group(file, group, number);
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

fn commit_group(file: &DataFile, group: Vec<Batch>, number: u64) {
    if file.is_broken() {
        // These transactions saw writes that are lost.
        return group.into_iter().for_each(|batch| batch.answer(Err(StoreError::Conflict)));
    }
    let outcome = settle(file, &group, number);
    for batch in group {
        batch.answer(outcome.clone());
    }
}

/// Writes a group. If that fails or panics, breaks the file off, so that no transaction waits for it any more; the next user opens it anew.
fn settle(file: &DataFile, group: &[Batch], number: u64) -> Result<(), StoreError> {
    let Err(error) = caught(|| write_group(file, group, number)) else { return Ok(()) };
    let outcome = caught(|| after_failure(file, error, number));
    file.break_off();
    outcome
}

/// Outcome of `work`; a panic is a failure that leaves the disk's state unknown.
fn caught(work: impl FnOnce() -> Result<(), StoreError>) -> Result<(), StoreError> {
    // The queue and the views are whole between any two steps, and the host does not use the file again after a failure.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or(Err(StoreError::OutcomeUnknown))
}

/// Writes a group in one durable commit, and makes it the state that all readers see.
fn write_group(file: &DataFile, group: &[Batch], number: u64) -> Result<(), StoreError> {
    let changes = Changes::of(group);
    if changes.entries.is_empty() {
        return Ok(());
    }
    let failed = |error: redb::Error| StoreError::from(unavailable(&file.path, error));
    let started = std::time::Instant::now();
    let database = file.database()?;
    changes.write(&database, number).map_err(failed)?;
    let base = Base::new(&database, file.path.clone()).map_err(failed)?;
    changes.publish(file, group, base);
    metrics::histogram!("mcpp_store_commit_seconds").record(started.elapsed().as_secs_f64());
    metrics::counter!("mcpp_store_transactions_total", "tenant" => file.tenant.to_string())
        .increment(u64::try_from(group.len()).unwrap_or(u64::MAX));
    Ok(())
}

/// Closes the file, and checks whether the group is on disk after all, because a failure in the midst of a commit does not say.
/// The next user opens the file anew.
fn after_failure(file: &DataFile, error: StoreError, number: u64) -> Result<(), StoreError> {
    file.close();
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

/// Changes of a group: the last write of each entry, with the version that it gives, and the spaces.
struct Changes<'a> {
    entries: BTreeMap<(&'a ComponentName, &'a Bytes), (u64, Option<&'a Bytes>)>,
    spaces: BTreeMap<&'a ComponentName, &'a Batch>,
}

impl<'a> Changes<'a> {
    fn of(group: &'a [Batch]) -> Self {
        let mut changes = Self { entries: BTreeMap::new(), spaces: BTreeMap::new() };
        for batch in group.iter().filter(|batch| !batch.writes.is_empty()) {
            let component = &batch.space.component;
            let entries = batch.writes.iter().map(|(key, value)| ((component, key), (batch.version, value.as_ref())));
            changes.entries.extend(entries);
            changes.spaces.insert(component, batch);
        }
        changes
    }

    fn write(&self, database: &redb::Database, number: u64) -> Result<(), redb::Error> {
        let mut write = database.begin_write()?;
        write.set_durability(Durability::Immediate)?;
        write.set_quick_repair(true);
        {
            let mut entries = write.open_table(ENTRIES)?;
            for ((component, key), (version, value)) in &self.entries {
                let key = full_key(component, key);
                match value {
                    Some(value) => drop(entries.insert(&*key, &*stored(*version, value))?),
                    None => drop(entries.remove(&*key)?),
                }
            }
            let mut spaces = write.open_table(SPACES)?;
            for (component, batch) in &self.spaces {
                spaces.insert(component.as_str(), (batch.used_bytes, batch.version))?;
            }
            write.open_table(ABOUT)?.insert(LAST_GROUP, number)?;
        }
        Ok(write.commit()?)
    }

    /// Publishes the new durable state, in one moment for each space, and then notifies all waiting tasks.
    fn publish(&self, file: &DataFile, group: &[Batch], base: Base) {
        {
            let mut views: BTreeMap<&ComponentName, _> =
                self.spaces.iter().map(|(component, batch)| (*component, batch.space.view())).collect();
            file.advance(base);
            for batch in group {
                let Some(view) = views.get_mut(&batch.space.component) else { continue };
                for key in batch.writes.keys() {
                    if view.staged.get(key).is_some_and(|pending| pending.version == batch.version) {
                        view.staged.remove_mut(key);
                    }
                }
            }
        }
        file.wake(self.entries.keys().copied());
        let deliverable = |key: &Bytes| Section::Deliveries.has(key) || Section::Due.has(key);
        let touched: BTreeSet<&ComponentName> = group
            .iter()
            .filter(|batch| batch.writes.iter().any(|(key, value)| value.is_some() && deliverable(key)))
            .map(|batch| &batch.space.component)
            .collect();
        for component in touched {
            file.touched.add(Space { tenant: file.tenant.clone(), component: component.clone() });
        }
    }
}
