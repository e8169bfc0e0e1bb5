//! Another try at leaving a relay: a second circuit to the peer, on which both sides punch with what they know by then.
//!
//! The library takes a side's own addresses when the circuit stands, and tells the other side those alone. A host that has called its relay a moment before may not have heard from it
//! yet how it looks from outside. Then there is nothing to punch to, and the library does not try again on that circuit.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr, PeerId,
    swarm::dial_opts::{DialOpts, PeerCondition},
};

/// How long the first other try waits; each further one waits four times as long.
const FIRST: Duration = Duration::from_millis(500);
/// Tries of one peer.
const MAX_TRIES: u32 = 3;
/// Peers for which tries are remembered. Those beyond have the first alone.
const MAX_PEERS: usize = 64;

#[derive(Debug)]
struct Renewal {
    circuit: Multiaddr,
    tries: u32,
    due: Option<Instant>,
}

/// Circuits that this host asks for again.
#[derive(Debug, Default)]
pub(super) struct Renewals(HashMap<PeerId, Renewal>);

impl Renewals {
    /// Notes that a punch beside this circuit, which this host dialed, came to nothing.
    pub(super) fn note(&mut self, peer: PeerId, circuit: &Multiaddr, now: Instant) {
        if self.0.len() >= MAX_PEERS && !self.0.contains_key(&peer) {
            return;
        }
        let renewal = self.0.entry(peer).or_insert_with(|| Renewal { circuit: circuit.clone(), tries: 0, due: None });
        if renewal.due.is_none() && renewal.tries < MAX_TRIES {
            renewal.due = Some(now + FIRST.saturating_mul(4_u32.saturating_pow(renewal.tries)));
            renewal.tries = renewal.tries.saturating_add(1);
        }
    }

    /// The dials whose time has come. Peers for which `is_relayed` no longer holds are forgotten.
    pub(super) fn due(&mut self, now: Instant, is_relayed: impl Fn(&PeerId) -> bool) -> Vec<DialOpts> {
        self.0.retain(|peer, _| is_relayed(peer));
        let ripe = self.0.iter_mut().filter(|(_, renewal)| renewal.due.is_some_and(|due| due <= now));
        let dial = |(peer, renewal): (&PeerId, &mut Renewal)| {
            renewal.due = None;
            let options = DialOpts::peer_id(*peer).condition(PeerCondition::Always);
            options.addresses(vec![renewal.circuit.clone()]).build()
        };
        ripe.map(dial).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circuit() -> Multiaddr {
        let relay = PeerId::random();
        format!("/ip4/198.51.100.7/tcp/9710/p2p/{relay}/p2p-circuit").parse().expect("an address")
    }

    #[test]
    fn a_punch_that_came_to_nothing_is_tried_three_times_more_with_growing_pauses() {
        let (mut renewals, peer, begin) = (Renewals::default(), PeerId::random(), Instant::now());
        let mut now = begin;
        for pause in [1, 4, 16] {
            renewals.note(peer, &circuit(), now);
            // Several punches of one circuit may fail; they are one reason.
            renewals.note(peer, &circuit(), now);
            let due = now + FIRST * pause;
            assert!(renewals.due(due - Duration::from_millis(1), |_| true).is_empty(), "{pause}");
            assert_eq!(renewals.due(due, |_| true).len(), 1, "{pause}");
            assert!(renewals.due(due, |_| true).is_empty(), "once: {pause}");
            now = due;
        }
        renewals.note(peer, &circuit(), now);
        assert!(renewals.due(now + Duration::from_secs(3600), |_| true).is_empty());
    }

    #[test]
    fn a_peer_that_has_a_direct_connection_or_none_is_forgotten() {
        let (mut renewals, peer, now) = (Renewals::default(), PeerId::random(), Instant::now());
        renewals.note(peer, &circuit(), now);
        assert!(renewals.due(now + FIRST, |_| false).is_empty());
        assert!(renewals.due(now + FIRST, |_| true).is_empty(), "forgotten");
    }

    #[test]
    fn peers_beyond_the_bound_are_not_remembered() {
        let (mut renewals, now) = (Renewals::default(), Instant::now());
        for _ in 0..=MAX_PEERS {
            renewals.note(PeerId::random(), &circuit(), now);
        }
        assert_eq!(renewals.due(now + FIRST, |_| true).len(), MAX_PEERS);
    }
}
