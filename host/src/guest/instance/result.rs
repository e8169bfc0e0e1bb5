//! A guest's result: within its budget, and converted between WIT and the host's types.

use serde_json::Value;

use crate::{
    call::{Blob, Budget, CallError, Content, ResourceContents, ToolResult},
    capability::bindings::mcpp::tool::types,
    control::Control,
    memory::{MemoryUse, NoMemory, Reservation, json_bytes, json_text},
};

/// The result, if it is within the budget of its call and its tenant has memory for it.
pub fn within_budget(mut result: ToolResult, control: &Control) -> Result<ToolResult, CallError> {
    let limit = control.limits().output_bytes;
    let structured = result.structured.as_ref().map(json_text).unwrap_or_default();
    let blocks = result.content.iter().map(Content::bytes).fold(0, usize::saturating_add);
    if u64::try_from(blocks.saturating_add(structured.len())).unwrap_or(u64::MAX) > limit {
        return Err(CallError::BudgetExceeded { budget: Budget::Output, limit });
    }
    // The host charged an SDK component's result before it parsed it.
    let parsed = if result.memory.is_charged() { 0 } else { json_bytes(&structured) };
    let bytes = parsed.saturating_add(u64::try_from(blocks).unwrap_or(u64::MAX));
    result.memory.keep(reserve(bytes, control)?);
    Ok(result)
}

/// Memory for a result. The call has run, so a refusal never says that it has not.
pub(crate) fn reserve(bytes: u64, control: &Control) -> Result<Reservation, CallError> {
    let refused = |refusal: NoMemory| CallError::Interrupted { reason: format!("no room for its result: {refusal}") };
    control.memory().reserve(MemoryUse::Messages, bytes).map_err(refused)
}

/// A result of an SDK component.
pub(crate) fn from_wit(result: types::ToolResult, is_error: bool, control: &Control) -> Result<ToolResult, CallError> {
    let mut parsed = ToolResult { is_error, ..ToolResult::default() };
    if let Some(structured) = result.structured.as_deref() {
        parsed.memory.keep(reserve(json_bytes(structured), control)?);
        let invalid = |error| CallError::InvalidResult {
            path: String::new(),
            reason: format!("`structured` is not JSON: {error}"),
        };
        parsed.structured = Some(serde_json::from_str::<Value>(structured).map_err(invalid)?);
    }
    parsed.content = result.content.into_iter().map(Content::from).collect();
    Ok(parsed)
}

impl From<types::Content> for Content {
    fn from(content: types::Content) -> Self {
        let blob = |blob: types::Blob| Blob { data: blob.data, mime_type: blob.mime_type };
        match content {
            types::Content::Text(text) => Self::Text(text),
            types::Content::Image(image) => Self::Image(blob(image)),
            types::Content::Audio(audio) => Self::Audio(blob(audio)),
            types::Content::ResourceLink(link) => Self::ResourceLink {
                uri: link.uri,
                name: link.name,
                description: link.description,
                mime_type: link.mime_type,
            },
            types::Content::EmbeddedResource(resource) => Self::EmbeddedResource {
                uri: resource.uri,
                mime_type: resource.mime_type,
                contents: match resource.contents {
                    types::ResourceContents::Text(text) => ResourceContents::Text(text),
                    types::ResourceContents::Binary(bytes) => ResourceContents::Binary(bytes),
                },
            },
        }
    }
}

impl From<Content> for types::Content {
    fn from(content: Content) -> Self {
        let blob = |blob: Blob| types::Blob { data: blob.data, mime_type: blob.mime_type };
        match content {
            Content::Text(text) => Self::Text(text),
            Content::Image(image) => Self::Image(blob(image)),
            Content::Audio(audio) => Self::Audio(blob(audio)),
            Content::ResourceLink { uri, name, description, mime_type } => {
                Self::ResourceLink(types::ResourceLink { uri, name, description, mime_type })
            }
            Content::EmbeddedResource { uri, mime_type, contents } => Self::EmbeddedResource(types::EmbeddedResource {
                uri,
                mime_type,
                contents: match contents {
                    ResourceContents::Text(text) => types::ResourceContents::Text(text),
                    ResourceContents::Binary(bytes) => types::ResourceContents::Binary(bytes),
                },
            }),
        }
    }
}

impl From<ToolResult> for types::ToolResult {
    fn from(result: ToolResult) -> Self {
        Self {
            content: result.content.into_iter().map(types::Content::from).collect(),
            structured: result.structured.as_ref().map(json_text),
        }
    }
}
