//! Going back to peers whose connection was lost: later each time, and never all at once.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::mesh::PeerId;

/// Until the first attempt.
const FIRST: Duration = Duration::from_millis(250);
/// Until every attempt after many.
const LAST: Duration = Duration::from_secs(60);
/// A connection that stood for so long makes the next loss a first one.
pub(super) const STEADY: Duration = Duration::from_secs(10);
/// Attempts in one look, so that a host that lost its network does not dial all at once when it is back.
const MAX_AT_ONCE: usize = 16;

/// How long to wait before the attempt after `failures`: twice as long each time, and between half of that and all of it by `luck`, from 0 to 1.
fn delay(failures: u32, luck: f64) -> Duration {
    let whole = FIRST.saturating_mul(2_u32.saturating_pow(failures.min(16))).min(LAST);
    whole.mul_f64(luck.clamp(0.0, 1.0) / 2.0 + 0.5)
}

/// A number from 0 to 1 that nobody can foretell, or at worst one half.
fn luck() -> f64 {
    let mut bytes = [0; 4];
    if getrandom::fill(&mut bytes).is_err() {
        return 0.5;
    }
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
}

#[derive(Debug)]
struct Lost {
    failures: u32,
    next: Instant,
}

/// The peers that were lost.
#[derive(Debug, Default)]
pub(super) struct PeerKeeper(HashMap<PeerId, Lost>);

impl PeerKeeper {
    /// The peers of `kept` to dial now. `connected` are those that need nothing.
    pub(super) fn due(&mut self, kept: Vec<PeerId>, connected: impl Fn(&PeerId) -> bool, now: Instant) -> Vec<PeerId> {
        self.0.retain(|peer, _| kept.contains(peer));
        let mut due = Vec::new();
        for peer in kept {
            if connected(&peer) {
                continue;
            }
            let lost = self.0.entry(peer.clone()).or_insert(Lost { failures: 0, next: now });
            if lost.next <= now && due.len() < MAX_AT_ONCE {
                lost.next = now + delay(lost.failures, luck());
                lost.failures = lost.failures.saturating_add(1);
                due.push(peer);
            }
        }
        due
    }

    /// Notes a connection that has stood for a while.
    pub(super) fn steady(&mut self, peer: &PeerId) {
        self.0.remove(peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_become_rare_and_differ() {
        assert_eq!(delay(0, 1.0), FIRST);
        assert_eq!(delay(0, 0.0), FIRST / 2);
        assert_eq!(delay(3, 1.0), FIRST * 8);
        assert_eq!(delay(40, 1.0), LAST);
        assert!((0..100).map(|_| luck()).any(|luck| luck < 0.5) && (0..100).all(|_| (0.0..=1.0).contains(&luck())));
    }

    #[test]
    fn a_lost_peer_is_dialed_at_once_and_then_later_each_time_until_it_is_steady() {
        let peer = PeerId::from_network(&libp2p::PeerId::random());
        let (mut keeper, start) = (PeerKeeper::default(), Instant::now());
        let kept = || vec![peer.clone()];
        assert_eq!(keeper.due(kept(), |_| false, start), kept());
        assert!(keeper.due(kept(), |_| false, start + FIRST / 4).is_empty());
        assert_eq!(keeper.due(kept(), |_| false, start + FIRST), kept());
        assert!(keeper.due(kept(), |_| false, start + FIRST + FIRST / 2).is_empty());
        assert!(keeper.due(kept(), |_| true, start + LAST).is_empty());
        keeper.steady(&peer);
        assert_eq!(keeper.due(kept(), |_| false, start + FIRST), kept());
        assert!(keeper.due(Vec::new(), |_| false, start).is_empty() && keeper.0.is_empty());
    }

    #[test]
    fn many_lost_peers_are_dialed_a_few_at_a_time() {
        let kept: Vec<PeerId> = (0..40).map(|_| PeerId::from_network(&libp2p::PeerId::random())).collect();
        let (mut keeper, now) = (PeerKeeper::default(), Instant::now());
        let dialed: Vec<usize> = (0..4).map(|_| keeper.due(kept.clone(), |_| false, now).len()).collect();
        assert_eq!(dialed, [16, 16, 8, 0]);
    }
}
