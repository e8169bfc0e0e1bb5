//! `wasi:keyvalue`: buckets in the component's own space, under its grant for a store and within the same quota.
//!
//! Each operation is a transaction of its own and durable when it returns. A key stands behind its bucket's name and a hash of itself, so that the
//! interface's cursor, a number, can name a place in the bucket.

use bytes::Bytes;
use wasmtime::component::{Linker, Resource};

use super::store::{StoreAccess, StoreView, bytes_of, cost_of};
use crate::{
    capability::{
        bindings::standard::wasi::keyvalue::{atomics, batch, store},
        state::State,
    },
    control::Control,
    store::{
        Bounds, Entry, KeyRange, MAX_PAGE_ENTRIES, MAX_TRANSACTION_BYTES, MAX_TRANSACTION_WRITES, Scan, Section,
        Snapshot, StoreError, Transaction, after_key,
    },
};

/// Bytes of a key.
const MAX_KEY_BYTES: usize = 1_024;
/// Bytes of a value.
const MAX_VALUE_BYTES: usize = 1 << 20;
/// Bytes of a bucket's name.
const MAX_NAME_BYTES: usize = 64;
/// The bucket that `""` means.
const DEFAULT: &str = "default";
/// Most attempts of a transaction that conflicts.
const ATTEMPTS: u32 = 8;
/// Where the key itself begins, after the bucket's name: a zero and the hash.
const HASH_BYTES: usize = 8;

type KeyvalueAnswer<T> = wasmtime::Result<Result<T, store::Error>>;

/// A bucket in a guest's hands. Its name is legal.
#[derive(Debug, Clone)]
pub struct Bucket {
    name: Box<str>,
}

/// Links the interfaces.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    store::add_to_linker::<State, StoreView<'static>>(linker, State::store)?;
    atomics::add_to_linker::<State, StoreView<'static>>(linker, State::store)?;
    batch::add_to_linker::<State, StoreView<'static>>(linker, State::store)
}

impl From<StoreError> for store::Error {
    fn from(error: StoreError) -> Self {
        if let StoreError::Unavailable(reason) = &error {
            // The guest learns that the store is unavailable, the operator why.
            tracing::error!(error = crate::error::chain(&**reason), "a component finds the store unavailable");
        }
        Self::Other(error.to_string())
    }
}

fn other<T>(text: impl Into<String>) -> Result<T, store::Error> {
    Err(store::Error::Other(text.into()))
}

impl Bucket {
    fn named(name: &str) -> Option<Self> {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        let name = if name.is_empty() { DEFAULT } else { name };
        (name.len() <= MAX_NAME_BYTES && name.chars().all(legal)).then(|| Self { name: name.into() })
    }

    /// The space's key of an entry whose hash is `hash` in this bucket.
    fn at(&self, hash: u64, key: &[u8]) -> Bytes {
        Section::KeyValue.key(&[self.name.as_bytes(), &[0], &hash.to_be_bytes(), key].concat())
    }

    fn key(&self, key: &str) -> Result<Bytes, store::Error> {
        if key.len() > MAX_KEY_BYTES {
            return other(format!("a key has more than {MAX_KEY_BYTES} bytes"));
        }
        let hash = blake3::hash(key.as_bytes());
        let hash = hash.as_bytes().first_chunk::<HASH_BYTES>().map_or(0, |first| u64::from_be_bytes(*first));
        Ok(self.at(hash, key.as_bytes()))
    }

    /// All keys from `hash` on.
    fn rest(&self, hash: u64) -> KeyRange {
        let end = [self.name.as_bytes(), &[1]].concat();
        KeyRange { start: self.at(hash, b""), end: Section::KeyValue.key(&end) }
    }

    /// The hash and the text of a key of the space.
    fn split(&self, key: &[u8]) -> Option<(u64, String)> {
        let (hash, text) = key.get(self.name.len().saturating_add(2)..)?.split_first_chunk::<HASH_BYTES>()?;
        Some((u64::from_be_bytes(*hash), String::from_utf8(text.to_vec()).ok()?))
    }
}

/// Refuses more writes than a transaction may have, before it makes any of them: each write takes more memory than a short key.
fn check_number(writes: usize) -> Result<(), store::Error> {
    if writes > MAX_TRANSACTION_WRITES { Err(StoreError::TransactionTooLarge.into()) } else { Ok(()) }
}

fn value(value: Vec<u8>) -> Result<Bytes, store::Error> {
    if value.len() > MAX_VALUE_BYTES {
        return other(format!("a value has more than {MAX_VALUE_BYTES} bytes"));
    }
    Ok(value.into())
}

/// A bucket and the context of an operation on it.
struct Reach<'a> {
    bucket: Bucket,
    access: &'a StoreAccess,
    bounds: Bounds,
    control: &'a Control,
}

/// Change of an operation.
enum Change {
    /// Writes entries, or removes those without a value.
    Write(Vec<(Bytes, Option<Bytes>)>),
    /// Adds this to the number of an entry.
    Add(Bytes, u64),
}

impl Change {
    /// Makes the change; returns the number that an entry then has, for an addition.
    async fn make(&self, transaction: &mut dyn Transaction) -> Result<Result<u64, store::Error>, StoreError> {
        let (key, delta) = match self {
            Self::Add(key, delta) => (key, delta),
            Self::Write(entries) => {
                for (key, value) in entries {
                    match value {
                        Some(value) => transaction.set(key.clone(), value.clone()).await?,
                        None => drop(transaction.delete(key).await?),
                    }
                }
                return Ok(Ok(0));
            }
        };
        let found = transaction.get(key).await?;
        let number = match found.as_ref().map(|entry| std::str::from_utf8(&entry.value).map(str::parse::<u64>)) {
            None => 0,
            Some(Ok(Ok(number))) => number,
            Some(_) => return Ok(other("the value is not a number in decimal digits")),
        };
        let Some(sum) = number.checked_add(*delta) else { return Ok(other("the sum is larger than a u64")) };
        transaction.set(key.clone(), sum.to_string().into()).await?;
        Ok(Ok(sum))
    }

    /// Charges the change once, however often the host makes it.
    fn charge(&self, control: &Control) -> wasmtime::Result<()> {
        match self {
            // One to read and one to write.
            Self::Add(key, _) => {
                control.charge_store_op(key.len())?;
                control.charge_store_op(key.len())
            }
            Self::Write(entries) => entries.iter().try_for_each(|(key, value)| {
                control.charge_store_op(key.len().saturating_add(value.as_ref().map_or(0, Bytes::len)))
            }),
        }
    }
}

impl Reach<'_> {
    async fn snapshot(&self) -> KeyvalueAnswer<Box<dyn Snapshot>> {
        let opened = self.control.wait_in_place(self.access.store.snapshot(&self.access.space)).await?;
        Ok(opened.map_err(store::Error::from))
    }

    /// Reads one entry, and charges it.
    async fn get(&self, snapshot: &dyn Snapshot, key: &str) -> KeyvalueAnswer<Option<Entry>> {
        let key = match self.bucket.key(key) {
            Ok(key) => key,
            Err(error) => return Ok(Err(error)),
        };
        self.control.charge_store_op(0)?;
        let found = self.control.wait_in_place(snapshot.get(&key)).await?;
        self.control.charge_store_bytes(bytes_of(found.iter().flatten()))?;
        Ok(found.map_err(store::Error::from))
    }

    async fn read(&self, key: &str) -> KeyvalueAnswer<Option<Entry>> {
        match self.snapshot().await? {
            Ok(snapshot) => self.get(&*snapshot, key).await,
            Err(error) => Ok(Err(error)),
        }
    }

    async fn read_many(&self, keys: Vec<String>) -> KeyvalueAnswer<Vec<Option<(String, Vec<u8>)>>> {
        if keys.len() > MAX_TRANSACTION_WRITES {
            return Ok(other(format!("more than {MAX_TRANSACTION_WRITES} keys")));
        }
        let snapshot = match self.snapshot().await? {
            Ok(snapshot) => snapshot,
            Err(error) => return Ok(Err(error)),
        };
        let (mut found, mut bytes) = (Vec::new(), 0_usize);
        for key in keys {
            match self.get(&*snapshot, &key).await? {
                Ok(entry) => {
                    bytes = bytes.saturating_add(bytes_of(&entry));
                    if bytes > MAX_TRANSACTION_BYTES {
                        return Ok(other(format!(
                            "the values have more than {MAX_TRANSACTION_BYTES} bytes: ask for fewer at once"
                        )));
                    }
                    found.push(entry.map(|entry| (key, entry.value.into())));
                }
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(found))
    }

    /// A page of keys, from the hash in `cursor` on.
    async fn list(&self, cursor: Option<u64>) -> KeyvalueAnswer<store::KeyResponse> {
        let snapshot = match self.snapshot().await? {
            Ok(snapshot) => snapshot,
            Err(error) => return Ok(Err(error)),
        };
        let bucket = &self.bucket;
        let mut range = bucket.rest(cursor.unwrap_or(0));
        let (mut keys, mut cursor) = (Vec::new(), None);
        // The page, and then the other keys with the hash of its last one: hardly ever any.
        loop {
            self.control.charge_store_op(0)?;
            let scanned = self.control.wait_in_place(snapshot.scan(&range, Scan::first(MAX_PAGE_ENTRIES))).await?;
            let page = match scanned {
                Ok(page) => page,
                Err(error) => return Ok(Err(error.into())),
            };
            self.control.charge_store_bytes(cost_of(&page))?;
            let last = page.entries.last().and_then(|last| Some((last.key.clone(), bucket.split(&last.key)?.0)));
            keys.extend(page.entries.iter().filter_map(|entry| Some(bucket.split(&entry.key)?.1)));
            match last {
                Some((last, hash)) if page.more || cursor.is_some() => {
                    let Some(next) = hash.checked_add(1) else { break };
                    cursor = Some(next);
                    range = KeyRange { start: after_key(&last), end: bucket.at(next, b"") };
                }
                _ => break,
            }
        }
        Ok(Ok(store::KeyResponse { keys, cursor }))
    }

    /// Makes a change in a transaction of its own, and again after a conflict.
    async fn change(&self, change: Result<Change, store::Error>) -> KeyvalueAnswer<u64> {
        let change = match change {
            Ok(change) => change,
            Err(error) => return Ok(Err(error)),
        };
        change.charge(self.control)?;
        let mut left = ATTEMPTS;
        loop {
            match self.attempt(&change).await? {
                Err(StoreError::Conflict) if left > 1 => left = left.saturating_sub(1),
                result => return Ok(result.map_err(store::Error::from).and_then(|answer| answer)),
            }
        }
    }

    async fn attempt(&self, change: &Change) -> wasmtime::Result<Result<Result<u64, store::Error>, StoreError>> {
        let begun = self.access.store.begin(&self.access.space, self.bounds.clone());
        let mut transaction = match self.control.wait_in_place(begun).await? {
            Ok(transaction) => transaction,
            Err(error) => return Ok(Err(error)),
        };
        let answer = match self.control.wait_in_place(change.make(&mut *transaction)).await? {
            Ok(Ok(answer)) => answer,
            refused => return Ok(refused),
        };
        let committed = self.control.wait(transaction.commit()).await?;
        Ok(committed.map(|()| Ok(answer)))
    }
}

impl<'a> StoreView<'a> {
    /// Context of an operation on a bucket. An open transaction of the guest would make another one of the same space wait for it, so the host refuses.
    fn reach(&mut self, bucket: &Resource<Bucket>) -> KeyvalueAnswer<Reach<'a>> {
        let bucket = self.table.get(bucket)?.clone();
        if self.used.transaction_open {
            return Ok(other("a transaction of mcpp:store is open"));
        }
        let Ok(access) = self.access() else { return Ok(Err(store::Error::AccessDenied)) };
        let bounds = self.bounds(access);
        Ok(Ok(Reach { bucket, access, bounds, control: self.control }))
    }
}

/// Continues with the value of [`StoreView::reach`], or answers with its refusal.
macro_rules! reach {
    ($state:ident, $bucket:ident) => {
        match $state.reach(&$bucket)? {
            Ok(reach) => reach,
            Err(error) => return Ok(Err(error)),
        }
    };
}

impl store::Host for StoreView<'_> {
    async fn open(&mut self, identifier: String) -> KeyvalueAnswer<Resource<Bucket>> {
        if self.access().is_err() {
            return Ok(Err(store::Error::AccessDenied));
        }
        let Some(bucket) = Bucket::named(&identifier) else { return Ok(Err(store::Error::NoSuchStore)) };
        Ok(Ok(self.table.push(bucket)?))
    }
}

impl store::HostBucket for StoreView<'_> {
    async fn get(&mut self, this: Resource<Bucket>, key: String) -> KeyvalueAnswer<Option<Vec<u8>>> {
        let reach = reach!(self, this);
        Ok(reach.read(&key).await?.map(|found| found.map(|entry| entry.value.into())))
    }

    async fn set(&mut self, this: Resource<Bucket>, key: String, bytes: Vec<u8>) -> KeyvalueAnswer<()> {
        let reach = reach!(self, this);
        let write = reach.bucket.key(&key).and_then(|key| Ok(Change::Write(vec![(key, Some(value(bytes)?))])));
        Ok(reach.change(write).await?.map(|_| ()))
    }

    async fn delete(&mut self, this: Resource<Bucket>, key: String) -> KeyvalueAnswer<()> {
        let reach = reach!(self, this);
        let remove = reach.bucket.key(&key).map(|key| Change::Write(vec![(key, None)]));
        Ok(reach.change(remove).await?.map(|_| ()))
    }

    async fn exists(&mut self, this: Resource<Bucket>, key: String) -> KeyvalueAnswer<bool> {
        let reach = reach!(self, this);
        Ok(reach.read(&key).await?.map(|found| found.is_some()))
    }

    async fn list_keys(&mut self, this: Resource<Bucket>, cursor: Option<u64>) -> KeyvalueAnswer<store::KeyResponse> {
        let reach = reach!(self, this);
        reach.list(cursor).await
    }

    async fn drop(&mut self, this: Resource<Bucket>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

impl atomics::Host for StoreView<'_> {
    async fn increment(&mut self, bucket: Resource<Bucket>, key: String, delta: u64) -> KeyvalueAnswer<u64> {
        let reach = reach!(self, bucket);
        reach.change(reach.bucket.key(&key).map(|key| Change::Add(key, delta))).await
    }
}

impl batch::Host for StoreView<'_> {
    async fn get_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> KeyvalueAnswer<Vec<Option<(String, Vec<u8>)>>> {
        let reach = reach!(self, bucket);
        reach.read_many(keys).await
    }

    async fn set_many(&mut self, bucket: Resource<Bucket>, entries: Vec<(String, Vec<u8>)>) -> KeyvalueAnswer<()> {
        let reach = reach!(self, bucket);
        if let Err(too_large) = check_number(entries.len()) {
            return Ok(Err(too_large));
        }
        let entry = |(key, bytes): (String, Vec<u8>)| Ok((reach.bucket.key(&key)?, Some(value(bytes)?)));
        let write = entries.into_iter().map(entry).collect::<Result<_, _>>().map(Change::Write);
        Ok(reach.change(write).await?.map(|_| ()))
    }

    async fn delete_many(&mut self, bucket: Resource<Bucket>, keys: Vec<String>) -> KeyvalueAnswer<()> {
        let reach = reach!(self, bucket);
        if let Err(too_large) = check_number(keys.len()) {
            return Ok(Err(too_large));
        }
        let entry = |key: String| Ok((reach.bucket.key(&key)?, None));
        let remove = keys.into_iter().map(entry).collect::<Result<_, _>>().map(Change::Write);
        Ok(reach.change(remove).await?.map(|_| ()))
    }
}

#[cfg(test)]
mod tests;
