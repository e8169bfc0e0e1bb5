//! What the macros make of a function, and the component that is made of them.

use std::marker::PhantomData;

use schemars::{JsonSchema, generate::SchemaSettings};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    Error, Output,
    bindings::{
        exports::mcpp::tool::tools::{self, Guest},
        mcpp::tool::types::{ToolError, ToolResult},
    },
};

/// Hints to clients; none means MCP's default.
#[derive(Debug, Clone, Copy, Default)]
pub struct Annotations {
    /// The tool changes nothing.
    pub read_only: Option<bool>,
    /// What it changes may be lost.
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
    /// What it does.
    pub description: &'static str,
    /// Hints to clients.
    pub annotations: Annotations,
    /// Makes its input schema.
    pub input_schema: fn() -> Value,
    /// Makes its output schema.
    pub output_schema: fn() -> Option<Value>,
    /// Runs it.
    pub call: fn(Value) -> Result<Output, Error>,
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
    let mut schema =
        SchemaSettings::draft2020_12().for_deserialize().into_generator().into_root_schema_for::<T>().to_value();
    if let Some(schema) = schema.as_object_mut() {
        schema.remove("title");
        schema.remove("$schema");
    }
    schema
}

/// The input schema of a function without parameters.
pub fn no_arguments_schema() -> Value {
    json!({ "type": "object", "properties": {}, "additionalProperties": false })
}

/// The arguments as their type. The host has checked them against the schema; what is left is what a schema cannot say.
pub fn parse<T: DeserializeOwned>(arguments: Value) -> Result<T, Error> {
    serde_json::from_value(arguments).map_err(|error| Error::invalid_argument("", error.to_string()))
}
