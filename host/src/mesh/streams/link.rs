//! What the host knows of one open connection, and of the peer at its other end: shared by the connection's task, the swarm's and the handle.

use std::{
    num::NonZeroU32,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use libp2p::{Multiaddr, swarm::ConnectionId};

use super::bytes::{Cut, Opener};
use crate::mesh::{Came, PeerId, PeerPath};

/// Streams that one peer may open in a second, with those of two seconds at once: a client keeps its streams, so more is a flood.
const STREAMS_PER_SECOND: NonZeroU32 = NonZeroU32::new(100).expect("not zero");

/// All connections of one peer together.
#[derive(Debug)]
pub(in crate::mesh) struct PeerLoad {
    /// Streams that it opened.
    inbound: AtomicUsize,
    rate: DefaultDirectRateLimiter,
}

impl Default for PeerLoad {
    fn default() -> Self {
        let quota = Quota::per_second(STREAMS_PER_SECOND).allow_burst(STREAMS_PER_SECOND.saturating_mul(BURST));
        Self { inbound: AtomicUsize::new(0), rate: RateLimiter::direct(quota) }
    }
}

const BURST: NonZeroU32 = NonZeroU32::new(2).expect("not zero");

/// Why a stream that a peer opened is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StreamRefused {
    /// It has as many as it may.
    TooMany,
    /// It opens them too fast.
    TooFast,
    /// The host has disconnected it.
    Disconnected,
}

impl StreamRefused {
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::TooMany => "streams",
            Self::TooFast => "stream-rate",
            Self::Disconnected => "disconnected",
        }
    }
}

/// One open connection.
#[derive(Debug)]
pub(in crate::mesh) struct Link {
    /// The peer at its other end.
    pub(in crate::mesh) peer: PeerId,
    /// Which connection of the swarm it is.
    pub(in crate::mesh) connection: ConnectionId,
    /// The address of the other end.
    pub(in crate::mesh) address: Multiaddr,
    /// Straight or through a relay.
    pub(in crate::mesh) path: PeerPath,
    /// Who made it.
    pub(in crate::mesh) came: Came,
    /// When it was made.
    pub(in crate::mesh) since: SystemTime,
    made: Instant,
    load: Arc<PeerLoad>,
    open: AtomicUsize,
    cut: AtomicBool,
    known: AtomicBool,
    rtt_us: AtomicU64,
    left: AtomicBool,
    streams: Mutex<Vec<Weak<Cut>>>,
}

impl Link {
    pub(super) fn new(
        peer: PeerId,
        connection: ConnectionId,
        address: Multiaddr,
        (path, came): (PeerPath, Came),
        load: Arc<PeerLoad>,
    ) -> Self {
        Self {
            peer,
            connection,
            address,
            path,
            came,
            since: SystemTime::now(),
            made: Instant::now(),
            load,
            open: AtomicUsize::new(0),
            cut: AtomicBool::new(false),
            known: AtomicBool::new(false),
            rtt_us: AtomicU64::new(0),
            left: AtomicBool::new(false),
            streams: Mutex::default(),
        }
    }

    /// Ends all of its streams, and takes no more.
    pub(in crate::mesh) fn cut(&self) {
        self.cut.store(true, Ordering::Release);
        let streams = std::mem::take(&mut *self.streams.lock().unwrap_or_else(PoisonError::into_inner));
        for stream in streams.iter().filter_map(Weak::upgrade) {
            stream.cut();
        }
    }

    /// Whether the host has ended it.
    pub(in crate::mesh) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Acquire)
    }

    /// Streams that are open.
    pub(in crate::mesh) fn open_streams(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// Its age.
    pub(in crate::mesh) fn age(&self) -> Duration {
        self.made.elapsed()
    }

    /// The round trip, once it was measured.
    pub(in crate::mesh) fn rtt(&self) -> Option<Duration> {
        match self.rtt_us.load(Ordering::Relaxed) {
            0 => None,
            us => Some(Duration::from_micros(us)),
        }
    }

    pub(in crate::mesh) fn set_rtt(&self, rtt: Duration) {
        self.rtt_us.store(u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX).max(1), Ordering::Relaxed);
    }

    /// Whether this relayed connection has no use beside another one that has stood for `proven`: a direct one, or a later one through a relay.
    /// Of two through relays this side judges those that it dialed: the other side may have seen them come in another order.
    pub(super) fn is_replaced_by(&self, other: &Self, proven: Duration) -> bool {
        let both_dialed = self.came == Came::Dialed && other.came == Came::Dialed;
        let is_better = other.path == PeerPath::Direct || (both_dialed && other.made > self.made);
        self.path == PeerPath::Relayed && is_better && !other.is_cut() && other.age() >= proven
    }

    /// Whether this is the first time that the host tries to leave this relayed connection for a direct one.
    pub(in crate::mesh) fn leaves_first(&self) -> bool {
        self.path == PeerPath::Relayed && !self.left.swap(true, Ordering::AcqRel)
    }

    /// Whether the host knows the peer: it may have more streams, and its connection stays open without any.
    pub(in crate::mesh) fn set_known(&self, known: bool) {
        self.known.store(known, Ordering::Release);
    }

    pub(super) fn is_known(&self) -> bool {
        self.known.load(Ordering::Acquire)
    }

    /// Counts a stream that the peer opened, if it may have one more.
    pub(super) fn admit(&self, most: usize) -> Result<(), StreamRefused> {
        if self.is_cut() {
            return Err(StreamRefused::Disconnected);
        }
        if self.load.rate.check().is_err() {
            return Err(StreamRefused::TooFast);
        }
        let one_more = |open: usize| open.checked_add(1).filter(|open| *open <= most);
        if self.load.inbound.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).is_err() {
            return Err(StreamRefused::TooMany);
        }
        self.open.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Counts a stream that the host opened.
    pub(super) fn opened(&self) {
        self.open.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn closed(&self, opener: Opener) {
        self.open.fetch_sub(1, Ordering::AcqRel);
        if opener == Opener::There {
            self.load.inbound.fetch_sub(1, Ordering::AcqRel);
        }
    }

    pub(super) fn add(&self, cut: &Arc<Cut>) {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        // As many again as are open: each is looked at once for each that is added, at the most.
        if streams.len() > self.open_streams().saturating_mul(2) {
            streams.retain(|stream| stream.strong_count() > 0);
        }
        streams.push(Arc::downgrade(cut));
        drop(streams);
        // The host may have disconnected the peer since the stream was counted.
        if self.is_cut() {
            cut.cut();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(number: usize, path: PeerPath, came: Came) -> Link {
        let peer = PeerId::from_network(&libp2p::PeerId::random());
        Link::new(peer, ConnectionId::new_unchecked(number), Multiaddr::empty(), (path, came), Arc::default())
    }

    #[test]
    fn a_relayed_connection_is_replaced_by_a_direct_one_or_by_the_next_that_this_side_dialed() {
        let first = link(1, PeerPath::Relayed, Came::Dialed);
        let second = link(2, PeerPath::Relayed, Came::Dialed);
        let accepted = link(3, PeerPath::Relayed, Came::Accepted);
        let direct = link(4, PeerPath::Direct, Came::Punched);
        let (young, old) = (Duration::from_secs(3600), Duration::ZERO);
        assert!(first.is_replaced_by(&second, old));
        assert!(!first.is_replaced_by(&second, young), "it has not stood for long");
        assert!(!second.is_replaced_by(&first, old) && !first.is_replaced_by(&first, old));
        assert!(!first.is_replaced_by(&accepted, old), "the other end might see the two come in another order");
        assert!(first.is_replaced_by(&direct, old) && accepted.is_replaced_by(&direct, old));
        assert!(!direct.is_replaced_by(&second, old));
        second.cut();
        assert!(!first.is_replaced_by(&second, old), "that one has ended");
    }
}
