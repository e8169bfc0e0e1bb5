//! Who is told when a resource changes: the listeners of one tenant, each with the URIs that it wants.
//!
//! A change marks the URI at each of its listeners. A listener that is slow keeps marks, not messages: what it holds is bounded by what it wants. Changes of one URI reach listeners
//! at once, and then at most ten times a second.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;

use crate::memory::{Account, MemoryUse, NoMemory, Reservation};

/// Most URIs of one listener.
pub const MAX_SUBSCRIPTIONS: usize = 200;
/// Between two notifications of one resource.
const PAUSE: Duration = Duration::from_millis(100);
/// Memory of a subscription besides its URI, in bytes.
const SUBSCRIPTION_BYTES: usize = 256;

/// The listeners of one tenant.
#[derive(Debug, Default)]
pub struct ResourceChanges {
    wanted: Mutex<HashMap<Arc<str>, WantedResource>>,
    next: AtomicU64,
}

/// One URI that somebody wants to know of.
#[derive(Debug, Default)]
struct WantedResource {
    listeners: HashMap<u64, Weak<ResourceListener>>,
    /// There while its listeners are told; whether it has changed since they were.
    telling: Option<bool>,
}

/// One client, with the resources that it wants to know of.
#[derive(Debug)]
pub struct ResourceListener {
    number: u64,
    changes: Arc<ResourceChanges>,
    state: Mutex<ListenerState>,
    woken: Notify,
}

#[derive(Debug, Default)]
struct ListenerState {
    wanted: BTreeMap<Arc<str>, Reservation>,
    changed: BTreeSet<Arc<str>>,
}

/// A client cannot be told of one more resource.
#[derive(Debug, thiserror::Error)]
pub enum NoSubscription {
    /// It has too many.
    #[error("there are {MAX_SUBSCRIPTIONS} subscriptions already; end one first")]
    TooMany,
    /// Its tenant has no memory for it.
    #[error("no room for another subscription: {0}")]
    NoMemory(NoMemory),
}

impl ResourceChanges {
    fn wanted(&self) -> MutexGuard<'_, HashMap<Arc<str>, WantedResource>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A listener that wants nothing yet.
    pub fn listener(self: &Arc<Self>) -> Arc<ResourceListener> {
        Arc::new(ResourceListener {
            number: self.next.fetch_add(1, Ordering::Relaxed),
            changes: Arc::clone(self),
            state: Mutex::default(),
            woken: Notify::new(),
        })
    }

    /// How many URIs somebody wants to know of.
    pub fn len(&self) -> usize {
        self.wanted().len()
    }

    /// Whether nobody wants to know of anything.
    pub fn is_empty(&self) -> bool {
        self.wanted().is_empty()
    }

    /// Whether somebody wants to know of a URI.
    pub fn is_wanted(&self, uri: &str) -> bool {
        self.wanted().contains_key(uri)
    }

    /// Tells the listeners of a URI that it has changed: now, or when those who are told now have been.
    pub fn updated(self: &Arc<Self>, uri: &str) {
        let uri = {
            let mut wanted = self.wanted();
            let Some((uri, _)) = wanted.get_key_value(uri) else { return };
            let uri = Arc::clone(uri);
            let Some(entry) = wanted.get_mut(&uri) else { return };
            let is_told = entry.telling.is_some();
            entry.telling = Some(true);
            if is_told {
                return;
            }
            uri
        };
        let changes = Arc::clone(self);
        tokio::spawn(async move {
            while changes.tell(&uri) {
                tokio::time::sleep(PAUSE).await;
            }
        });
    }

    /// Marks a URI at its listeners if it has changed since they were told; whether it may change again soon.
    fn tell(&self, uri: &Arc<str>) -> bool {
        let listeners: Vec<Arc<ResourceListener>> = {
            let mut wanted = self.wanted();
            let Some(entry) = wanted.get_mut(uri) else { return false };
            if entry.telling != Some(true) {
                entry.telling = None;
                return false;
            }
            entry.telling = Some(false);
            entry.listeners.values().filter_map(Weak::upgrade).collect()
        };
        for listener in &listeners {
            listener.mark(uri);
        }
        // Dropped outside the lock: the last reference takes it.
        drop(listeners);
        true
    }
}

impl ResourceListener {
    fn state(&self) -> MutexGuard<'_, ListenerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wants to know of a URI from now on; whether nobody did before.
    pub fn subscribe(self: &Arc<Self>, uri: &str, account: &Arc<Account>) -> Result<bool, NoSubscription> {
        let uri: Arc<str> = uri.into();
        {
            let mut state = self.state();
            if state.wanted.contains_key(&uri) {
                return Ok(false);
            }
            if state.wanted.len() >= MAX_SUBSCRIPTIONS {
                return Err(NoSubscription::TooMany);
            }
            let bytes = u64::try_from(uri.len().saturating_add(SUBSCRIPTION_BYTES)).unwrap_or(u64::MAX);
            let held = account.reserve(MemoryUse::Messages, bytes).map_err(NoSubscription::NoMemory)?;
            state.wanted.insert(Arc::clone(&uri), held);
        }
        let mut wanted = self.changes.wanted();
        let entry = wanted.entry(uri).or_default();
        let is_first = entry.listeners.is_empty();
        entry.listeners.insert(self.number, Arc::downgrade(self));
        Ok(is_first)
    }

    /// Does not want to know of a URI any more; whether it did.
    pub fn unsubscribe(&self, uri: &str) -> bool {
        let existed = {
            let mut state = self.state();
            state.changed.remove(uri);
            state.wanted.remove(uri).is_some()
        };
        self.leave([uri]);
        existed
    }

    fn leave<'a>(&self, uris: impl IntoIterator<Item = &'a str>) {
        let mut wanted = self.changes.wanted();
        for uri in uris {
            let is_last = wanted.get_mut(uri).is_some_and(|entry| {
                entry.listeners.remove(&self.number);
                entry.listeners.is_empty()
            });
            if is_last {
                wanted.remove(uri);
            }
        }
    }

    /// Marks a URI as changed, if it is wanted: also one of which the client could not be told.
    pub fn mark(&self, uri: &Arc<str>) {
        let mut state = self.state();
        if state.wanted.contains_key(uri) && state.changed.insert(Arc::clone(uri)) {
            self.woken.notify_one();
        }
    }

    /// Waits for changes, and takes them.
    pub async fn changed(&self) -> Vec<Arc<str>> {
        loop {
            let changed = std::mem::take(&mut self.state().changed);
            if !changed.is_empty() {
                return changed.into_iter().collect();
            }
            self.woken.notified().await;
        }
    }
}

impl Drop for ResourceListener {
    fn drop(&mut self) {
        let wanted = std::mem::take(&mut self.state().wanted);
        self.leave(wanted.keys().map(|uri| &**uri));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{AccountLimits, HostMemory, MemoryConfig};

    fn account(bytes: u64) -> Arc<Account> {
        let limits = AccountLimits { message_bytes: Some(bytes), ..AccountLimits::default() };
        HostMemory::new(&MemoryConfig::default()).account(limits)
    }

    #[tokio::test]
    async fn each_listener_is_told_of_what_it_wants_once() {
        let (changes, account) = (Arc::new(ResourceChanges::default()), account(1 << 20));
        let (one, other) = (changes.listener(), changes.listener());
        assert!(one.subscribe("a:1", &account).expect("room"), "nobody wanted it before");
        assert!(!other.subscribe("a:1", &account).expect("room"), "somebody did");
        assert!(other.subscribe("a:2", &account).expect("room"));
        for _ in 0..1_000 {
            changes.updated("a:1");
        }
        assert_eq!(one.changed().await, ["a:1".into()]);
        assert_eq!(other.changed().await, ["a:1".into()]);
        // What changes soon after is told once more, however often it changes.
        for _ in 0..1_000 {
            changes.updated("a:1");
        }
        assert_eq!(one.changed().await, ["a:1".into()]);
        let more = tokio::time::timeout(PAUSE * 3, one.changed()).await;
        assert!(more.is_err(), "there was no further change: {more:?}");
        changes.updated("a:2");
        changes.updated("a:1");
        other.unsubscribe("a:1");
        let mut told = other.changed().await;
        told.extend(tokio::time::timeout(PAUSE * 3, other.changed()).await.unwrap_or_default());
        assert!(!told.is_empty() && told.iter().all(|uri| &**uri == "a:2"), "{told:?}");
        drop(one);
        drop(other);
        assert!(changes.is_empty(), "nobody wants anything");
    }

    #[tokio::test]
    async fn subscriptions_are_bounded_in_number_and_in_bytes() {
        let changes = Arc::new(ResourceChanges::default());
        let (listener, large) = (changes.listener(), account(1 << 20));
        for number in 0..MAX_SUBSCRIPTIONS {
            assert!(listener.subscribe(&format!("a:{number}"), &large).expect("room"));
        }
        assert!(matches!(listener.subscribe("a:more", &large), Err(NoSubscription::TooMany)));
        let (listener, small) = (changes.listener(), account(1_000));
        let long = |number: usize| format!("a:{number}{}", "x".repeat(400));
        assert!(listener.subscribe(&long(1), &small).is_ok());
        assert!(matches!(listener.subscribe(&long(2), &small), Err(NoSubscription::NoMemory(_))));
        assert!(listener.unsubscribe(&long(1)) && listener.subscribe(&long(2), &small).is_ok(), "it was given back");
    }
}
