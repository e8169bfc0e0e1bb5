//! Resources, prompts and completions in MCP's words.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rmcp::model::{
    Annotations as WireAnnotations, AudioContent, CompletionInfo, ContentBlock, EmbeddedResource, GetPromptResult,
    Icon as WireIcon, IconTheme, ImageContent, MetaObject, Prompt, PromptArgument, PromptMessage, Resource,
    ResourceContents as WireContents, ResourceTemplate, Role as WireRole, TextContent,
};

use crate::{
    capability::bindings::{
        completions::exports::mcpp::primitives::completions::Completion,
        mcpp::primitives::types::{Annotations, Block, Body, Content, Contents, Icon, ResourceInfo, Role, Theme},
        prompts::exports::mcpp::primitives::prompts::{Filled, PromptInfo},
        resources::exports::mcpp::primitives::resources::TemplateInfo,
    },
    registry::lists::MAX_META_BYTES,
};

/// A resource as `resources/list` shows it.
pub(super) fn resource(info: &ResourceInfo) -> Resource {
    let mut wire = Resource::new(info.uri.clone(), info.name.clone());
    wire.title.clone_from(&info.title);
    wire.description.clone_from(&info.description);
    wire.mime_type.clone_from(&info.mime_type);
    wire.size = info.size;
    wire.icons = icons(&info.icons);
    wire.annotations = annotations(info.annotations.as_ref());
    wire.meta = meta(info.meta.as_deref());
    wire
}

/// A template as `resources/templates/list` shows it.
pub(super) fn template(info: &TemplateInfo) -> ResourceTemplate {
    let mut wire = ResourceTemplate::new(info.uri_template.clone(), info.name.clone());
    wire.title.clone_from(&info.title);
    wire.description.clone_from(&info.description);
    wire.mime_type.clone_from(&info.mime_type);
    wire.icons = icons(&info.icons);
    wire.annotations = annotations(info.annotations.as_ref());
    wire.meta = meta(info.meta.as_deref());
    wire
}

/// A prompt as `prompts/list` shows it.
pub(super) fn prompt(info: &PromptInfo) -> Prompt {
    let arguments: Vec<PromptArgument> = info
        .arguments
        .iter()
        .map(|argument| {
            let mut wire = PromptArgument::new(argument.name.clone());
            wire.title.clone_from(&argument.title);
            wire.description.clone_from(&argument.description);
            wire.required = Some(argument.required);
            wire
        })
        .collect();
    let arguments = (!arguments.is_empty()).then_some(arguments);
    let mut wire = Prompt::new(info.name.clone(), info.description.clone(), arguments);
    wire.title.clone_from(&info.title);
    wire.icons = icons(&info.icons);
    wire.meta = meta(info.meta.as_deref());
    wire
}

/// What a resource holds.
pub(super) fn contents(contents: Contents) -> WireContents {
    let Contents { uri, mime_type, body, meta: said } = contents;
    let meta = meta(said.as_deref());
    match body {
        Body::Text(text) => WireContents::TextResourceContents { uri, mime_type, text, meta },
        Body::Binary(bytes) => {
            WireContents::BlobResourceContents { uri, mime_type, blob: BASE64_STANDARD.encode(bytes), meta }
        }
    }
}

/// A filled prompt.
pub(super) fn filled(filled: Filled) -> GetPromptResult {
    let messages = filled.messages.into_iter();
    let messages = messages.map(|message| PromptMessage::new(role(message.role), block(message.content)));
    let mut wire = GetPromptResult::new(messages.collect());
    wire.description = filled.description;
    wire.meta = meta(filled.meta.as_deref());
    wire
}

/// Proposed values.
pub(super) fn completion(completion: Completion) -> CompletionInfo {
    let mut wire = CompletionInfo::default();
    wire.values = completion.values;
    wire.total = completion.total;
    wire.has_more = Some(completion.has_more);
    wire
}

fn block(content: Content) -> ContentBlock {
    let (annotations, meta) = (annotations(content.annotations.as_ref()), meta(content.meta.as_deref()));
    match content.block {
        Block::Text(text) => {
            let mut wire = TextContent::new(text);
            (wire.annotations, wire.meta) = (annotations, meta);
            ContentBlock::Text(wire)
        }
        Block::Image(blob) => {
            let mut wire = ImageContent::new(BASE64_STANDARD.encode(blob.data), blob.mime_type);
            (wire.annotations, wire.meta) = (annotations, meta);
            ContentBlock::Image(wire)
        }
        Block::Audio(blob) => {
            let mut wire = AudioContent::new(BASE64_STANDARD.encode(blob.data), blob.mime_type);
            (wire.annotations, wire.meta) = (annotations, meta);
            ContentBlock::Audio(wire)
        }
        Block::ResourceLink(info) => ContentBlock::ResourceLink(resource(&info)),
        Block::EmbeddedResource(embedded) => {
            let mut wire = EmbeddedResource::new(contents(embedded));
            (wire.annotations, wire.meta) = (annotations, meta);
            ContentBlock::Resource(wire)
        }
    }
}

fn role(role: Role) -> WireRole {
    match role {
        Role::User => WireRole::User,
        Role::Assistant => WireRole::Assistant,
    }
}

fn annotations(said: Option<&Annotations>) -> Option<WireAnnotations> {
    let said = said?;
    let mut wire = WireAnnotations::default();
    wire.audience = (!said.audience.is_empty()).then(|| said.audience.iter().map(|one| role(*one)).collect());
    wire.priority = said.priority.filter(|priority| (0.0..=1.0).contains(priority));
    wire.last_modified.clone_from(&said.last_modified);
    Some(wire)
}

fn icons(icons: &[Icon]) -> Option<Vec<WireIcon>> {
    let icon = |icon: &Icon| {
        let mut wire = WireIcon::new(icon.src.clone());
        wire.mime_type.clone_from(&icon.mime_type);
        wire.sizes = (!icon.sizes.is_empty()).then(|| icon.sizes.clone());
        wire.theme = icon.theme.map(|theme| match theme {
            Theme::Light => IconTheme::Light,
            Theme::Dark => IconTheme::Dark,
        });
        wire
    };
    (!icons.is_empty()).then(|| icons.iter().map(icon).collect())
}

/// What a component says as `_meta`; what is no object of a bounded size is left out.
fn meta(text: Option<&str>) -> Option<MetaObject> {
    serde_json::from_str(text.filter(|text| text.len() <= MAX_META_BYTES)?).ok().map(MetaObject)
}
