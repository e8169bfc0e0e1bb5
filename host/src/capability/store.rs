//! `mcpp:store`: a component's own space, in snapshots and transactions.
//!
//! This module checks a guest's requests; [`crate::store`] carries them out. A transaction is open in at most one handle of an instance, and dies with it.

mod convert;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};

pub(crate) use self::convert::store_key;
pub(super) use self::convert::{bytes_of, cost_of};
use self::convert::{change, key, range, scan};
use crate::{
    capability::{
        bindings::mcpp::store::{changes, snapshots, transactions, types},
        state::State,
    },
    control::Control,
    events::subscriptions::Subscriptions,
    store::{Bounds, Entry, MAX_SNAPSHOT_AGE, Snapshot, Space, SpaceUsage, Store, Transaction},
};

/// Bytes of a key.
const MAX_KEY_BYTES: usize = 1_024;
/// Bytes of a value.
const MAX_VALUE_BYTES: usize = 1 << 20;
/// Snapshots that an instance may have open.
const MAX_SNAPSHOTS: usize = 8;
/// How long a guest may have a transaction open, by its own time and on the wall.
const MAX_TRANSACTION_TIME: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How long a step of a migration may take.
pub const MAX_MIGRATION_STEP: Duration = Duration::from_secs(10);
/// Time of a call that `wait` leaves, so that the guest can report that nothing happened.
const WAIT_LEAVES: Duration = Duration::from_millis(100);

type StoreAnswer<T> = wasmtime::Result<Result<T, types::StoreError>>;

/// Access of an instance to the store.
#[derive(Debug, Clone)]
pub struct StoreAccess {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The component's space for this tenant.
    pub space: Space,
    /// Most bytes of the space.
    pub quota_bytes: u64,
    /// Subscriptions, which give the receivers of the component's events.
    pub subscriptions: Arc<Subscriptions>,
}

/// Open snapshots and transaction of an instance.
#[derive(Debug, Default)]
pub struct StoreUse {
    /// Whether a transaction is open.
    pub transaction_open: bool,
    snapshots: usize,
}

impl StoreUse {
    /// Whether anything is open.
    pub fn is_open(&self) -> bool {
        self.transaction_open || self.snapshots > 0
    }
}

/// The part of an instance's state that the store's interfaces see.
pub struct StoreView<'a> {
    /// Open snapshots and transactions, by handle.
    pub table: &'a mut ResourceTable,
    /// Controls of the call.
    pub control: &'a Arc<Control>,
    /// Access to the space; none without a grant, or without a call.
    pub access: Option<&'a StoreAccess>,
    /// What is open.
    pub used: &'a mut StoreUse,
}

impl std::fmt::Debug for StoreView<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreView").field("access", &self.access).field("used", &self.used).finish_non_exhaustive()
    }
}

impl HasData for StoreView<'static> {
    type Data<'a> = StoreView<'a>;
}

/// A snapshot in a guest's hands.
pub struct OpenSnapshot {
    snapshot: Box<dyn Snapshot>,
    opened: Instant,
}

/// A transaction in a guest's hands.
pub struct OpenTransaction {
    /// The transaction itself.
    pub transaction: Box<dyn Transaction>,
    /// Events and timers written in it so far.
    written: u32,
}

impl OpenTransaction {
    /// A transaction to hand to a guest.
    pub fn new(transaction: Box<dyn Transaction>) -> Self {
        Self { transaction, written: 0 }
    }

    /// The number of the next event or timer of this transaction.
    pub fn next_index(&mut self) -> u32 {
        let index = self.written;
        self.written = index.saturating_add(1);
        index
    }
}

impl std::fmt::Debug for OpenSnapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenSnapshot").field("opened", &self.opened).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for OpenTransaction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenTransaction").finish_non_exhaustive()
    }
}

/// Links the store.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    types::add_to_linker::<State, StoreView<'static>>(linker, State::store)?;
    snapshots::add_to_linker::<State, StoreView<'static>>(linker, State::store)?;
    transactions::add_to_linker::<State, StoreView<'static>>(linker, State::store)?;
    changes::add_to_linker::<State, StoreView<'static>>(linker, State::store)
}

impl types::Host for StoreView<'_> {}

impl<'a> StoreView<'a> {
    /// The running call's access to the store.
    pub fn access(&self) -> Result<&'a StoreAccess, types::StoreError> {
        self.access.ok_or(types::StoreError::Unavailable)
    }

    /// Bounds of a transaction that this guest runs.
    pub fn bounds(&self, access: &StoreAccess) -> Bounds {
        let (own, wall) = MAX_TRANSACTION_TIME;
        let clock = Arc::clone(self.control.pace());
        Bounds { clock, own, wall, quota_bytes: access.quota_bytes }
    }
}

impl snapshots::Host for StoreView<'_> {
    async fn open(&mut self) -> StoreAnswer<Resource<OpenSnapshot>> {
        self.control.charge_store_op(0)?;
        let access = match self.access() {
            Ok(access) => access,
            Err(error) => return Ok(Err(error)),
        };
        if self.used.snapshots >= MAX_SNAPSHOTS {
            return Ok(Err(types::StoreError::TooManySnapshots));
        }
        Ok(match self.control.wait_in_place(access.store.snapshot(&access.space)).await? {
            Ok(snapshot) => {
                self.used.snapshots = self.used.snapshots.saturating_add(1);
                Ok(self.table.push(OpenSnapshot { snapshot, opened: Instant::now() })?)
            }
            Err(error) => Err(error.into()),
        })
    }
}

impl snapshots::HostSnapshot for StoreView<'_> {
    async fn get(&mut self, this: Resource<OpenSnapshot>, guest_key: Vec<u8>) -> StoreAnswer<Option<types::Entry>> {
        self.control.charge_store_op(0)?;
        let (table, control) = (&mut *self.table, self.control);
        let open = table.get(&this)?;
        let key = match key(&guest_key) {
            Ok(key) if open.opened.elapsed() <= MAX_SNAPSHOT_AGE => key,
            Ok(_) => return Ok(Err(types::StoreError::Expired)),
            Err(error) => return Ok(Err(error)),
        };
        let found = control.wait_in_place(open.snapshot.get(&key)).await?;
        control.charge_store_bytes(bytes_of(found.iter().flatten()))?;
        Ok(found.map(|entry| entry.map(types::Entry::from)).map_err(types::StoreError::from))
    }

    async fn scan(
        &mut self,
        this: Resource<OpenSnapshot>,
        guest_range: types::Range,
        limit: u32,
        reverse: bool,
    ) -> StoreAnswer<types::Page> {
        self.control.charge_store_op(0)?;
        let (table, control) = (&mut *self.table, self.control);
        let open = table.get(&this)?;
        let range = match range(&guest_range) {
            Ok(range) if open.opened.elapsed() <= MAX_SNAPSHOT_AGE => range,
            Ok(_) => return Ok(Err(types::StoreError::Expired)),
            Err(error) => return Ok(Err(error)),
        };
        let page = control.wait_in_place(open.snapshot.scan(&range, scan(limit, reverse))).await?;
        control.charge_store_bytes(page.as_ref().map_or(0, cost_of))?;
        Ok(page.map(types::Page::from).map_err(types::StoreError::from))
    }

    async fn usage(&mut self, this: Resource<OpenSnapshot>) -> StoreAnswer<types::Usage> {
        self.control.charge_store_op(0)?;
        let (table, control) = (&mut *self.table, self.control);
        let open = table.get(&this)?;
        let quota_bytes = match self.access {
            Some(access) if open.opened.elapsed() <= MAX_SNAPSHOT_AGE => access.quota_bytes,
            Some(_) => return Ok(Err(types::StoreError::Expired)),
            None => return Ok(Err(types::StoreError::Unavailable)),
        };
        let used_bytes = control.wait_in_place(open.snapshot.used_bytes()).await?;
        Ok(used_bytes.map(|used_bytes| SpaceUsage { used_bytes, quota_bytes }.into()).map_err(types::StoreError::from))
    }

    async fn drop(&mut self, this: Resource<OpenSnapshot>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        self.used.snapshots = self.used.snapshots.saturating_sub(1);
        Ok(())
    }
}

impl transactions::Host for StoreView<'_> {
    async fn begin(&mut self) -> StoreAnswer<Resource<OpenTransaction>> {
        self.control.charge_store_op(0)?;
        let access = match self.access() {
            Ok(_) if self.used.transaction_open => return Ok(Err(types::StoreError::TransactionOpen)),
            Ok(access) => access,
            Err(error) => return Ok(Err(error)),
        };
        let bounds = self.bounds(access);
        Ok(match self.control.wait_in_place(access.store.begin(&access.space, bounds)).await? {
            Ok(transaction) => {
                self.used.transaction_open = true;
                Ok(self.table.push(OpenTransaction::new(transaction))?)
            }
            Err(error) => Err(error.into()),
        })
    }
}

impl transactions::HostTransaction for StoreView<'_> {
    async fn get(&mut self, this: Resource<OpenTransaction>, guest_key: Vec<u8>) -> StoreAnswer<Option<types::Entry>> {
        self.control.charge_store_op(0)?;
        let (table, control) = (&mut *self.table, self.control);
        let key = match key(&guest_key) {
            Ok(key) => key,
            Err(error) => return Ok(Err(error)),
        };
        let found = control.wait_in_place(table.get_mut(&this)?.transaction.get(&key)).await?;
        control.charge_store_bytes(bytes_of(found.iter().flatten()))?;
        Ok(found.map(|entry| entry.map(types::Entry::from)).map_err(types::StoreError::from))
    }

    async fn scan(
        &mut self,
        this: Resource<OpenTransaction>,
        guest_range: types::Range,
        limit: u32,
        reverse: bool,
    ) -> StoreAnswer<types::Page> {
        self.control.charge_store_op(0)?;
        let (table, control) = (&mut *self.table, self.control);
        let range = match range(&guest_range) {
            Ok(range) => range,
            Err(error) => return Ok(Err(error)),
        };
        let page = control.wait_in_place(table.get_mut(&this)?.transaction.scan(&range, scan(limit, reverse))).await?;
        control.charge_store_bytes(page.as_ref().map_or(0, cost_of))?;
        Ok(page.map(types::Page::from).map_err(types::StoreError::from))
    }

    async fn take(
        &mut self,
        this: Resource<OpenTransaction>,
        guest_range: types::Range,
        limit: u32,
    ) -> StoreAnswer<Vec<types::Entry>> {
        self.control.charge_store_op(0)?;
        let (table, control) = (&mut *self.table, self.control);
        let range = match range(&guest_range) {
            Ok(range) => range,
            Err(error) => return Ok(Err(error)),
        };
        let taken =
            control.wait_in_place(table.get_mut(&this)?.transaction.take(&range, scan(limit, false).limit)).await?;
        control.charge_store_bytes(taken.as_ref().map_or(0, cost_of))?;
        Ok(taken.map(|page| types::Page::from(page).entries).map_err(types::StoreError::from))
    }

    async fn set(&mut self, this: Resource<OpenTransaction>, guest_key: Vec<u8>, value: Vec<u8>) -> StoreAnswer<()> {
        self.control.charge_store_op(guest_key.len().saturating_add(value.len()))?;
        let (table, control) = (&mut *self.table, self.control);
        let (key, value) = match (key(&guest_key), convert::value(value)) {
            (Ok(key), Ok(value)) => (key, value),
            (Err(error), _) | (_, Err(error)) => return Ok(Err(error)),
        };
        let written = control.wait_in_place(table.get_mut(&this)?.transaction.set(key, value)).await?;
        Ok(written.map_err(types::StoreError::from))
    }

    async fn delete(&mut self, this: Resource<OpenTransaction>, guest_key: Vec<u8>) -> StoreAnswer<bool> {
        self.control.charge_store_op(guest_key.len())?;
        let (table, control) = (&mut *self.table, self.control);
        let key = match key(&guest_key) {
            Ok(key) => key,
            Err(error) => return Ok(Err(error)),
        };
        let deleted = control.wait_in_place(table.get_mut(&this)?.transaction.delete(&key)).await?;
        Ok(deleted.map_err(types::StoreError::from))
    }

    async fn get_many(
        &mut self,
        this: Resource<OpenTransaction>,
        guest_keys: Vec<Vec<u8>>,
    ) -> StoreAnswer<Vec<Option<types::Entry>>> {
        self.control.charge_store_ops(guest_keys.len(), 0)?;
        let (table, control) = (&mut *self.table, self.control);
        let keys = match guest_keys.iter().map(|guest_key| key(guest_key)).collect::<Result<Vec<Bytes>, _>>() {
            Ok(keys) => keys,
            Err(error) => return Ok(Err(error)),
        };
        let found = control.wait_in_place(table.get_mut(&this)?.transaction.get_many(&keys)).await?;
        control.charge_store_bytes(bytes_of(found.iter().flatten().flatten()))?;
        let entries =
            |found: Vec<Option<Entry>>| found.into_iter().map(|entry| entry.map(types::Entry::from)).collect();
        Ok(found.map(entries).map_err(types::StoreError::from))
    }

    async fn write_many(
        &mut self,
        this: Resource<OpenTransaction>,
        guest_changes: Vec<types::Change>,
    ) -> StoreAnswer<()> {
        let size = |change: &types::Change| change.key.len().saturating_add(change.value.as_ref().map_or(0, Vec::len));
        self.control.charge_store_ops(guest_changes.len(), guest_changes.iter().map(size).sum())?;
        let (table, control) = (&mut *self.table, self.control);
        let changes = match guest_changes.into_iter().map(change).collect::<Result<Vec<_>, _>>() {
            Ok(changes) => changes,
            Err(error) => return Ok(Err(error)),
        };
        let written = control.wait_in_place(table.get_mut(&this)?.transaction.write_many(changes)).await?;
        Ok(written.map_err(types::StoreError::from))
    }

    async fn usage(&mut self, this: Resource<OpenTransaction>) -> StoreAnswer<types::Usage> {
        self.control.charge_store_op(0)?;
        let (table, control) = (&mut *self.table, self.control);
        let usage = control.wait_in_place(table.get_mut(&this)?.transaction.usage()).await?;
        Ok(usage.map(types::Usage::from).map_err(types::StoreError::from))
    }

    async fn commit(&mut self, this: Resource<OpenTransaction>) -> StoreAnswer<()> {
        self.control.charge_store_op(0)?;
        let OpenTransaction { transaction, .. } = self.table.delete(this)?;
        self.used.transaction_open = false;
        Ok(self.control.wait(transaction.commit()).await?.map_err(types::StoreError::from))
    }

    async fn drop(&mut self, this: Resource<OpenTransaction>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        self.used.transaction_open = false;
        Ok(())
    }
}

impl changes::Host for StoreView<'_> {
    async fn wait(&mut self, guest_key: Vec<u8>, since: u64, timeout_ms: u64) -> StoreAnswer<u64> {
        self.control.charge_store_op(0)?;
        let (key, access) = match (key(&guest_key), self.access()) {
            (Ok(_), Ok(_)) if self.used.transaction_open => return Ok(Err(types::StoreError::TransactionOpen)),
            (Ok(key), Ok(access)) => (key, access),
            (Err(error), _) | (_, Err(error)) => return Ok(Err(error)),
        };
        let left = self.control.deadline().saturating_duration_since(tokio::time::Instant::now());
        let patience = Duration::from_millis(timeout_ms).min(left.saturating_sub(WAIT_LEAVES));
        let changed = tokio::time::timeout(patience, access.store.wait(&access.space, &key, since));
        Ok(match self.control.wait_for_others(changed).await? {
            Ok(version) => version.map_err(types::StoreError::from),
            Err(_elapsed) => Ok(since),
        })
    }
}
