//! Tickets: everything that another host needs to join this one, in one line of text.
//!
//! A ticket says where the host is, which invitation it belongs to, the invitation's secret, and what it allows. Only the inviting host's own record decides; a ticket whose text allows
//! something else is refused.

use std::time::SystemTime;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::{mesh::PeerId, names::ToolPattern};

/// How every ticket begins, so that people and scanners know one.
pub const PREFIX: &str = "mcpp-ticket_";
/// A longer text is no ticket.
pub const MAX_TICKET_BYTES: usize = 16 << 10;
/// Addresses in one ticket.
pub const MAX_ADDRESSES: usize = 16;
/// The longest address, in bytes.
pub const MAX_ADDRESS_BYTES: usize = 512;
/// The version that this host writes and reads.
const VERSION: u32 = 1;

/// A ticket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinTicket {
    version: u32,
    /// The host that invites.
    pub peer: PeerId,
    /// Its addresses, also those by way of a relay.
    pub addresses: Vec<String>,
    /// The invitation.
    pub invitation: String,
    /// The invitation's secret.
    pub secret: TicketSecret,
    /// The tools that it allows.
    pub tools: Vec<ToolPattern>,
    /// When it can be redeemed no more.
    #[serde(with = "humantime_serde")]
    pub expires: SystemTime,
}

/// A secret that is never shown by accident.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TicketSecret(pub String);

impl std::fmt::Debug for TicketSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TicketSecret")
    }
}

/// A text that is no ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTicket {
    /// It does not begin as one.
    #[error("this is no ticket: a ticket begins with `{PREFIX}`")]
    NoTicket,
    /// It is cut or changed.
    #[error("the ticket is damaged: copy all of it")]
    Damaged,
    /// Another version wrote it.
    #[error("the ticket has another version than {VERSION}, which this host reads")]
    Version,
    /// It has more of something than a ticket may have.
    #[error("the ticket is too large")]
    TooLarge,
}

impl JoinTicket {
    /// A ticket of the present version.
    pub fn new(
        peer: PeerId,
        addresses: Vec<String>,
        invitation: String,
        secret: TicketSecret,
        tools: Vec<ToolPattern>,
        expires: SystemTime,
    ) -> Self {
        let addresses = addresses.into_iter().filter(|address| address.len() <= MAX_ADDRESS_BYTES);
        let addresses = addresses.take(MAX_ADDRESSES).collect();
        Self { version: VERSION, peer, addresses, invitation, secret, tools, expires }
    }

    /// Its text.
    pub fn text(&self) -> serde_json::Result<String> {
        let json = serde_json::to_vec(self)?;
        let sum = checksum(&json);
        Ok(format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode([&json[..], &sum].concat())))
    }

    /// Reads a text.
    pub fn parse(text: &str) -> Result<Self, InvalidTicket> {
        let text = text.trim();
        if text.len() > MAX_TICKET_BYTES {
            return Err(InvalidTicket::TooLarge);
        }
        let encoded = text.strip_prefix(PREFIX).ok_or(InvalidTicket::NoTicket)?;
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(encoded).map_err(|_| InvalidTicket::Damaged)?;
        let (json, sum) = bytes.split_last_chunk::<SUM_BYTES>().ok_or(InvalidTicket::Damaged)?;
        if checksum(json) != *sum {
            return Err(InvalidTicket::Damaged);
        }
        let ticket: Self = serde_json::from_slice(json).map_err(|_| InvalidTicket::Damaged)?;
        if ticket.version != VERSION {
            return Err(InvalidTicket::Version);
        }
        let too_long = |address: &String| address.len() > MAX_ADDRESS_BYTES;
        if ticket.addresses.len() > MAX_ADDRESSES || ticket.addresses.iter().any(too_long) {
            return Err(InvalidTicket::TooLarge);
        }
        Ok(ticket)
    }
}

/// Bytes of the sum that tells a damaged ticket.
const SUM_BYTES: usize = 4;

fn checksum(json: &[u8]) -> [u8; SUM_BYTES] {
    blake3::hash(json).as_bytes().first_chunk::<SUM_BYTES>().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_ticket_is_read_as_it_was_written_and_a_damaged_one_is_told() {
        let ticket = JoinTicket::new(
            "12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo".parse().expect("a peer"),
            vec!["/ip4/127.0.0.1/tcp/4001".into(), "x".repeat(MAX_ADDRESS_BYTES + 1)],
            "abc".into(),
            TicketSecret("hidden".into()),
            vec!["text_*".parse().expect("a pattern")],
            SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
        );
        let text = ticket.text().expect("text");
        assert!(!format!("{ticket:?}").contains("hidden"));
        let read = JoinTicket::parse(&format!(" {text}\n")).expect("a ticket");
        assert_eq!(read, ticket);
        assert_eq!(read.addresses, ["/ip4/127.0.0.1/tcp/4001"]);
        let mut changed = text.clone().into_bytes();
        changed[PREFIX.len() + 9] ^= 1;
        let changed = String::from_utf8(changed).expect("ASCII");
        for (text, why) in [
            ("", InvalidTicket::NoTicket),
            ("mcpp_token", InvalidTicket::NoTicket),
            (PREFIX, InvalidTicket::Damaged),
            (&text[..text.len() - 3], InvalidTicket::Damaged),
            (&*changed, InvalidTicket::Damaged),
            (&*format!("{PREFIX}{}", "A".repeat(MAX_TICKET_BYTES)), InvalidTicket::TooLarge),
        ] {
            assert_eq!(JoinTicket::parse(text), Err(why), "{text:.60}");
        }
    }
}
