//! HTTP requests. A component that uses this needs a grant: `http = [{ url = "https://api.example.com/*" }]`.
//!
//! ```no_run
//! use mcpp_tool::{Error, http};
//!
//! fn stars(repository: &str) -> Result<u64, Error> {
//!     let response = http::get(&format!("https://api.github.com/repos/{repository}"))
//!         .header("authorization", "Bearer {{secret:GITHUB_TOKEN}}")
//!         .send()?;
//!     let found: serde_json::Value = response.error_for_status()?.json()?;
//!     Ok(found["stargazers_count"].as_u64().unwrap_or_default())
//! }
//! ```
//!
//! The host holds every request to the grant's rules, and redirects are answers like any other: following one is another request. Where `{{secret:NAME}}` stands in a header's value or in the
//! query, the host puts in the secret, if the grant lets it go there; the component never sees it. A request waits no longer than the call has left.

#[cfg(target_arch = "wasm32")]
mod host;

use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum HttpError {
    /// The request cannot be written; what is wrong with it.
    Invalid(String),
    /// The grant does not allow it. The operator finds in the host's log why, and the rule that would.
    Denied,
    /// The host's name has no address.
    Dns(String),
    /// No connection came about, or it broke.
    Connection(String),
    /// The upstream could not show who it is.
    Tls(String),
    /// It took longer than it may.
    Timeout(String),
    /// Something is larger than it may be.
    TooLarge(String),
    /// The answer is not HTTP, or not whole.
    Protocol(String),
    /// A body is not what it should be.
    Decode(String),
    /// The answer is an error.
    Status(u16),
    /// There is no host: this is a native test.
    NoHost,
}

impl std::fmt::Display for HttpError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Invalid(reason) => write!(f, "the request is not valid: {reason}"),
            Self::Denied => f.write_str("the request is denied: no grant allows it"),
            Self::Dns(reason) => write!(f, "the host was not found: {reason}"),
            Self::Connection(reason) => write!(f, "the connection failed: {reason}"),
            Self::Tls(reason) => write!(f, "TLS failed: {reason}"),
            Self::Timeout(reason) => write!(f, "it took too long: {reason}"),
            Self::TooLarge(reason) => write!(f, "too large: {reason}"),
            Self::Protocol(reason) => write!(f, "the answer is not valid: {reason}"),
            Self::Decode(reason) => write!(f, "the body is not as expected: {reason}"),
            Self::Status(status) => write!(f, "the server answered {status}"),
            Self::NoHost => f.write_str("there is no host to make requests here"),
        }
    }
}

impl std::error::Error for HttpError {}

/// A request that is not sent yet.
#[derive(Debug, Clone)]
#[must_use = "a request does nothing until it is sent"]
pub struct Request {
    method: String,
    url: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    timeout: Option<Duration>,
    wrong: Option<String>,
}

/// A GET request.
pub fn get(url: &str) -> Request {
    request("GET", url)
}

/// A HEAD request.
pub fn head(url: &str) -> Request {
    request("HEAD", url)
}

/// A POST request.
pub fn post(url: &str) -> Request {
    request("POST", url)
}

/// A PUT request.
pub fn put(url: &str) -> Request {
    request("PUT", url)
}

/// A PATCH request.
pub fn patch(url: &str) -> Request {
    request("PATCH", url)
}

/// A DELETE request.
pub fn delete(url: &str) -> Request {
    request("DELETE", url)
}

/// A request with a method of your choice, in upper case.
pub fn request(method: &str, url: &str) -> Request {
    Request {
        method: method.to_owned(),
        url: url.to_owned(),
        headers: Vec::new(),
        body: Vec::new(),
        timeout: None,
        wrong: None,
    }
}

impl Request {
    /// Adds a header. `Host`, `Connection` and what else belongs to the connection cannot be set.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    /// Adds a parameter to the query, encoded; a placeholder of a secret stays one.
    pub fn query(mut self, name: &str, value: &str) -> Self {
        let (url, fragment) = self.url.split_once('#').map_or((self.url.as_str(), ""), |(url, rest)| (url, rest));
        let joint = if url.contains('?') { '&' } else { '?' };
        let fragment = if fragment.is_empty() { String::new() } else { format!("#{fragment}") };
        self.url = format!("{url}{joint}{}={}{fragment}", encode(name), encode(value));
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sets the body to JSON, and `content-type` to say so.
    pub fn json(mut self, value: &impl Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => self.body = body,
            Err(error) => self.wrong = Some(error.to_string()),
        }
        self.header("content-type", "application/json")
    }

    /// How long to wait for a connection, for the answer's first byte, and between two pieces of it; each for itself. As long as the call has left, if not set.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sends it and waits for the whole answer.
    ///
    /// # Errors
    /// See [`HttpError`]. An answer that is an error is an answer; see [`Response::error_for_status`].
    pub fn send(self) -> Result<Response, HttpError> {
        if let Some(wrong) = self.wrong {
            return Err(HttpError::Invalid(wrong));
        }
        let url = Url::parse(&self.url)?;
        #[cfg(target_arch = "wasm32")]
        {
            host::send(&self, &url)
        }
        #[cfg(not(target_arch = "wasm32"))]
        {
            let _nobody_to_send_it = (url, self.method, self.headers, self.body, self.timeout);
            Err(HttpError::NoHost)
        }
    }
}

/// Percent-encodes all but unreserved characters and placeholders of secrets.
fn encode(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, from)) = rest.split_once("{{secret:") {
        let Some((name, after)) = from.split_once("}}") else { break };
        encode_plain(before, &mut out);
        out.push_str(&format!("{{{{secret:{name}}}}}"));
        rest = after;
    }
    encode_plain(rest, &mut out);
    out
}

fn encode_plain(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
}

/// A URL in the parts that a request has.
#[derive(Debug, PartialEq, Eq)]
struct Url<'a> {
    scheme: &'a str,
    authority: &'a str,
    target: String,
}

impl<'a> Url<'a> {
    fn parse(text: &'a str) -> Result<Self, HttpError> {
        let invalid = || HttpError::Invalid(format!("{text:?} is not a URL such as https://example.com/path"));
        let (scheme, rest) = text.split_once("://").ok_or_else(invalid)?;
        let rest = rest.split('#').next().unwrap_or(rest);
        let (authority, target) =
            rest.split_at_checked(rest.find(['/', '?']).unwrap_or(rest.len())).ok_or_else(invalid)?;
        if authority.is_empty() {
            return Err(invalid());
        }
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        Ok(Self { scheme, authority, target })
    }
}

/// An answer, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status, such as 200.
    pub status: u16,
    /// The headers, in the order in which they came, names in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

impl Response {
    /// Whether the status is 200 to 299.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// This answer, if its status is below 400.
    ///
    /// # Errors
    /// [`HttpError::Status`] otherwise.
    pub fn error_for_status(self) -> Result<Self, HttpError> {
        if self.status < 400 { Ok(self) } else { Err(HttpError::Status(self.status)) }
    }

    /// The first value of a header, if it is there and text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(value).ok()
    }

    /// The body.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The body as text.
    ///
    /// # Errors
    /// [`HttpError::Decode`] if it is not UTF-8.
    pub fn text(self) -> Result<String, HttpError> {
        String::from_utf8(self.body).map_err(|error| HttpError::Decode(error.to_string()))
    }

    /// The body as a value of JSON.
    ///
    /// # Errors
    /// [`HttpError::Decode`] if it is not JSON, or not of this type.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, HttpError> {
        serde_json::from_slice(&self.body).map_err(|error| HttpError::Decode(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_parts() {
        for (text, parts) in [
            ("https://a.com", Some(("https", "a.com", "/"))),
            ("https://a.com:8443/x?y=z#w", Some(("https", "a.com:8443", "/x?y=z"))),
            ("http://[::1]:80?y", Some(("http", "[::1]:80", "/?y"))),
            ("a.com", None),
            ("https:///x", None),
        ] {
            let url = Url::parse(text).ok();
            assert_eq!(url.as_ref().map(|url| (url.scheme, url.authority, url.target.as_str())), parts, "{text}");
        }
    }

    #[test]
    fn parameters_are_encoded_and_placeholders_are_not() {
        let request = get("https://a.com/x#f").query("a b", "c&d=ü").query("key", "x {{secret:KEY}}/{{secret:");
        assert_eq!(request.url, "https://a.com/x?a%20b=c%26d%3D%C3%BC&key=x%20{{secret:KEY}}%2F%7B%7Bsecret%3A#f");
    }

    #[test]
    fn there_is_no_host_in_a_test() {
        assert_eq!(get("https://a.com").send(), Err(HttpError::NoHost));
        assert!(matches!(get("a.com").send(), Err(HttpError::Invalid(_))));
    }
}
