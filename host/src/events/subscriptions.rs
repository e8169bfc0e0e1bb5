//! Subscriptions of components to topics.
//!
//! The host also keeps them in the subscriber's space, so that events wait for a subscriber that is not loaded yet.

use std::collections::{BTreeMap, BTreeSet};

use arc_swap::ArcSwap;

use super::record::{decode, encode};
use crate::{
    names::{ComponentName, TenantId, Topic, TopicPattern},
    store::{Bounds, Section, Space, Store, StoreError},
};

/// Key of the note that holds a component's topics, in the component's own space.
const NOTE: &[u8] = b"subscriptions";

type ByTenant = BTreeMap<TenantId, BTreeMap<ComponentName, BTreeSet<TopicPattern>>>;

/// The subscriptions of all tenants.
#[derive(Debug, Default)]
pub struct Subscriptions {
    by_tenant: ArcSwap<ByTenant>,
    changed: tokio::sync::Notify,
}

async fn noted(
    store: &dyn Store,
    tenant: &TenantId,
) -> Result<BTreeMap<ComponentName, BTreeSet<TopicPattern>>, StoreError> {
    let mut components = BTreeMap::new();
    for space in store.spaces(tenant).await? {
        let noted = store.snapshot(&space).await?.get(&Section::Notes.key(NOTE)).await?;
        let Some(noted) = noted else { continue };
        let topics: Vec<String> = decode(&noted.value)?;
        let topics = topics.into_iter().filter_map(|topic| TopicPattern::try_from(topic).ok()).collect();
        components.insert(space.component, topics);
    }
    Ok(components)
}

/// Whether patterns cover a topic: as it is named, or by all of its component's.
fn has(patterns: &BTreeSet<TopicPattern>, topic: &Topic) -> bool {
    patterns.contains(&TopicPattern::from(topic.clone())) || patterns.contains(&TopicPattern::all_of(&topic.component))
}

impl Subscriptions {
    /// Reads the noted subscriptions from the spaces of a tenant that the host opens, and replaces the known ones.
    pub async fn read(&self, store: &dyn Store, tenant: &TenantId) -> Result<(), StoreError> {
        let components = noted(store, tenant).await?;
        self.change(|by_tenant| {
            // A tenant that was closed meanwhile does not come back here.
            if let Some(known) = by_tenant.get_mut(tenant) {
                known.clone_from(&components);
            }
        });
        Ok(())
    }

    /// Components that are subscribed to a topic.
    pub fn of(&self, tenant: &TenantId, topic: &Topic) -> Vec<ComponentName> {
        let by_tenant = self.by_tenant.load();
        let components = by_tenant.get(tenant).into_iter().flatten();
        components.filter(|(_, topics)| has(topics, topic)).map(|(component, _)| component.clone()).collect()
    }

    /// Whether any component of a tenant hears of a topic.
    pub fn has_any(&self, tenant: &TenantId, topic: &Topic) -> bool {
        let by_tenant = self.by_tenant.load();
        by_tenant.get(tenant).is_some_and(|components| components.values().any(|topics| has(topics, topic)))
    }

    /// The topics of which a component is told now.
    pub fn by(&self, space: &Space) -> BTreeSet<TopicPattern> {
        let by_tenant = self.by_tenant.load();
        by_tenant
            .get(&space.tenant)
            .and_then(|components| components.get(&space.component))
            .cloned()
            .unwrap_or_default()
    }

    /// Notes durably a component's present topics. The host calls this when a build of the component goes live or is removed.
    pub async fn set(
        &self,
        store: &dyn Store,
        space: &Space,
        topics: BTreeSet<TopicPattern>,
    ) -> Result<(), StoreError> {
        if self.by(space) != topics {
            let noted: Vec<String> = topics.iter().map(TopicPattern::to_string).collect();
            let mut transaction = store.begin(space, Bounds::host()).await?;
            transaction.set(Section::Notes.key(NOTE), encode(&noted)).await?;
            transaction.commit().await?;
            self.change(|next| {
                // A tenant that was forgotten meanwhile does not come back here.
                if let Some(components) = next.get_mut(&space.tenant) {
                    components.insert(space.component.clone(), topics.clone());
                }
            });
        }
        self.changed.notify_waiters();
        Ok(())
    }

    /// Lets a tenant's components subscribe; the known subscriptions stay.
    pub fn open(&self, tenant: &TenantId) {
        if !self.by_tenant.load().contains_key(tenant) {
            self.change(|by_tenant| {
                by_tenant.entry(tenant.clone()).or_default();
            });
        }
    }

    /// Forgets a tenant that is closed or removed. The notes in its spaces stay. A build of the tenant that still goes live subscribes to nothing.
    pub fn forget(&self, tenant: &TenantId) {
        self.change(|by_tenant| drop(by_tenant.remove(tenant)));
    }

    fn change(&self, change: impl Fn(&mut ByTenant)) {
        self.by_tenant.rcu(|by_tenant| {
            let mut next = ByTenant::clone(by_tenant);
            change(&mut next);
            next
        });
    }

    /// Resolves when a build with a handler went live: deliveries that waited for that handler may run.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_hears_of_a_topic_by_its_name_or_by_all_of_its_component() {
        let own = ComponentName::new("own").expect("legal");
        let patterns = ["orders/*", "queue/ended"].map(|text| TopicPattern::try_from(text.to_owned()).expect("legal"));
        let patterns = BTreeSet::from(patterns);
        for (text, is_heard) in [
            ("orders/paid", true),
            ("queue/ended", true),
            ("queue/task", false),
            ("ordersx/paid", false),
            ("own/x", false),
        ] {
            assert_eq!(has(&patterns, &Topic::parse(text, &own).expect("a topic")), is_heard, "{text}");
        }
    }
}
