//! Plain components: any component whose exports are functions over WIT types. Each exported function is a tool; nobody needs our SDK.
//!
//! A function of the world is called `COMPONENT_FUNCTION`, or just `COMPONENT` if it has the component's name; one of an exported interface is called
//! `COMPONENT_INTERFACE_FUNCTION`, with the whole name of the interface where two of them are called the same. So names follow from the component alone, and no two of
//! one component are equal. That two components have one name is left to the catalog, which refuses the second.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use wasmtime::component::{Component, ComponentExportIndex, Type, Val, types::ComponentFunc, types::ComponentItem};

use super::{
    bindings::exports::mcpp::tool::tools::{Annotations, Tool as WitTool},
    docs::{Docs, KnownTypes, short_name},
    schema, value,
};
use crate::call::{CallError, Content, ToolResult};

/// Most functions that are looked at, about; a component with more has too many tools.
const MAX_FUNCTIONS: usize = 2_000;
/// Most bytes of schemas and docs that one component's functions may have together.
const MAX_LISTING_BYTES: usize = 8 << 20;

/// One exported function.
#[derive(Debug, Clone)]
pub struct PlainFunction {
    /// Where it is in the component.
    pub export: ComponentExportIndex,
    /// The tool's name.
    pub tool: String,
    /// Whether it is async: its tasks may wait side by side.
    pub is_async: bool,
    /// What it does, if the component says so.
    pub description: String,
    /// What it takes.
    pub params: Vec<(String, Type)>,
    /// What it gives.
    pub result: Option<Type>,
    /// Its parameters as JSON Schema.
    pub input_schema: Value,
    /// Its result as JSON Schema, if it gives one.
    pub output_schema: Option<Value>,
}

/// A function as the component exports it.
struct Export {
    /// The interface, by its full name; empty in the world.
    scope: String,
    name: String,
    index: ComponentExportIndex,
    func: ComponentFunc,
}

/// The functions of `component`, with those that cannot be tools and why not.
pub fn functions(
    name: &str,
    component: &Component,
    engine: &wasmtime::Engine,
    docs: &Docs,
) -> (Vec<PlainFunction>, Vec<String>) {
    let exports = exports(component, engine);
    let types = docs.types(component, engine);
    let (mut found, mut notes) = (Vec::new(), docs.problems.clone());
    let mut bytes_left = MAX_LISTING_BYTES;
    let interfaces = interface_names(&exports);
    for export in exports {
        let tool = tool_name(name, &export, &interfaces);
        let described = function(tool.clone(), export, docs, &types).and_then(|function| {
            let rest = bytes_left.checked_sub(function.listing_bytes());
            bytes_left = rest.ok_or("the schemas of the component's functions are too large together")?;
            Ok(function)
        });
        match described {
            Ok(function) => found.push(function),
            Err(reason) => notes.push(format!("function `{tool}` is not offered: {reason}")),
        }
    }
    (found, notes)
}

fn exports(component: &Component, engine: &wasmtime::Engine) -> Vec<Export> {
    let mut found = Vec::new();
    for (export, item) in component.component_type().exports(engine) {
        let outer = component.get_export_index(None, export);
        match item.ty {
            ComponentItem::ComponentFunc(func) => {
                found.extend(outer.map(|index| Export { scope: String::new(), name: export.to_owned(), index, func }))
            }
            // What the host itself calls is no tool.
            ComponentItem::ComponentInstance(_) if export.starts_with("mcpp:") => {}
            ComponentItem::ComponentInstance(instance) => {
                for (name, item) in instance.exports(engine).take(MAX_FUNCTIONS) {
                    if let ComponentItem::ComponentFunc(func) = item.ty
                        && let Some(index) = component.get_export_index(outer.as_ref(), name)
                    {
                        found.push(Export { scope: export.to_owned(), name: name.to_owned(), index, func });
                    }
                }
            }
            _ => {}
        }
        if found.len() > MAX_FUNCTIONS {
            break;
        }
    }
    found
}

/// What the interfaces are called in the names of tools, by their full names.
fn interface_names(exports: &[Export]) -> BTreeMap<String, String> {
    let mut by_short = BTreeMap::<&str, Vec<&str>>::new();
    for export in exports {
        let full = by_short.entry(short_name(&export.scope)).or_default();
        if !full.contains(&export.scope.as_str()) {
            full.push(&export.scope);
        }
    }
    let names = by_short.into_iter().flat_map(|(short, full)| {
        let alone = full.len() == 1;
        full.into_iter().map(move |full| {
            let name = if alone { short.to_owned() } else { full.replace([':', '/', '@', '+'], "_") };
            (full.to_owned(), name)
        })
    });
    names.collect()
}

fn tool_name(component: &str, export: &Export, interfaces: &BTreeMap<String, String>) -> String {
    match interfaces.get(&export.scope).filter(|_| !export.scope.is_empty()) {
        Some(interface) => format!("{component}_{interface}_{}", export.name),
        None if export.name == component => component.to_owned(),
        None => format!("{component}_{}", export.name),
    }
}

fn function(tool: String, export: Export, docs: &Docs, types: &KnownTypes) -> Result<PlainFunction, String> {
    let Export { scope, name, index, func } = export;
    let params: Vec<(String, Type)> = func.params().map(|(name, ty)| (name.to_owned(), ty)).collect();
    let result = func.results().next();
    let schema_of = |ty: &Type| schema::of_result(ty, types, &scope).map_err(|error| error.to_string());
    let named = params.iter().map(|(name, ty)| (name.as_str(), ty.clone()));
    let input_schema = schema::of_params(named, types, &scope).map_err(|error| error.to_string())?;
    // A `result` at the top is not data: its `err` is the tool's error.
    let (payload, error) = match &result {
        Some(Type::Result(result)) => (result.ok(), result.err()),
        other => (other.clone(), None),
    };
    let output_schema = payload.as_ref().map(schema_of).transpose()?;
    error.as_ref().map(schema_of).transpose()?;
    let description = docs.function(&scope, &name).unwrap_or_default().to_owned();
    let is_async = func.async_();
    Ok(PlainFunction { export: index, tool, is_async, description, params, result, input_schema, output_schema })
}

impl PlainFunction {
    /// The tool as an SDK component would list it.
    pub fn listing(&self) -> WitTool {
        WitTool {
            name: self.tool.clone(),
            title: None,
            description: self.description.clone(),
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
        match (val, &self.result) {
            (Some(Val::Result(Ok(payload))), Some(Type::Result(ty))) => {
                payload.as_deref().zip(ty.ok()).map(|(val, ty)| success(val, &ty)).unwrap_or_default()
            }
            (Some(Val::Result(Err(payload))), Some(Type::Result(ty))) => failure(payload.as_deref().zip(ty.err())),
            (Some(val), Some(ty)) => success(val, ty),
            _ => ToolResult::default(),
        }
    }

    fn listing_bytes(&self) -> usize {
        let output = self.output_schema.as_ref().map_or(0, |schema| schema.to_string().len());
        self.description.len().saturating_add(self.input_schema.to_string().len()).saturating_add(output)
    }
}

fn success(val: &Val, ty: &Type) -> ToolResult {
    let json = value::to_json(val, ty);
    let structured = if matches!(val, Val::Record(_)) { json } else { json!({ "result": json }) };
    let content = match val {
        Val::String(text) => vec![Content::Text(text.clone())],
        _ => Vec::new(),
    };
    ToolResult { content, structured: Some(structured), is_error: false }
}

fn failure(payload: Option<(&Val, Type)>) -> ToolResult {
    let text = match payload {
        None => "the tool failed and gave no reason".to_owned(),
        Some((Val::String(text), _)) => text.clone(),
        Some((val, ty)) => value::to_json(val, &ty).to_string(),
    };
    ToolResult { content: vec![Content::Text(text)], structured: None, is_error: true }
}
