//! The outside of a JSON-RPC message, checked before the protocol engine sees it: a malformed message gets the JSON-RPC error that says so.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

/// JSON-RPC: the text is not JSON.
pub(super) const PARSE_ERROR: i64 = -32700;
/// JSON-RPC: the JSON is not a message.
pub(super) const INVALID_REQUEST: i64 = -32600;
/// JSON-RPC: the parameters are not what the method takes.
pub(super) const INVALID_PARAMS: i64 = -32602;
/// The version of JSON-RPC.
pub(super) const VERSION: &str = "2.0";
/// The largest params of `initialize`, in bytes: a client's name, version and capabilities, and a few icons. Without this bound a session could bring the largest message.
const MAX_INITIALIZE_BYTES: usize = 64 << 10;

/// The longest id of a request and the longest progress token, in bytes of JSON. The host repeats both: the token in each report of progress, the id in each word on a subscription.
const MAX_REPEATED_BYTES: usize = 1 << 10;

/// The method and parameters of a message, and the id that its answer bears.
#[derive(Debug)]
pub(super) struct Envelope<'a> {
    /// The request's id; none for a notification or a response.
    pub(super) id: Option<Value>,
    /// The method; none for a response.
    pub(super) method: Option<Cow<'a, str>>,
    /// The parameters as they came: an object, if there are any. None where they were read with the message ([`super::straight::open`]).
    pub(super) params: Option<&'a RawValue>,
    /// The whole message.
    pub(super) text: &'a str,
}

/// Why a message is malformed.
#[derive(Debug, PartialEq)]
pub(super) struct Malformed {
    pub(super) code: i64,
    pub(super) id: Option<Value>,
    pub(super) reason: String,
    /// Whether the message is a notification or a response, which JSON-RPC never answers. HTTP answers all the same, with a status.
    pub(super) is_unanswered: bool,
}

impl Malformed {
    fn new(code: i64, reason: impl Into<String>) -> Self {
        Self { code, id: None, reason: reason.into(), is_unanswered: false }
    }
}

#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(borrow)]
    jsonrpc: Option<BorrowedText<'a>>,
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<&'a RawValue>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
    #[serde(borrow)]
    cursor: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    result: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    error: Option<&'a RawValue>,
}

impl Raw<'_> {
    fn is_response(&self) -> bool {
        self.method.is_none() && (self.result.is_some() || self.error.is_some())
    }

    fn is_notification(&self) -> bool {
        self.id.is_none() && self.method.is_some_and(is_string)
    }
}

/// A member that is there, `null` included.
pub(super) fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// A message without the byte order mark that some clients put before it. RFC 8259 §8.1 lets a reader pass over it.
pub(super) fn without_mark(message: &[u8]) -> &[u8] {
    message.strip_prefix(b"\xef\xbb\xbf").unwrap_or(message)
}

/// The text of a message that is an object and nested at most `max_depth` deep.
pub(super) fn text(message: &[u8], max_depth: usize) -> Result<&str, Malformed> {
    let text = std::str::from_utf8(message)
        .map_err(|error| Malformed::new(PARSE_ERROR, format!("the message is not UTF-8: {error}")))?;
    if deeper_than(text, max_depth) {
        return Err(Malformed::new(INVALID_REQUEST, format!("the message is nested deeper than {max_depth}")));
    }
    match text.trim_start().bytes().next() {
        Some(b'{') => Ok(text),
        None => Err(Malformed::new(PARSE_ERROR, "the message is empty")),
        Some(_) => Err(not_an_object(text)),
    }
}

/// Reads the outside of a message whose nesting is at most `max_depth`.
pub(super) fn read(message: &[u8], max_depth: usize) -> Result<Envelope<'_>, Malformed> {
    read_text(text(message, max_depth)?)
}

/// Reads the outside of a message that is an object.
pub(super) fn read_text(text: &str) -> Result<Envelope<'_>, Malformed> {
    let raw: Raw<'_> = serde_json::from_str(text).map_err(|error| {
        let code = if error.is_data() { INVALID_REQUEST } else { PARSE_ERROR };
        Malformed::new(code, format!("the message is not valid: {error}"))
    })?;
    let is_unanswered = raw.is_response() || raw.is_notification();
    read_parts(&raw, text).map_err(|malformed| match is_unanswered {
        // The id of a response is that of a request of the host's own.
        true => Malformed { id: None, is_unanswered, ..malformed },
        false => malformed,
    })
}

fn read_parts<'a>(raw: &Raw<'a>, text: &'a str) -> Result<Envelope<'a>, Malformed> {
    let id = raw.id.map(id).transpose()?;
    let refuse = |code, reason: &str| Err(Malformed { id: id.clone(), ..Malformed::new(code, reason) });
    if raw.id.is_some_and(|id| !may_be_repeated(id)) {
        return refuse(INVALID_REQUEST, &format!("`id` has more than {MAX_REPEATED_BYTES} bytes"));
    }
    if raw.jsonrpc.as_ref().is_none_or(|version| version.0 != VERSION) {
        return refuse(INVALID_REQUEST, "`jsonrpc` must be \"2.0\"");
    }
    let Some(method) = raw.method else {
        return match (raw.result.is_some(), raw.error.is_some()) {
            (false, false) => refuse(INVALID_REQUEST, "the message has neither `method` nor `result` nor `error`"),
            (true, true) => refuse(INVALID_REQUEST, "the message has both `result` and `error`"),
            _ => Ok(Envelope { id: None, method: None, params: None, text }),
        };
    };
    let Some(method) = string(method) else {
        return refuse(INVALID_REQUEST, "`method` must be a string");
    };
    if raw.params.is_some_and(|params| !params.get().starts_with('{')) {
        return refuse(INVALID_PARAMS, "`params` must be an object");
    }
    // Where it is passed over, the client gets the first page for ever.
    if id.is_some() && method == "tools/list" && raw.cursor.is_some() {
        return refuse(INVALID_PARAMS, "`cursor` stands beside `params`, and belongs into them");
    }
    if let (Some(_), Some(params)) = (&id, raw.params)
        && let Err(reason) = check_params(&method, params)
    {
        return refuse(INVALID_PARAMS, &reason);
    }
    Ok(Envelope { id, method: Some(method), params: raw.params, text })
}

/// A string, which is copied only if it has escapes.
#[derive(Debug, Deserialize)]
pub(super) struct BorrowedText<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

/// Whether `raw` is a string.
pub(super) fn is_string(raw: &RawValue) -> bool {
    raw.get().starts_with('"')
}

/// The string that `raw` is, if it is one.
pub(super) fn string(raw: &RawValue) -> Option<Cow<'_, str>> {
    serde_json::from_str(raw.get()).ok().map(|BorrowedText(text)| text)
}

/// Whether the host repeats an id or a token of this length.
pub(super) fn may_be_repeated(raw: &RawValue) -> bool {
    raw.get().len() <= MAX_REPEATED_BYTES
}

/// Checks the parameters of a method that the engine does not check.
fn check_params(method: &str, params: &RawValue) -> Result<(), String> {
    check_progress_token(params)?;
    match method {
        "initialize" if params.get().len() > MAX_INITIALIZE_BYTES => {
            Err(format!("the params of `initialize` have more than {MAX_INITIALIZE_BYTES} bytes"))
        }
        "tools/list" => {
            #[derive(Deserialize)]
            struct CursorParams<'a> {
                #[serde(borrow)]
                cursor: Option<&'a RawValue>,
            }
            match serde_json::from_str::<CursorParams<'_>>(params.get()) {
                Ok(CursorParams { cursor: Some(cursor) }) if !is_string(cursor) => {
                    Err("`cursor` must be a string".to_owned())
                }
                // Whatever else is wrong with them, the engine says.
                _ => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

fn check_progress_token(params: &RawValue) -> Result<(), String> {
    #[derive(Deserialize)]
    struct MetaParams<'a> {
        #[serde(borrow, rename = "_meta")]
        meta: Option<TokenMeta<'a>>,
    }
    #[derive(Deserialize)]
    struct TokenMeta<'a> {
        #[serde(borrow, rename = "progressToken")]
        progress_token: Option<&'a RawValue>,
    }
    // No token in it can be longer than they are.
    if params.get().len() <= MAX_REPEATED_BYTES {
        return Ok(());
    }
    let token =
        serde_json::from_str::<MetaParams<'_>>(params.get()).ok().and_then(|params| params.meta?.progress_token);
    match token {
        Some(token) if !may_be_repeated(token) => {
            Err(format!("`progressToken` has more than {MAX_REPEATED_BYTES} bytes"))
        }
        // Whatever else is wrong with them, the engine says.
        _ => Ok(()),
    }
}

fn not_an_object(text: &str) -> Malformed {
    match serde_json::from_str::<&RawValue>(text) {
        Err(error) => Malformed::new(PARSE_ERROR, format!("the message is not JSON: {error}")),
        Ok(value) if value.get().starts_with('[') => {
            Malformed::new(INVALID_REQUEST, "batches are not supported; send one message at a time")
        }
        Ok(_) => Malformed::new(INVALID_REQUEST, "the message must be a JSON object"),
    }
}

/// MCP allows strings and integers as ids, not null.
pub(super) fn id(raw: &RawValue) -> Result<Value, Malformed> {
    match serde_json::from_str::<Value>(raw.get()) {
        Ok(id @ Value::String(_)) => Ok(id),
        Ok(id @ Value::Number(_)) if id.is_i64() || id.is_u64() => Ok(id),
        _ => Err(Malformed::new(INVALID_REQUEST, "`id` must be a string or an integer")),
    }
}

/// Counts brackets outside strings: enough to refuse before anything recursive looks at the text.
fn deeper_than(text: &str, max_depth: usize) -> bool {
    // Most messages have so few that nobody needs to know which nest.
    if count(text.as_bytes(), |byte| matches!(byte, b'{' | b'[')) <= max_depth {
        return false;
    }
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth = depth.saturating_add(1);
                if depth > max_depth {
                    return true;
                }
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// Counts the bytes that are so. In parts whose counts fit into a byte: the compiler then compares and adds many bytes at once.
fn count(bytes: &[u8], is_so: impl Fn(u8) -> bool) -> usize {
    let in_part = |part: &[u8]| part.iter().fold(0_u8, |sum, byte| sum.wrapping_add(u8::from(is_so(*byte))));
    bytes.chunks(128).map(|part| usize::from(in_part(part))).fold(0, usize::saturating_add)
}

/// A JSON-RPC error message. The id is left out where none could be read, as MCP's schema demands.
pub(super) fn error(id: Option<&Value>, code: i64, message: &str) -> Value {
    match id {
        Some(id) => json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": message } }),
        None => json!({ "jsonrpc": "2.0", "error": { "code": code, "message": message } }),
    }
}

/// The memory that the protocol engine takes at its peak for each value of a message, beside the text: the engine reads a message into a tree of its own, and that into
/// ours. Measured: 280 for numbers in an array, 430 for members of one object, 520 for small objects, 500 for nested arrays.
pub(super) const VALUE_BYTES: u64 = 576;

/// Of fewer marks than these nobody needs to know which stand in strings: all of them are counted as values.
const FEW_MARKS: usize = 64;

/// The memory that reading a message takes beside its text: the engine's copy of the text, and the values.
pub(super) fn reading_takes(parts: &[impl AsRef<[u8]>]) -> u64 {
    let is_mark = |byte| matches!(byte, b',' | b'[' | b'{');
    let marks = parts.iter().map(|part| count(part.as_ref(), is_mark)).fold(0, usize::saturating_add);
    let values = if marks < FEW_MARKS { marks } else { marks_outside_strings(parts) }.saturating_add(1);
    let text = parts.iter().map(|part| part.as_ref().len()).fold(0, usize::saturating_add);
    let bytes = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    bytes(values).saturating_mul(VALUE_BYTES).saturating_add(bytes(text))
}

/// Counts the bytes that can begin or end a value outside of strings.
fn marks_outside_strings(parts: &[impl AsRef<[u8]>]) -> usize {
    let (mut marks, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in parts.iter().flat_map(AsRef::as_ref) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b',' | b'[' | b'{' if !in_string => marks = marks.saturating_add(1),
            _ => {}
        }
    }
    marks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_repeats_is_short() {
        let long = "x".repeat(MAX_REPEATED_BYTES);
        let with = |id: &str, token: &str| {
            let meta = json!({ "progressToken": token, "more": long });
            json!({ "jsonrpc": "2.0", "id": id, "method": "m", "params": { "_meta": meta } }).to_string()
        };
        let fits = &long[2..];
        assert!(read(with(fits, fits).as_bytes(), 64).is_ok(), "with its quotes it has as many bytes as are allowed");
        let refused = |message: String| read(message.as_bytes(), 64).expect_err("too long");
        let refusal = refused(with(&long, "t"));
        assert_eq!((refusal.code, refusal.id), (INVALID_REQUEST, Some(long.as_str().into())), "repeated once");
        let refusal = refused(with("i", &long));
        assert_eq!((refusal.code, refusal.id), (INVALID_PARAMS, Some("i".into())));
        assert!(refusal.reason.contains("`progressToken`"), "{}", refusal.reason);
    }

    #[test]
    fn malformed_messages_are_told_apart() {
        let deep =
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"m","params":{{"a":{}{}}}}}"#, "[".repeat(64), "]".repeat(64));
        for (message, code, says) in [
            ("", PARSE_ERROR, "empty"),
            ("{", PARSE_ERROR, "not valid"),
            ("nope", PARSE_ERROR, "not JSON"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"m"} x"#, PARSE_ERROR, "trailing"),
            ("[]", INVALID_REQUEST, "batches"),
            (r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, INVALID_REQUEST, "batches"),
            ("7", INVALID_REQUEST, "must be a JSON object"),
            ("{}", INVALID_REQUEST, "`jsonrpc`"),
            (r#"{"jsonrpc":"1.0","id":1,"method":"m"}"#, INVALID_REQUEST, "`jsonrpc`"),
            (r#"{"jsonrpc":2,"id":1,"method":"m"}"#, INVALID_REQUEST, "not valid"),
            (r#"{"jsonrpc":"2.0","id":1}"#, INVALID_REQUEST, "neither"),
            (r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#, INVALID_REQUEST, "both"),
            (r#"{"jsonrpc":"2.0","id":1,"method":7}"#, INVALID_REQUEST, "`method`"),
            (r#"{"jsonrpc":"2.0","id":{},"method":"m"}"#, INVALID_REQUEST, "`id`"),
            (r#"{"jsonrpc":"2.0","id":null,"method":"m"}"#, INVALID_REQUEST, "`id`"),
            (r#"{"jsonrpc":"2.0","id":1.5,"method":"m"}"#, INVALID_REQUEST, "`id`"),
            (r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"m"}"#, INVALID_REQUEST, "duplicate field"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"m","params":[]}"#, INVALID_PARAMS, "`params`"),
            (&deep, INVALID_REQUEST, "nested deeper than 64"),
        ] {
            let malformed = read(message.as_bytes(), 64).expect_err(message);
            assert_eq!(malformed.code, code, "{message}: {malformed:?}");
            assert!(malformed.reason.contains(says), "{message}: {malformed:?}");
        }
        let malformed = read(b"\"\xff\"", 64).expect_err("not UTF-8");
        assert_eq!(malformed.code, PARSE_ERROR);
    }

    #[test]
    fn notifications_and_responses_are_told_from_requests() {
        for (message, is_unanswered) in [
            (r#"{"jsonrpc":"2.0","method":"m","params":[1]}"#, true),
            (r#"{"jsonrpc":"1.0","method":"m"}"#, true),
            (r#"{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":""}}"#, true),
            (r#"{"jsonrpc":"2.0","id":5,"result":null,"error":null}"#, true),
            (r#"{"id":5,"result":null}"#, true),
            (r#"{"jsonrpc":"2.0","id":1,"method":"m","params":[1]}"#, false),
            (r#"{"jsonrpc":"2.0","id":null,"method":"m"}"#, false),
            (r#"{"jsonrpc":"2.0","method":7}"#, false),
            (r#"{"jsonrpc":"2.0","id":1}"#, false),
        ] {
            let malformed = read(message.as_bytes(), 64).expect_err(message);
            assert_eq!(malformed.is_unanswered, is_unanswered, "{message}: {malformed:?}");
            assert!(malformed.id.is_none() || !is_unanswered, "{message}: {malformed:?}");
        }
        let response = read(br#"{"jsonrpc":"2.0","id":5,"result":null}"#, 64).expect("a response");
        assert!(response.id.is_none() && response.method.is_none());
    }

    #[test]
    fn initialize_has_a_bound_to_the_byte() {
        let initialize = |bytes: usize| {
            let params = format!(r#"{{"a":"{}"}}"#, "x".repeat(bytes - r#"{"a":""}"#.len()));
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{params}}}"#)
        };
        assert!(read(initialize(MAX_INITIALIZE_BYTES).as_bytes(), 64).is_ok());
        let refused = read(initialize(MAX_INITIALIZE_BYTES + 1).as_bytes(), 64).expect_err("a byte more");
        assert_eq!((refused.code, refused.id), (INVALID_PARAMS, Some(json!(1))));
        assert_eq!(refused.reason, "the params of `initialize` have more than 65536 bytes");
    }

    #[test]
    fn brackets_in_strings_do_not_nest() {
        let message = format!(r#"{{"jsonrpc":"2.0","id":"a","method":"m","params":{{"a":"\"{}"}}}}"#, "[".repeat(100));
        let envelope = read(message.as_bytes(), 4).expect("flat");
        assert_eq!((envelope.id, envelope.method.as_deref()), (Some(json!("a")), Some("m")));
    }

    #[test]
    fn values_are_counted_outside_of_strings() {
        let marks = |number| format!(r#""[,{{\"{}""#, "[".repeat(number - 3));
        let array = format!("[{}1,{}]", "1,".repeat(FEW_MARKS), marks(7));
        for (text, values) in [
            ("7", 1),
            (r#"{"a":[1,2,{}]}"#, 6),
            (&marks(FEW_MARKS - 1), FEW_MARKS),
            (&marks(FEW_MARKS), 1),
            (&array, FEW_MARKS + 3),
        ] {
            let bytes = u64::try_from(values).expect("few") * VALUE_BYTES + u64::try_from(text.len()).expect("short");
            let (start, end) = text.as_bytes().split_at(text.len() / 2);
            assert_eq!(reading_takes(&[start, end]), bytes, "{text}");
        }
    }
}
