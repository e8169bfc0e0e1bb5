//! Messages at random, of both eras, well formed and not; and by what [`Expected`] each must be answered. The doors through which they go are in [`super::doors`].

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Value, json, value::RawValue};

use super::{
    json::{self, mutated_bytes},
    random::Random,
};

/// Deepest nesting that the host reads.
const MAX_DEPTH: usize = 64;

/// The first version without sessions.
const MODERN: &str = "2026-07-28";

/// A message, with headers that it has over HTTP beside or instead of the usual ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// The answer of a door that keeps the rules.
#[derive(Debug, Clone, PartialEq)]
pub enum Expected {
    /// One answer with the request's id.
    Answer(Value),
    /// The same, or nothing as long as the request goes on.
    AnswerOrNone(Value),
    /// An error without an id, as none can be read.
    ErrorWithoutId,
    /// Nothing: it is a notification or a response.
    Nothing,
}

/// The members of an object as they stand, doubled ones too.
struct Members(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Members;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

impl Members {
    /// A member that is there once.
    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, raw)| raw.get())
    }

    fn is_doubled(&self, name: &str) -> bool {
        self.0.iter().filter(|(known, _)| known == name).count() > 1
    }
}

impl Case {
    /// A file of the corpus: lines of headers, an empty line, the body.
    pub fn parse(bytes: &[u8]) -> Self {
        let (mut headers, mut rest) = (Vec::new(), bytes);
        loop {
            let end = rest.iter().position(|byte| *byte == b'\n').expect("an empty line before the body");
            let (line, after) = (std::str::from_utf8(&rest[..end]).expect("a header"), &rest[end + 1..]);
            rest = after;
            match line.split_once(": ") {
                Some((name, value)) => headers.push((name.to_owned(), value.to_owned())),
                None => return Self { headers, body: rest.to_vec() },
            }
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let headers: String = self.headers.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
        [headers.as_bytes(), b"\n", &self.body].concat()
    }

    /// The body without the byte order mark that may stand before it.
    fn text(&self) -> &[u8] {
        self.body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&self.body)
    }

    /// The answer that any door must give.
    pub fn expected(&self) -> Expected {
        let Some(text) = std::str::from_utf8(self.text()).ok().filter(|text| depth(text) <= MAX_DEPTH) else {
            return Expected::ErrorWithoutId;
        };
        let Ok(members) = serde_json::from_str::<Members>(text) else { return Expected::ErrorWithoutId };
        let known = ["jsonrpc", "id", "method", "params", "result", "error"];
        let version = members.get("jsonrpc").unwrap_or("null");
        if known.iter().any(|name| members.is_doubled(name)) || serde_json::from_str::<Option<String>>(version).is_err()
        {
            return Expected::ErrorWithoutId;
        }
        let method = members.get("method").filter(|method| *method != "null");
        let is_response = method.is_none() && (members.get("result").is_some() || members.get("error").is_some());
        let Some(id) = members.get("id") else {
            let is_notification = method.is_some_and(|method| method.starts_with('"'));
            return if is_response || is_notification { Expected::Nothing } else { Expected::ErrorWithoutId };
        };
        match serde_json::from_str(id) {
            _ if is_response => Expected::Nothing,
            Ok(id @ Value::String(_)) => self.answer(id),
            Ok(id @ Value::Number(_)) if id.is_i64() || id.is_u64() => self.answer(id),
            _ => Expected::ErrorWithoutId,
        }
    }

    fn answer(&self, id: Value) -> Expected {
        let is_open = self.method().as_deref() == Some("subscriptions/listen");
        if is_open { Expected::AnswerOrNone(id) } else { Expected::Answer(id) }
    }

    /// Its method, if one can be read.
    pub fn method(&self) -> Option<String> {
        let members: Members = serde_json::from_slice(self.text()).ok()?;
        serde_json::from_str(members.get("method")?).ok()
    }

    /// The request that it cancels.
    pub fn cancels(&self) -> Option<Value> {
        let message: Value = serde_json::from_slice(self.text()).ok()?;
        (message["method"] == "notifications/cancelled").then(|| message["params"]["requestId"].clone())
    }

    /// The message's `_meta`, beside its other parameters.
    fn meta(&self) -> Option<Value> {
        let message: Value = serde_json::from_slice(self.text()).ok()?;
        message.pointer("/params/_meta").cloned()
    }

    /// Whether it says something of itself, as modern requests do.
    pub fn has_meta(&self) -> bool {
        self.meta().is_some()
    }

    /// Whether it is a ping that does not say whole of which era it is.
    pub fn is_early_ping(&self) -> bool {
        let says_all = self.meta().is_some_and(|meta| {
            let of = |name: &str| meta.get(format!("io.modelcontextprotocol/{name}"));
            of("protocolVersion").is_some_and(|version| version == MODERN)
                && of("clientCapabilities").is_some_and(Value::is_object)
        });
        self.method().as_deref() == Some("ping") && !says_all
    }

    /// The headers that say again what the message says; none where they cannot.
    pub fn modern_headers(&self) -> Option<Vec<(String, String)>> {
        let message: Value = serde_json::from_slice(self.text()).unwrap_or_default();
        // Of several faults each door may name another first.
        if let Some(version) = message.pointer("/params/_meta/io.modelcontextprotocol~1protocolVersion") {
            version.as_str().filter(|version| *version == MODERN)?;
        }
        let mut headers = vec![("mcp-protocol-version".to_owned(), MODERN.to_owned())];
        let Some(method) = self.method() else { return Some(headers) };
        let is_plain = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        headers.push(("mcp-method".to_owned(), Some(method.clone()).filter(|method| is_plain(method))?));
        if method == "tools/call"
            && let Some(name) = message["params"]["name"].as_str()
        {
            headers.push(("mcp-name".to_owned(), Some(name.to_owned()).filter(|name| is_plain(name))?));
        }
        Some(headers)
    }

    /// Any message; most have an id of their own.
    pub fn random(random: &mut Random, n: u64) -> Self {
        let mut message = message(random, n);
        let changes = if random.below(3) == 0 { random.below(3) + 1 } else { 0 };
        for _ in 0..changes {
            message = json::mutated(&message, random);
        }
        let mut body = message.to_string().into_bytes();
        for _ in 0..random.below(6).saturating_sub(4) {
            body = respelled(&body, random);
        }
        let headers = if random.below(12) == 0 { headers(random) } else { Vec::new() };
        Self { headers, body }
    }
}

fn depth(text: &str) -> usize {
    let (mut depth, mut most, mut in_text, mut escaped) = (0_usize, 0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'[' | b'{' if !in_text => depth += 1,
            b']' | b'}' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
        most = most.max(depth);
    }
    most
}

/// A call that any host with `add` answers.
pub fn plain_call(id: &str) -> Value {
    let params = json!({ "name": "add", "arguments": { "a": 40, "b": 2 } });
    json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params })
}

/// The same in the modern era.
pub fn modern_call(id: &str) -> Value {
    let mut call = plain_call(id);
    call["params"]["_meta"] = modern_meta();
    call
}

fn modern_meta() -> Value {
    json!({ "io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {} })
}

fn message(random: &mut Random, n: u64) -> Value {
    let (method, mut params) = request(random);
    if params.is_object() && random.below(2) == 0 {
        params["_meta"] = modern_meta();
        match random.below(8) {
            0 => params["_meta"]["progressToken"] = json::any(random, 1),
            1 => params["_meta"]["mcpp/cost"] = json!(true),
            2 => params["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!("2099-01-01"),
            3 => params["_meta"]["traceparent"] = json!(json::text(random)),
            _ => {}
        }
    }
    let id = match random.below(24) {
        0 => json::any(random, 1),
        1 => json!([u64::MAX, (1 << 53) + n, i64::MAX as u64 + n][random.below(3)]),
        2 => json!(-1 - i64::try_from(n).expect("small")),
        3..8 => json!(format!("{}-{n}", json::text(random))),
        _ => json!(n),
    };
    match random.below(12) {
        0 => json!({ "jsonrpc": "2.0", "id": id, "result": params }),
        1 => json!({ "jsonrpc": "2.0", "id": id, "error": { "code": -1, "message": "no", "data": params } }),
        2 => json!({ "jsonrpc": "2.0", "method": method, "params": params }),
        3 => json!({ "jsonrpc": "2.0", "id": id, "method": method }),
        _ => json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }),
    }
}

fn request(random: &mut Random) -> (&'static str, Value) {
    let number = json::number(random);
    match random.below(20) {
        0..4 => ("tools/call", json!({ "name": "add", "arguments": { "a": random.below(100), "b": number } })),
        4..7 => ("tools/call", json!({ "name": "echo", "arguments": { "x": json::text(random) } })),
        7 => ("tools/call", json!({ "name": json::text(random), "arguments": json::any(random, 3) })),
        8 => ("tools/list", json!({ "cursor": json::any(random, 1) })),
        9 => ("tools/list", json!({})),
        10 => ("server/discover", json!({})),
        11 => ("ping", json!({})),
        12 => {
            let client = json!({ "name": "fuzz", "version": json::text(random) });
            ("initialize", json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client }))
        }
        13 => ("logging/setLevel", json!({ "level": "error" })),
        14 => ("subscriptions/listen", json!({ "notifications": { "toolsListChanged": true } })),
        15 => ("notifications/cancelled", json!({ "requestId": random.below(2_000), "reason": "no" })),
        16 => ("notifications/progress", json!({ "progressToken": 1, "progress": number })),
        17 => (["notifications/initialized", "notifications/roots/list_changed"][random.below(2)], json!({})),
        18 => (
            "completion/complete",
            json!({ "ref": { "type": "ref/prompt", "name": "p" }, "argument": { "name": "a", "value": "" } }),
        ),
        _ => (
            ["resources/list", "prompts/get", "resources/read", "tasks/get", "", "tools/call\u{0}", "é"]
                [random.below(7)],
            json::any(random, 2),
        ),
    }
}

/// The same text in another spelling, or one that is none.
fn respelled(body: &[u8], random: &mut Random) -> Vec<u8> {
    let insert = |at: usize, piece: &[u8]| [&body[..at], piece, &body[at..]].concat();
    // Behind some byte that stands outside of a name, mostly.
    let after = |byte: u8, random: &mut Random| {
        let places: Vec<usize> =
            body.iter().enumerate().filter(|(_, found)| **found == byte).map(|(at, _)| at + 1).collect();
        places.get(random.below(places.len())).copied().unwrap_or(body.len())
    };
    match random.below(10) {
        0 => {
            let double = [r#""id":7,"#, r#""method":"ping","#, r#""jsonrpc":"2.0","#, r#""name":"add","#, r#""x":1,"#];
            insert(after(b'{', random), double[random.below(double.len())].as_bytes())
        }
        1 => insert(
            after(b':', random),
            [&b"1e999,\"z\":"[..], b"-0,\"z\":", b"01,\"z\":", b"1E400,\"z\":", b"1.0,\"z\":"][random.below(5)],
        ),
        2 => insert(
            after(b'"', random),
            [&b"\\ud83d"[..], b"\\u0000", b"\\ude00\\ud83d", b"\\x", b"\\u00e9", b"\xff", b"\xed\xa0\x80"]
                [random.below(7)],
        ),
        3 => {
            let levels = [random.below(20), 60 + random.below(8), 10_000][random.below(3)];
            let nested = format!("{}{},\"z\":", "[".repeat(levels), "]".repeat(levels));
            insert(after(b':', random), nested.as_bytes())
        }
        4 => [b"[", body, b",", body, b"]"].concat(),
        5 => insert(0, ["\u{feff}", " ", "\t", "\u{a0}", "\u{0}", "]"][random.below(6)].as_bytes()),
        6 => insert(body.len(), [&b" "[..], b"}", b"{}", b"\0", b",", b"\r"][random.below(6)]),
        7 => String::from_utf8_lossy(body).replacen("\"id\"", "\"\\u0069d\"", 1).into_bytes(),
        8 => body[..random.below(body.len().max(1))].to_vec(),
        _ => mutated_bytes(body, 0, random),
    }
}

/// Headers that contradict the message, each other, or sense.
fn headers(random: &mut Random) -> Vec<(String, String)> {
    let all = [
        ("mcp-protocol-version", "2025-11-25"),
        ("mcp-protocol-version", "2099-01-01"),
        ("mcp-protocol-version", ""),
        ("mcp-method", "tools/list"),
        ("mcp-method", "\u{e9}"),
        ("mcp-name", "=?base64?YWRk?="),
        ("mcp-name", "=?base64?!?="),
        ("mcp-session-id", "nobody"),
        ("mcp-session-id", ""),
        ("accept", "text/html"),
        ("accept", "*/*;q=0"),
        ("content-type", "text/plain"),
        ("content-type", "application/json; charset=utf-16"),
        ("last-event-id", "0"),
        ("origin", "null"),
        ("traceparent", "00-0-0-0"),
        ("authorization", "Bearer nobody"),
        ("expect", "100-continue"),
    ];
    let pair = |random: &mut Random| {
        let (name, value) = all[random.below(all.len())];
        (name.to_owned(), value.to_owned())
    };
    (0..random.below(3) + 1).map(|_| pair(random)).collect()
}
