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

    /// The answer as one value: its structured content, or its texts, each on a line of its own.
    pub fn into_value(self) -> Value {
        let text = |block: Content| if let Content::Text(text) = block { Some(text) } else { None };
        let texts = |content: Vec<Content>| content.into_iter().filter_map(text).collect::<Vec<_>>().join("\n");
        self.structured.unwrap_or_else(|| Value::String(texts(self.content)))
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
        let mut schema = match Shape::of(&schema) {
            Shape::Object => {
                // Cases that are all objects do not say so at the root, where MCP looks.
                schema.as_object_mut().map(|schema| schema.insert("type".into(), json!("object")));
                schema
            }
            Shape::Other => wrapped(schema),
            Shape::Either => json!({ "type": "object", "anyOf": [schema, wrapped(schema.clone())] }),
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
        // The value alone decides: a schema would have to be made for every call.
        let structured = if value.is_object() { value } else { json!({ "result": value }) };
        Ok(Output { content, structured: Some(structured) })
    }
}

/// The values that a schema allows, for MCP, which takes objects alone as structured content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Object,
    Other,
    /// Some are objects, or the schema does not say.
    Either,
}

impl Shape {
    fn of(schema: &Value) -> Self {
        if let Some(kind) = schema.get("type") {
            return match kind {
                Value::String(kind) if kind == "object" => Self::Object,
                Value::Array(kinds) if kinds.iter().any(|kind| kind == "object") => Self::Either,
                _ => Self::Other,
            };
        }
        if let Some(constant) = schema.get("const") {
            return if constant.is_object() { Self::Object } else { Self::Other };
        }
        let cases = ["oneOf", "anyOf"].into_iter().find_map(|word| schema.get(word)?.as_array());
        let mut shapes = cases.into_iter().flatten().map(Self::of);
        let first = shapes.next().unwrap_or(Self::Either);
        if shapes.all(|shape| shape == first) { first } else { Self::Either }
    }
}

/// The schema of an object whose property `result` is what `schema` says.
fn wrapped(schema: Value) -> Value {
    json!({ "type": "object", "properties": { "result": schema }, "required": ["result"] })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize, JsonSchema)]
    struct Found {
        name: String,
    }

    #[derive(Serialize, JsonSchema)]
    #[serde(tag = "kind", rename_all = "snake_case")]
    enum Tagged {
        Circle { radius: u32 },
        Square { side: u32 },
    }

    #[derive(Serialize, JsonSchema)]
    #[serde(untagged)]
    enum Mixed {
        Named(Found),
        Count(u32),
    }

    /// What a value becomes, and whether its type's values may be either; the output is as the schema says.
    fn output<T: Serialize + JsonSchema>(value: T) -> (Value, bool) {
        let schema = T::output_schema().expect("a schema");
        assert_eq!(schema["type"], "object", "{schema}");
        let structured = value.into_output().expect("an output").structured.expect("structured");
        let is_either = schema.get("anyOf").is_some();
        let is_wrapped = schema["required"] == json!(["result"]);
        assert!(is_either || is_wrapped == structured.get("result").is_some(), "{structured}: {schema}");
        (structured, is_either)
    }

    #[test]
    fn an_object_is_the_output_and_any_other_value_is_its_result() {
        let found = || Found { name: "a".into() };
        assert_eq!(output(found()), (json!({ "name": "a" }), false));
        assert_eq!(output(Tagged::Circle { radius: 1 }), (json!({ "kind": "circle", "radius": 1 }), false));
        assert_eq!(output(Tagged::Square { side: 1 }), (json!({ "kind": "square", "side": 1 }), false));
        assert_eq!(output(7_u32), (json!({ "result": 7 }), false));
        assert_eq!(output(vec![found()]), (json!({ "result": [{ "name": "a" }] }), false));
        assert_eq!(output(Some("a".to_owned())), (json!({ "result": "a" }), false));
        // What may be either says so.
        assert_eq!(output(Some(found())), (json!({ "name": "a" }), true));
        assert_eq!(output(None::<Found>), (json!({ "result": null }), true));
        assert_eq!(output(Mixed::Named(found())), (json!({ "name": "a" }), true));
        assert_eq!(output(Mixed::Count(7)), (json!({ "result": 7 }), true));
        assert_eq!(output(json!({ "a": 1 })), (json!({ "a": 1 }), true));
        assert_eq!(output(json!([1])), (json!({ "result": [1] }), true));
    }
}
