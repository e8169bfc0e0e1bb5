//! Addresses of peers: how they are written, which ones a teller may tell, and which ones the host never dials on another's word.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use libp2p::{Multiaddr, multiaddr::Protocol};

use super::PeerId;

/// The longest address, in bytes of its text. One with a name, a relay and two peer ids takes about 250.
pub const MAX_ADDRESS_BYTES: usize = 512;

/// An address that is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAddress {
    /// It is no address at all.
    #[error("{0:?} is no address of a peer; write for example \"/ip4/192.0.2.7/tcp/9710/p2p/12D3KooW…\"")]
    Malformed(String),
    /// It names nobody.
    #[error("the address {0:?} does not end in /p2p/PEER-ID")]
    Nobody(String),
    /// It belongs to another peer.
    #[error("the address {0:?} is not one of {1}")]
    Another(String, PeerId),
}

/// How far an address reaches. A narrower one is less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum AddressReach {
    /// This machine.
    Machine,
    /// One link, or an address that means nobody in particular. The metadata services of clouds are there.
    Link,
    /// A private network.
    Site,
    /// The Internet.
    World,
}

/// Reads an address.
pub(super) fn parse(text: &str) -> Result<Multiaddr, InvalidAddress> {
    let malformed = || InvalidAddress::Malformed(text.chars().take(MAX_ADDRESS_BYTES).collect());
    if text.len() > MAX_ADDRESS_BYTES {
        return Err(malformed());
    }
    let address: Multiaddr = text.parse().map_err(|_| malformed())?;
    if address.is_empty() { Err(malformed()) } else { Ok(address) }
}

/// Reads an address that ends in the peer it belongs to.
pub(super) fn parse_with_peer(text: &str) -> Result<(libp2p::PeerId, Multiaddr), InvalidAddress> {
    let address = parse(text)?;
    let peer = peer_of(&address).ok_or_else(|| InvalidAddress::Nobody(text.to_owned()))?;
    Ok((peer, address))
}

/// Reads an address of `peer`; its end may name that peer.
pub(super) fn parse_of(text: &str, peer: &PeerId) -> Result<Multiaddr, InvalidAddress> {
    let address = parse(text)?;
    match peer_of(&address) {
        Some(named) if PeerId::from_network(&named) != *peer => {
            Err(InvalidAddress::Another(text.to_owned(), peer.clone()))
        }
        _ => Ok(address),
    }
}

/// Where to listen, as the operator writes it: a socket address means TCP and QUIC at that port.
pub(super) fn parse_listen(text: &str) -> Result<Vec<Multiaddr>, InvalidAddress> {
    let Ok(socket) = text.parse::<SocketAddr>() else { return parse(text).map(|address| vec![address]) };
    let ip = || Multiaddr::empty().with(socket.ip().into());
    Ok(vec![ip().with(Protocol::Tcp(socket.port())), ip().with(Protocol::Udp(socket.port())).with(Protocol::QuicV1)])
}

/// The peer that an address ends in.
pub(super) fn peer_of(address: &Multiaddr) -> Option<libp2p::PeerId> {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => Some(peer),
        _ => None,
    }
}

/// Whether a connection with this address goes through a relay.
pub(super) fn is_relayed(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::P2pCircuit)
}

/// The address without the peer that it ends in.
pub(super) fn without_peer(mut address: Multiaddr) -> Multiaddr {
    if peer_of(&address).is_some() {
        address.pop();
    }
    address
}

/// The IP address that an address begins with.
pub(super) fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(IpAddr::V4(ip)),
        Protocol::Ip6(ip) => Some(IpAddr::V6(ip).to_canonical()),
        _ => None,
    }
}

/// How far an address reaches; none for a name, which only the operator may give.
pub(super) fn reach(address: &Multiaddr) -> Option<AddressReach> {
    match ip_of(address)? {
        IpAddr::V4(ip) => Some(reach_v4(ip)),
        IpAddr::V6(ip) => Some(reach_v6(ip)),
    }
}

fn reach_v4(ip: Ipv4Addr) -> AddressReach {
    let [first, second, ..] = ip.octets();
    if ip.is_loopback() {
        AddressReach::Machine
    } else if ip.is_link_local() || ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() || first == 0 {
        AddressReach::Link
    } else if ip.is_private() || (first == 100 && (64..128).contains(&second)) {
        AddressReach::Site
    } else {
        AddressReach::World
    }
}

fn reach_v6(ip: Ipv6Addr) -> AddressReach {
    if ip.is_loopback() {
        AddressReach::Machine
    } else if ip.is_unicast_link_local() || ip.is_unspecified() || ip.is_multicast() {
        AddressReach::Link
    } else if ip.is_unique_local() {
        AddressReach::Site
    } else {
        AddressReach::World
    }
}

/// Whether the host believes an address from a peer that it reaches at `teller`: a peer on the Internet has nothing to say about this machine or its network.
pub(super) fn may_tell(teller: &Multiaddr, told: &Multiaddr) -> bool {
    let told = match reach(told) {
        Some(AddressReach::Link) | None => return false,
        Some(told) => told,
    };
    // Over a relay nobody knows where the teller is.
    reach(teller).filter(|_| !is_relayed(teller)).unwrap_or(AddressReach::World) <= told
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Multiaddr {
        parse(text).expect("an address")
    }

    #[test]
    fn a_peer_tells_only_of_addresses_that_reach_as_far_as_its_own() {
        let tellers = ["/ip4/127.0.0.1/tcp/1", "/ip4/192.168.1.2/tcp/1", "/ip4/198.51.100.1/tcp/1"];
        let told =
            ["/ip4/127.0.0.1/tcp/2", "/ip4/10.0.0.1/tcp/2", "/ip4/203.0.113.1/tcp/2", "/ip6/::ffff:127.0.0.1/tcp/2"];
        let may = |teller: &str| told.map(|told| may_tell(&address(teller), &address(told)));
        assert_eq!(may(tellers[0]), [true, true, true, true]);
        assert_eq!(may(tellers[1]), [false, true, true, false]);
        assert_eq!(may(tellers[2]), [false, false, true, false]);
        for never in
            ["/ip4/169.254.169.254/tcp/80", "/ip4/0.0.0.0/tcp/1", "/ip6/fe80::1/tcp/1", "/dns4/example.com/tcp/1"]
        {
            assert!(!may_tell(&address(tellers[0]), &address(never)), "{never}");
        }
    }

    #[test]
    fn a_relayed_teller_is_anywhere() {
        let relay = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
        let teller = address(&format!("/ip4/127.0.0.1/tcp/1/p2p/{relay}/p2p-circuit"));
        assert!(!may_tell(&teller, &address("/ip4/127.0.0.1/tcp/2")));
        assert!(is_relayed(&teller));
    }

    #[test]
    fn an_operator_may_write_a_socket_address() {
        let both = parse_listen("0.0.0.0:9710").expect("valid").iter().map(Multiaddr::to_string).collect::<Vec<_>>();
        assert_eq!(both, ["/ip4/0.0.0.0/tcp/9710", "/ip4/0.0.0.0/udp/9710/quic-v1"]);
        assert_eq!(parse_listen("/ip4/127.0.0.1/tcp/0").expect("valid").len(), 1);
        assert!(parse_listen("localhost").is_err());
        assert!(parse("").is_err());
        assert!(parse(&"/tcp/1".repeat(100)).is_err());
    }

    #[test]
    fn an_address_of_another_peer_is_refused() {
        let peer = PeerId::new("12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN").expect("legal");
        let other = "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N";
        assert!(parse_of(&format!("/ip4/192.0.2.1/tcp/1/p2p/{peer}"), &peer).is_ok());
        assert!(parse_of("/ip4/192.0.2.1/tcp/1", &peer).is_ok());
        assert!(matches!(
            parse_of(&format!("/ip4/192.0.2.1/tcp/1/p2p/{other}"), &peer),
            Err(InvalidAddress::Another(..))
        ));
        assert!(matches!(parse_with_peer("/ip4/192.0.2.1/tcp/1"), Err(InvalidAddress::Nobody(_))));
    }
}
