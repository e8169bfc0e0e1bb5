//! Requests that a component may make over HTTP: rules of methods and URLs, and one check of a request against them.
//!
//! The check is pure: it sees the request as the guest wrote it and looks nothing up.
//! The connector asks the rule for the second half: the addresses that a name may have.
//! Rules and requests may hold nothing that two programs could read differently.

mod address;
mod host;
mod path;

use std::{fmt, net::IpAddr};

use http::HeaderName;
use ipnet::IpNet;
use serde::Deserialize;

use self::path::Paths;
pub use self::{
    address::is_public,
    host::{InvalidHost, UrlHost, split_authority},
};

/// Most rules of one component.
const MAX_RULES: usize = 1_000;
/// Longest method, in bytes.
pub const MAX_METHOD_BYTES: usize = 32;
/// The header in which the host names the effect of a request, unless the rule says another.
const DEFAULT_IDEMPOTENCY_HEADER: &str = "Idempotency-Key";
/// Headers that no rule may name for that.
const HEADERS_OF_THE_HOST: [&str; 13] = [
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "upgrade",
    "te",
    "trailer",
    "keep-alive",
    "expect",
    "proxy-authorization",
    "authorization",
    "cookie",
    "content-type",
];
/// Methods of a rule that names none.
const DEFAULT_METHODS: [&str; 2] = ["GET", "HEAD"];

/// `http` or `https`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scheme {
    /// Without TLS.
    Http,
    /// With TLS.
    Https,
}

impl Scheme {
    /// Takes a scheme's name, in any case.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Http, Self::Https].into_iter().find(|scheme| text.eq_ignore_ascii_case(scheme.as_str()))
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that is meant where none is named.
    pub fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// A scheme, a host and a port: the server that a request goes to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct UrlOrigin {
    /// The scheme.
    pub scheme: Scheme,
    /// The host.
    pub host: UrlHost,
    /// The port.
    pub port: u16,
}

impl TryFrom<String> for UrlOrigin {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let refuse = |reason: &str| format!("{text:?} is not an origin such as \"https://api.example.com\": {reason}");
        let (scheme, authority) = text.split_once("://").ok_or_else(|| refuse("it has no scheme"))?;
        let scheme = Scheme::parse(scheme).ok_or_else(|| refuse("its scheme is neither http nor https"))?;
        let (host, port) =
            split_authority(authority).ok_or_else(|| refuse("after the scheme come a host and perhaps a port"))?;
        let host = UrlHost::parse(host).map_err(|error| refuse(&error.to_string()))?;
        Ok(Self { scheme, host, port: port.unwrap_or(scheme.port()) })
    }
}

impl UrlOrigin {
    /// The host, and the port unless it is the scheme's, as in a URL and in the header `Host`.
    pub fn authority(&self) -> String {
        if self.port == self.scheme.port() { self.host.to_string() } else { format!("{}:{}", self.host, self.port) }
    }
}

impl fmt::Display for UrlOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.authority())
    }
}

/// The hosts of one rule.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Hosts {
    One(UrlHost),
    /// All names that end in this, which begins with a dot.
    Below(String),
}

impl Hosts {
    fn parse(text: &str) -> Result<Self, String> {
        match text.strip_prefix("*.") {
            None => UrlHost::parse(text).map(Self::One).map_err(|error| error.to_string()),
            Some(domain) => match UrlHost::parse(domain) {
                Ok(UrlHost::Name(name)) => Ok(Self::Below(format!(".{name}"))),
                Ok(UrlHost::Address(_)) => Err("an address has no names below it".to_owned()),
                Err(error) => Err(error.to_string()),
            },
        }
    }

    fn allow(&self, host: &UrlHost) -> bool {
        match (self, host) {
            (Self::One(one), host) => one == host,
            (Self::Below(domain), UrlHost::Name(name)) => name.len() > domain.len() && name.ends_with(domain),
            (Self::Below(_), UrlHost::Address(_)) => false,
        }
    }
}

/// A rule as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleText {
    url: String,
    methods: Option<Vec<String>>,
    #[serde(default)]
    addresses: Vec<String>,
    #[serde(default)]
    idempotency_header: Option<String>,
}

/// One rule: requests that are allowed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RuleText")]
pub struct Rule {
    scheme: Scheme,
    hosts: Hosts,
    port: u16,
    paths: Paths,
    methods: Vec<String>,
    addresses: Vec<IpNet>,
    /// The header in which the host names the effect of a request that may be repeated; none if it names none.
    idempotency_header: Option<HeaderName>,
}

impl TryFrom<RuleText> for Rule {
    type Error = String;

    fn try_from(text: RuleText) -> Result<Self, String> {
        let url = &text.url;
        let refuse = |reason: &str| {
            format!("the rule's url {url:?} is not one such as \"https://api.example.com/v1/*\": {reason}")
        };
        let (scheme, rest) = url.split_once("://").ok_or_else(|| refuse("it has no scheme"))?;
        let scheme = Scheme::parse(scheme).ok_or_else(|| refuse("its scheme is neither http nor https"))?;
        let (authority, path) =
            rest.split_at_checked(rest.find(['/', '?', '#']).unwrap_or(rest.len())).unwrap_or((rest, ""));
        let (host, port) =
            split_authority(authority).ok_or_else(|| refuse("after the scheme come a host and perhaps a port"))?;
        Ok(Self {
            scheme,
            hosts: Hosts::parse(host).map_err(|reason| refuse(&reason))?,
            port: port.unwrap_or(scheme.port()),
            paths: Paths::parse(path).map_err(refuse)?,
            methods: methods(text.methods)?,
            addresses: text.addresses.iter().map(|address| network(address)).collect::<Result<_, _>>()?,
            idempotency_header: idempotency_header(
                text.idempotency_header.as_deref().unwrap_or(DEFAULT_IDEMPOTENCY_HEADER),
            )?,
        })
    }
}

fn methods(named: Option<Vec<String>>) -> Result<Vec<String>, String> {
    let Some(methods) = named else { return Ok(DEFAULT_METHODS.map(str::to_owned).into()) };
    if methods.is_empty() {
        return Err("`methods` is empty: the rule would allow nothing".to_owned());
    }
    for method in &methods {
        if method.is_empty() || method.len() > MAX_METHOD_BYTES || !method.bytes().all(|byte| byte.is_ascii_uppercase())
        {
            return Err(format!("{method:?} is not a method such as \"GET\""));
        }
        if method == "CONNECT" || method == "TRACE" {
            return Err(format!("{method} is offered to no component"));
        }
    }
    Ok(methods)
}

/// The header for keys of effects; an empty name is none.
fn idempotency_header(name: &str) -> Result<Option<HeaderName>, String> {
    if name.is_empty() {
        return Ok(None);
    }
    let refuse = |reason: &str| format!("`idempotency_header` {name:?} {reason}");
    let header = HeaderName::try_from(name).map_err(|_| refuse("is no name of a header"))?;
    match HEADERS_OF_THE_HOST.contains(&header.as_str()) {
        true => Err(refuse("is a header of the connection, or of rights")),
        false => Ok(Some(header)),
    }
}

fn network(text: &str) -> Result<IpNet, String> {
    let refuse = |reason: &str| format!("{text:?} in `addresses` is not a network such as \"10.0.0.0/8\": {reason}");
    let network: IpNet = text.parse().map_err(|_| refuse("an address, `/`, and the length of the prefix"))?;
    if network.trunc() != network {
        return Err(refuse(&format!("it has bits after the prefix; write {}", network.trunc())));
    }
    Ok(network)
}

impl Rule {
    fn allows(&self, request: &AskedRequest<'_>) -> bool {
        let UrlOrigin { scheme, host, port } = &request.origin;
        self.scheme == *scheme
            && self.port == *port
            && self.hosts.allow(host)
            && self.paths.allow(request.path)
            && self.methods.iter().any(|method| method == request.method)
    }

    /// Whether a request that the rule allows may go to `address`: a public one, one of its networks, or the very one that its URL names.
    pub fn allows_address(&self, address: IpAddr) -> bool {
        is_public(address)
            || self.addresses.iter().any(|network| network.contains(&address))
            || self.hosts == Hosts::One(UrlHost::Address(address))
    }
}

/// All rules of one component.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<Rule>")]
pub struct HttpRules(Vec<Rule>);

impl TryFrom<Vec<Rule>> for HttpRules {
    type Error = String;

    fn try_from(rules: Vec<Rule>) -> Result<Self, String> {
        if rules.len() > MAX_RULES {
            return Err(format!("{} rules; at most {MAX_RULES} are read", rules.len()));
        }
        Ok(Self(rules))
    }
}

/// A request in the form that rules are about.
#[derive(Debug, Clone, PartialEq, Eq)]
struct AskedRequest<'a> {
    method: &'a str,
    origin: UrlOrigin,
    path: &'a str,
}

impl HttpRules {
    /// Whether `now` also contains each of these rules.
    pub(super) fn are_within(&self, now: &Self) -> bool {
        self.0.iter().all(|rule| now.0.contains(rule))
    }

    /// Whether there are no rules: the component has no HTTP.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first rule that allows a request. `host` is as in a URL (an IPv6 address in brackets). `port` defaults to the scheme's. `path` has no query.
    /// For each address of the host, the caller also asks [`HttpRules::allows_address`].
    pub fn check(
        &self,
        method: &str,
        scheme: &str,
        host: &str,
        port: Option<u16>,
        path: &str,
    ) -> Result<&Rule, DeniedRequest> {
        let request = request(method, scheme, host, port, path)?;
        self.0.iter().find(|rule| rule.allows(&request)).ok_or_else(|| DeniedRequest::no_rule(&request))
    }

    /// The header in which the host names the effect of such a request, by the first rule that allows it.
    pub fn idempotency_header(&self, method: &str, origin: &UrlOrigin, path: &str) -> Option<&HeaderName> {
        let path = if path.is_empty() { "/" } else { path };
        let request = AskedRequest { method, origin: origin.clone(), path };
        self.0.iter().find(|rule| rule.allows(&request))?.idempotency_header.as_ref()
    }

    /// Whether a request may go to `address`; asked of every rule that allows the request.
    pub fn allows_address(
        &self,
        method: &str,
        origin: &UrlOrigin,
        path: &str,
        address: IpAddr,
    ) -> Result<(), DeniedRequest> {
        let request = AskedRequest { method, origin: origin.clone(), path };
        let mut rules = self.0.iter().filter(|rule| rule.allows(&request));
        if rules.any(|rule| rule.allows_address(address)) {
            Ok(())
        } else {
            Err(DeniedRequest::address(&request, address))
        }
    }
}

fn request<'a>(
    method: &'a str,
    scheme: &str,
    host: &str,
    port: Option<u16>,
    path: &'a str,
) -> Result<AskedRequest<'a>, DeniedRequest> {
    let Some(scheme) = Scheme::parse(scheme) else {
        return Err(DeniedRequest::never(format!("the scheme {scheme:?} is neither http nor https")));
    };
    if method == "CONNECT" || method == "TRACE" {
        return Err(DeniedRequest::never(format!("the method {method} is offered to no component")));
    }
    let legal = |byte: u8| byte.is_ascii_uppercase();
    if method.is_empty() || method.len() > MAX_METHOD_BYTES || !method.bytes().all(legal) {
        return Err(DeniedRequest::never("the method is not one in upper-case letters".to_owned()));
    }
    let host = UrlHost::parse(host).map_err(|error| DeniedRequest::never(error.to_string()))?;
    let path = if path.is_empty() { "/" } else { path };
    if !path.starts_with('/') {
        return Err(DeniedRequest::never("the path does not begin with `/`".to_owned()));
    }
    Ok(AskedRequest { method, origin: UrlOrigin { scheme, host, port: port.unwrap_or(scheme.port()) }, path })
}

/// A request is not allowed; why, and the rule that would allow it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct DeniedRequest {
    why: String,
    rule: Option<String>,
}

impl DeniedRequest {
    /// No rule can allow it.
    pub fn never(why: String) -> Self {
        Self { why, rule: None }
    }

    fn no_rule(request: &AskedRequest<'_>) -> Self {
        let AskedRequest { method, origin, path } = request;
        if path::is_plain(path) {
            let rule = format!("url = \"{origin}{path}\"\nmethods = [\"{method}\"]");
            return Self { why: format!("no rule allows {method} {origin}{path}"), rule: Some(rule) };
        }
        // No rule with a path can allow this request. The advice names the origin alone, and the operator decides.
        let why = format!("no rule allows {method} {origin} with a path that has `..`, `//` or encoded separators");
        Self { why, rule: Some(format!("url = \"{origin}\"\nmethods = [\"{method}\"]")) }
    }

    fn address(request: &AskedRequest<'_>, address: IpAddr) -> Self {
        let AskedRequest { method, origin, path } = request;
        let url = if path::is_plain(path) { format!("{origin}{path}") } else { origin.to_string() };
        let rule = format!("url = \"{url}\"\nmethods = [\"{method}\"]\naddresses = [\"{}\"]", IpNet::from(address));
        Self { why: format!("{origin} has the address {address}, which is not public"), rule: Some(rule) }
    }

    /// Lines that the operator can add to the component's grant to allow the request; none if no rule can.
    pub fn advice(&self) -> Option<String> {
        self.rule.as_ref().map(|rule| format!("[[http]]\n{rule}"))
    }
}

#[cfg(test)]
mod tests;
