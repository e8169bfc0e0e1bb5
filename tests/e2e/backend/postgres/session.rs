//! A connection of a store, from its pool.

use std::sync::Arc;

use bytes::Bytes;
use mcpp::store::{Entry, KeyRange, Order, Space, StoreError};
use tokio_postgres::Client;

use super::{PostgresStore, failed, number};

/// A connection in a transaction; rolled back when dropped.
pub(super) struct Session {
    pub(super) client: Option<Client>,
    pub(super) store: PostgresStore,
}

impl Drop for Session {
    fn drop(&mut self) {
        let (Some(client), pool) = (self.client.take(), Arc::clone(&self.store.pool)) else { return };
        tokio::spawn(async move {
            if client.batch_execute("ROLLBACK").await.is_ok() {
                pool.lock().await.push(client);
            }
        });
    }
}

impl Session {
    pub(super) fn client(&self) -> &Client {
        self.client.as_ref().expect("there until it is dropped")
    }

    pub(super) async fn get(&self, space: &Space, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        let sql = "SELECT value, version FROM entries WHERE tenant = $1 AND component = $2 AND key = $3";
        let keys: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
            [&space.tenant.as_str(), &space.component.as_str(), &key];
        let row = self.client().query_opt(sql, &keys).await.map_err(|error| failed(&error))?;
        Ok(row.map(|row| Entry {
            key: Bytes::copy_from_slice(key),
            value: row.get::<_, Vec<u8>>(0).into(),
            version: number(row.get(1)),
        }))
    }

    pub(super) async fn range(
        &self,
        space: &Space,
        range: &KeyRange,
        limit: usize,
        order: Order,
    ) -> Result<Vec<Entry>, StoreError> {
        let direction = if order == Order::Ascending { "ASC" } else { "DESC" };
        let sql = format!(
            "SELECT key, value, version FROM entries WHERE tenant = $1 AND component = $2 AND key >= $3 AND key < $4 ORDER BY key {direction} LIMIT {limit}"
        );
        let keys: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
            [&space.tenant.as_str(), &space.component.as_str(), &&*range.start, &&*range.end];
        let rows = self.client().query(&sql, &keys).await.map_err(|error| failed(&error))?;
        let entry = |row: &tokio_postgres::Row| Entry {
            key: row.get::<_, Vec<u8>>(0).into(),
            value: row.get::<_, Vec<u8>>(1).into(),
            version: number(row.get(2)),
        };
        Ok(rows.iter().map(entry).collect())
    }
}
