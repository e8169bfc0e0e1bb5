//! A tool's answer: a value of its own type, or [`Output`] where it wants to choose the blocks.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{Error, bindings::mcpp::tool::types, definition::settings};

/// One block of a result.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// Text.
    Text(String),
    /// A picture: its bytes and media type, such as `image/png`.
    Image {
        /// The bytes, not base64.
        data: Vec<u8>,
        /// The media type.
        mime_type: String,
    },
    /// A sound: its bytes and media type, such as `audio/wav`.
    Audio {
        /// The bytes, not base64.
        data: Vec<u8>,
        /// The media type.
        mime_type: String,
    },
    /// A resource named but not included.
    ResourceLink {
        /// An absolute URI.
        uri: String,
        /// A short name.
        name: String,
        /// A description of the resource.
        description: Option<String>,
        /// The media type, if known.
        mime_type: Option<String>,
    },
    /// A text resource, included.
    TextResource {
        /// An absolute URI.
        uri: String,
        /// The media type, if known.
        mime_type: Option<String>,
        /// The text.
        text: String,
    },
    /// A binary resource, included.
    BinaryResource {
        /// An absolute URI.
        uri: String,
        /// The media type, if known.
        mime_type: Option<String>,
        /// The bytes, not base64.
        data: Vec<u8>,
    },
}

/// A result whose blocks the tool chooses. A tool that returns it has no output schema.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Output {
    /// Blocks for a reader.
    pub content: Vec<Content>,
    /// The same for a program.
    pub structured: Option<Value>,
}

impl Output {
    /// One block of text.
    pub fn text(text: impl Into<String>) -> Self {
        Content::Text(text.into()).into()
    }
}

impl From<Content> for Output {
    fn from(content: Content) -> Self {
        Self { content: vec![content], structured: None }
    }
}

impl FromIterator<Content> for Output {
    fn from_iter<I: IntoIterator<Item = Content>>(content: I) -> Self {
        Self { content: content.into_iter().collect(), structured: None }
    }
}

/// A type that a tool may return besides errors.
#[doc(hidden)]
pub trait IntoOutput {
    /// The output schema, if the type has one.
    fn output_schema() -> Option<Value>;
    /// The result.
    fn into_output(self) -> Result<Output, Error>;
}

impl IntoOutput for Output {
    fn output_schema() -> Option<Value> {
        None
    }

    fn into_output(self) -> Result<Output, Error> {
        Ok(self)
    }
}

/// A value is structured content: as it is if it is an object, else as the property `result` of one. Text is also a block of its own.
impl<T: Serialize + JsonSchema> IntoOutput for T {
    fn output_schema() -> Option<Value> {
        let mut schema = settings().for_serialize().into_generator().into_root_schema_for::<T>().to_value();
        let definitions = schema.as_object_mut().and_then(|schema| {
            schema.remove("title");
            schema.remove("$schema");
            schema.remove("$defs")
        });
        let mut schema = if is_object(&schema) {
            schema
        } else {
            json!({ "type": "object", "properties": { "result": schema }, "required": ["result"] })
        };
        if let (Some(definitions), Some(schema)) = (definitions, schema.as_object_mut()) {
            schema.insert("$defs".into(), definitions);
        }
        Some(schema)
    }

    fn into_output(self) -> Result<Output, Error> {
        let value = serde_json::to_value(&self)?;
        let content = match &value {
            Value::String(text) => vec![Content::Text(text.clone())],
            _ => Vec::new(),
        };
        let structured = if value.is_object() && is_object(&T::json_schema(&mut Default::default()).to_value()) {
            value
        } else {
            json!({ "result": value })
        };
        Ok(Output { content, structured: Some(structured) })
    }
}

/// Whether the type is one of objects, which MCP takes as structured content; the schema and the value must agree on it.
fn is_object(schema: &Value) -> bool {
    schema.get("type").and_then(Value::as_str) == Some("object")
}

/// The output schema of a function that returns nothing.
#[doc(hidden)]
pub fn no_output_schema() -> Option<Value> {
    None
}

impl From<Content> for types::Content {
    fn from(content: Content) -> Self {
        match content {
            Content::Text(text) => Self::Text(text),
            Content::Image { data, mime_type } => Self::Image(types::Blob { data, mime_type }),
            Content::Audio { data, mime_type } => Self::Audio(types::Blob { data, mime_type }),
            Content::ResourceLink { uri, name, description, mime_type } => {
                Self::ResourceLink(types::ResourceLink { uri, name, description, mime_type })
            }
            Content::TextResource { uri, mime_type, text } => Self::EmbeddedResource(types::EmbeddedResource {
                uri,
                mime_type,
                contents: types::ResourceContents::Text(text),
            }),
            Content::BinaryResource { uri, mime_type, data } => Self::EmbeddedResource(types::EmbeddedResource {
                uri,
                mime_type,
                contents: types::ResourceContents::Binary(data),
            }),
        }
    }
}

impl From<types::Content> for Content {
    fn from(content: types::Content) -> Self {
        match content {
            types::Content::Text(text) => Self::Text(text),
            types::Content::Image(blob) => Self::Image { data: blob.data, mime_type: blob.mime_type },
            types::Content::Audio(blob) => Self::Audio { data: blob.data, mime_type: blob.mime_type },
            types::Content::ResourceLink(link) => Self::ResourceLink {
                uri: link.uri,
                name: link.name,
                description: link.description,
                mime_type: link.mime_type,
            },
            types::Content::EmbeddedResource(resource) => {
                let types::EmbeddedResource { uri, mime_type, contents } = resource;
                match contents {
                    types::ResourceContents::Text(text) => Self::TextResource { uri, mime_type, text },
                    types::ResourceContents::Binary(data) => Self::BinaryResource { uri, mime_type, data },
                }
            }
        }
    }
}

impl From<Output> for types::ToolResult {
    fn from(output: Output) -> Self {
        Self {
            content: output.content.into_iter().map(types::Content::from).collect(),
            structured: output.structured.map(|value| value.to_string()),
        }
    }
}

impl From<types::ToolResult> for Output {
    fn from(result: types::ToolResult) -> Self {
        Self {
            content: result.content.into_iter().map(Content::from).collect(),
            structured: result.structured.and_then(|json| serde_json::from_str(&json).ok()),
        }
    }
}
