//! The definitions that the macros make of a function, and the component that is made of them.

use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, generate::SchemaSettings, transform::RecursiveTransform};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    Error, Output,
    bindings::{
        exports::mcpp::tool::tools::{self, Guest},
        mcpp::tool::types::{ToolError, ToolResult},
        task_support::exports::mcpp::tasks::support,
    },
};

/// Hints to clients; none means MCP's default.
#[derive(Debug, Clone, Copy, Default)]
pub struct Annotations {
    /// The tool changes nothing.
    pub read_only: Option<bool>,
    /// The tool may lose the data that it changes.
    pub destructive: Option<bool>,
    /// Twice is the same as once.
    pub idempotent: Option<bool>,
    /// It reaches the outside.
    pub open_world: Option<bool>,
}

/// One tool.
#[derive(Debug)]
pub struct Definition {
    /// Its name.
    pub name: &'static str,
    /// A name for people.
    pub title: Option<&'static str>,
    /// A description of the tool.
    pub description: &'static str,
    /// Hints to clients.
    pub annotations: Annotations,
    /// When a call of it becomes a task, if the tool says so.
    pub task: Option<TaskSupport>,
    /// Makes its input schema.
    pub input_schema: fn() -> Value,
    /// Makes its output schema.
    pub output_schema: fn() -> Option<Value>,
    /// Runs it.
    pub call: fn(Value) -> Result<Output, Error>,
}

/// When a call of a tool becomes a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskSupport {
    /// Never.
    Never,
    /// When it has not ended soon.
    May,
    /// Before it begins.
    Must,
}

/// The tools of a component.
pub trait Tools {
    /// All of them.
    const TOOLS: &'static [Definition];
}

/// The component made of `T`.
#[derive(Debug)]
pub struct Component<T>(PhantomData<T>);

impl<T: Tools + 'static> Guest for Component<T> {
    fn list() -> Vec<tools::Tool> {
        T::TOOLS.iter().map(listing).collect()
    }

    fn call(name: String, arguments: String) -> Result<ToolResult, ToolError> {
        let Some(tool) = T::TOOLS.iter().find(|tool| tool.name == name) else { return Err(ToolError::UnknownTool) };
        let arguments =
            serde_json::from_str(&arguments).map_err(|error| Error::invalid_argument("", error.to_string()))?;
        (tool.call)(arguments).map(ToolResult::from).map_err(ToolError::from)
    }
}

/// What the tools of `T` say of tasks.
#[derive(Debug)]
pub struct TaskComponent<T>(PhantomData<T>);

impl<T: Tools + 'static> support::Guest for TaskComponent<T> {
    fn of_tools() -> Vec<support::ToolSupport> {
        let said = T::TOOLS.iter().filter_map(|tool| {
            let when = match tool.task? {
                TaskSupport::Never => support::When::Never,
                TaskSupport::May => support::When::May,
                TaskSupport::Must => support::When::Must,
            };
            Some(support::ToolSupport { tool: tool.name.to_owned(), when })
        });
        said.collect()
    }
}

fn listing(tool: &Definition) -> tools::Tool {
    let Annotations { read_only, destructive, idempotent, open_world } = tool.annotations;
    tools::Tool {
        name: tool.name.to_owned(),
        title: tool.title.map(str::to_owned),
        description: tool.description.to_owned(),
        input_schema: (tool.input_schema)().to_string(),
        output_schema: (tool.output_schema)().map(|schema| schema.to_string()),
        annotations: tools::Annotations { read_only, destructive, idempotent, open_world },
    }
}

/// The input schema of an argument type.
pub fn input_schema<T: JsonSchema>() -> Value {
    let mut schema = settings().for_deserialize().into_generator().into_root_schema_for::<T>().to_value();
    if let Some(schema) = schema.as_object_mut() {
        schema.remove("title");
        schema.remove("$schema");
    }
    schema
}

/// How schemas are written, those of arguments and those of results.
pub(crate) fn settings() -> SchemaSettings {
    SchemaSettings::draft2020_12().with_transform(RecursiveTransform(bounds_for_format))
}

/// Says what a number may be with `minimum` and `maximum` alone. A `format` such as `uint32` is no word of JSON Schema, and clients warn of it.
fn bounds_for_format(schema: &mut Schema) {
    let Some(format) = schema.get("format").and_then(Value::as_str) else { return };
    let bounds: Option<[i64; 2]> = match format {
        "int8" => Some([i8::MIN.into(), i8::MAX.into()]),
        "uint8" => Some([u8::MIN.into(), u8::MAX.into()]),
        "int16" => Some([i16::MIN.into(), i16::MAX.into()]),
        "uint16" => Some([u16::MIN.into(), u16::MAX.into()]),
        "int32" => Some([i32::MIN.into(), i32::MAX.into()]),
        "uint32" => Some([u32::MIN.into(), u32::MAX.into()]),
        // Their bounds are beyond what clients can count exactly: the argument itself is checked.
        "int" | "int64" | "int128" | "uint" | "uint64" | "uint128" | "float" | "double" => None,
        _ => return,
    };
    schema.remove("format");
    for (name, bound) in ["minimum", "maximum"].into_iter().zip(bounds.into_iter().flatten()) {
        if schema.get(name).is_none() {
            schema.insert(name.to_owned(), bound.into());
        }
    }
}

/// The input schema of a function without parameters.
pub fn no_arguments_schema() -> Value {
    json!({ "type": "object", "properties": {}, "additionalProperties": false })
}

/// The arguments as their type. The host has checked them against the schema; what is left is what a schema cannot say.
pub fn parse<T: DeserializeOwned>(arguments: Value) -> Result<T, Error> {
    crate::arguments::parse(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(JsonSchema)]
    #[allow(dead_code, reason = "its schema is what is looked at")]
    struct Numbers {
        byte: u8,
        #[schemars(range(min = 1))]
        small: u32,
        signed: Option<i32>,
        sizes: Vec<usize>,
        wide: std::collections::BTreeMap<String, i64>,
        exact: f64,
        /// A field of this name is no `format`.
        format: String,
        nested: Box<Inner>,
    }

    #[derive(JsonSchema)]
    #[allow(dead_code, reason = "its schema is what is looked at")]
    struct Inner {
        #[schemars(range(max = 9))]
        count: u64,
    }

    #[test]
    fn numbers_are_described_by_their_bounds_alone() {
        let schema = input_schema::<Numbers>();
        let field = |name: &str| schema["properties"][name].clone();
        assert_eq!(field("byte"), json!({ "type": "integer", "minimum": 0, "maximum": 255 }));
        assert_eq!(field("small"), json!({ "type": "integer", "minimum": 1, "maximum": 4_294_967_295_u32 }));
        assert_eq!(
            field("signed"),
            json!({ "type": ["integer", "null"], "minimum": -2_147_483_648, "maximum": 2_147_483_647 })
        );
        assert_eq!(field("sizes"), json!({ "type": "array", "items": { "type": "integer", "minimum": 0 } }));
        assert_eq!(field("wide"), json!({ "type": "object", "additionalProperties": { "type": "integer" } }));
        assert_eq!(field("exact"), json!({ "type": "number" }));
        assert_eq!(field("format")["type"], json!("string"));
        let inner = &schema["$defs"]["Inner"]["properties"]["count"];
        assert_eq!(*inner, json!({ "type": "integer", "minimum": 0, "maximum": 9 }));
    }
}
