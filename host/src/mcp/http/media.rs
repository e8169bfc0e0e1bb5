//! The media types that a client accepts, by RFC 9110 §12.5.1, in the words of the protocol engine; and whether the client sends a message as it is.

use axum::http::{HeaderMap, HeaderValue, header};

/// JSON, in which a POST is answered.
const JSON: &str = "application/json";
/// Both of them, as [`name_accepted_types`] says it.
pub(super) const BOTH: &str = "application/json, text/event-stream";
/// A stream of events, in which a GET is answered, and a POST where more than one message is sent.
const EVENTS: &str = "text/event-stream";

/// Says by name what the client's ranges allow of the two forms: the engine knows no ranges.
pub(super) fn name_accepted_types(headers: &mut HeaderMap) {
    let mut ranges = headers.get_all(header::ACCEPT).iter();
    if ranges.next().is_some_and(|ranges| ranges == BOTH) && ranges.next().is_none() {
        return;
    }
    let (json, events) = (accepts(headers, JSON), accepts(headers, EVENTS));
    let named = match (json, events) {
        (true, true) => HeaderValue::from_static(BOTH),
        (true, false) => HeaderValue::from_static(JSON),
        (false, true) => HeaderValue::from_static(EVENTS),
        (false, false) => HeaderValue::from_static("*/*;q=0"),
    };
    headers.insert(header::ACCEPT, named);
}

/// Whether the body is another form of the message, such as a compressed one.
pub(super) fn is_encoded(headers: &HeaderMap) -> bool {
    let codings = headers.get_all(header::CONTENT_ENCODING).iter();
    codings
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .any(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity"))
}

/// Whether the most specific range that matches `media_type` allows it. Without a header everything is allowed.
fn accepts(headers: &HeaderMap, media_type: &str) -> bool {
    let mut named = headers.get_all(header::ACCEPT).iter().peekable();
    if named.peek().is_none() {
        return true;
    }
    let family = media_type.split_once('/').map_or(media_type, |(family, _)| family);
    let mut best: Option<(u8, bool)> = None;
    for range in named.filter_map(|value| value.to_str().ok()).flat_map(|value| unquoted(value, ',')) {
        let mut parts = unquoted(range, ';').map(str::trim);
        let essence = parts.next().unwrap_or_default();
        let precision = match essence.split_once('/') {
            _ if essence.eq_ignore_ascii_case(media_type) => 2,
            Some((of, "*")) if of.eq_ignore_ascii_case(family) => 1,
            Some(("*", "*")) => 0,
            _ => continue,
        };
        let allowed =
            parts.all(|parameter| parameter.split_once('=').is_none_or(|(name, value)| !is_zero_weight(name, value)));
        let better = best.is_none_or(|(before, _)| precision > before);
        let as_good = best.is_some_and(|(before, _)| precision == before);
        if better {
            best = Some((precision, allowed));
        } else if as_good && allowed {
            best = Some((precision, true));
        }
    }
    best.is_some_and(|(_, allowed)| allowed)
}

fn is_zero_weight(name: &str, value: &str) -> bool {
    let (whole, fraction) = value.trim().split_once('.').unwrap_or((value.trim(), ""));
    name.trim().eq_ignore_ascii_case("q") && whole == "0" && fraction.bytes().all(|digit| digit == b'0')
}

/// The parts between `delimiter`s that stand outside of quoted strings.
fn unquoted(text: &str, delimiter: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |character| {
        if std::mem::take(&mut escaped) {
            return false;
        }
        match character {
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => return !quoted && character == delimiter,
        }
        false
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_weights_are_understood() {
        for (accept, json, events) in [
            (None, true, true),
            (Some("*/*"), true, true),
            (Some("application/*, text/*"), true, true),
            (Some("application/json"), true, false),
            (Some("Application/JSON; q=0.1"), true, false),
            (Some("text/*"), false, true),
            (Some("application/json, text/event-stream"), true, true),
            (Some("application/json;q=0, */*"), false, true),
            (Some("*/*;q=0, application/json"), true, false),
            (Some("application/*;q=0.000, application/json;q=0.001"), true, false),
            (Some("*/*;q=0"), false, false),
            (Some("text/html"), false, false),
            (Some("application/json;profile=\"a;q=0, text/event-stream\""), true, false),
            (Some(""), false, false),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(accept) = accept {
                headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            }
            assert_eq!((accepts(&headers, JSON), accepts(&headers, EVENTS)), (json, events), "{accept:?}");
        }
    }
}
