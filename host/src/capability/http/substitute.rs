//! Placeholders of secrets, in header values and in the query. The host finds them before it sends anything, and replaces them just before sending.
//!
//! A placeholder anywhere else denies the request. So does a malformed one, or one of a secret that may not go to the request's destination.
//! The host does not examine a body: text in it that resembles a placeholder leaves unchanged.

use std::collections::BTreeSet;

use http::{HeaderMap, HeaderValue};
use zeroize::Zeroizing;

use crate::{
    control::redactor::Redactor,
    secrets::{PLACEHOLDER_END, PLACEHOLDER_START, SecretName},
};

/// Name of the first placeholder, with the text before and after it; an error if the text begins a placeholder and does not complete one.
fn first(text: &str) -> Result<Option<(&str, SecretName, &str)>, MalformedUse> {
    let Some((before, rest)) = text.split_once(PLACEHOLDER_START) else { return Ok(None) };
    let (name, after) = rest.split_once(PLACEHOLDER_END).ok_or(MalformedUse)?;
    let name = SecretName::new(name).map_err(|_| MalformedUse)?;
    Ok(Some((before, name, after)))
}

/// The start of a placeholder without a legal remainder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a placeholder of a secret is not of the form `{{{{secret:NAME}}}}`")]
pub(super) struct MalformedUse;

/// The names of all secrets that `headers` and `query` have placeholders of.
pub(super) fn named(headers: &HeaderMap, query: Option<&str>) -> Result<BTreeSet<SecretName>, MalformedUse> {
    let mut names = BTreeSet::new();
    // A value that is not text has no placeholder unless its bytes say so.
    let values = headers.values().map(|value| String::from_utf8_lossy(value.as_bytes()));
    for text in values.chain(query.map(Into::into)) {
        let mut rest = &*text;
        while let Some((_, name, after)) = first(rest)? {
            names.insert(name);
            rest = after;
        }
    }
    Ok(names)
}

/// Whether a placeholder, or the beginning of one, stands in a path, plain or encoded.
pub(super) fn in_path(path: &str) -> bool {
    let decoded = path.replace("%7B", "{").replace("%7b", "{").replace("%3A", ":").replace("%3a", ":");
    decoded.to_ascii_lowercase().contains(PLACEHOLDER_START)
}

/// The values of a request's secrets.
pub(super) type Values = Vec<(SecretName, Zeroizing<String>)>;

/// Removes the values from all that leaves the call from now on.
pub(super) fn hide(values: &Values, redactor: &Redactor) {
    for (name, value) in values {
        let json = serde_json::to_string(value.as_str()).map(Zeroizing::new).unwrap_or_default();
        let escaped = json.strip_prefix('"').and_then(|json| json.strip_suffix('"')).unwrap_or_default().to_owned();
        let encoded = percent_encoded(value);
        redactor.hide([value.clone(), Zeroizing::new(escaped), encoded], &name.placeholder());
    }
}

/// A header's value without placeholders; none if a secret cannot stand in a header.
pub(super) fn header(value: &HeaderValue, values: &Values) -> Option<HeaderValue> {
    let text = String::from_utf8_lossy(value.as_bytes());
    if !text.contains(PLACEHOLDER_START) {
        return Some(value.clone());
    }
    let text = replaced(&text, values, |value| value.clone())?;
    let mut value = HeaderValue::from_bytes(text.as_bytes()).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// A query without placeholders.
pub(super) fn query(text: &str, values: &Values) -> Option<Zeroizing<String>> {
    replaced(text, values, percent_encoded)
}

fn replaced(
    text: &str,
    values: &Values,
    form: impl Fn(&Zeroizing<String>) -> Zeroizing<String>,
) -> Option<Zeroizing<String>> {
    let mut out = Zeroizing::new(String::with_capacity(text.len()));
    let mut rest = text;
    while let Some((before, name, after)) = first(rest).ok()? {
        let (_, value) = values.iter().find(|(known, _)| *known == name)?;
        out.push_str(before);
        out.push_str(&form(value));
        rest = after;
    }
    out.push_str(rest);
    Some(out)
}

/// All but the unreserved characters of RFC 3986 encoded.
fn percent_encoded(value: &Zeroizing<String>) -> Zeroizing<String> {
    let mut out = Zeroizing::new(String::with_capacity(value.len().saturating_mul(3)));
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values() -> Values {
        let name = |text| SecretName::new(text).expect("a name");
        vec![
            (name("A"), Zeroizing::new("a b&c=\"d".to_owned())),
            (name("LINES"), Zeroizing::new("x\r\nhost: evil".to_owned())),
        ]
    }

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(http::header::AUTHORIZATION, HeaderValue::from_str(value).expect("legal"))])
    }

    #[test]
    fn placeholders_are_found_and_replaced() {
        let value = "Bearer {{secret:A}}, {{secret:A}}!";
        let found = named(&headers(value), Some("k={{secret:B_2}}&j={secret:C}")).expect("well-formed");
        assert_eq!(found.iter().map(SecretName::as_str).collect::<Vec<_>>(), ["A", "B_2"]);
        let sent = header(&HeaderValue::from_str(value).expect("legal"), &values()).expect("can be sent");
        assert_eq!((sent.as_bytes(), sent.is_sensitive()), (&b"Bearer a b&c=\"d, a b&c=\"d!"[..], true));
        assert_eq!(*query("k={{secret:A}}&l=1", &values()).expect("known"), "k=a%20b%26c%3D%22d&l=1");
        assert_eq!(query("k={{secret:B}}", &values()), None);
    }

    #[test]
    fn a_value_is_hidden_in_every_form_that_is_sent_or_written_down() {
        let redactor = Redactor::default();
        hide(&values(), &redactor);
        for (name, value) in &values() {
            let json = serde_json::json!({ "echo": value.as_str() }).to_string();
            for text in [format!("<{}>", value.as_str()), json, format!("k={}&", percent_encoded(value).as_str())] {
                let clean = redactor.text(text.clone());
                assert_eq!(clean.matches(&name.placeholder()).count(), 1, "{text} became {clean}");
            }
        }
    }

    #[test]
    fn a_value_cannot_end_a_header() {
        assert_eq!(header(&HeaderValue::from_static("{{secret:LINES}}"), &values()), None);
    }

    #[test]
    fn malformed_placeholders_are_refused() {
        for text in
            ["{{secret:", "{{secret:A}", "{{secret:}}", "{{secret:a}}", "{{secret: A}}", "{{secret:A}} {{secret:"]
        {
            assert_eq!(named(&headers(text), None), Err(MalformedUse), "{text}");
            assert_eq!(named(&HeaderMap::new(), Some(text)), Err(MalformedUse), "{text}");
        }
    }

    #[test]
    fn a_path_has_no_placeholder() {
        for path in ["/{{secret:A}}", "/%7B%7bsecret:A}}", "/a/{{secret%3AA%7D%7D", "/{{SECRET:"] {
            assert!(in_path(path), "{path}");
        }
        assert!(!in_path("/{a}/secret:A"));
    }
}
