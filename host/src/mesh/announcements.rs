//! Announcements: small signed messages that go from peer to peer to all that listen. A call never depends on one.
//!
//! There is one topic for each namespace. What a peer announces beyond its rate is neither told nor passed on.

use std::{
    collections::{HashMap, HashSet},
    num::NonZeroU32,
};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use libp2p::{
    gossipsub::{
        Behaviour, ConfigBuilder, IdentTopic, IdentityTransform, Message, MessageAcceptance, MessageAuthenticity,
        ValidationMode, WhitelistSubscriptionFilter,
    },
    identity::Keypair,
};

use super::{MeshError, PeerId, config::NetworkConfig, meters};

/// The largest announcement, in bytes.
pub const MAX_ANNOUNCEMENT_BYTES: usize = 4 << 10;
/// Announcements of one peer in a minute, all of which may come at once.
const PER_MINUTE: NonZeroU32 = NonZeroU32::new(30).expect("not zero");
/// Announcements that one neighbor passes on in a minute, whoever made them.
const PASSED_PER_MINUTE: NonZeroU32 = NonZeroU32::new(600).expect("not zero");
/// Peers whose rates are kept. Beyond it announcements of new ones are dropped until the oldest rates are forgotten.
const MAX_RATES: usize = 2_048;
/// What a message takes besides its announcement: names, a signature, a key.
const ENVELOPE_BYTES: usize = 1 << 10;
/// Control messages of one packet.
const MAX_CONTROL_BYTES: usize = 16 << 10;
const MAX_MESSAGES_PER_PACKET: usize = 16;

/// The protocol of announcements, with the one topic that this host has.
pub(super) type Gossip = Behaviour<IdentityTransform, WhitelistSubscriptionFilter>;

/// A message that a peer made for everybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// Who made and signed it.
    pub peer: PeerId,
    /// Its bytes, at most [`MAX_ANNOUNCEMENT_BYTES`].
    pub data: Vec<u8>,
}

/// An announcement that nobody hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AnnounceError {
    /// The operator has not opened them.
    #[error("announcements are off; set mesh.announcements = true")]
    Off,
    /// It has too many bytes.
    #[error("an announcement has at most {MAX_ANNOUNCEMENT_BYTES} bytes")]
    TooLarge,
    /// It was made too soon after others.
    #[error("a host makes at most {} announcements in a minute", PER_MINUTE)]
    TooFast,
    /// No peer is there that hears it.
    #[error("no connected peer listens to announcements")]
    Nobody,
    /// The mesh has too much to do, or has ended.
    #[error("the mesh does not take the announcement now")]
    Busy,
}

/// The topic of a namespace.
pub(super) fn topic(network: &NetworkConfig) -> IdentTopic {
    IdentTopic::new(format!("/mcpp/announcements/1.0.0/{}", network.namespace))
}

/// The protocol's behaviour, subscribed.
pub(super) fn behaviour(key: &Keypair, network: &NetworkConfig) -> Result<Gossip, MeshError> {
    let failed = |reason: String| MeshError::Start(std::io::Error::other(reason));
    let config = ConfigBuilder::default()
        .validation_mode(ValidationMode::Strict)
        .validate_messages()
        .max_transmit_size(MAX_ANNOUNCEMENT_BYTES + ENVELOPE_BYTES + MAX_CONTROL_BYTES)
        .max_control_message_size(MAX_CONTROL_BYTES)
        .max_publish_messages(MAX_MESSAGES_PER_PACKET)
        .build()
        .map_err(|error| failed(error.to_string()))?;
    let topic = topic(network);
    let only = WhitelistSubscriptionFilter(HashSet::from([topic.hash()]));
    let signed = MessageAuthenticity::Signed(key.clone());
    let mut gossip =
        Gossip::new_with_subscription_filter(signed, config, only).map_err(|error| failed(error.to_owned()))?;
    gossip.subscribe(&topic).map_err(|error| failed(format!("{error:?}")))?;
    Ok(gossip)
}

/// How fast peers announce.
#[derive(Debug, Default)]
pub(super) struct AnnouncementRates {
    by_source: HashMap<libp2p::PeerId, DefaultDirectRateLimiter>,
    by_neighbor: HashMap<libp2p::PeerId, DefaultDirectRateLimiter>,
}

impl AnnouncementRates {
    /// Whether a host may make one more announcement.
    pub(super) fn admits(&mut self, source: libp2p::PeerId) -> bool {
        within(&mut self.by_source, source, PER_MINUTE)
    }

    /// What becomes of an announcement, and the announcement if this host hears it.
    pub(super) fn judge(
        &mut self,
        neighbor: libp2p::PeerId,
        message: Message,
    ) -> (MessageAcceptance, Option<Announcement>) {
        let refused = |outcome, acceptance| {
            meters::announcement(outcome);
            (acceptance, None)
        };
        let Some(source) = message.source else { return refused("unsigned", MessageAcceptance::Reject) };
        if message.data.len() > MAX_ANNOUNCEMENT_BYTES {
            return refused("too-large", MessageAcceptance::Reject);
        }
        if !within(&mut self.by_neighbor, neighbor, PASSED_PER_MINUTE)
            || !within(&mut self.by_source, source, PER_MINUTE)
        {
            return refused("too-fast", MessageAcceptance::Ignore);
        }
        meters::announcement("heard");
        let announcement = Announcement { peer: PeerId::from_network(&source), data: message.data };
        (MessageAcceptance::Accept, Some(announcement))
    }
}

fn within(
    rates: &mut HashMap<libp2p::PeerId, DefaultDirectRateLimiter>,
    peer: libp2p::PeerId,
    rate: NonZeroU32,
) -> bool {
    if rates.len() >= MAX_RATES && !rates.contains_key(&peer) {
        // A rate that is whole again says nothing.
        rates.retain(|_, limiter| !matches!(limiter.check_n(rate), Ok(Ok(()))));
        if rates.len() >= MAX_RATES {
            return false;
        }
    }
    let limiter = rates.entry(peer).or_insert_with(|| RateLimiter::direct(Quota::per_minute(rate)));
    limiter.check().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(source: Option<libp2p::PeerId>, bytes: usize) -> Message {
        let topic = IdentTopic::new("t").hash();
        Message { source, data: vec![0; bytes], sequence_number: None, topic }
    }

    #[test]
    fn a_peer_that_announces_without_end_is_held_to_its_rate_and_others_are_heard() {
        let mut rates = AnnouncementRates::default();
        let [loud, quiet, neighbor] = [(); 3].map(|()| libp2p::PeerId::random());
        let heard =
            |rates: &mut AnnouncementRates, source| rates.judge(neighbor, message(Some(source), 10)).1.is_some();
        assert_eq!((0..100).filter(|_| heard(&mut rates, loud)).count(), 30);
        assert!(heard(&mut rates, quiet));
        // Many names behind one neighbor are that neighbor's doing.
        let names = (0..2_000).filter(|_| heard(&mut rates, libp2p::PeerId::random())).count();
        assert!(names < 600, "{names}");
        assert!(rates.by_source.len() <= MAX_RATES);
    }

    #[test]
    fn what_is_unsigned_or_too_large_is_rejected() {
        let mut rates = AnnouncementRates::default();
        let peer = libp2p::PeerId::random();
        assert!(matches!(rates.judge(peer, message(None, 1)).0, MessageAcceptance::Reject));
        let larger = message(Some(peer), MAX_ANNOUNCEMENT_BYTES + 1);
        assert!(matches!(rates.judge(peer, larger).0, MessageAcceptance::Reject));
        assert!(rates.judge(peer, message(Some(peer), MAX_ANNOUNCEMENT_BYTES)).1.is_some());
    }
}
