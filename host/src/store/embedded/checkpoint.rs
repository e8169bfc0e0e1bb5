//! From the log into the database. A checkpoint puts all that is durable and not there yet into the database, in one commit, and then the log begins anew.
//!
//! One checkpoint of a file runs at a time. While it runs, groups go on into the log's other half; a group that has no room there waits for it.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Condvar, Mutex, PoisonError, atomic::AtomicU64},
};

use bytes::Bytes;
use redb::Durability;

use super::{
    base::{Base, ENTRIES, full_key, stored},
    commit::caught,
    disk::Disk,
    file::DataFile,
    layout::{ABOUT, About, LAST_GROUP, SPACES, check, open_database},
    space::Overlaid,
    unavailable,
    wal::{self, Wal, Written},
};
use crate::{names::ComponentName, store::StoreError};

/// The log of a file, and the last group that is durable.
#[derive(Debug)]
pub(super) struct Logged {
    /// None before the first group.
    pub(super) wal: Option<Wal>,
    pub(super) last_group: u64,
    /// Whether the half that is not being filled may have groups that the database does not have.
    pub(super) is_behind: bool,
}

/// Whether a checkpoint runs.
#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    is_running: Mutex<bool>,
    ended: Condvar,
}

/// The right to make a checkpoint of a file.
pub(super) struct Checkpoint(Arc<DataFile>);

impl Checkpoint {
    /// Blocks until no other one runs. One that was ordered and has not begun is none that runs.
    pub(super) fn wait(file: &Arc<DataFile>) -> Self {
        let checkpoints = &file.checkpoints;
        let waited = checkpoints.ended.wait_while(checkpoints.lock(), |is_running| *is_running);
        *waited.unwrap_or_else(PoisonError::into_inner) = true;
        Self(Arc::clone(file))
    }

    /// Puts the backlog into the database while groups go on into the log. If that fails, the file is opened anew.
    pub(super) fn catch_up(&self) -> Result<(), StoreError> {
        let file = &self.0;
        file.let_go_of_overdue();
        let (backlog, wal) = {
            let logged = file.logged();
            file.check_whole()?;
            let Some(wal) = &logged.wal else { return Ok(()) };
            (Backlog::of(file, logged.last_group), wal.id())
        };
        let started = std::time::Instant::now();
        let outcome = caught(|| {
            let base = backlog.put(&*file.database()?, &file.path, Some(wal), &[])?;
            file.advance(base);
            backlog.forget(file);
            Ok(())
        });
        match &outcome {
            Ok(()) => file.logged().is_behind = false,
            // The log has everything.
            Err(error) => file.fail(error),
        }
        metrics::histogram!("mcpp_store_checkpoint_seconds").record(started.elapsed().as_secs_f64());
        outcome
    }

    /// Puts a group into the database, with the backlog. The log begins if there was none, and has room afterwards.
    pub(super) fn with_group(&self, group: &[&Written]) -> Result<(), StoreError> {
        let file = &self.0;
        file.let_go_of_overdue();
        let mut logged = file.logged();
        file.check_whole()?;
        let id = match &logged.wal {
            Some(wal) => wal.id(),
            None => logged.wal.insert(file.begin_wal()?).id(),
        };
        let number = logged.last_group.saturating_add(1);
        let base = Backlog::of(file, number).put(&*file.database()?, &file.path, Some(id), group)?;
        file.publish(group);
        file.advance(base);
        Backlog::of(file, number).forget(file);
        logged.wal.iter_mut().for_each(Wal::begin_anew);
        (logged.last_group, logged.is_behind) = (number, false);
        Ok(())
    }

    /// Puts everything into the database, which then needs no log. Nothing may be written afterwards, so the file breaks off.
    pub(super) fn at_the_end(&self) -> Result<(), StoreError> {
        let file = &self.0;
        let mut logged = file.logged();
        let was_whole = file.check_whole();
        file.break_off();
        let Some(_wal) = logged.wal.take().filter(|_| was_whole.is_ok()) else { return Ok(()) };
        Backlog::of(file, logged.last_group).put(&*file.database()?, &file.path, None, &[]).map(drop)
    }
}

impl Drop for Checkpoint {
    fn drop(&mut self) {
        *self.0.checkpoints.lock() = false;
        self.0.checkpoints.ended.notify_all();
    }
}

impl Checkpoints {
    fn lock(&self) -> std::sync::MutexGuard<'_, bool> {
        self.is_running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Everything that is durable at one moment and not in the database.
#[derive(Debug)]
pub(super) struct Backlog {
    /// The last group in it.
    number: u64,
    spaces: BTreeMap<ComponentName, Overlaid>,
}

impl Backlog {
    /// What a file has now. The caller holds its log.
    pub(super) fn of(file: &DataFile, number: u64) -> Self {
        Self { number, spaces: file.durable_spaces() }
    }

    fn add(&mut self, written: &Written) {
        self.spaces.entry(written.component.clone()).or_default().add(written);
    }

    /// Writes it in one durable commit, with a group that comes after it, and says which log goes on from there; the state of the database then.
    fn put(
        &self,
        database: &redb::Database,
        path: &Path,
        wal: Option<u64>,
        group: &[&Written],
    ) -> Result<Base, StoreError> {
        let put = || -> Result<Base, redb::Error> {
            let mut write = database.begin_write()?;
            write.set_durability(Durability::Immediate)?;
            write.set_quick_repair(true);
            {
                let mut entries = write.open_table(ENTRIES)?;
                let mut spaces = write.open_table(SPACES)?;
                let mut set = |component: &ComponentName, key: &[u8], version, value: Option<&Bytes>| {
                    let key = full_key(component, key);
                    match value {
                        Some(value) => entries.insert(&*key, &*stored(version, value)).map(drop),
                        None => entries.remove(&*key).map(drop),
                    }
                };
                for (component, durable) in &self.spaces {
                    for (key, pending) in &durable.entries {
                        set(component, key, pending.version, pending.value.as_ref())?;
                    }
                    spaces.insert(component.as_str(), (durable.used_bytes, durable.version))?;
                }
                for Written { component, version, used_bytes, writes } in group {
                    for (key, value) in writes {
                        set(component, key, *version, value.as_ref())?;
                    }
                    spaces.insert(component.as_str(), (*used_bytes, *version))?;
                }
                let mut about = write.open_table(ABOUT)?;
                about.insert(LAST_GROUP, self.number)?;
                About::name_wal(&mut about, wal)?;
            }
            write.commit()?;
            Base::new(database, path.to_owned())
        };
        put().map_err(|error| unavailable(path, error).into())
    }

    /// Lets go of what the database has now.
    fn forget(&self, file: &DataFile) {
        for (component, durable) in &self.spaces {
            if let Some(space) = file.known_space(component) {
                space.forget(durable);
            }
        }
    }
}

/// Opens a database, and puts the groups that only the log has into it; the database and the number of its last group. `written` counts the bytes that the
/// host writes into it from then on.
pub(super) fn recover(
    path: &Path,
    disk: &dyn Disk,
    cache_bytes: usize,
    written: &Arc<AtomicU64>,
) -> Result<(redb::Database, u64), StoreError> {
    let database = open_database(path, disk, cache_bytes, written)?;
    let about = check(path, &database)?;
    let Some(id) = about.wal else { return Ok((database, about.last_group)) };
    let (groups, number) = wal::read(path, disk, id, about.last_group)?;
    let mut backlog = Backlog { number, spaces: BTreeMap::new() };
    groups.iter().for_each(|written| backlog.add(written));
    backlog.put(&database, path, None, &[])?;
    Ok((database, number))
}

impl DataFile {
    /// Has the file opened anew, after a failure that left the log whole.
    fn fail(&self, error: &StoreError) {
        {
            let mut logged = self.logged();
            self.close(&mut logged);
            // Before anybody can write to the log again.
            self.break_off();
        }
        tracing::error!(
            tenant = %self.tenant,
            error = crate::error::chain(error),
            "a checkpoint of the store failed; the file is opened anew"
        );
        metrics::counter!("mcpp_store_failures_total", "tenant" => self.tenant.to_string()).increment(1);
    }
}
