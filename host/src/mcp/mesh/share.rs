//! A peer's share of the mesh's door: streams, requests in flight, bytes that wait, and rates, each bounded for the peer and for all peers together.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use crate::{
    call::CallError,
    config::MeshDoorConfig,
    mcp::{conversation::Admit, in_flight::Held},
    memory::{Account, MemoryUse},
    mesh::PeerId,
    registry::rate::Rate,
};

/// Peers whose shares are remembered. Shares without a stream are forgotten first, oldest first.
const MAX_PEERS: usize = 8_192;
/// A share is remembered so long after its last stream: a peer cannot get a new one by leaving.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Bytes are counted in units of this size.
const UNIT_BYTES: usize = 1 << 10;
/// Of all bytes, peers without a grant have this part together: one in so many.
const STRANGERS_PART: usize = 8;
/// When a peer may try again that has too many requests in flight.
const TRY_AGAIN: Duration = Duration::from_millis(50);

/// Why a peer gets no further stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoStream {
    #[error("the peer has as many streams as it may")]
    Peer,
    #[error("the peer opens streams too fast")]
    Rate,
    #[error("all peers together have as many streams as they may")]
    All,
}

impl NoStream {
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Rate => "rate",
            Self::All => "all",
        }
    }
}

/// The shares of all peers.
#[derive(Debug)]
pub(super) struct PeerShares {
    config: MeshDoorConfig,
    by_peer: Mutex<HashMap<PeerId, Arc<PeerShare>>>,
    streams: Arc<Semaphore>,
    pools: Pools,
}

/// Bytes of all peers together: of those with a grant, and of strangers.
#[derive(Debug, Clone)]
struct Pools {
    granted: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
}

/// Whether a peer has a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::mcp) enum PeerStanding {
    Granted,
    Stranger,
}

/// The share of one peer.
#[derive(Debug)]
pub(in crate::mcp) struct PeerShare {
    streams: Arc<Semaphore>,
    new_streams: DefaultDirectRateLimiter,
    in_flight: Arc<Semaphore>,
    most_in_flight: usize,
    bytes: Arc<Semaphore>,
    pools: Pools,
    frames: DefaultDirectRateLimiter,
    calls: ArcSwapOption<(u64, Rate)>,
    last_used: Mutex<Instant>,
}

/// The right to a stream.
#[derive(Debug)]
pub(super) struct PeerStreamPermit {
    share: Arc<PeerShare>,
    _own: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl PeerStreamPermit {
    pub(super) fn share(&self) -> &Arc<PeerShare> {
        &self.share
    }
}

/// Bytes of a share that a frame holds. None only if the host stops.
#[derive(Debug)]
pub(in crate::mcp) struct FrameBytes {
    _held: [Option<OwnedSemaphorePermit>; 2],
}

impl PeerShares {
    pub(super) fn new(config: MeshDoorConfig) -> Self {
        let streams = Arc::new(Semaphore::new(config.max_streams.min(Semaphore::MAX_PERMITS)));
        let pool = |bytes: usize| Arc::new(Semaphore::new(units(bytes)));
        // The largest frame of a stranger fits its pool.
        let strangers = (config.max_bytes / STRANGERS_PART).max(config.max_frame_bytes);
        let pools = Pools { granted: pool(config.max_bytes), strangers: pool(strangers) };
        Self { config, by_peer: Mutex::default(), streams, pools }
    }

    /// One more stream of `peer`.
    pub(super) fn open(&self, peer: &PeerId) -> Result<PeerStreamPermit, NoStream> {
        let share = self.share(peer).ok_or(NoStream::All)?;
        share.new_streams.check().map_err(|_| NoStream::Rate)?;
        let own = Arc::clone(&share.streams).try_acquire_owned().map_err(|_| NoStream::Peer)?;
        let of_all = Arc::clone(&self.streams).try_acquire_owned().map_err(|_| NoStream::All)?;
        Ok(PeerStreamPermit { share, _own: own, _of_all: of_all })
    }

    /// The share of a peer; none if as many are in use as there may be.
    fn share(&self, peer: &PeerId) -> Option<Arc<PeerShare>> {
        let mut shares = self.by_peer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.get(peer) {
            *share.last_used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            return Some(Arc::clone(share));
        }
        if shares.len() >= MAX_PEERS {
            shares.retain(|_, share| Arc::strong_count(share) > 1 || share.was_used());
        }
        if shares.len() >= MAX_PEERS {
            return None;
        }
        let share = Arc::new(PeerShare::new(&self.config, &self.pools));
        shares.insert(peer.clone(), Arc::clone(&share));
        Some(share)
    }
}

fn units(bytes: usize) -> usize {
    bytes.div_ceil(UNIT_BYTES).clamp(1, Semaphore::MAX_PERMITS)
}

fn per_second(count: u32) -> DefaultDirectRateLimiter {
    RateLimiter::direct(Quota::per_second(NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN)))
}

impl PeerShare {
    fn new(config: &MeshDoorConfig, pools: &Pools) -> Self {
        Self {
            streams: Arc::new(Semaphore::new(config.streams_per_peer)),
            new_streams: per_second(config.new_streams_per_second),
            in_flight: Arc::new(Semaphore::new(config.in_flight_per_peer)),
            most_in_flight: config.in_flight_per_peer,
            bytes: Arc::new(Semaphore::new(units(config.bytes_per_peer))),
            pools: pools.clone(),
            frames: per_second(config.frames_per_second),
            calls: ArcSwapOption::empty(),
            last_used: Mutex::new(Instant::now()),
        }
    }

    fn was_used(&self) -> bool {
        self.last_used.lock().unwrap_or_else(PoisonError::into_inner).elapsed() < REMEMBERED
    }

    /// Sets the rate of the peer's grant. What was counted stays counted while the rate is the same.
    pub(super) fn set_rate(&self, calls_per_minute: Option<u64>) {
        if self.calls.load().as_ref().map(|calls| calls.0) != calls_per_minute {
            self.calls.store(calls_per_minute.map(|most| Arc::new((most, Rate::new(most)))));
        }
    }

    /// Waits until so many bytes of the share, and of all peers' of that standing together, are free, and holds them.
    pub(super) async fn hold(&self, bytes: usize, standing: PeerStanding) -> FrameBytes {
        let wanted = u32::try_from(units(bytes)).unwrap_or(u32::MAX);
        let own = Arc::clone(&self.bytes).acquire_many_owned(wanted).await.ok();
        let pool = match standing {
            PeerStanding::Granted => &self.pools.granted,
            PeerStanding::Stranger => &self.pools.strangers,
        };
        let of_all = Arc::clone(pool).acquire_many_owned(wanted).await.ok();
        FrameBytes { _held: [own, of_all] }
    }

    /// Waits until the peer's rate allows another frame.
    pub(super) async fn pace(&self) {
        if self.frames.check().is_err() {
            metrics::counter!("mcpp_mesh_frames_paced_total").increment(1);
            self.frames.until_ready().await;
        }
    }
}

/// The door as one frame finds it.
pub(super) struct FrameAdmission<'a> {
    share: &'a Arc<PeerShare>,
    held: Option<FrameBytes>,
    account: Option<Arc<Account>>,
    /// Memory that reading it takes.
    bytes: usize,
    /// Whether the host takes no new requests.
    closing: bool,
}

impl<'a> FrameAdmission<'a> {
    pub(super) fn new(
        share: &'a Arc<PeerShare>,
        held: FrameBytes,
        account: Option<Arc<Account>>,
        bytes: usize,
        closing: bool,
    ) -> Self {
        Self { share, held: Some(held), account, bytes, closing }
    }
}

impl Admit for FrameAdmission<'_> {
    fn admit(&mut self) -> Result<Held, CallError> {
        let busy = |what, limit| CallError::Busy { what, limit, retry_after: TRY_AGAIN };
        if self.closing {
            return Err(CallError::Busy {
                what: "requests are taken while the host stops",
                limit: 0,
                retry_after: REMEMBERED,
            });
        }
        if let Some(calls) = &*self.share.calls.load() {
            calls.1.take("peer")?;
        }
        let in_flight = Arc::clone(&self.share.in_flight).try_acquire_owned();
        let in_flight =
            in_flight.map_err(|_| busy("requests of this peer are in flight", self.share.most_in_flight))?;
        let bytes = u64::try_from(self.bytes).unwrap_or(u64::MAX);
        let memory = self.account.as_ref().map(|account| account.reserve(MemoryUse::Messages, bytes)).transpose();
        let memory = memory.map_err(|_| busy("bytes of this tenant's messages are there", self.bytes))?;
        Ok(Held::of((in_flight, memory, self.held.take())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(end: &str) -> PeerId {
        format!("12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2{end}").parse().expect("a peer")
    }

    fn config() -> MeshDoorConfig {
        MeshDoorConfig { streams_per_peer: 2, max_streams: 3, in_flight_per_peer: 2, ..MeshDoorConfig::default() }
    }

    #[test]
    fn streams_are_bounded_for_a_peer_for_all_and_in_their_rate() {
        let shares = PeerShares::new(config());
        let first = [shares.open(&peer("Xo")).expect("one"), shares.open(&peer("Xo")).expect("two")];
        assert_eq!(shares.open(&peer("Xo")).expect_err("three"), NoStream::Peer);
        let other = shares.open(&peer("Yo")).expect("another peer has its own");
        assert_eq!(shares.open(&peer("Yo")).expect_err("four of all"), NoStream::All);
        drop((first, other));
        let slow = PeerShares::new(MeshDoorConfig { new_streams_per_second: 1, ..config() });
        drop(slow.open(&peer("Xo")).expect("the first"));
        assert_eq!(slow.open(&peer("Xo")).expect_err("too fast, though it left"), NoStream::Rate);
    }

    #[tokio::test]
    async fn requests_and_bytes_are_bounded_for_a_peer() {
        let shares = PeerShares::new(config());
        let permit = shares.open(&peer("Xo")).expect("a stream");
        let share = permit.share();
        let mut held = Vec::new();
        for _ in 0..2 {
            let mut door =
                FrameAdmission::new(share, share.hold(8 << 20, PeerStanding::Granted).await, None, 8 << 20, false);
            held.push(door.admit().expect("room"));
        }
        let waits = tokio::time::timeout(Duration::ZERO, share.hold(1, PeerStanding::Granted)).await;
        assert!(waits.is_err(), "16 MiB are held");
        held.pop();
        let mut door = FrameAdmission::new(share, share.hold(1, PeerStanding::Granted).await, None, 1, false);
        held.push(door.admit().expect("room again"));
        let mut door = FrameAdmission::new(share, share.hold(1, PeerStanding::Granted).await, None, 1, false);
        let Err(refused) = door.admit() else { panic!("two are in flight") };
        assert_eq!((refused.kind(), refused.retry_after()), ("busy", Some(TRY_AGAIN)));
        share.set_rate(Some(1));
        held.clear();
        let mut door = FrameAdmission::new(share, share.hold(1, PeerStanding::Granted).await, None, 1, false);
        assert!(door.admit().is_ok());
        share.set_rate(Some(1));
        let Err(refused) = door.admit() else { panic!("one a minute") };
        assert_eq!(refused.kind(), "too_many");
    }
}
