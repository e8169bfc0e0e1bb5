//! The origin of the running call: this host's own callers, or a peer that an invitation lets call.
//!
//! The host writes the caller's subject, so a request cannot claim another origin. A peer has the operations of the task-queue protocol within its share; the operator's are not for it.

/// The id of the peer that makes the running call; none for a caller of this host.
pub fn peer() -> Option<String> {
    #[cfg(test)]
    if let Some(peer) = memory::peer() {
        return Some(peer);
    }
    mcpp_tool::caller::caller().subject.strip_prefix("peer:").map(str::to_owned)
}

/// The origin of calls in a test.
#[cfg(test)]
pub mod memory {
    use std::cell::RefCell;

    thread_local! {
        static PEER: RefCell<Option<String>> = const { RefCell::new(None) };
    }

    pub(super) fn peer() -> Option<String> {
        PEER.with_borrow(Clone::clone)
    }

    /// Does `work` as a peer.
    pub fn as_peer<T>(peer: &str, work: impl FnOnce() -> T) -> T {
        let before = PEER.replace(Some(peer.to_owned()));
        let done = work();
        PEER.set(before);
        done
    }
}
