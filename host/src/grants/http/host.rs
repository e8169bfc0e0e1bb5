//! A host of a URL in its one form: a name in lower-case ASCII, or an address.
//!
//! The parser refuses a name that another program could read as an address (`127.1`, `0x7f000001`, `2130706433`, `0177.0.0.1`).
//! So no two parsers can disagree about a host.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Longest name, and longest label of it, in bytes (RFC 1035).
const MAX_NAME_BYTES: usize = 253;
const MAX_LABEL_BYTES: usize = 63;

/// The host that a URL names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum UrlHost {
    /// A name to look up: lower case, without a dot at its end.
    Name(String),
    /// An address written out.
    Address(IpAddr),
}

/// Reason for which a text is no host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a host: {reason}")]
pub struct InvalidHost {
    text: String,
    reason: &'static str,
}

impl UrlHost {
    /// Takes a host as it stands in a URL: an IPv6 address in brackets.
    pub fn parse(text: &str) -> Result<Self, InvalidHost> {
        let refuse = |reason| Err(InvalidHost { text: text.chars().take(MAX_NAME_BYTES).collect(), reason });
        if let Some(inner) = text.strip_prefix('[') {
            let address = inner.strip_suffix(']').and_then(|inner| inner.parse::<Ipv6Addr>().ok());
            return match address {
                Some(address) if address.to_ipv4().is_some() && !address.is_loopback() && !address.is_unspecified() => {
                    refuse("an IPv4 address is written as one")
                }
                Some(address) => Ok(Self::Address(address.into())),
                None => refuse("only an IPv6 address stands in brackets"),
            };
        }
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            return Ok(Self::Address(address.into()));
        }
        check_name(text).map_or_else(refuse, |()| Ok(Self::Name(text.to_ascii_lowercase())))
    }
}

/// Refuses what is not a plain ASCII name, or what others read as an address.
fn check_name(name: &str) -> Result<(), &'static str> {
    if !name.is_ascii() {
        return Err("a name in other letters is written in its ASCII form, `xn--…`");
    }
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        return Err("a name has 1 to 253 characters");
    }
    if name.ends_with('.') {
        return Err("a name is written without a dot at its end");
    }
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    for label in name.split('.') {
        if label.is_empty() || label.len() > MAX_LABEL_BYTES {
            return Err("each part of a name has 1 to 63 characters");
        }
        if !label.chars().all(legal) || label.starts_with('-') || label.ends_with('-') {
            return Err("a name consists of letters, digits, `-`, `_` and dots");
        }
    }
    let last = name.rsplit('.').next().unwrap_or_default();
    let hexadecimal = last.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("0x"));
    if hexadecimal || last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("an IPv4 address is written as four decimal numbers without leading zeros");
    }
    Ok(())
}

impl fmt::Display for UrlHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => write!(f, "{address}"),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

/// Splits `host[:port]`; none if there is a user before it or the port is no port.
pub fn split_authority(authority: &str) -> Option<(&str, Option<u16>)> {
    if authority.contains(['@', '/', '\\', '?', '#']) {
        return None;
    }
    let after_brackets = authority.rfind(']').map_or(0, |end| end.saturating_add(1));
    let Some(colon) = authority.get(after_brackets..)?.find(':') else { return Some((authority, None)) };
    let (host, port) = authority.split_at_checked(after_brackets.saturating_add(colon))?;
    let port = port.strip_prefix(':')?;
    let digits = (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse() {
        Ok(port) if digits && port > 0 => Some((host, Some(port))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_one_form() {
        for (text, is) in [
            ("example.com", "example.com"),
            ("EXAMPLE.Com", "example.com"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("a_b.example", "a_b.example"),
            ("127.0.0.1", "127.0.0.1"),
            ("[::1]", "[::1]"),
            ("[2001:DB8::0:1]", "[2001:db8::1]"),
            ("1.2.3.4.example", "1.2.3.4.example"),
        ] {
            assert_eq!(UrlHost::parse(text).map(|host| host.to_string()), Ok(is.to_owned()), "{text}");
        }
        for text in [
            "",
            ".",
            "example.com.",
            ".example.com",
            "a..b",
            "bücher.example",
            "EXAMPLE。com",
            "a b",
            "a%62.com",
            "-a.com",
            "a-.com",
            "2130706433",
            "0x7f000001",
            "0X7F.1",
            "127.1",
            "0177.0.0.1",
            "127.0.0.01",
            "1.2.3.4.5",
            "256.1.1.1",
            "a.0x1f",
            "[::ffff:127.0.0.1]",
            "[::127.0.0.1]",
            "[::1",
            "::1",
            "[127.0.0.1]",
            "[fe80::1%25eth0]",
            "*.example.com",
            "a/b",
            "a@b",
            "a:80",
        ] {
            assert!(UrlHost::parse(text).is_err(), "{text}");
        }
        assert!(UrlHost::parse(&format!("{}.com", "a".repeat(64))).is_err());
        assert!(UrlHost::parse(&format!("{}com", "a.".repeat(130))).is_err());
    }

    #[test]
    fn an_authority_is_a_host_and_perhaps_a_port() {
        for (text, is) in [
            ("a.com", Some(("a.com", None))),
            ("a.com:443", Some(("a.com", Some(443)))),
            ("[::1]:8080", Some(("[::1]", Some(8080)))),
            ("[::1]", Some(("[::1]", None))),
            ("a.com:", None),
            ("a.com:0", None),
            ("a.com:+80", None),
            ("a.com:65536", None),
            ("a.com:000080", None),
            ("a.com:80:81", None),
            ("user@a.com", None),
            ("user:secret@a.com", None),
            ("a.com:80@b.com", None),
            ("a.com\\@b.com", None),
        ] {
            assert_eq!(split_authority(text), is, "{text}");
        }
    }
}
