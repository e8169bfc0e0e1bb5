//! Resources of a plain component in a client's hands.
//!
//! The host gives a resource out as a handle: a random text for the resource, in the instance in which it lives. A caller with another instance (another
//! principal, another session, another build of the component) finds nothing under it, so a handle cannot be guessed, handed on or outlive its build.

use std::collections::HashMap;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use wasmtime::component::{Component, ResourceAny, ResourceType, Type, Val, types::ComponentItem};

use super::docs::short_name;
use crate::call::{Budget, CallError};

/// Most resources of one instance that clients hold at once.
pub const MAX_HANDLES: usize = 256;
/// Beginning of a handle.
const PREFIX: &str = "h_";
/// Random bytes of a handle.
const BYTES: usize = 16;

/// The resources that a component exports, in its order.
#[derive(Debug, Clone, Default)]
pub struct Resources(Vec<Exported>);

/// One exported resource.
#[derive(Debug, Clone)]
pub struct Exported {
    /// Its type.
    pub ty: ResourceType,
    /// The interface, by its full name; empty in the world.
    pub scope: String,
    /// Its name in WIT.
    pub name: String,
}

impl Resources {
    /// The resources of `component`.
    pub fn of(component: &Component, engine: &wasmtime::Engine) -> Self {
        let mut found = Vec::<Exported>::new();
        let mut add = |scope: &str, name: &str, item: ComponentItem| {
            // An interface that uses another's resource exports it too.
            if let ComponentItem::Resource(ty) = item
                && found.iter().all(|known| known.ty != ty)
            {
                found.push(Exported { ty, scope: scope.to_owned(), name: name.to_owned() });
            }
        };
        for (export, item) in component.component_type().exports(engine) {
            match item.ty {
                ComponentItem::ComponentInstance(instance) => {
                    instance.exports(engine).for_each(|(name, item)| add(export, name, item.ty));
                }
                other => add("", export, other),
            }
        }
        Self(found)
    }

    /// All resources.
    pub fn iter(&self) -> impl Iterator<Item = &Exported> {
        self.0.iter()
    }

    fn find(&self, ty: &ResourceType) -> Option<&Exported> {
        self.0.iter().find(|exported| exported.ty == *ty)
    }

    fn name(&self, ty: &ResourceType) -> &str {
        self.find(ty).map_or("resource", |exported| &exported.name)
    }

    /// The schema of a handle; none for a resource that the component does not export.
    pub fn schema(&self, ty: &ResourceType) -> Option<Value> {
        let exported = self.find(ty)?;
        let of = match short_name(&exported.scope) {
            "" => String::new(),
            scope => format!(" of {scope}"),
        };
        Some(json!({
            "type": "string",
            "pattern": format!("^{PREFIX}[A-Za-z0-9_-]{{22}}$"),
            "description": format!("a handle of a `{}`{of}, as another tool of this component gave it", exported.name),
        }))
    }
}

/// Types of the resources in a value of this type, one for each place.
pub fn resources_in(ty: &Type) -> Vec<ResourceType> {
    let maybe = |ty: Option<Type>| ty.map(|ty| resources_in(&ty)).unwrap_or_default();
    match ty {
        Type::Own(resource) | Type::Borrow(resource) => vec![*resource],
        Type::List(list) => resources_in(&list.ty()),
        Type::Option(option) => resources_in(&option.ty()),
        Type::Result(result) => [maybe(result.ok()), maybe(result.err())].concat(),
        Type::Tuple(tuple) => tuple.types().flat_map(|ty| resources_in(&ty)).collect(),
        Type::Record(record) => record.fields().flat_map(|field| resources_in(&field.ty)).collect(),
        Type::Variant(variant) => variant.cases().flat_map(|case| maybe(case.ty)).collect(),
        _ => Vec::new(),
    }
}

/// Exchange between handles and resources, for a conversion between JSON and values.
pub trait Handles {
    /// The resource that a handle stands for.
    fn take(&mut self, handle: &str, ty: &Type) -> Result<Val, String>;

    /// A handle for a resource.
    fn give(&mut self, resource: &ResourceAny, ty: &Type) -> Value;
}

/// A conversion without an instance: it does not examine handles.
#[derive(Debug)]
pub struct Unseen;

impl Handles for Unseen {
    fn take(&mut self, _: &str, _: &Type) -> Result<Val, String> {
        Ok(Val::Bool(false))
    }

    fn give(&mut self, _: &ResourceAny, _: &Type) -> Value {
        Value::Null
    }
}

/// Handles that one instance has given out.
#[derive(Debug, Default)]
pub struct GivenOut(HashMap<String, GivenOutHandle>);

#[derive(Debug, Clone, Copy)]
struct GivenOutHandle {
    resource: ResourceAny,
    /// The type as the component has it, not as the instance does.
    ty: ResourceType,
}

impl GivenOut {
    /// Whether no handle is given out.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Opens the handles for one call.
    pub fn in_call<'a>(&'a mut self, resources: &'a Resources) -> InCall<'a> {
        InCall { given: self, resources, taken: Vec::new(), lent: Vec::new(), problem: None }
    }
}

/// The handles of an instance during a call. A resource that the client hands over for good leaves the client at once, unless the call does not happen.
#[derive(Debug)]
pub struct InCall<'a> {
    given: &'a mut GivenOut,
    resources: &'a Resources,
    taken: Vec<(String, GivenOutHandle)>,
    lent: Vec<String>,
    problem: Option<CallError>,
}

impl InCall<'_> {
    /// Restores all handles, because the call does not happen.
    pub fn undo(self) {
        self.given.0.extend(self.taken);
    }

    /// Whether the instance can give out no more handles.
    pub fn is_full(&self) -> bool {
        self.given.0.len() >= MAX_HANDLES
    }

    /// Error of a resource that could not be given out, if any.
    pub fn problem(self) -> Option<CallError> {
        self.problem
    }

    fn refusal(&self, handle: &str, ty: &ResourceType) -> String {
        let name = self.resources.name(ty);
        match self.given.0.get(handle) {
            Some(held) => format!("is the handle of a `{}`, not of a `{name}`", self.resources.name(&held.ty)),
            None => expired(name),
        }
    }
}

/// Error for an instance that can give out no more resources.
pub fn too_many() -> CallError {
    CallError::BudgetExceeded { budget: Budget::Handles, limit: u64::try_from(MAX_HANDLES).unwrap_or(u64::MAX) }
}

/// Message for a handle that stands for nothing.
pub fn expired(name: &str) -> String {
    format!(
        "handle-expired: you have no such `{name}` open; it was dropped, not used for too long, or its component was replaced or failed: make a new one"
    )
}

impl Handles for InCall<'_> {
    fn take(&mut self, handle: &str, ty: &Type) -> Result<Val, String> {
        let (Type::Own(resource) | Type::Borrow(resource)) = ty else { return Err("is no handle".to_owned()) };
        let held = self.given.0.get(handle).copied().filter(|held| held.ty == *resource);
        let Some(held) = held else { return Err(self.refusal(handle, resource)) };
        if matches!(ty, Type::Borrow(_)) {
            self.lent.push(handle.to_owned());
        } else if self.lent.iter().any(|lent| lent == handle) {
            return Err("is used in the same call, and cannot be handed over in it".to_owned());
        } else {
            self.given.0.remove(handle);
            self.taken.push((handle.to_owned(), held));
        }
        Ok(Val::Resource(held.resource))
    }

    fn give(&mut self, resource: &ResourceAny, ty: &Type) -> Value {
        let (Type::Own(ty) | Type::Borrow(ty)) = ty else { return Value::Null };
        if self.is_full() {
            self.problem = Some(too_many());
            return Value::Null;
        }
        let mut bytes = [0; BYTES];
        if let Err(error) = getrandom::fill(&mut bytes) {
            self.problem = Some(CallError::Trapped(format!("the system has no random bytes: {error}")));
            return Value::Null;
        }
        let handle = format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(bytes));
        self.given.0.insert(handle.clone(), GivenOutHandle { resource: *resource, ty: *ty });
        Value::String(handle)
    }
}
