//! Multiaddresses, as far as a component needs them: their form, and the peer that they end in.

use std::{fmt, net};

/// The longest address, in bytes.
pub const MAX_ADDRESS_BYTES: usize = 512;
/// The longest id of a peer, in bytes.
pub const MAX_PEER_BYTES: usize = 128;

/// An address that ends in a peer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerAddress {
    text: String,
    peer: String,
}

/// Why a text is no address of a peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAddress {
    /// It is too long.
    #[error("the address is longer than {MAX_ADDRESS_BYTES} bytes")]
    TooLong,
    /// It does not begin with a slash, or a part is not of its form; which.
    #[error("{0:?} is no part of an address")]
    Part(String),
    /// It does not end in a peer.
    #[error("the address does not end in /p2p/ and the id of a peer")]
    Nobody,
}

impl PeerAddress {
    /// Reads an address such as `/ip4/192.0.2.1/tcp/4001/p2p/12D3…`; `/ipfs/` is an older name of `/p2p/`.
    ///
    /// # Errors
    /// See [`InvalidAddress`].
    pub fn parse(text: &str) -> Result<Self, InvalidAddress> {
        let text = text.trim();
        if text.len() > MAX_ADDRESS_BYTES {
            return Err(InvalidAddress::TooLong);
        }
        let wrong = |part: &str| InvalidAddress::Part(part.chars().take(40).collect());
        let mut parts = text.strip_prefix('/').ok_or_else(|| wrong(text))?.split('/');
        let (mut last, mut count) = (None, 0);
        while let Some(name) = parts.next() {
            count += 1;
            last = None;
            let has_value: Option<fn(&str) -> bool> = match name {
                "ip4" => Some(|value| value.parse::<net::Ipv4Addr>().is_ok()),
                "ip6" => Some(|value| value.parse::<net::Ipv6Addr>().is_ok()),
                "dns" | "dns4" | "dns6" | "dnsaddr" | "sni" => Some(is_name),
                "tcp" | "udp" => Some(|value| value.parse::<u16>().is_ok()),
                "p2p" | "ipfs" => Some(is_peer),
                "certhash" => Some(|value| {
                    !value.is_empty()
                        && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
                }),
                "quic" | "quic-v1" | "ws" | "wss" | "tls" | "noise" | "p2p-circuit" | "webtransport"
                | "webrtc-direct" => None,
                other => return Err(wrong(other)),
            };
            if let Some(is_legal) = has_value {
                let value = parts.next().unwrap_or_default();
                if !is_legal(value) {
                    return Err(wrong(&format!("{name}/{value}")));
                }
                last = matches!(name, "p2p" | "ipfs").then(|| value.to_owned());
            }
        }
        // A peer alone is nowhere.
        let peer = last.filter(|_| count > 1).ok_or(InvalidAddress::Nobody)?;
        Ok(Self { text: text.to_owned(), peer })
    }

    /// The peer.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// The address as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The address of a peer with the peer at its end: `/p2p/` and its id are added where they are missing.
pub fn with_peer(address: &str, peer: &str) -> String {
    let address = address.trim_end_matches('/');
    let ends_in_peer = matches!(address.rsplit('/').nth(1), Some("p2p" | "ipfs"));
    if ends_in_peer { address.to_owned() } else { format!("{address}/p2p/{peer}") }
}

/// Whether a text has the form of a peer's id: base58 of at least a hash.
pub fn is_peer(text: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_alphanumeric() && !matches!(byte, b'0' | b'O' | b'I' | b'l');
    (40..=MAX_PEER_BYTES).contains(&text.len()) && text.bytes().all(is_digit)
}

fn is_name(text: &str) -> bool {
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    (1..=253).contains(&text.len()) && text.bytes().all(is_legal)
}

/// The TCP or UDP port of an address; none without one.
pub fn port_of(address: &str) -> Option<u16> {
    let mut parts = address.split('/').skip_while(|part| !matches!(*part, "tcp" | "udp"));
    parts.nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PEER: &str = "12D3KooWCFAPi3qBEhJtJtiPJBVD3cTSHe64FtCKMx4McEyiC9jT";

    #[test]
    fn addresses_of_peers_are_read_and_others_are_not() {
        for good in [
            "/ip4/192.0.2.1/tcp/4001/p2p/P",
            "/ip6/2001:db8::1/udp/4001/quic-v1/p2p/P",
            "/dnsaddr/bootstrap.libp2p.io/p2p/P",
            "/dns4/a.example/tcp/443/wss/ipfs/P",
            "/ip4/192.0.2.1/tcp/4001/p2p/P/p2p-circuit/p2p/P",
        ] {
            let address = PeerAddress::parse(&good.replace('P', PEER)).expect(good);
            assert_eq!(address.peer(), PEER, "{good}");
        }
        for (wrong, error) in [
            ("", InvalidAddress::Part(String::new())),
            ("ip4/192.0.2.1", InvalidAddress::Part("ip4/192.0.2.1".into())),
            ("/ip4/192.0.2.256/tcp/1/p2p/P", InvalidAddress::Part("ip4/192.0.2.256".into())),
            ("/ip4/192.0.2.1/tcp/70000/p2p/P", InvalidAddress::Part("tcp/70000".into())),
            ("/ip4/192.0.2.1/tcp/4001", InvalidAddress::Nobody),
            ("/ip4/192.0.2.1/tcp/4001/p2p/P/p2p-circuit", InvalidAddress::Nobody),
            ("/p2p/P", InvalidAddress::Nobody),
            ("/http/x/p2p/P", InvalidAddress::Part("http".into())),
            ("/ip4/192.0.2.1/tcp/4001/p2p/0OIl", InvalidAddress::Part("p2p/0OIl".into())),
        ] {
            assert_eq!(PeerAddress::parse(&wrong.replace('P', PEER)), Err(error), "{wrong}");
        }
        let long = format!("/dns4/{}/tcp/1/p2p/{PEER}", "x".repeat(MAX_ADDRESS_BYTES));
        assert_eq!(PeerAddress::parse(&long), Err(InvalidAddress::TooLong));
        assert_eq!(
            (port_of("/ip4/0.0.0.0/tcp/9710"), port_of("/ip4/0.0.0.0/tcp"), port_of("x")),
            (Some(9710), None, None)
        );
    }

    #[test]
    fn an_address_gets_the_peer_that_it_leaves_out() {
        for (address, whole) in [
            ("/ip4/192.0.2.1/tcp/1", "/ip4/192.0.2.1/tcp/1/p2p/me"),
            ("/ip4/192.0.2.1/tcp/1/", "/ip4/192.0.2.1/tcp/1/p2p/me"),
            ("/ip4/192.0.2.1/tcp/1/p2p/me", "/ip4/192.0.2.1/tcp/1/p2p/me"),
            ("/ip4/192.0.2.1/tcp/1/ipfs/me", "/ip4/192.0.2.1/tcp/1/ipfs/me"),
            ("/ip4/192.0.2.1/tcp/1/p2p/relay/p2p-circuit", "/ip4/192.0.2.1/tcp/1/p2p/relay/p2p-circuit/p2p/me"),
        ] {
            assert_eq!(with_peer(address, "me"), whole);
        }
    }

    proptest! {
        #[test]
        fn no_text_stops_it(text in "(/[a-z0-9.-]{0,8}){0,12}") {
            let _read = PeerAddress::parse(&text);
        }
    }
}
