//! This host's public address: what the mesh knows from its peers first, then the HTTP services of the settings.

use std::{net::IpAddr, time::Duration};

use mcpp_tool::{
    config,
    environment::now_ms,
    http, mesh,
    store::{Map, StoreError, snapshot, transact},
};
use serde::{Deserialize, Serialize};

/// Services that answer with the caller's address as text, asked in this order.
const SERVICES: &str = "https://api.ipify.org,https://ifconfig.me/ip,https://icanhazip.com";
/// Services that are asked.
const MAX_SERVICES: usize = 5;
const PATIENCE: Duration = Duration::from_secs(5);
/// An answer is kept so long, in milliseconds.
const KEPT_MS: u64 = 3_600_000;
/// The longest answer that is an address, in bytes.
const MAX_ANSWER_BYTES: usize = 64;

const FOUND: Map<(), Found> = Map::new("public-ip");

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Found {
    ip: IpAddr,
    service: String,
    at_ms: u64,
}

/// A public address, and how it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicAddress {
    /// The address.
    pub ip: IpAddr,
    /// `mesh`, or the service.
    pub found_by: String,
}

/// Whether an address is one of the Internet.
pub fn is_public(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [first, second, third, _] = ip.octets();
            let shared = first == 100 && (64..128).contains(&second);
            let special = first == 0
                || first >= 240
                || (first == 192 && second == 0 && third == 0)
                || (first == 198 && (18..20).contains(&second));
            !(ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_multicast()
                || ip.is_documentation()
                || shared
                || special)
        }
        // Global unicast, without the addresses of documentation.
        IpAddr::V6(ip) => {
            (ip.segments().first().copied().unwrap_or_default() & 0xe000) == 0x2000
                && !matches!(ip.segments(), [0x2001, 0xdb8, ..])
        }
    }
}

/// The IP address that a multiaddress begins with.
pub fn ip_of(address: &str) -> Option<IpAddr> {
    let mut parts = address.strip_prefix('/')?.split('/');
    match (parts.next()?, parts.next()?) {
        ("ip4" | "ip6", ip) => ip.parse().ok(),
        _ => None,
    }
}

/// This host's public address; none if none is known.
///
/// # Errors
/// See [`StoreError`].
pub fn find() -> Result<Option<PublicAddress>, StoreError> {
    let host = mesh::identify().ok();
    let seen = host.iter().flat_map(|host| &host.addresses).filter_map(|address| ip_of(address)).find(is_public);
    if let Some(ip) = seen {
        return Ok(Some(PublicAddress { ip, found_by: "mesh".to_owned() }));
    }
    let now = now_ms();
    let kept = FOUND.get(&snapshot()?, &())?.filter(|found| found.at_ms.saturating_add(KEPT_MS) > now);
    if let Some(Found { ip, service, .. }) = kept {
        return Ok(Some(PublicAddress { ip, found_by: service }));
    }
    let services = config::get("ip_services").unwrap_or_else(|| SERVICES.to_owned());
    for service in services.split(',').map(str::trim).filter(|url| !url.is_empty()).take(MAX_SERVICES) {
        let answer = http::get(service).timeout(PATIENCE).send().and_then(http::Response::error_for_status);
        let text =
            answer.ok().filter(|answer| answer.body().len() <= MAX_ANSWER_BYTES).and_then(|answer| answer.text().ok());
        if let Some(ip) = text.and_then(|text| text.trim().parse().ok()).filter(is_public) {
            transact(|t| FOUND.set(t, &(), &Found { ip, service: service.to_owned(), at_ms: now }))?;
            return Ok(Some(PublicAddress { ip, found_by: service.to_owned() }));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_internet_are_public_and_no_others() {
        for (ip, expected) in [
            ("8.8.8.8", true),
            ("10.0.0.1", false),
            ("100.64.0.1", false),
            ("127.0.0.1", false),
            ("169.254.1.1", false),
            ("192.0.2.1", false),
            ("198.18.0.1", false),
            ("240.0.0.1", false),
            ("0.0.0.0", false),
            ("2606:4700::1111", true),
            ("::1", false),
            ("fe80::1", false),
            ("fd00::1", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(is_public(&ip.parse().expect(ip)), expected, "{ip}");
        }
        assert_eq!(ip_of("/ip4/8.8.8.8/tcp/1"), "8.8.8.8".parse().ok());
        assert_eq!((ip_of("/dns4/a/tcp/1"), ip_of("8.8.8.8"), ip_of("/ip4")), (None, None, None));
    }

    #[test]
    fn without_mesh_and_services_none_is_made_up() {
        assert_eq!(find(), Ok(None));
    }
}
