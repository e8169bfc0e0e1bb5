//! The straight way: `tools/call` and `tools/list` that are plain and frequent are read, run and answered without the protocol engine.
//!
//! Plain is what the engine would take without a word: every header and field is one that is known here, and is as it should be. Everything else goes on through the engine, which
//! says what is wrong with it. So does a call that turns out to need more than an answer ([`RunningCall::end_in_silence`]): the engine's handler takes over what runs already.

mod message;

use std::{borrow::Cow, sync::Arc};

use rmcp::model::{
    CallToolResponse, CallToolResult, ErrorData, JsonRpcError, JsonRpcResponse, JsonRpcVersion2_0, ListToolsResult,
    NumberOrString, ServerResult,
};
use serde::{Deserialize as _, Serialize};
use serde_json::{Value, value::RawValue};

pub(super) use self::message::{PlainParams, open, read};
use super::{handler::Endpoint, session::visit::LiveSession, tasks::plan::TaskPlan, tools::CallRequest};
use crate::{
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
    Call(Box<CallRequest>),
    /// A page of the list, from a cursor on.
    List(Option<Cow<'a, str>>),
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
