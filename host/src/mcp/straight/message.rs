//! Reading of messages that may be plain requests: such a message is read in one go, its parameters with its outside.

use std::{borrow::Cow, marker::PhantomData};

use rmcp::model::{ClientCapabilities, LoggingLevel, NumberOrString};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::{Value, value::RawValue};

use super::{Era, MODERN, PlainRequest};
use crate::{
    call::{LogLevel, TraceContext, inputs::Abilities, interface::InterfaceDigest},
    mcp::{
        convert,
        envelope::{self, BorrowedText, Envelope, Malformed},
        inputs,
        tasks::plan::TaskWish,
        tools::{CallRequest, WayHere, read_interface},
    },
    names::ToolName,
};

/// The methods of plain requests.
const CALL: &str = "tools/call";
const LIST: &str = "tools/list";

/// Whether requests of a method may be plain.
fn is_plain(method: &str) -> bool {
    matches!(method, CALL | LIST)
}

/// A message that may be a plain request.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlainMessage<'a> {
    #[serde(borrow)]
    jsonrpc: Cow<'a, str>,
    #[serde(borrow)]
    id: &'a RawValue,
    #[serde(borrow)]
    method: Cow<'a, str>,
    #[serde(borrow, default, deserialize_with = "object")]
    params: Option<PlainParams<'a>>,
}

/// The parameters of a request that may be plain.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(in crate::mcp) struct PlainParams<'a> {
    #[serde(borrow)]
    name: Option<BorrowedText<'a>>,
    arguments: Option<Value>,
    #[serde(borrow)]
    cursor: Option<&'a RawValue>,
    #[serde(borrow, rename = "_meta", default, deserialize_with = "object")]
    meta: Option<Box<Meta<'a>>>,
}

#[derive(Deserialize, Default)]
struct Meta<'a> {
    #[serde(borrow, rename = "io.modelcontextprotocol/protocolVersion")]
    version: Option<&'a RawValue>,
    #[serde(borrow, rename = "io.modelcontextprotocol/clientCapabilities")]
    capabilities: Option<&'a RawValue>,
    #[serde(borrow, rename = "io.modelcontextprotocol/logLevel")]
    log_level: Option<&'a RawValue>,
    #[serde(borrow, rename = "progressToken")]
    progress_token: Option<&'a RawValue>,
    #[serde(borrow)]
    traceparent: Option<&'a RawValue>,
    #[serde(borrow, rename = "mcpp/cost")]
    receipt: Option<&'a RawValue>,
    #[serde(borrow, rename = "mcpp/deadlineMs")]
    deadline_ms: Option<&'a RawValue>,
    #[serde(borrow, rename = "mcpp/hops")]
    hops: Option<&'a RawValue>,
    #[serde(borrow, rename = "mcpp/chain")]
    chain: Option<&'a RawValue>,
    #[serde(borrow, rename = "mcpp/effect")]
    effect: Option<&'a RawValue>,
    #[serde(borrow, rename = "mcpp/interface", default, deserialize_with = "envelope::present")]
    interface: Option<&'a RawValue>,
}

/// An object or `null`. By itself a struct would also be read from an array.
fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    struct OfMembers<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for OfMembers<T> {
        type Value = Option<T>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Self::Value, A::Error> {
            T::deserialize(MapAccessDeserializer::new(members)).map(Some)
        }
    }

    deserializer.deserialize_any(OfMembers(PhantomData))
}

/// The parts of `_meta` with which a call is made.
struct CallMeta {
    log_level: Option<LogLevel>,
    wants_progress: bool,
    wants_receipt: bool,
    traceparent: Option<String>,
    interface: Option<InterfaceDigest>,
    abilities: Abilities,
    tasks: TaskWish,
    way: WayHere,
}

impl Meta<'_> {
    /// `None` if the engine has something to say of it.
    fn read(&self, era: Era<'_>) -> Option<CallMeta> {
        let (log_level, abilities, tasks) = match (era, self.version, self.capabilities, self.log_level) {
            (Era::Legacy(session), None, None, None) => {
                (Some(session.log_level.unwrap_or(LogLevel::Info)), session.abilities, TaskWish::Legacy)
            }
            (Era::Modern, Some(version), Some(capabilities), log_level)
                if envelope::string(version).as_deref() == Some(MODERN) =>
            {
                let (abilities, tasks) = match capabilities.get() {
                    "{}" => (Abilities::default(), TaskWish::Undeclared),
                    declared => {
                        let declared = serde_json::from_str::<ClientCapabilities>(declared).ok()?;
                        (inputs::abilities(&declared), TaskWish::of(&declared))
                    }
                };
                let level = log_level.map(|level| serde_json::from_str::<LoggingLevel>(level.get())).transpose();
                (level.ok()?.map(convert::from_level), abilities, tasks)
            }
            _ => return None,
        };
        let value = |raw: Option<&RawValue>| raw.and_then(|raw| serde_json::from_str::<Value>(raw.get()).ok());
        let way = [self.deadline_ms, self.hops, self.chain, self.effect].map(value);
        let token = self.progress_token.map(|token| serde_json::from_str::<NumberOrString>(token.get())).transpose();
        Some(CallMeta {
            log_level,
            abilities,
            tasks,
            wants_progress: token.ok()?.is_some(),
            wants_receipt: self.receipt.is_some_and(|receipt| receipt.get() == "true"),
            traceparent: self.traceparent.and_then(envelope::string).map(Cow::into_owned),
            interface: read_interface(value(self.interface).as_ref()).ok()?,
            way: WayHere::read(way.each_ref().map(Option::as_ref)),
        })
    }
}

/// Reads a message whose nesting is at most `max_depth`: its outside, and with it the parameters of a request that may be plain.
pub(in crate::mcp) fn open(
    message: &[u8],
    max_depth: usize,
) -> Result<(Envelope<'_>, Option<PlainParams<'_>>), Malformed> {
    let text = envelope::text(message, max_depth)?;
    match PlainMessage::read(text) {
        Some((envelope, params)) => Ok((envelope, Some(params))),
        None => Ok((envelope::read_text(text)?, None)),
    }
}

impl<'a> PlainMessage<'a> {
    /// `None` if the outside has to be looked at by itself: there is something to say of it, or it is of another method.
    fn read(text: &'a str) -> Option<(Envelope<'a>, PlainParams<'a>)> {
        let Self { jsonrpc, id, method, params } = serde_json::from_str(text).ok()?;
        let params = params.unwrap_or_default();
        let token = params.meta.as_ref().and_then(|meta| meta.progress_token);
        let is_short = envelope::may_be_repeated(id) && token.is_none_or(envelope::may_be_repeated);
        let is_cursor = params.cursor.is_none_or(envelope::is_string);
        if jsonrpc != envelope::VERSION || !is_short || !is_cursor || !is_plain(&method) {
            return None;
        }
        let id = envelope::id(id).ok()?;
        Some((Envelope { id: Some(id), method: Some(method), params: None, text }, params))
    }
}

impl<'a> PlainParams<'a> {
    /// The parameters in `envelope`, if they may be those of a plain request.
    pub(in crate::mcp) fn of(envelope: &Envelope<'a>) -> Option<Self> {
        // Nobody reads the parameters of another method in vain.
        envelope.method.as_deref().filter(|method| is_plain(method))?;
        envelope.params.map_or_else(|| Some(Self::default()), |params| serde_json::from_str(params.get()).ok())
    }
}

/// The request in `envelope` with these parameters, if it is plain. `traceparent` is the trace that the door knows of, for messages that say none.
pub(in crate::mcp) fn read<'a>(
    envelope: &Envelope<'a>,
    params: PlainParams<'a>,
    era: Era<'_>,
    traceparent: Option<&str>,
) -> Option<PlainRequest<'a>> {
    envelope.id.as_ref()?;
    let request = match envelope.method.as_deref()? {
        CALL => call(params, era, traceparent).map(PlainRequest::Call),
        LIST => read_list(params, era).map(PlainRequest::List),
        _ => None,
    };
    // The engine reads all of a message, what it does not know too.
    request.filter(|_| {
        let is_certain = !may_be_unreadable(envelope.text.as_bytes());
        is_certain || serde_json::from_str::<Readable>(envelope.text).is_ok()
    })
}

/// A number without an exponent is too large from 309 digits on. Cut into pieces of so many bytes, the text then has one of digits alone.
const LONG_NUMBER: usize = 100;

/// Whether JSON may have what only a reader of values finds: half of a character, which is written as `\u`, or a number that is too large, which has an exponent or hundreds of digits.
fn may_be_unreadable(json: &[u8]) -> bool {
    // Without a branch, and to the end: the compiler then compares many bytes at once.
    let is_suspect = |(first, second): (&u8, &u8)| {
        ((*first == b'\\') & (*second == b'u')) | (first.is_ascii_digit() & ((*second | 0x20) == b'e'))
    };
    let followers = json.get(1..).unwrap_or_default();
    let is_suspected = json.iter().zip(followers).fold(false, |any, pair| any | is_suspect(pair));
    is_suspected || json.chunks_exact(LONG_NUMBER).any(|piece| piece.iter().all(u8::is_ascii_digit))
}

/// Any JSON that the engine can read: its numbers fit, and its strings are whole. Nothing of it is kept.
struct Readable;

impl<'de> Deserialize<'de> for Readable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Readable {
    type Value = Self;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self, A::Error> {
        while items.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self, A::Error> {
        while members.next_entry::<Self, Self>()?.is_some() {}
        Ok(self)
    }
}

fn call(params: PlainParams<'_>, era: Era<'_>, traceparent: Option<&str>) -> Option<Box<CallRequest>> {
    let PlainParams { name: Some(BorrowedText(name)), arguments, cursor: None, meta } = params else { return None };
    let meta = meta.unwrap_or_default().read(era)?;
    let arguments = match arguments {
        None => Value::Object(serde_json::Map::new()),
        Some(arguments) => Some(arguments).filter(Value::is_object)?,
    };
    Some(Box::new(CallRequest {
        tool: ToolName::new(&name).ok()?,
        arguments,
        interface: meta.interface,
        log_level: meta.log_level,
        wants_progress: meta.wants_progress,
        wants_receipt: meta.wants_receipt,
        trace: TraceContext::from_traceparent(meta.traceparent.as_deref().or(traceparent)),
        way: meta.way,
        abilities: meta.abilities,
        tasks: meta.tasks,
        session: match era {
            Era::Legacy(live) => Some(live.session.clone()),
            Era::Modern => None,
        },
    }))
}

fn read_list<'a>(params: PlainParams<'a>, era: Era<'_>) -> Option<Option<Cow<'a, str>>> {
    let PlainParams { name: None, arguments: None, cursor, meta } = params else { return None };
    meta.unwrap_or_default().read(era)?;
    match cursor {
        None => Some(None),
        Some(cursor) => envelope::string(cursor).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whichever way a message is read, its outside is the same, or what is wrong with it.
    #[test]
    fn a_message_that_is_read_in_one_go_is_what_its_outside_says() {
        let modern =
            r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}"#;
        let (long, nulls) = ("x".repeat(2_000), ["null"; 8].join(","));
        let call = |params: &str| format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#);
        let list = |rest: &str| format!(r#"{{"jsonrpc":"2.0","id":"a\u0062","method":"tools/list"{rest}}}"#);
        for (message, is_read) in [
            (
                call(&format!(
                    r#"{{"name":"t","arguments":{{"a":[1,"\n"]}},"_meta":{{"progressToken":1,"other":[{{}}],{modern}}}}}"#
                )),
                true,
            ),
            (list(&format!(r#","params":{{"cursor":"c","_meta":{{{modern}}}}}"#)), true),
            (call(r#"{"_meta":null,"arguments":null,"name":"t"}"#), true),
            (list(""), true),
            (list(r#","params":null"#), true),
            (list(r#","params":{"cursor":"c"}"#), true),
            (call(r#"["t",{},null,null]"#), false),
            (call(&format!(r#"{{"name":"t","_meta":["{MODERN}",{{}},{nulls}]}}"#)), false),
            (call(r#"{"name":"t","name":"u"}"#), false),
            (call(r#"{"name":7}"#), false),
            (call(r#"{"name":"t","task":{}}"#), false),
            (call(&format!(r#"{{"name":"t","_meta":{{"progressToken":"{long}"}}}}"#)), false),
            (list(r#","params":[]"#), false),
            (list(r#","params":{"cursor":7}"#), false),
            (list(r#","cursor":"c""#), false),
            (list(r#","id":2"#), false),
            (call("{}").replace("\"id\":1", &format!("\"id\":\"{long}\"")), false),
            (call("{}").replace("\"id\":1", "\"id\":null"), false),
            (call("{}").replace("\"id\":1,", ""), false),
            (call("{}").replace("2.0", "1.0"), false),
            (call("{}").replace("tools/call", "ping"), false),
            (call("{}").replace("}}", "}"), false),
            (call(&"{\"name\":".repeat(70)), false),
        ] {
            let (opened, outside) = (open(message.as_bytes(), 64), envelope::read(message.as_bytes(), 64));
            assert_eq!(opened.as_ref().is_ok_and(|(_, params)| params.is_some()), is_read, "{message}");
            match (opened, outside) {
                (Ok((opened, params)), Ok(outside)) => {
                    assert_eq!((&opened.id, &opened.method), (&outside.id, &outside.method), "{message}");
                    let of = |params| match read(&outside, params, Era::Modern, None)? {
                        PlainRequest::Call(call) => Some(format!("{} {}", call.tool, call.arguments)),
                        PlainRequest::List(cursor) => Some(format!("{cursor:?}")),
                    };
                    assert_eq!(
                        params.and_then(of),
                        PlainParams::of(&outside).filter(|_| is_read).and_then(of),
                        "{message}"
                    );
                }
                (opened, outside) => assert_eq!(opened.err(), outside.err(), "{message}"),
            }
        }
    }

    #[test]
    fn what_only_a_reader_of_values_finds_is_suspected() {
        let huge = ["9".repeat(309), format!("{}.5", "9".repeat(309)), format!("[{}]", "9".repeat(400))];
        let others = ["1e999", "[1, -1E999]", "1.5e+400", r#""\ud800""#, r#"{"\uDC00": 1}"#, r#""\\\udbff x""#];
        for json in huge.iter().map(String::as_str).chain(others) {
            assert!(serde_json::from_str::<&RawValue>(json).is_ok(), "{json} is JSON");
            assert!(serde_json::from_str::<Readable>(json).is_err(), "{json} is no value");
            assert!(may_be_unreadable(json.as_bytes()), "{json}");
        }
        let long = format!("[{}, \"{}\"]", "9".repeat(99), "text ".repeat(100));
        for json in [r#"{"a": [1.5, -2, "\n\"A", "été"]}"#, "", "7", &long] {
            assert!(!may_be_unreadable(json.as_bytes()), "{json}");
        }
    }
}
