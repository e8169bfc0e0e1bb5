//! Plain components: any component whose exports are functions over WIT types. Each exported function is a tool; nobody needs our SDK.
//!
//! A function of the world is called `COMPONENT_FUNCTION`, or just `COMPONENT` if it has the component's name; one of an exported interface is called
//! `COMPONENT_INTERFACE_FUNCTION`. So two components cannot take each other's names.

use serde_json::{Value, json};
use wasmtime::component::{Component, ComponentExportIndex, Type, Val, types::ComponentFunc, types::ComponentItem};

use super::{
    bindings::exports::mcpp::tool::tools::{Annotations, Tool as WitTool},
    schema, value,
};
use crate::call::{CallError, Content, ToolResult};

/// One exported function.
#[derive(Debug, Clone)]
pub struct PlainFunction {
    /// Where it is in the component.
    pub export: ComponentExportIndex,
    /// The tool's name.
    pub tool: String,
    /// What it takes.
    pub params: Vec<(String, Type)>,
    /// What it gives.
    pub result: Option<Type>,
    /// Its parameters as JSON Schema.
    pub input_schema: Value,
    /// Its result as JSON Schema, if it gives one.
    pub output_schema: Option<Value>,
}

/// The functions of `component`, with those that cannot be tools and why not.
pub fn functions(name: &str, component: &Component, engine: &wasmtime::Engine) -> (Vec<PlainFunction>, Vec<String>) {
    let mut found = Vec::new();
    let mut skipped = Vec::new();
    let mut offer = |tool: String, export: Option<ComponentExportIndex>, func: &ComponentFunc| {
        let Some(export) = export else { return };
        match function(tool.clone(), export, func) {
            Ok(function) => found.push(function),
            Err(reason) => skipped.push(format!("function `{tool}` is not offered: {reason}")),
        }
    };
    for (export, item) in component.component_type().exports(engine) {
        match item.ty {
            ComponentItem::ComponentFunc(func) => {
                let tool = if export == name { name.to_owned() } else { format!("{name}_{export}") };
                offer(tool, component.get_export_index(None, export), &func);
            }
            // What the host itself calls is no tool.
            ComponentItem::ComponentInstance(_) if export.starts_with("mcpp:") => {}
            ComponentItem::ComponentInstance(instance) => {
                let index = component.get_export_index(None, export);
                for (inner, item) in instance.exports(engine) {
                    if let ComponentItem::ComponentFunc(func) = item.ty {
                        let tool = format!("{name}_{}_{inner}", interface(export));
                        offer(tool, component.get_export_index(index.as_ref(), inner), &func);
                    }
                }
            }
            _ => {}
        }
    }
    (found, skipped)
}

/// The interface's own name in `namespace:package/interface@version`.
fn interface(export: &str) -> &str {
    let unversioned = export.split('@').next().unwrap_or(export);
    unversioned.rsplit('/').next().unwrap_or(unversioned)
}

fn function(tool: String, export: ComponentExportIndex, func: &ComponentFunc) -> Result<PlainFunction, String> {
    if func.async_() {
        return Err("it is an async function, which this host does not run yet".into());
    }
    let params: Vec<(String, Type)> = func.params().map(|(name, ty)| (name.to_owned(), ty)).collect();
    let result = func.results().next();
    let input_schema = schema::of_params(func.params()).map_err(|error| error.to_string())?;
    // A `result` at the top is not data: its `err` is the tool's error.
    let payload = match &result {
        Some(Type::Result(result)) => result.ok(),
        other => other.clone(),
    };
    let output_schema = payload.as_ref().map(schema::of_result).transpose().map_err(|error| error.to_string())?;
    if let Some(Type::Result(result)) = &result
        && let Some(err) = result.err()
    {
        schema::of_result(&err).map_err(|error| error.to_string())?;
    }
    Ok(PlainFunction { export, tool, params, result, input_schema, output_schema })
}

impl PlainFunction {
    /// The tool as an SDK component would list it.
    pub fn listing(&self) -> WitTool {
        WitTool {
            name: self.tool.clone(),
            title: None,
            description: String::new(),
            input_schema: self.input_schema.to_string(),
            output_schema: self.output_schema.as_ref().map(Value::to_string),
            annotations: Annotations { read_only: None, destructive: None, idempotent: None, open_world: None },
        }
    }

    /// The arguments as values.
    pub fn arguments(&self, arguments: &Value) -> Result<Vec<Val>, CallError> {
        value::to_params(arguments, self.params.iter().map(|(name, ty)| (name.as_str(), ty)))
            .map_err(|mismatch| CallError::InvalidArguments { path: mismatch.path, reason: mismatch.reason })
    }

    /// What the function gave, as a tool's result.
    pub fn result(&self, val: Option<&Val>) -> ToolResult {
        match val {
            None => ToolResult::default(),
            Some(Val::Result(Ok(payload))) => payload.as_deref().map(success).unwrap_or_default(),
            Some(Val::Result(Err(payload))) => failure(payload.as_deref()),
            Some(val) => success(val),
        }
    }
}

fn success(val: &Val) -> ToolResult {
    let json = value::to_json(val);
    let structured = if matches!(val, Val::Record(_)) { json } else { json!({ "result": json }) };
    let content = match val {
        Val::String(text) => vec![Content::Text(text.clone())],
        _ => Vec::new(),
    };
    ToolResult { content, structured: Some(structured), is_error: false }
}

fn failure(payload: Option<&Val>) -> ToolResult {
    let text = match payload {
        None => "the tool failed and gave no reason".to_owned(),
        Some(Val::String(text)) => text.clone(),
        Some(val) => value::to_json(val).to_string(),
    };
    ToolResult { content: vec![Content::Text(text)], structured: None, is_error: true }
}
