//! Who a peer is: the hash of its public key, as text. No type of the network's library is part of it.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{InvalidAddress, address};

/// The longest text that is read as a peer's id, in bytes.
pub const MAX_PEER_ID_BYTES: usize = 128;

/// A peer: the textual form of the hash of its public key, always in base58.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PeerId(Arc<str>);

/// A text that is no peer's id.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no peer id: it is base58 such as `12D3KooW…` or `Qm…`, or a CID that begins with `bafz`")]
pub struct InvalidPeerId(String);

/// Multicodec of a libp2p public key, as a CID of version 1 names it.
const LIBP2P_KEY: u8 = 0x72;
/// The version of such a CID.
const CID_VERSION: u8 = 1;

impl PeerId {
    /// Checks and takes a text: base58, or a CID of version 1 in base32 with the codec of public keys.
    pub fn new(text: &str) -> Result<Self, InvalidPeerId> {
        let invalid = || InvalidPeerId(text.chars().take(MAX_PEER_ID_BYTES).collect());
        if text.len() > MAX_PEER_ID_BYTES {
            return Err(invalid());
        }
        let id = match text.strip_prefix('b').filter(|_| text.starts_with("baf")) {
            Some(base32) => {
                let bytes = decode_base32(base32).ok_or_else(invalid)?;
                let hash = bytes.strip_prefix(&[CID_VERSION, LIBP2P_KEY]).ok_or_else(invalid)?;
                libp2p::PeerId::from_bytes(hash).map_err(|_| invalid())?
            }
            None => text.parse::<libp2p::PeerId>().map_err(|_| invalid())?,
        };
        Ok(Self::from_network(&id))
    }

    /// The peer at the end of an address, such as `/ip4/192.0.2.7/tcp/9710/p2p/12D3KooW…`.
    pub fn of_address(text: &str) -> Result<Self, InvalidAddress> {
        address::parse_with_peer(text).map(|(peer, _)| Self::from_network(&peer))
    }

    /// The id, in base58.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn from_network(id: &libp2p::PeerId) -> Self {
        Self(id.to_base58().into())
    }

    /// The id as the network's library has it. None cannot be: the text was made of one.
    pub(super) fn to_network(&self) -> Option<libp2p::PeerId> {
        self.0.parse().ok()
    }
}

/// RFC 4648 base32 without padding, lower case.
fn decode_base32(text: &str) -> Option<Vec<u8>> {
    let (mut bits, mut held) = (0_u32, 0_u32);
    let mut bytes = Vec::with_capacity(text.len());
    for letter in text.bytes() {
        let value = match letter {
            b'a'..=b'z' => letter.checked_sub(b'a')?,
            b'2'..=b'7' => letter.checked_sub(b'2')?.checked_add(26)?,
            _ => return None,
        };
        bits = (bits << 5) | u32::from(value);
        held = held.checked_add(5)?;
        if held >= 8 {
            held = held.checked_sub(8)?;
            bytes.push(u8::try_from((bits >> held) & 0xff).ok()?);
            bits &= (1 << held) - 1;
        }
    }
    Some(bytes)
}

impl TryFrom<String> for PeerId {
    type Error = InvalidPeerId;

    fn try_from(text: String) -> Result<Self, InvalidPeerId> {
        Self::new(&text)
    }
}

impl FromStr for PeerId {
    type Err = InvalidPeerId;

    fn from_str(text: &str) -> Result<Self, InvalidPeerId> {
        Self::new(text)
    }
}

impl From<PeerId> for String {
    fn from(peer: PeerId) -> Self {
        peer.as_str().to_owned()
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_id_is_one_text_whatever_form_it_came_in() {
        // The example of the peer-id specification, in both of its forms.
        let qm = PeerId::new("QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N").expect("base58");
        let cid = PeerId::new("bafzbeie5745rpv2m6tjyuugywy4d5ewrqgqqhfnf445he3omzpjbx5xqxe").expect("CIDv1");
        assert_eq!(qm, cid);
        assert_eq!(cid.as_str(), "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N");
        assert_eq!(cid.to_network().map(|id| PeerId::from_network(&id)), Some(qm));
    }

    #[test]
    fn what_is_no_peer_id_is_refused() {
        let long = "1".repeat(MAX_PEER_ID_BYTES + 1);
        // The last is a CID of something else than a key.
        let other = "bafybeie5745rpv2m6tjyuugywy4d5ewrqgqqhfnf445he3omzpjbx5xqxe";
        for text in ["", "Qm", "peer-a", "bafz", "bafz1", "0OIl", &long, other] {
            assert!(PeerId::new(text).is_err(), "{text}");
        }
    }
}
