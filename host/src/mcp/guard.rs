//! Host and Origin allow-lists, for every path of every HTTP port: without them a web page could reach a loopback port through the user's browser
//! (DNS rebinding).

use std::net::SocketAddr;

use axum::http::{HeaderMap, Uri, header};

/// Which names a request may be for, and from which web origins it may come.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    hosts: Vec<String>,
    origins: Vec<AllowedOrigin>,
}

#[derive(Debug, Clone, PartialEq)]
enum AllowedOrigin {
    Exact(String),
    /// `scheme://host` with any port.
    AnyPort(String),
}

impl Guard {
    /// Loopback's names, the address of the listener if it is a specific one, and what the operator added.
    pub(super) fn new(listen: SocketAddr, hosts: &[String], origins: &[String]) -> Self {
        let mut allowed: Vec<String> = ["localhost", "127.0.0.1", "[::1]"].map(str::to_owned).into();
        if !listen.ip().is_unspecified() {
            allowed.push(if listen.is_ipv6() { format!("[{}]", listen.ip()) } else { listen.ip().to_string() });
        }
        allowed.extend(hosts.iter().map(|host| host.to_ascii_lowercase()));
        let origin = |text: &String| {
            let text = text.trim_end_matches('/').to_ascii_lowercase();
            match text.strip_suffix(":*") {
                Some(base) => AllowedOrigin::AnyPort(base.to_owned()),
                None => AllowedOrigin::Exact(text),
            }
        };
        Self { hosts: allowed, origins: origins.iter().map(origin).collect() }
    }

    /// The origins that may call, in the protocol engine's form. It is the coarser check: any port of our own names.
    pub(super) fn origins(&self) -> Vec<String> {
        let own = self
            .hosts
            .iter()
            .flat_map(|host| ["http", "https"].map(|scheme| format!("{scheme}://{}:*", strip_port(host))));
        let others = self.origins.iter().map(|origin| match origin {
            AllowedOrigin::Exact(exact) => exact.clone(),
            AllowedOrigin::AnyPort(base) => format!("{base}:*"),
        });
        own.chain(others).collect()
    }

    /// Whether a request may come in; why not.
    pub(super) fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), String> {
        let mut hosts = headers.get_all(header::HOST).iter();
        let host = match (uri.authority(), hosts.next(), hosts.next()) {
            (_, _, Some(_)) => return Err("the request has several Host headers".into()),
            (Some(authority), _, _) => authority.as_str(),
            (None, Some(host), None) => host.to_str().map_err(|_| "the Host header is not text")?,
            (None, None, None) => return Err("the request has no Host header".into()),
        };
        if !self.allows_host(host) {
            return Err(format!("host {host:?} is not allowed; add it to server.allowed_hosts"));
        }
        for origin in headers.get_all(header::ORIGIN) {
            let origin = origin.to_str().map_err(|_| "the Origin header is not text")?;
            // A page that this host itself serves is at home here; the host's name was checked just above.
            if !is_same_origin(origin, host) && !self.allows_origin(origin) {
                return Err(format!("origin {origin:?} is not allowed; add it to server.allowed_origins"));
            }
        }
        Ok(())
    }

    fn allows_host(&self, host: &str) -> bool {
        let name = strip_port(host);
        self.hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(host) || allowed.eq_ignore_ascii_case(name))
    }

    /// Whether a web page of this origin may call.
    pub(super) fn allows_origin(&self, origin: &str) -> bool {
        let origin = origin.to_ascii_lowercase();
        self.origins.iter().any(|allowed| match allowed {
            AllowedOrigin::Exact(exact) => *exact == origin,
            AllowedOrigin::AnyPort(base) => origin
                .strip_prefix(base)
                .is_some_and(|rest| rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port)),
        })
    }
}

fn is_same_origin(origin: &str, host: &str) -> bool {
    origin
        .split_once("://")
        .is_some_and(|(scheme, authority)| matches!(scheme, "http" | "https") && authority.eq_ignore_ascii_case(host))
}

fn strip_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if is_port(port) => name,
        _ => host,
    }
}

fn is_port(text: &str) -> bool {
    !text.is_empty() && text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn check(host: Option<&str>, origin: Option<&str>) -> Result<(), String> {
        let guard = Guard::new(
            SocketAddr::from(([127, 0, 0, 1], 8000)),
            &["tools.example.com".into()],
            &["https://app.example.com".into(), "http://localhost:*".into()],
        );
        let mut headers = HeaderMap::new();
        for (name, value) in [(header::HOST, host), (header::ORIGIN, origin)] {
            if let Some(value) = value {
                headers.append(name, HeaderValue::from_str(value).expect("legal"));
            }
        }
        guard.check(&Uri::from_static("/mcp"), &headers)
    }

    #[test]
    fn only_listed_hosts_and_origins_come_in() {
        for (host, origin, allowed) in [
            (Some("localhost:8000"), None, true),
            (Some("127.0.0.1"), None, true),
            (Some("[::1]:9"), None, true),
            (Some("LOCALHOST"), None, true),
            (Some("tools.example.com:443"), None, true),
            (Some("evil.example.com"), None, false),
            (Some("localhost.evil.com"), None, false),
            (Some("127.0.0.1.evil.com:8000"), None, false),
            (Some("localhost:8000:x"), None, false),
            (Some("localhost:80000000"), None, false),
            (None, None, false),
            (Some("localhost"), Some("https://app.example.com"), true),
            (Some("localhost"), Some("http://localhost:3000"), true),
            (Some("localhost"), Some("http://localhost"), true),
            (Some("localhost"), Some("http://localhost.evil.com"), false),
            (Some("localhost"), Some("http://localhost:3000.evil.com"), false),
            (Some("localhost"), Some("https://app.example.com.evil.com"), false),
            (Some("localhost"), Some("http://app.example.com"), false),
            (Some("localhost"), Some("null"), false),
            (Some("localhost:8000"), Some("http://localhost:8000"), true),
            (Some("127.0.0.1:8000"), Some("http://127.0.0.1:8000"), true),
            (Some("127.0.0.1:8000"), Some("http://127.0.0.1:9000"), false),
            (Some("evil.com"), Some("http://evil.com"), false),
        ] {
            assert_eq!(check(host, origin).is_ok(), allowed, "{host:?} {origin:?}");
        }
    }

    #[test]
    fn two_hosts_are_one_too_many() {
        let guard = Guard::new(SocketAddr::from(([127, 0, 0, 1], 8000)), &[], &[]);
        let mut headers = HeaderMap::new();
        headers.append(header::HOST, HeaderValue::from_static("localhost"));
        headers.append(header::HOST, HeaderValue::from_static("localhost"));
        assert!(guard.check(&Uri::from_static("/mcp"), &headers).is_err());
    }
}
