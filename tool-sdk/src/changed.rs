//! What a component tells the clients of its tenant: that a resource of it, or one of its lists, has changed.
//!
//! The host tells a client once for all changes that the client has not taken. What is said within a transaction is told when that has committed, or may have, and not at all if it fails.
//! In a native test nothing happens.

use std::cell::RefCell;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    Resource(String),
    ResourceList,
    PromptList,
}

thread_local! {
    /// What was said since a transaction is open; none if none is.
    static HELD: RefCell<Option<Vec<Change>>> = const { RefCell::new(None) };
}

/// A resource of this component changed: clients that subscribed to it are told.
pub fn updated(uri: &str) {
    say(Change::Resource(uri.to_owned()));
}

/// The list of resources changed: the host lists them anew.
pub fn resource_list() {
    say(Change::ResourceList);
}

/// The list of prompts changed: the host lists them anew.
pub fn prompt_list() {
    say(Change::PromptList);
}

fn say(change: Change) {
    let told_at_once = HELD.with_borrow_mut(|held| match held {
        Some(held) if held.contains(&change) => None,
        Some(held) => {
            held.push(change);
            None
        }
        None => Some(change),
    });
    told_at_once.into_iter().for_each(tell);
}

fn tell(change: Change) {
    #[cfg(target_arch = "wasm32")]
    {
        use crate::bindings::mcpp::primitives::changed;
        match change {
            Change::Resource(uri) => changed::updated(&uri),
            Change::ResourceList => changed::resource_list(),
            Change::PromptList => changed::prompt_list(),
        }
    }
    #[cfg(all(test, not(target_arch = "wasm32")))]
    tests::TOLD.with_borrow_mut(|told| told.push(change));
    #[cfg(not(any(test, target_arch = "wasm32")))]
    let _nobody_to_tell = change;
}

/// Holds back what is said, as long as a transaction is open.
#[derive(Debug)]
pub(crate) struct Held;

impl Held {
    /// From now on.
    pub(crate) fn begin() -> Self {
        HELD.set(Some(Vec::new()));
        Self
    }

    /// The transaction has committed.
    pub(crate) fn tell(self) {
        HELD.take().into_iter().flatten().for_each(tell);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        HELD.set(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{
        StoreError,
        memory::{self, Failure},
        transact,
    };

    thread_local! {
        pub(super) static TOLD: RefCell<Vec<Change>> = const { RefCell::new(Vec::new()) };
    }

    #[test]
    fn what_is_said_in_a_transaction_is_told_once_when_it_has_committed() {
        memory::clear();
        let done = transact(|t| {
            updated("a");
            t.set(b"key", b"value")?;
            updated("a");
            assert_eq!(TOLD.take(), [], "not before the commit");
            Ok::<_, StoreError>(())
        });
        assert_eq!(done, Ok(()));
        assert_eq!(TOLD.take(), [Change::Resource("a".into())]);
        let failed = transact(|_| {
            resource_list();
            Err::<(), _>(StoreError::Unreadable)
        });
        assert!(failed.is_err() && TOLD.take().is_empty());
        for (failure, told) in [(Failure::Unheard, 1), (Failure::Lost(StoreError::Unavailable), 0)] {
            memory::fail_commit(0, failure);
            let ended = transact(|t| {
                resource_list();
                t.set(b"key", b"value")
            });
            assert!(ended.is_err(), "{ended:?}");
            assert_eq!(TOLD.take().len(), told, "{failure:?}: it may have committed");
        }
        prompt_list();
        assert_eq!(TOLD.take(), [Change::PromptList], "at once outside of a transaction");
    }
}
