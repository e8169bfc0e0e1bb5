//! Our words in MCP's, and back.

use std::sync::Arc;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rmcp::model::{
    CallToolResult, ContentBlock, ErrorCode, ErrorData, JsonObject, LoggingLevel, Resource,
    ResourceContents as WireContents, Tool as WireTool, ToolAnnotations,
};
use serde_json::json;

use crate::{
    call::{Blob, CallError, Content, LogLevel, ResourceContents, ToolResult},
    memory::json_text,
    registry::tool::Tool,
};

/// JSON-RPC code of a refusal for lack of room; the data say when to try again.
pub(super) const BUSY: ErrorCode = ErrorCode(-32000);

/// Name of the error for a call of a tool that has another interface than the caller says.
pub(super) const OTHER_INTERFACE: &str = "other_interface";

/// The error of a request for which there is no room now. It has done nothing, and may be repeated.
pub(super) fn busy(reason: String) -> ErrorData {
    ErrorData::new(BUSY, reason, Some(json!({ "error": "busy", "retryAfterMs": 1_000 })))
}

/// A tool as `tools/list` shows it.
pub(super) fn tool(tool: &Tool) -> WireTool {
    let mut wire = WireTool::new(tool.name.to_string(), tool.description.clone(), with_properties(&tool.input.json));
    wire.title = tool.title.clone();
    wire.output_schema = tool.output.as_ref().map(|schema| schema.json.clone());
    let hints = &tool.annotations;
    if [hints.read_only, hints.destructive, hints.idempotent, hints.open_world].iter().any(Option::is_some) {
        let mut annotations = ToolAnnotations::default();
        annotations.read_only_hint = hints.read_only;
        annotations.destructive_hint = hints.destructive;
        annotations.idempotent_hint = hints.idempotent;
        annotations.open_world_hint = hints.open_world;
        wire.annotations = Some(annotations);
    }
    wire
}

/// A schema that says which properties it knows, if none. JSON Schema needs no such word; providers of models do, and refuse all tools of a client where one lacks it.
fn with_properties(schema: &Arc<JsonObject>) -> Arc<JsonObject> {
    if schema.contains_key("properties") {
        return Arc::clone(schema);
    }
    let mut named = JsonObject::clone(schema);
    named.insert("properties".into(), json!({}));
    Arc::new(named)
}

/// A result. Structured content without blocks is mirrored as text, for clients that read only text.
pub(super) fn result(result: ToolResult) -> CallToolResult {
    let mut content: Vec<ContentBlock> = result.content.into_iter().map(block).collect();
    if let (true, Some(structured)) = (content.is_empty(), &result.structured) {
        content.push(ContentBlock::text(json_text(structured)));
    }
    let mut wire = if result.is_error { CallToolResult::error(content) } else { CallToolResult::success(content) };
    wire.structured_content = result.structured;
    wire
}

/// One block of a result.
pub(super) fn block(content: Content) -> ContentBlock {
    match content {
        Content::Text(text) => ContentBlock::text(text),
        Content::Image(blob) => ContentBlock::image(BASE64_STANDARD.encode(blob.data), blob.mime_type),
        Content::Audio(blob) => ContentBlock::audio(BASE64_STANDARD.encode(blob.data), blob.mime_type),
        Content::ResourceLink { uri, name, description, mime_type } => {
            let mut resource = Resource::new(uri, name);
            resource.description = description;
            resource.mime_type = mime_type;
            ContentBlock::resource_link(resource)
        }
        Content::EmbeddedResource { uri, mime_type, contents } => ContentBlock::resource(match contents {
            ResourceContents::Text(text) => WireContents::TextResourceContents { uri, mime_type, text, meta: None },
            ResourceContents::Binary(bytes) => {
                WireContents::BlobResourceContents { uri, mime_type, blob: BASE64_STANDARD.encode(bytes), meta: None }
            }
        }),
    }
}

/// An error: misuse of the protocol and lack of room are JSON-RPC errors, everything that happened to the tool is a result that a model can read.
pub(super) fn error(error: CallError) -> Result<CallToolResult, ErrorData> {
    match error {
        CallError::UnknownTool(_) => Err(ErrorData::invalid_params(error.to_string(), None)),
        CallError::Busy { retry_after, .. }
        | CallError::TooMany { retry_after, .. }
        | CallError::PeerBusy { retry_after, .. } => {
            let data = json!({ "error": error.kind(), "retryAfterMs": u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX) });
            Err(ErrorData::new(BUSY, error.to_string(), Some(data)))
        }
        CallError::OtherInterface => {
            Err(ErrorData::invalid_params(error.to_string(), Some(json!({ "error": OTHER_INTERFACE }))))
        }
        CallError::InvalidArguments { .. }
        | CallError::Unreachable { .. }
        | CallError::BuildGone { .. }
        | CallError::TooDeep
        | CallError::BudgetExceeded { .. }
        | CallError::Interrupted { .. }
        | CallError::Cancelled
        | CallError::UnknownResource(_)
        | CallError::UnknownPrompt(_)
        | CallError::Failed(_)
        | CallError::Trapped(_)
        | CallError::InvalidResult { .. } => Ok(CallToolResult::error(vec![ContentBlock::text(error.to_string())])),
    }
}

/// A result in our words, as another host gave it. Data that are not base64 stand as text.
pub(super) fn from_result(wire: CallToolResult) -> ToolResult {
    ToolResult {
        content: wire.content.into_iter().map(from_block).collect(),
        structured: wire.structured_content,
        is_error: wire.is_error == Some(true),
        ..ToolResult::default()
    }
}

pub(super) fn from_block(block: ContentBlock) -> Content {
    let blob = |data: String, mime_type: String| match BASE64_STANDARD.decode(&data) {
        Ok(data) => Ok(Blob { data, mime_type }),
        Err(_) => Err(Content::Text(data)),
    };
    match block {
        ContentBlock::Text(text) => Content::Text(text.text),
        ContentBlock::Image(image) => blob(image.data, image.mime_type).map_or_else(|text| text, Content::Image),
        ContentBlock::Audio(audio) => blob(audio.data, audio.mime_type).map_or_else(|text| text, Content::Audio),
        ContentBlock::ResourceLink(link) => Content::ResourceLink {
            uri: link.uri,
            name: link.name,
            description: link.description,
            mime_type: link.mime_type,
        },
        ContentBlock::Resource(embedded) => match embedded.resource {
            WireContents::TextResourceContents { uri, mime_type, text, .. } => {
                Content::EmbeddedResource { uri, mime_type, contents: ResourceContents::Text(text) }
            }
            WireContents::BlobResourceContents { uri, mime_type, blob, .. } => {
                let contents = match BASE64_STANDARD.decode(&blob) {
                    Ok(bytes) => ResourceContents::Binary(bytes),
                    Err(_) => ResourceContents::Text(blob),
                };
                Content::EmbeddedResource { uri, mime_type, contents }
            }
            other => Content::Text(serde_json::to_string(&other).unwrap_or_default()),
        },
        other => Content::Text(serde_json::to_string(&other).unwrap_or_default()),
    }
}

/// A level in MCP's words.
pub(super) fn level(level: LogLevel) -> LoggingLevel {
    match level {
        LogLevel::Debug => LoggingLevel::Debug,
        LogLevel::Info => LoggingLevel::Info,
        LogLevel::Notice => LoggingLevel::Notice,
        LogLevel::Warning => LoggingLevel::Warning,
        LogLevel::Error => LoggingLevel::Error,
        LogLevel::Critical => LoggingLevel::Critical,
        LogLevel::Alert => LoggingLevel::Alert,
        LogLevel::Emergency => LoggingLevel::Emergency,
    }
}

/// A level in our words.
pub(super) fn from_level(level: LoggingLevel) -> LogLevel {
    match level {
        LoggingLevel::Debug => LogLevel::Debug,
        LoggingLevel::Info => LogLevel::Info,
        LoggingLevel::Notice => LogLevel::Notice,
        LoggingLevel::Warning => LogLevel::Warning,
        LoggingLevel::Error => LogLevel::Error,
        LoggingLevel::Critical => LogLevel::Critical,
        LoggingLevel::Alert => LogLevel::Alert,
        LoggingLevel::Emergency => LogLevel::Emergency,
    }
}
