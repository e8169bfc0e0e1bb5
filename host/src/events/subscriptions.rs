//! Who is subscribed to what. Kept in the subscriber's space too, so that events that are emitted before it is loaded again wait for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arc_swap::ArcSwap;

use super::record::{Topic, decode, encode};
use crate::{
    call::ComponentName,
    store::{Bounds, Section, Space, Store, StoreError},
    telemetry,
    tenant::TenantId,
};

/// The note in a space that has its component's topics.
const NOTE: &[u8] = b"subscriptions";

type ByTenant = BTreeMap<TenantId, BTreeMap<ComponentName, BTreeSet<Topic>>>;

/// The subscriptions of all tenants.
#[derive(Debug, Default)]
pub struct Subscriptions {
    by_tenant: ArcSwap<ByTenant>,
    changed: tokio::sync::Notify,
}

async fn noted(store: &dyn Store, tenant: &TenantId) -> Result<BTreeMap<ComponentName, BTreeSet<Topic>>, StoreError> {
    let mut components = BTreeMap::new();
    for space in store.spaces(tenant).await? {
        let noted = store.snapshot(&space).await?.get(&Section::Notes.key(NOTE)).await?;
        let Some(noted) = noted else { continue };
        let topics: Vec<String> = decode(&noted.value)?;
        let topics = topics.iter().filter_map(|topic| Topic::parse(topic, &space.component)).collect();
        components.insert(space.component, topics);
    }
    Ok(components)
}

impl Subscriptions {
    /// Reads what is noted in the spaces of `tenants`. A tenant whose data cannot be read has none, and is no reason for the others not to be served.
    pub async fn load(store: &dyn Store, tenants: &[TenantId]) -> Self {
        let mut by_tenant = ByTenant::new();
        for tenant in tenants {
            match noted(store, tenant).await {
                Ok(components) => drop(by_tenant.insert(tenant.clone(), components)),
                Err(error) => {
                    tracing::error!(%tenant, error = telemetry::chain(&error), "the tenant's data cannot be read")
                }
            }
        }
        Self { by_tenant: ArcSwap::from_pointee(by_tenant), changed: tokio::sync::Notify::new() }
    }

    /// Who is subscribed to a topic.
    pub fn of(&self, tenant: &TenantId, topic: &Topic) -> Vec<ComponentName> {
        let by_tenant = self.by_tenant.load();
        let components = by_tenant.get(tenant).into_iter().flatten();
        components.filter(|(_, topics)| topics.contains(topic)).map(|(component, _)| component.clone()).collect()
    }

    /// Notes durably what a component is subscribed to now. Called when a build of it goes live or it is removed.
    pub async fn set(&self, store: &dyn Store, space: &Space, topics: BTreeSet<Topic>) -> Result<(), StoreError> {
        let by_tenant = self.by_tenant.load();
        let before = by_tenant.get(&space.tenant).and_then(|components| components.get(&space.component)).cloned();
        let before = before.unwrap_or_default();
        if before != topics {
            let noted: Vec<String> = topics.iter().map(Topic::to_string).collect();
            let mut transaction = store.begin(space, Bounds::host()).await?;
            transaction.set(Section::Notes.key(NOTE), encode(&noted)).await?;
            transaction.commit().await?;
            self.by_tenant.rcu(|by_tenant| {
                let mut next = ByTenant::clone(by_tenant);
                next.entry(space.tenant.clone()).or_default().insert(space.component.clone(), topics.clone());
                Arc::new(next)
            });
        }
        self.changed.notify_waiters();
        Ok(())
    }

    /// Resolves when a build with a handler went live: what waited for it may be delivered.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}
