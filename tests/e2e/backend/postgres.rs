//! A throwaway backend on PostgreSQL: it shows that the contract can be kept where several hosts share one database, and is no part of the product. Two stores here are two hosts.

mod server;
mod session;
mod snapshot;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use mcpp::{
    names::{ComponentName, TenantId},
    store::{
        ABSENT, Bounds, CopyProgress, Entry, KeyRange, MAX_PAGE_BYTES, MAX_PAGE_ENTRIES, MAX_TRANSACTION_BYTES,
        MAX_TRANSACTION_WRITES, Order, Page, Scan, Section, Snapshot, Space, SpaceUsage, Store, StoreError, Touched,
        Transaction, Unavailable, counted_bytes,
    },
};
use tokio_postgres::{Client, error::SqlState};

use self::{
    server::{Server, connect},
    session::Session,
    snapshot::PostgresSnapshot,
};
use super::suite::Shared;

const SCHEMA: &str = "
    CREATE SEQUENCE numbers;
    CREATE TABLE entries (
        tenant text, component text, key bytea, value bytea NOT NULL, version bigint NOT NULL, PRIMARY KEY (tenant, component, key)
    );
    -- One row for each transaction and space, summed up when read: a total in one row would make all writers of a space conflict.
    CREATE TABLE usage (tenant text, component text, bytes bigint);
    CREATE INDEX ON usage (tenant, component);
    -- Whose row is there has committed, whatever became of the connection.
    CREATE TABLE committed (transaction bigint PRIMARY KEY);
";

/// One host's store. Connections that are not used wait in a pool.
#[derive(Clone)]
struct PostgresStore {
    socket: PathBuf,
    pool: Arc<tokio::sync::Mutex<Vec<Client>>>,
    touched: Arc<Touched>,
}

impl std::fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresStore").finish_non_exhaustive()
    }
}

fn failed(error: &tokio_postgres::Error) -> StoreError {
    let conflicts = [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED];
    if error.code().is_some_and(|code| conflicts.contains(code)) {
        return StoreError::Conflict;
    }
    let source = error.to_string().into();
    StoreError::Unavailable(Arc::new(Unavailable::Io { path: "postgres".into(), source }))
}

impl PostgresStore {
    async fn client(&self) -> Result<Client, StoreError> {
        let pooled = self.pool.lock().await.pop().filter(|client| !client.is_closed());
        match pooled {
            Some(client) => Ok(client),
            None => connect(&self.socket).await.map_err(|error| failed(&error)),
        }
    }

    async fn begin(&self, mode: &str) -> Result<Session, StoreError> {
        let client = self.client().await?;
        client.batch_execute(&format!("BEGIN ISOLATION LEVEL {mode}")).await.map_err(|error| failed(&error))?;
        Ok(Session { client: Some(client), store: self.clone() })
    }

    async fn version(&self, space: &Space, key: &[u8]) -> Result<u64, StoreError> {
        let client = self.client().await?;
        let sql = "SELECT version FROM entries WHERE tenant = $1 AND component = $2 AND key = $3";
        let found = client.query_opt(sql, &[&space.tenant.as_str(), &space.component.as_str(), &key]).await;
        self.pool.lock().await.push(client);
        Ok(found.map_err(|error| failed(&error))?.map_or(ABSENT, |row| number(row.get(0))))
    }
}

fn number(number: i64) -> u64 {
    u64::try_from(number).expect("never negative")
}

/// Cuts what was found to one page.
fn page(found: Vec<Entry>, limit: usize) -> Page {
    let (mut page, mut bytes) = (Page::default(), 0);
    for entry in found {
        bytes += entry.key.len() + entry.value.len();
        if page.entries.len() >= limit || (bytes > MAX_PAGE_BYTES && !page.entries.is_empty()) {
            page.more = limit > 0;
            return page;
        }
        page.entries.push(entry);
    }
    page
}

impl Store for PostgresStore {
    fn snapshot<'a>(&'a self, space: &'a Space) -> BoxFuture<'a, Result<Box<dyn Snapshot>, StoreError>> {
        Box::pin(async move {
            let session = self.begin("REPEATABLE READ READ ONLY").await?;
            // The snapshot is taken by the first query.
            session.client().batch_execute("SELECT 1").await.map_err(|error| failed(&error))?;
            Ok(Box::new(PostgresSnapshot { session, space: space.clone() }) as Box<dyn Snapshot>)
        })
    }

    fn begin<'a>(
        &'a self,
        space: &'a Space,
        bounds: Bounds,
    ) -> BoxFuture<'a, Result<Box<dyn Transaction>, StoreError>> {
        Box::pin(async move {
            let session = self.begin("SERIALIZABLE").await?;
            let row =
                session.client().query_one("SELECT nextval('numbers')", &[]).await.map_err(|error| failed(&error))?;
            Ok(Box::new(PostgresTransaction {
                version: number(row.get(0)),
                session,
                space: space.clone(),
                began: (bounds.clock.own_time(), Instant::now()),
                bounds,
                writes: BTreeMap::new(),
                bytes: 0,
                growth: 0,
            }) as Box<dyn Transaction>)
        })
    }

    fn wait<'a>(&'a self, space: &'a Space, key: &'a [u8], since: u64) -> BoxFuture<'a, Result<u64, StoreError>> {
        Box::pin(async move {
            // The real one listens to the database's notifications; asking again is good enough to see what the contract needs.
            loop {
                match self.version(space, key).await? {
                    version if version != since => return Ok(version),
                    _ => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        })
    }

    fn spaces<'a>(&'a self, tenant: &'a TenantId) -> BoxFuture<'a, Result<Vec<Space>, StoreError>> {
        Box::pin(async move {
            let client = self.client().await?;
            let sql = "SELECT DISTINCT component FROM usage WHERE tenant = $1 ORDER BY component";
            let rows = client.query(sql, &[&tenant.as_str()]).await.map_err(|error| failed(&error))?;
            let component = |row: &tokio_postgres::Row| ComponentName::new(row.get(0)).expect("legal");
            Ok(rows.iter().map(|row| Space { tenant: tenant.clone(), component: component(row) }).collect())
        })
    }

    fn used_bytes<'a>(&'a self, space: &'a Space) -> BoxFuture<'a, Result<u64, StoreError>> {
        Box::pin(async move { used(&self.client().await?, space).await })
    }

    fn touched(&self) -> &Touched {
        &self.touched
    }

    fn tenants(&self) -> BoxFuture<'_, Result<Vec<TenantId>, StoreError>> {
        Box::pin(async move {
            let client = self.client().await?;
            let sql = "SELECT DISTINCT tenant FROM usage ORDER BY tenant";
            let rows = client.query(sql, &[]).await.map_err(|error| failed(&error))?;
            Ok(rows.iter().map(|row| TenantId::new(row.get(0)).expect("legal")).collect())
        })
    }

    fn backup<'a>(
        &'a self,
        _tenant: &'a TenantId,
        target: &'a Path,
        _progress: CopyProgress,
    ) -> BoxFuture<'a, Result<u64, StoreError>> {
        // The database's own tools copy a database.
        let source = "this backend makes no files".into();
        Box::pin(async move { Err(Unavailable::Io { path: target.to_owned(), source }.into()) })
    }

    fn remove<'a>(&'a self, tenant: &'a TenantId) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let client = self.client().await?;
            for table in ["entries", "usage"] {
                let sql = format!("DELETE FROM {table} WHERE tenant = $1");
                client.execute(&sql, &[&tenant.as_str()]).await.map_err(|error| failed(&error))?;
            }
            Ok(())
        })
    }

    fn readmit(&self, _tenant: &TenantId) {}

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { self.pool.lock().await.clear() })
    }
}

async fn used(client: &Client, space: &Space) -> Result<u64, StoreError> {
    let sql = "SELECT coalesce(sum(bytes), 0)::bigint FROM usage WHERE tenant = $1 AND component = $2";
    let row = client.query_one(sql, &[&space.tenant.as_str(), &space.component.as_str()]).await;
    Ok(number(row.map_err(|error| failed(&error))?.get(0)))
}

/// Writes wait in memory until the commit: a guest that thinks holds no row.
struct PostgresTransaction {
    session: Session,
    space: Space,
    version: u64,
    bounds: Bounds,
    began: (Duration, Instant),
    writes: BTreeMap<Bytes, Option<Bytes>>,
    bytes: usize,
    growth: i64,
}

impl PostgresTransaction {
    fn check(&self) -> Result<(), StoreError> {
        let own = self.bounds.clock.own_time().saturating_sub(self.began.0);
        if own >= self.bounds.own || self.began.1.elapsed() >= self.bounds.wall {
            Err(StoreError::TooLong)
        } else {
            Ok(())
        }
    }

    async fn read(&self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        match self.writes.get(key) {
            Some(written) => Ok(written.clone().map(|value| Entry {
                key: Bytes::copy_from_slice(key),
                value,
                version: self.version,
            })),
            None => self.session.get(&self.space, key).await,
        }
    }

    async fn write(&mut self, key: Bytes, value: Option<Bytes>) -> Result<bool, StoreError> {
        self.check()?;
        let size = |value: &Bytes| counted_bytes(self.space.component.as_str(), key.len(), value.len());
        let new = value.as_ref().map_or(0, size);
        self.bytes += key.len() + value.as_ref().map_or(0, Bytes::len);
        if self.writes.len() >= MAX_TRANSACTION_WRITES || self.bytes > MAX_TRANSACTION_BYTES {
            return Err(StoreError::TransactionTooLarge);
        }
        let before = self.read(&key).await?;
        let delta = i64::try_from(new).expect("small")
            - i64::try_from(before.as_ref().map_or(0, |entry| size(&entry.value))).expect("small");
        let limit = self.bounds.quota_bytes;
        if delta > 0 && limit < u64::MAX {
            // Not within the transaction: what others add at the same time must not make this one conflict. So the quota is exact on one host only.
            let client = self.session.store.client().await?;
            let used = used(&client, &self.space).await?.saturating_add_signed(self.growth + delta);
            self.session.store.pool.lock().await.push(client);
            if used > limit {
                return Err(StoreError::QuotaExceeded { limit });
            }
        }
        self.growth += delta;
        self.writes.insert(key, value);
        Ok(before.is_some())
    }

    async fn flush(&self) -> Result<(), tokio_postgres::Error> {
        let client = self.session.client();
        let (tenant, component) = (self.space.tenant.as_str(), self.space.component.as_str());
        let version = i64::try_from(self.version).expect("small");
        for (key, value) in &self.writes {
            match value {
                Some(value) => {
                    let sql = "INSERT INTO entries VALUES ($1, $2, $3, $4, $5) ON CONFLICT (tenant, component, key) DO UPDATE SET value = $4, version = $5";
                    client.execute(sql, &[&tenant, &component, &&**key, &&**value, &version]).await?;
                }
                None => {
                    let sql = "DELETE FROM entries WHERE tenant = $1 AND component = $2 AND key = $3";
                    client.execute(sql, &[&tenant, &component, &&**key]).await?;
                }
            }
        }
        client.execute("INSERT INTO usage VALUES ($1, $2, $3)", &[&tenant, &component, &self.growth]).await?;
        client.execute("INSERT INTO committed VALUES ($1)", &[&version]).await?;
        Ok(())
    }

    /// After a connection broke in the midst of a commit: the row says that it was one.
    async fn outcome(&self) -> Result<(), StoreError> {
        let Ok(client) = self.session.store.client().await else { return Err(StoreError::OutcomeUnknown) };
        let version = i64::try_from(self.version).expect("small");
        let found = client.query_opt("SELECT 1 FROM committed WHERE transaction = $1", &[&version]).await;
        if matches!(found, Ok(Some(_))) { Ok(()) } else { Err(StoreError::OutcomeUnknown) }
    }
}

impl Transaction for PostgresTransaction {
    fn get<'a>(&'a mut self, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Entry>, StoreError>> {
        Box::pin(async move {
            self.check()?;
            self.read(key).await
        })
    }

    fn scan<'a>(&'a mut self, range: &'a KeyRange, scan: Scan) -> BoxFuture<'a, Result<Page, StoreError>> {
        Box::pin(async move {
            self.check()?;
            let limit = scan.limit.min(MAX_PAGE_ENTRIES);
            if range.is_empty() || limit == 0 {
                return Ok(Page::default());
            }
            // As many more as own writes may hide.
            let found = self.session.range(&self.space, range, limit + 1 + self.writes.len(), scan.order).await?;
            let mut merged: BTreeMap<Bytes, Option<Entry>> =
                found.into_iter().map(|entry| (entry.key.clone(), Some(entry))).collect();
            for (key, value) in self.writes.range(range.start.clone()..range.end.clone()) {
                let entry = |value: &Bytes| Entry { key: key.clone(), value: value.clone(), version: self.version };
                merged.insert(key.clone(), value.as_ref().map(entry));
            }
            let mut entries: Vec<Entry> = merged.into_values().flatten().collect();
            if scan.order == Order::Descending {
                entries.reverse();
            }
            Ok(page(entries, limit))
        })
    }

    /// Candidates are looked for outside the transaction, so that the range is no part of what it has read; each is locked by name, then read in the transaction.
    fn take<'a>(&'a mut self, range: &'a KeyRange, limit: usize) -> BoxFuture<'a, Result<Page, StoreError>> {
        Box::pin(async move {
            self.check()?;
            let outside = self.session.store.begin("READ COMMITTED").await?;
            let mut taken = Vec::new();
            let mut from = range.clone();
            while taken.len() < limit {
                let candidates = outside.range(&self.space, &from, 16, Order::Ascending).await?;
                let Some(last) = candidates.last() else { break };
                let mut after = last.key.to_vec();
                after.push(0);
                from.start = after.into();
                for candidate in candidates {
                    if taken.len() == limit {
                        break;
                    }
                    let name = format!("{}/{:?}", self.space, candidate.key);
                    let sql = "SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0))";
                    let locked =
                        self.session.client().query_one(sql, &[&name]).await.map_err(|error| failed(&error))?;
                    // A key that is gone meanwhile, or in this transaction's snapshot, is none of this transaction's business.
                    if locked.get(0)
                        && let Some(entry) = self.read(&candidate.key).await?
                    {
                        taken.push(entry);
                    }
                }
            }
            Ok(Page { entries: taken, ..Page::default() })
        })
    }

    fn set(&mut self, key: Bytes, value: Bytes) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { self.write(key, Some(value)).await.map(|_| ()) })
    }

    fn delete<'a>(&'a mut self, key: &'a [u8]) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move {
            self.check()?;
            if self.read(key).await?.is_none() {
                return Ok(false);
            }
            self.write(Bytes::copy_from_slice(key), None).await
        })
    }

    /// As the quota counts: what is committed now, and what this transaction adds.
    fn usage(&mut self) -> BoxFuture<'_, Result<SpaceUsage, StoreError>> {
        Box::pin(async move {
            self.check()?;
            let client = self.session.store.client().await?;
            let used_bytes = used(&client, &self.space).await?.saturating_add_signed(self.growth);
            self.session.store.pool.lock().await.push(client);
            Ok(SpaceUsage { used_bytes, quota_bytes: self.bounds.quota_bytes })
        })
    }

    fn order<'a>(&'a mut self, group: &'a [u8]) -> BoxFuture<'a, Result<u64, StoreError>> {
        Box::pin(async move {
            let name = format!("{}/{group:?}", self.space);
            let client = self.session.client();
            let lock = "SELECT pg_advisory_xact_lock(hashtextextended($1, 1))";
            client.execute(lock, &[&name]).await.map_err(|error| failed(&error))?;
            // A number taken at the beginning would be in the order of the beginnings.
            let row = client.query_one("SELECT nextval('numbers')", &[]).await.map_err(|error| failed(&error))?;
            Ok(number(row.get(0)))
        })
    }

    fn commit(mut self: Box<Self>) -> BoxFuture<'static, Result<(), StoreError>> {
        Box::pin(async move {
            self.check()?;
            if !self.writes.is_empty() {
                self.flush().await.map_err(|error| failed(&error))?;
            }
            if let Err(error) = self.session.client().batch_execute("COMMIT").await {
                return if error.is_closed() { self.outcome().await } else { Err(failed(&error)) };
            }
            if let Some(client) = self.session.client.take() {
                self.session.store.pool.lock().await.push(client);
            }
            let deliverable = |key: &Bytes| Section::Deliveries.has(key) || Section::Due.has(key);
            if self.writes.iter().any(|(key, value)| value.is_some() && deliverable(key)) {
                self.session.store.touched.add(self.space.clone());
            }
            Ok(())
        })
    }
}

async fn two_stores() -> (Shared, Shared, Server) {
    let server = Server::start().await;
    let store = || -> Shared {
        let socket = server.folder.path().to_owned();
        Arc::new(PostgresStore { socket, pool: Arc::default(), touched: Arc::default() })
    };
    (store(), store(), server)
}

crate::backend_suite!(two_stores);
