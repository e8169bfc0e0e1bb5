//! The second half of leaving a relay: an ordinary dial to the addresses of a punch.
//!
//! In a punch both sides dial at once, and the library makes the side that was called over the relay the listener of what comes of it. Where only the calls of that side get through, as
//! from behind a router with another port for each destination to one that lets everybody in, both sides would wait for the other's first word. An ordinary dial a moment later connects them.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr, PeerId,
    swarm::dial_opts::{DialOpts, PeerCondition},
};

/// How long a punch has before the ordinary dial. Most that succeed do within a round trip.
const PUNCH_TIME: Duration = Duration::from_millis(500);
/// Punches that are remembered for it, and addresses of each. Those beyond have the punch alone.
const MAX_PUNCHES: usize = 64;
const MAX_ADDRESSES: usize = 8;

/// Punches of this host whose peers may have to be dialed besides.
#[derive(Debug, Default)]
pub(super) struct ReverseDials(HashMap<PeerId, (Vec<Multiaddr>, Instant)>);

impl ReverseDials {
    /// Notes that a punch to these addresses began, in which this side listens.
    pub(super) fn note(&mut self, peer: PeerId, addresses: &[Multiaddr], now: Instant) {
        if self.0.len() < MAX_PUNCHES || self.0.contains_key(&peer) {
            self.0.insert(peer, (addresses.iter().take(MAX_ADDRESSES).cloned().collect(), now));
        }
    }

    /// The dials whose time has come, without those to peers that `is_direct` knows.
    pub(super) fn due(&mut self, now: Instant, is_direct: impl Fn(&PeerId) -> bool) -> Vec<DialOpts> {
        let ripe = self.0.extract_if(|_, (_, since)| now.saturating_duration_since(*since) >= PUNCH_TIME);
        let wanted = ripe.filter(|(peer, (addresses, _))| !addresses.is_empty() && !is_direct(peer));
        let dial = |(peer, (addresses, _))| {
            let options = DialOpts::peer_id(peer).condition(PeerCondition::Always).addresses(addresses);
            // The punch may still hold the usual port towards these addresses; and a router that told this one's port apart would not keep it anyway.
            options.allocate_new_port().build()
        };
        wanted.map(dial).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_punch_that_does_not_stand_is_followed_by_one_dial() {
        let mut dials = ReverseDials::default();
        let (open, punched) = (PeerId::random(), PeerId::random());
        let address: Multiaddr = "/ip4/198.51.100.7/tcp/9710".parse().expect("an address");
        let begin = Instant::now();
        dials.note(open, std::slice::from_ref(&address), begin);
        dials.note(punched, &[address], begin);
        assert!(dials.due(begin, |_| false).is_empty(), "the punch has its time first");
        let due = dials.due(begin + PUNCH_TIME, |peer| *peer == punched);
        assert_eq!(due.iter().map(DialOpts::get_peer_id).collect::<Vec<_>>(), [Some(open)]);
        assert!(dials.due(begin + PUNCH_TIME, |_| false).is_empty());
    }

    #[test]
    fn punches_beyond_the_bound_are_not_remembered() {
        let mut dials = ReverseDials::default();
        let begin = Instant::now();
        let address: Multiaddr = "/ip4/198.51.100.7/tcp/9710".parse().expect("an address");
        for _ in 0..2 * MAX_PUNCHES {
            dials.note(PeerId::random(), &vec![address.clone(); 2 * MAX_ADDRESSES], begin);
        }
        assert!(
            dials.0.len() == MAX_PUNCHES && dials.0.values().all(|(addresses, _)| addresses.len() == MAX_ADDRESSES)
        );
    }
}
