//! The straight way: `tools/call` and `tools/list` that are plain and frequent are read, run and answered without the protocol engine.
//!
//! Plain is what the engine would take without a word: every header and field is one that is known here, and is as it should be. Everything else goes on through the engine, which
//! says what is wrong with it. So does a call that turns out to need more than an answer ([`RunningCall::end_in_silence`]): the engine's handler takes over what runs already.

use std::{borrow::Cow, sync::Arc};

use rmcp::model::{
    CallToolResponse, CallToolResult, ClientCapabilities, ErrorData, JsonRpcError, JsonRpcResponse, JsonRpcVersion2_0,
    ListToolsResult, LoggingLevel, NumberOrString, ServerResult,
};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

use super::{
    convert,
    envelope::{self, Envelope},
    handler::Endpoint,
    inputs,
    session::visit::LiveSession,
    tasks::plan::{TaskPlan, TaskWish},
    tools::{CallRequest, WayHere, read_interface},
};
use crate::{
    call::{LogLevel, TraceContext, inputs::Abilities, interface::InterfaceDigest},
    names::ToolName,
    registry::{Registry, catalog::Catalog, tool::Tool},
    tenant::Principal,
};

/// The first protocol version without sessions.
pub(super) const MODERN: &str = "2026-07-28";

/// In which era a request is made.
#[derive(Debug, Clone, Copy)]
pub(super) enum Era<'a> {
    /// In a session that is open.
    Legacy(&'a LiveSession),
    /// By itself.
    Modern,
}

/// A plain request.
#[derive(Debug)]
pub(super) enum PlainRequest<'a> {
    Call(CallRequest),
    /// A page of the list, from a cursor on.
    List(Option<Cow<'a, str>>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CallParams<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    arguments: Option<Value>,
    #[serde(borrow, rename = "_meta")]
    meta: Option<Meta<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct ListParams<'a> {
    #[serde(borrow)]
    cursor: Option<&'a RawValue>,
    #[serde(borrow, rename = "_meta")]
    meta: Option<Meta<'a>>,
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
    #[serde(rename = "mcpp/deadlineMs")]
    deadline_ms: Option<Value>,
    #[serde(rename = "mcpp/hops")]
    hops: Option<Value>,
    #[serde(rename = "mcpp/chain")]
    chain: Option<Value>,
    #[serde(rename = "mcpp/effect")]
    effect: Option<Value>,
    #[serde(rename = "mcpp/interface", default, deserialize_with = "said")]
    interface: Option<Value>,
}

impl PlainRequest<'_> {
    /// The tool of `catalog` that it calls.
    pub(super) fn tool(&self, catalog: &Catalog) -> Option<Arc<Tool>> {
        let Self::Call(call) = self else { return None };
        catalog.tool(&call.tool)
    }

    /// Whether it calls a tool whose call may become a task, or has to be one, or a tool that may still be loaded. `tool` is what `catalog` has of it.
    pub(super) fn may_be_task(
        &self,
        registry: &Registry,
        catalog: &Catalog,
        tool: Option<&Tool>,
        principal: &Principal,
    ) -> bool {
        let Self::Call(call) = self else { return false };
        let is_early = tool.is_none() && !registry.is_opened(&principal.tenant);
        is_early || !matches!(TaskPlan::make(catalog, tool, principal, call), Ok(None))
    }

    /// Whether the client wants more than an answer: records of the log, or progress.
    pub(super) fn may_speak(&self) -> bool {
        matches!(self, Self::Call(call) if call.log_level.is_some() || call.wants_progress)
    }
}

/// A member that is there, also where it is `null`.
fn said<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
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
        let token = self.progress_token.map(|token| serde_json::from_str::<NumberOrString>(token.get())).transpose();
        Some(CallMeta {
            log_level,
            abilities,
            tasks,
            wants_progress: token.ok()?.is_some(),
            wants_receipt: self.receipt.is_some_and(|receipt| receipt.get() == "true"),
            traceparent: self.traceparent.and_then(envelope::string).map(Cow::into_owned),
            interface: read_interface(self.interface.as_ref()).ok()?,
            way: WayHere::read([&self.deadline_ms, &self.hops, &self.chain, &self.effect].map(Option::as_ref)),
        })
    }
}

/// The request in `envelope`, if it is plain. `traceparent` is the trace that the door knows of, for messages that say none.
pub(super) fn read<'a>(envelope: &Envelope<'a>, era: Era<'_>, traceparent: Option<&str>) -> Option<PlainRequest<'a>> {
    envelope.id.as_ref()?;
    let request = match (envelope.method.as_deref()?, envelope.params) {
        ("tools/call", Some(params)) => call(params, era, traceparent).map(PlainRequest::Call),
        ("tools/list", params) => read_list(params, era).map(PlainRequest::List),
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

fn call(params: &RawValue, era: Era<'_>, traceparent: Option<&str>) -> Option<CallRequest> {
    let params: CallParams<'_> = serde_json::from_str(params.get()).ok()?;
    let meta = params.meta.unwrap_or_default().read(era)?;
    let arguments = match params.arguments {
        None => Value::Object(serde_json::Map::new()),
        Some(arguments) => Some(arguments).filter(Value::is_object)?,
    };
    Some(CallRequest {
        tool: ToolName::new(&params.name).ok()?,
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
    })
}

fn read_list<'a>(params: Option<&'a RawValue>, era: Era<'_>) -> Option<Option<Cow<'a, str>>> {
    let params: ListParams<'a> = match params {
        Some(params) => serde_json::from_str(params.get()).ok()?,
        None => ListParams::default(),
    };
    params.meta.unwrap_or_default().read(era)?;
    match params.cursor {
        None => Some(None),
        Some(cursor) => envelope::string(cursor).map(Some),
    }
}

/// An answer as JSON, as the engine would write it.
pub(super) fn write(id: &Value, era: Era<'_>, result: Result<ServerResult, ErrorData>) -> serde_json::Result<Vec<u8>> {
    let id = NumberOrString::deserialize(id)?;
    match result {
        Ok(result) => {
            serde_json::to_vec(&JsonRpcResponse { jsonrpc: JsonRpcVersion2_0, id, result: in_words_of(era, result) })
        }
        Err(error) => serde_json::to_vec(&JsonRpcError::new(Some(id), error)),
    }
}

/// The result of a call in the engine's words.
pub(super) fn completed(answer: Result<CallToolResult, ErrorData>) -> Result<ServerResult, ErrorData> {
    answer.map(|result| ServerResult::from(CallToolResponse::Complete(result)))
}

/// The answer with a page of the list of tools: as it is kept, where the client may use all tools. `None` if it cannot be written.
pub(super) async fn list(
    endpoint: &Endpoint,
    principal: &Principal,
    id: &Value,
    era: Era<'_>,
    cursor: Option<&str>,
) -> Option<Vec<u8>> {
    let catalog = endpoint.settled_catalog(&principal.tenant).await;
    let key = (matches!(era, Era::Modern), cursor.map(str::to_owned));
    let (pages, is_for_all) = (endpoint.pages(), principal.tools.is_none());
    if is_for_all && let Some(kept) = pages.get(&principal.tenant, &catalog, &key) {
        return write_page(id, &kept).ok();
    }
    let page = match endpoint.page_of(&catalog, principal, cursor) {
        Ok(found) => page(era, found).ok()?,
        Err(refused) => return write(id, era, Err(refused)).ok(),
    };
    if is_for_all && let Some(share) = endpoint.registry().share(&principal.tenant) {
        pages.keep(&principal.tenant, &catalog, key, &page, &share.memory);
    }
    write_page(id, &page).ok()
}

/// A page of the list of tools as JSON, without the answer around it.
fn page(era: Era<'_>, page: ListToolsResult) -> serde_json::Result<Arc<RawValue>> {
    serde_json::value::to_raw_value(&in_words_of(era, ServerResult::ListToolsResult(page))).map(Arc::from)
}

/// An answer with a page of the list of tools.
fn write_page(id: &Value, page: &RawValue) -> serde_json::Result<Vec<u8>> {
    #[derive(Serialize)]
    struct Response<'a> {
        jsonrpc: JsonRpcVersion2_0,
        id: NumberOrString,
        result: &'a RawValue,
    }
    serde_json::to_vec(&Response { jsonrpc: JsonRpcVersion2_0, id: NumberOrString::deserialize(id)?, result: page })
}

fn in_words_of(era: Era<'_>, mut result: ServerResult) -> ServerResult {
    match era {
        Era::Legacy(_) => result.strip_result_type_for_legacy_peer(),
        Era::Modern => result.fill_missing_cache_hints(),
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

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
