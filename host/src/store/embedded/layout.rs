//! The tables of a file: making it, opening it, what it says about itself, and copying it.

use std::{
    path::Path,
    sync::{Arc, atomic::AtomicU64},
};

use redb::{
    Database, Durability, ReadTransaction, ReadableDatabase as _, ReadableTable as _, StorageBackend as _,
    TableDefinition,
};

use super::{
    base::{ENTRIES, VERSION_BYTES},
    disk::{CountingBackend, Disk},
    unavailable,
};
use crate::{
    files::private_options,
    store::{ENTRY_COST, StoreError, Unavailable, counted_bytes},
};

/// By component: bytes of keys and values, and the last version given.
pub(super) const SPACES: TableDefinition<'static, &str, (u64, u64)> = TableDefinition::new("spaces");
/// Numbers about the file itself.
pub(super) const ABOUT: TableDefinition<'static, &str, u64> = TableDefinition::new("about");
/// The layout of the tables; the host leaves a file with a greater one alone.
const FORMAT: &str = "format";
/// The layout of a file that has everything.
const WHOLE: u64 = 1;
/// The layout of a file that is whole only with its log.
const WITH_LOG: u64 = 2;
/// The number of the last group of transactions in the database.
pub(super) const LAST_GROUP: &str = "last_group";
/// What the log is named by.
const WAL: &str = "wal";
/// What each entry counts beside its key and its value in the sizes of the spaces. Builds that did not say it counted nothing.
const ENTRY_COSTS: &str = "entry_cost";

/// Makes a file under another name and gives it its own when it is complete: after a crash the store is whole, or absent.
pub(super) fn create(path: &Path, disk: &dyn Disk) -> Result<(), StoreError> {
    let io = |source| unavailable(path, redb::Error::Io(source));
    let unfinished = path.with_extension("new");
    let build = |backend| -> Result<(), redb::Error> {
        let database = Database::builder().set_cache_size(1 << 20).create_with_backend(backend)?;
        let mut write = database.begin_write()?;
        write.set_durability(Durability::Immediate)?;
        write.set_quick_repair(true);
        write.open_table(ENTRIES)?;
        write.open_table(SPACES)?;
        let mut about = write.open_table(ABOUT)?;
        about.insert(FORMAT, WHOLE)?;
        about.insert(ENTRY_COSTS, cost())?;
        drop(about);
        Ok(write.commit()?)
    };
    build(disk.create(&unfinished).map_err(io)?).map_err(|error| unavailable(path, error))?;
    Ok(disk.publish(&unfinished, path).map_err(io)?)
}

/// Opens a database. `written` counts the bytes that are written into it.
pub(super) fn open_database(
    path: &Path,
    disk: &dyn Disk,
    cache_bytes: usize,
    written: &Arc<AtomicU64>,
) -> Result<Database, StoreError> {
    let io = |source| unavailable(path, redb::Error::Io(source));
    let backend = disk.open(path).map_err(io)?;
    if backend.len().map_err(io)? == 0 {
        // redb would make a new database of the empty file.
        let source = "it is empty".into();
        return Err(Unavailable::Corrupt { path: path.to_owned(), source }.into());
    }
    let backend = CountingBackend { backend, written: Arc::clone(written) };
    let database = Database::builder().set_cache_size(cache_bytes).create_with_backend(backend);
    database.map_err(|error| unavailable(path, error.into()).into())
}

/// What a file says about itself.
#[derive(Debug)]
pub(super) struct About {
    format: u64,
    /// The last group in the database.
    pub(super) last_group: u64,
    /// The log that has groups which the database may not have.
    pub(super) wal: Option<u64>,
}

impl About {
    /// What a file says. A redb file of another program is an error.
    fn read(database: &Database) -> Result<Self, redb::Error> {
        let about = database.begin_read()?.open_table(ABOUT)?;
        let number = |name: &str| Ok::<_, redb::Error>(about.get(name)?.map(|number| number.value()));
        let Some(format) = number(FORMAT)? else {
            return Err(redb::Error::Corrupted("it has no format number: a copy that broke off?".into()));
        };
        Ok(Self { format, last_group: number(LAST_GROUP)?.unwrap_or_default(), wal: number(WAL)? })
    }

    /// Says which log a file is whole with, or that it needs none.
    pub(super) fn name_wal(about: &mut redb::Table<'_, &str, u64>, wal: Option<u64>) -> Result<(), redb::Error> {
        match wal {
            Some(id) => {
                about.insert(FORMAT, WITH_LOG)?;
                about.insert(WAL, id)?;
            }
            None => {
                about.insert(FORMAT, WHOLE)?;
                about.remove(WAL)?;
            }
        }
        Ok(())
    }
}

/// Checks the file's format.
pub(super) fn check(path: &Path, database: &Database) -> Result<About, StoreError> {
    let about = About::read(database).map_err(|error| unavailable(path, error))?;
    match about.format {
        WHOLE | WITH_LOG => Ok(about),
        found => Err(Unavailable::Newer { path: path.to_owned(), found, known: WITH_LOG }.into()),
    }
}

fn cost() -> u64 {
    u64::try_from(ENTRY_COST).unwrap_or(u64::MAX)
}

/// Counts the sizes of all spaces again, in a file where a build did that counted entries otherwise. Nobody has the file open meanwhile.
pub(super) fn count_as_now(path: &Path, database: &Database) -> Result<(), StoreError> {
    let count = || -> Result<(), redb::Error> {
        let read = database.begin_read()?;
        if read.open_table(ABOUT)?.get(ENTRY_COSTS)?.is_some_and(|found| found.value() == cost()) {
            return Ok(());
        }
        tracing::info!(path = %path.display(), "counts the sizes in a store of an older build");
        let mut write = database.begin_write()?;
        write.set_durability(Durability::Immediate)?;
        write.set_quick_repair(true);
        {
            let mut spaces = write.open_table(SPACES)?;
            for record in read.open_table(SPACES)?.iter()? {
                let (component, record) = record?;
                spaces.insert(component.value(), (size(&read, component.value())?, record.value().1))?;
            }
            write.open_table(ABOUT)?.insert(ENTRY_COSTS, cost())?;
        }
        Ok(write.commit()?)
    };
    count().map_err(|error| unavailable(path, error).into())
}

/// The size of a space by its entries.
fn size(read: &ReadTransaction, component: &str) -> Result<u64, redb::Error> {
    // Behind a component's name comes a NUL.
    let start = [component.as_bytes(), &[0]].concat();
    let end = [component.as_bytes(), &[1]].concat();
    let mut size = 0_u64;
    for entry in read.open_table(ENTRIES)?.range::<&[u8]>(&*start..&*end)? {
        let (key, stored) = entry?;
        let key_bytes = key.value().len().saturating_sub(start.len());
        let value_bytes = stored.value().len().saturating_sub(VERSION_BYTES);
        size = size.saturating_add(u64::try_from(counted_bytes(component, key_bytes, value_bytes)).unwrap_or(u64::MAX));
    }
    Ok(size)
}

/// Copies all entries, as they are now, into a new file that needs no log; how many they are.
pub(super) fn copy(source: &ReadTransaction, target: &Path, progress: &dyn Fn(u64)) -> Result<u64, StoreError> {
    /// Entries of one commit of the copy.
    const BATCH: usize = 10_000;
    let copy = || -> Result<u64, redb::Error> {
        let file = private_options().read(true).write(true).create_new(true).open(target)?;
        let copy = Database::builder().set_cache_size(8 << 20).create_file(file)?;
        let mut copied = 0_u64;
        let entries = source.open_table(ENTRIES)?;
        let mut rest = entries.iter()?;
        loop {
            let mut write = copy.begin_write()?;
            write.set_quick_repair(true);
            let mut written = 0;
            {
                let mut target = write.open_table(ENTRIES)?;
                while written < BATCH
                    && let Some(entry) = rest.next().transpose()?
                {
                    target.insert(entry.0.value(), entry.1.value())?;
                    written += 1;
                }
            }
            if written == 0 {
                let (mut spaces, mut about) = (write.open_table(SPACES)?, write.open_table(ABOUT)?);
                for record in source.open_table(SPACES)?.iter()? {
                    let (component, record) = record?;
                    spaces.insert(component.value(), record.value())?;
                }
                // The format comes last, so that an interrupted copy does not pass for a store.
                for record in source.open_table(ABOUT)?.iter()? {
                    let (name, number) = record?;
                    about.insert(name.value(), number.value())?;
                }
                About::name_wal(&mut about, None)?;
            }
            write.commit()?;
            copied = copied.saturating_add(u64::try_from(written).unwrap_or(u64::MAX));
            progress(copied);
            if written == 0 {
                return Ok(copied);
            }
        }
    };
    copy().map_err(|error| unavailable(target, error).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::embedded::disk::FileSystem;

    #[test]
    fn a_file_of_an_older_build_is_counted_again_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("t.redb");
        create(&path, &FileSystem).expect("made");
        let database = open_database(&path, &FileSystem, 1 << 20, &Arc::default()).expect("opened");
        let write = |old: bool| {
            let write = database.begin_write().expect("begun");
            let mut entries = write.open_table(ENTRIES).expect("a table");
            // Two entries of "a", one of "b"; "ab" has none.
            for (key, value) in [(&b"a\0kk"[..], 10_usize), (b"a\0\xff\xff", 0), (b"b\0k", 1_000)] {
                entries.insert(key, &*vec![0; VERSION_BYTES + value]).expect("written");
            }
            drop(entries);
            let mut spaces = write.open_table(SPACES).expect("a table");
            for component in ["a", "ab", "b"] {
                spaces.insert(component, (7, 3)).expect("written");
            }
            drop(spaces);
            if old {
                write.open_table(ABOUT).expect("a table").remove(ENTRY_COSTS).expect("removed");
            }
            write.commit().expect("committed");
        };
        let sizes = || {
            let read = database.begin_read().expect("begun");
            let spaces = read.open_table(SPACES).expect("a table");
            ["a", "ab", "b"].map(|component| spaces.get(component).expect("read").expect("there").value())
        };
        let cost = cost();
        write(true);
        count_as_now(&path, &database).expect("counted");
        assert_eq!(sizes(), [(16 + 2 * cost, 3), (0, 3), (1_002 + cost, 3)]);
        write(false);
        count_as_now(&path, &database).expect("nothing to do");
        assert_eq!(sizes(), [(7, 3); 3], "what is counted as now is believed");
    }
}
