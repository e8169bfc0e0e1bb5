//! Plain components: components whose exports are functions over WIT types. Each exported function is a tool; the author needs no SDK of ours.
//!
//! A function of the world becomes the tool `COMPONENT_FUNCTION`, or just `COMPONENT` if it has the component's name. A function of an exported interface
//! becomes `COMPONENT_INTERFACE_FUNCTION`, with the interface's full name where two short names are equal. So names follow from the component alone, and no
//! two of one component are equal. A resource's constructor is `RESOURCE_new`, its methods and static functions are `RESOURCE_FUNCTION`, and `RESOURCE_drop`
//! ends one. The catalog handles two components of the same name: it refuses the second.

pub mod docs;
pub mod handles;
pub mod schema;
pub mod value;

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};
use wasmtime::component::{
    Component, ComponentExportIndex, ResourceType, Type, Val, types::ComponentFunc, types::ComponentItem,
};

use crate::{
    call::{CallError, Content, ToolResult},
    capability::bindings::exports::mcpp::tool::tools::{Annotations, Tool as WitTool},
    plain::{
        docs::{Docs, KnownTypes, short_name},
        handles::{Exported, GivenOut, Handles, InCall, Resources, Unseen, expired, resources_in, too_many},
    },
};

/// Most functions that the host examines; a component with more has too many tools, however many of them cannot be tools.
const MAX_FUNCTIONS: usize = 2_000;
/// Most bytes of schemas and docs that one component's functions may have together.
const MAX_LISTING_BYTES: usize = 4 << 20;
/// Bytes of values that the host makes only to find a fault in arguments; it charges nothing for them.
const MAX_CHECKED_BYTES: u64 = 4 << 20;
/// Functions that the host describes although they then do not fit.
const MAX_MISSES: usize = 16;
/// Reason for which the host does not offer a function that does not fit.
const TOO_LARGE_TOGETHER: &str = "the schemas of the component's functions are too large together";

/// One exported function.
#[derive(Debug, Clone)]
pub struct PlainFunction {
    /// Action of a call.
    pub action: Action,
    /// The tool's name.
    pub tool: String,
    /// Whether it is async: its tasks may wait side by side.
    pub is_async: bool,
    /// Description by the component, if it gives one.
    pub description: String,
    /// Parameters.
    pub params: Vec<(String, Type)>,
    /// Result type, if it has one.
    pub result: Option<Type>,
    /// Its parameters as JSON Schema.
    pub input_schema: Value,
    /// Its result as JSON Schema, if it gives one.
    pub output_schema: Option<Value>,
    /// The resources that the component exports.
    pub resources: Arc<Resources>,
    /// Whether its parameters include resources.
    pub takes_handles: bool,
    /// Whether its result includes resources.
    pub gives_handles: bool,
}

/// Action of a plain component's tool.
#[derive(Debug, Clone)]
pub enum Action {
    /// Calls the exported function at this index.
    Call(ComponentExportIndex),
    /// Ends the resource in its one argument.
    Drop,
}

/// The one argument of a tool that ends a resource.
const DROPPED: &str = "self";

/// A function as the component exports it.
struct Export {
    /// The interface, by its full name; empty in the world.
    scope: String,
    name: String,
    index: ComponentExportIndex,
    func: ComponentFunc,
}

/// Functions of `component`, and those that cannot be tools, with the reason; if there are far too many, only their number.
pub fn functions(
    name: &str,
    component: &Component,
    engine: &wasmtime::Engine,
    docs: &Docs,
) -> Result<(Vec<PlainFunction>, Vec<String>), usize> {
    let exports = exports(component, engine)?;
    let types = docs.types(component, engine);
    let (mut found, mut notes) = (Vec::new(), docs.problems.clone());
    let mut room = Room { left: MAX_LISTING_BYTES, misses: 0 };
    let interfaces = interface_names(&exports);
    let resources = Arc::new(Resources::of(component, engine));
    let known = Describer { docs, types: &types, resources: &resources };
    let mut all: Vec<(FunctionPlace, Result<PlainFunction, String>)> = exports
        .into_iter()
        .map(|export| {
            let place = export.place();
            if room.is_over() {
                return (place, Err(TOO_LARGE_TOGETHER.to_owned()));
            }
            (place, known.function(export).and_then(|function| room.take(function)))
        })
        .collect();
    // Without a way to obtain a resource, no tool ends one.
    let functions = all.iter().filter_map(|(_, function)| function.as_ref().ok());
    let given: Vec<ResourceType> =
        functions.filter_map(|function| function.result.as_ref()).flat_map(resources_in).collect();
    let ended = resources.iter().filter(|resource| given.contains(&resource.ty));
    all.extend(ended.map(|resource| {
        let (place, function) = drop_of(resource, &resources);
        (place, function.and_then(|function| room.take(function)))
    }));
    let names = tool_names(name, all.iter().map(|(place, _)| place), &interfaces);
    for (tool, (_, function)) in names.into_iter().zip(all) {
        match function {
            Ok(function) => found.push(PlainFunction { tool, ..function }),
            Err(reason) => notes.push(format!("function `{tool}` is not offered: {reason}")),
        }
    }
    Ok((found, notes))
}

/// Room for the descriptions of functions. The host learns a description's size only after it has made it, so it drops a description that does not fit at once.
/// After some misses it makes no more.
struct Room {
    left: usize,
    misses: usize,
}

impl Room {
    fn take(&mut self, function: PlainFunction) -> Result<PlainFunction, String> {
        let rest = self.left.checked_sub(function.listing_bytes());
        match rest {
            Some(rest) => {
                self.left = rest;
                Ok(function)
            }
            None => {
                self.misses = self.misses.saturating_add(1);
                Err(TOO_LARGE_TOGETHER.to_owned())
            }
        }
    }

    fn is_over(&self) -> bool {
        self.misses >= MAX_MISSES
    }
}

/// The exported functions; if there are more than [`MAX_FUNCTIONS`], how many.
fn exports(component: &Component, engine: &wasmtime::Engine) -> Result<Vec<Export>, usize> {
    let mut found = Vec::new();
    for (export, item) in component.component_type().exports(engine) {
        let outer = component.get_export_index(None, export);
        match item.ty {
            ComponentItem::ComponentFunc(func) => {
                found.extend(outer.map(|index| Export { scope: String::new(), name: export.to_owned(), index, func }))
            }
            // Interfaces that the host itself calls are no tools.
            ComponentItem::ComponentInstance(_) if export.starts_with("mcpp:") => {}
            ComponentItem::ComponentInstance(instance) => {
                for (name, item) in instance.exports(engine) {
                    if let ComponentItem::ComponentFunc(func) = item.ty
                        && let Some(index) = component.get_export_index(outer.as_ref(), name)
                    {
                        found.push(Export { scope: export.to_owned(), name: name.to_owned(), index, func });
                    }
                }
            }
            _ => {}
        }
    }
    if found.len() > MAX_FUNCTIONS { Err(found.len()) } else { Ok(found) }
}

/// Names of the interfaces within tools' names, by their full names.
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

/// Place of a function: its interface, and its name in the binary form.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FunctionPlace {
    scope: String,
    name: String,
}

impl Export {
    fn place(&self) -> FunctionPlace {
        FunctionPlace { scope: self.scope.clone(), name: self.name.clone() }
    }
}

/// Names of the tools. Where a resource's function would have the name of another, the kind of the function precedes its name.
fn tool_names<'a>(
    component: &str,
    places: impl Iterator<Item = &'a FunctionPlace> + Clone,
    interfaces: &BTreeMap<String, String>,
) -> Vec<String> {
    let short = |place: &FunctionPlace| tool_name(component, place, interfaces, false);
    let mut seen = BTreeMap::<String, usize>::new();
    for place in places.clone() {
        let count = seen.entry(short(place)).or_default();
        *count = count.saturating_add(1);
    }
    let name = |place: &FunctionPlace| match short(place) {
        name if seen.get(&name).is_some_and(|count| *count > 1) => tool_name(component, place, interfaces, true),
        name => name,
    };
    places.map(name).collect()
}

fn tool_name(component: &str, place: &FunctionPlace, interfaces: &BTreeMap<String, String>, with_kind: bool) -> String {
    // Names in the binary form: `[constructor]r`, `[method]r.f`, `[static]r.f`; and `[drop]r.drop` of the host's own.
    let function = match place.name.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((kind, name)) if with_kind => format!("{kind}_{}", name.replace('.', "_")),
        Some(("constructor", resource)) => format!("{resource}_new"),
        Some((_, name)) => name.replace('.', "_"),
        None => place.name.clone(),
    };
    match interfaces.get(&place.scope).filter(|_| !place.scope.is_empty()) {
        Some(interface) => format!("{component}_{interface}_{function}"),
        None if function == component => component.to_owned(),
        None => format!("{component}_{function}"),
    }
}

/// The tool that ends a resource.
fn drop_of(resource: &Exported, resources: &Arc<Resources>) -> (FunctionPlace, Result<PlainFunction, String>) {
    let handle = resources.schema(&resource.ty).unwrap_or_default();
    let input_schema = json!({
        "type": "object", "properties": { DROPPED: handle }, "required": [DROPPED], "additionalProperties": false,
    });
    let function = PlainFunction {
        action: Action::Drop,
        tool: String::new(),
        is_async: false,
        description: format!("Ends a `{}`: its handle is good for nothing afterwards.", resource.name),
        params: vec![(DROPPED.to_owned(), Type::Own(resource.ty))],
        result: None,
        input_schema,
        output_schema: None,
        resources: Arc::clone(resources),
        takes_handles: true,
        gives_handles: false,
    };
    (FunctionPlace { scope: resource.scope.clone(), name: format!("[drop]{}.drop", resource.name) }, Ok(function))
}

/// Context for the description of a component's functions.
struct Describer<'a> {
    docs: &'a Docs,
    types: &'a KnownTypes,
    resources: &'a Arc<Resources>,
}

impl Describer<'_> {
    fn function(&self, export: Export) -> Result<PlainFunction, String> {
        let Export { scope, name, index, func } = export;
        let params: Vec<(String, Type)> = func.params().map(|(name, ty)| (name.to_owned(), ty)).collect();
        let result = func.results().next();
        let schema_of =
            |ty: &Type| schema::of_result(ty, self.types, self.resources, &scope).map_err(|error| error.to_string());
        let named = params.iter().map(|(name, ty)| (name.as_str(), ty.clone()));
        let input_schema =
            schema::of_params(named, self.types, self.resources, &scope).map_err(|error| error.to_string())?;
        // A `result` at the top is not data: its `err` is the tool's error.
        let (payload, error) = match &result {
            Some(Type::Result(result)) => (result.ok(), result.err()),
            other => (other.clone(), None),
        };
        let output_schema = payload.as_ref().map(schema_of).transpose()?;
        error.as_ref().map(schema_of).transpose()?;
        Ok(PlainFunction {
            description: self.docs.function(&scope, &name).unwrap_or_default().to_owned(),
            takes_handles: params.iter().any(|(_, ty)| !resources_in(ty).is_empty()),
            gives_handles: result.as_ref().is_some_and(|ty| !resources_in(ty).is_empty()),
            resources: Arc::clone(self.resources),
            action: Action::Call(index),
            tool: String::new(),
            is_async: func.async_(),
            params,
            result,
            input_schema,
            output_schema,
        })
    }
}

impl PlainFunction {
    /// The tool as an SDK component would list it, and the function without the parts that moved into the listing.
    pub fn listed(self) -> (WitTool, Self) {
        let listing = WitTool {
            name: self.tool.clone(),
            title: None,
            description: self.description.clone(),
            input_schema: self.input_schema.to_string(),
            output_schema: self.output_schema.as_ref().map(Value::to_string),
            annotations: Annotations { read_only: None, destructive: None, idempotent: None, open_world: None },
        };
        (listing, Self { description: String::new(), input_schema: Value::Null, output_schema: None, ..self })
    }

    /// Whether the arguments fit, as far as can be said without an instance and without much memory.
    pub fn check(&self, arguments: &Value) -> Result<(), CallError> {
        if value::params_bytes(arguments, self.params()) > MAX_CHECKED_BYTES {
            return Ok(());
        }
        self.arguments(arguments, &mut Unseen).map(drop)
    }

    /// The arguments as values.
    pub fn arguments(&self, arguments: &Value, handles: &mut dyn Handles) -> Result<Vec<Val>, CallError> {
        value::to_params(arguments, self.params(), handles)
            .map_err(|mismatch| CallError::InvalidArguments { path: mismatch.path, reason: mismatch.reason })
    }

    /// Parameters: names and types.
    pub fn params(&self) -> impl Iterator<Item = (&str, &Type)> {
        self.params.iter().map(|(name, ty)| (name.as_str(), ty))
    }

    /// Whether clients hold resources of the component, or show it some.
    pub fn has_handles(&self) -> bool {
        self.takes_handles || self.gives_handles
    }

    /// Error for a client that shows a handle while no instance exists.
    pub fn without_instance(&self, arguments: &Value) -> CallError {
        let nothing = || CallError::InvalidArguments { path: String::new(), reason: expired("resource") };
        let refused = self.arguments(arguments, &mut GivenOut::default().in_call(&self.resources)).err();
        refused.unwrap_or_else(nothing)
    }

    /// Whether the instance has room for the handles of a result.
    pub fn check_room(&self, handles: &InCall<'_>) -> Result<(), CallError> {
        if self.gives_handles && handles.is_full() { Err(too_many()) } else { Ok(()) }
    }

    /// The function's value, as a tool's result.
    pub fn result(&self, val: Option<&Val>, handles: &mut dyn Handles) -> ToolResult {
        match (val, &self.result) {
            (Some(Val::Result(Ok(payload))), Some(Type::Result(ty))) => {
                payload.as_deref().zip(ty.ok()).map(|(val, ty)| success(val, &ty, handles)).unwrap_or_default()
            }
            (Some(Val::Result(Err(payload))), Some(Type::Result(ty))) => {
                failure(payload.as_deref().zip(ty.err()), handles)
            }
            (Some(val), Some(ty)) => success(val, ty, handles),
            _ => ToolResult::default(),
        }
    }

    fn listing_bytes(&self) -> usize {
        let output = self.output_schema.as_ref().map_or(0, |schema| schema.to_string().len());
        self.description.len().saturating_add(self.input_schema.to_string().len()).saturating_add(output)
    }
}

fn success(val: &Val, ty: &Type, handles: &mut dyn Handles) -> ToolResult {
    let json = value::to_json(val, ty, handles);
    let structured = if matches!(val, Val::Record(_)) { json } else { json!({ "result": json }) };
    let content = match val {
        Val::String(text) => vec![Content::Text(text.clone())],
        _ => Vec::new(),
    };
    ToolResult { content, structured: Some(structured), ..ToolResult::default() }
}

fn failure(payload: Option<(&Val, Type)>, handles: &mut dyn Handles) -> ToolResult {
    let text = match payload {
        None => "the tool failed and gave no reason".to_owned(),
        Some((Val::String(text), _)) => text.clone(),
        Some((val, ty)) => value::to_json(val, &ty, handles).to_string(),
    };
    ToolResult { content: vec![Content::Text(text)], is_error: true, ..ToolResult::default() }
}
