//! WIT doc comments that a component carries: the texts for its tools, and for the fields and cases of their types.
//!
//! Custom sections of the component hold these comments. The binary form has no other place for them, and the usual tool chains drop them when they make a
//! component out of a module; [`embed`] puts them back. The host reads sections as wit-parser writes them, `package-docs`, and as
//! `package-docs:NAMESPACE:PACKAGE@VERSION` for packages whose name it must know. A component may be hostile: docs that are too large or unreadable count as
//! absent, and never as a reason not to load.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde::Deserialize;
use wasm_encoder::{ComponentSection as _, CustomSection};
use wasmparser::BinaryReader;
use wasmtime::component::{Component, Type, types::ComponentItem};
use wit_parser::{PackageId, PackageMetadata, Resolve, WorldItem};

/// The section's name, alone or before a colon and the package's.
const SECTION: &str = "package-docs";
/// Versions of the section's form that the host reads.
const VERSIONS: [u8; 2] = [0, 1];
/// Most bytes that all sections together may have.
const MAX_DOCS_BYTES: usize = 1 << 20;
/// Most sections.
const MAX_SECTIONS: usize = 64;
/// Longest single text, in bytes; the rest is cut off.
const MAX_TEXT_BYTES: usize = 4 << 10;

/// Most named types of a component that the host examines.
const MAX_TYPES: usize = 1_000;

/// Place of an export: an interface, by its full name, or the world (empty).
pub type Scope = str;

/// A component's doc comments.
#[derive(Debug, Clone, Default)]
pub struct Docs {
    functions: BTreeMap<(String, String), String>,
    types: BTreeMap<(String, String), TypeDocs>,
    /// Reasons for which sections could not be read.
    pub problems: Vec<String>,
}

/// The doc comments of one type.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct TypeDocs {
    /// Description of the type.
    pub docs: Option<String>,
    /// Descriptions of its fields, cases or flags, by name.
    pub items: BTreeMap<String, String>,
}

/// A package, as its section has it. The reader skips keys that are not about docs.
#[derive(Default, Deserialize)]
#[serde(default)]
struct PackageForm {
    worlds: BTreeMap<String, WorldForm>,
    interfaces: BTreeMap<String, InterfaceForm>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WorldForm {
    types: BTreeMap<String, TypeDocs>,
    funcs: BTreeMap<String, FunctionForm>,
    func_exports: BTreeMap<String, FunctionForm>,
    interfaces: BTreeMap<String, InterfaceForm>,
    interface_exports: BTreeMap<String, InterfaceForm>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct InterfaceForm {
    funcs: BTreeMap<String, FunctionForm>,
    types: BTreeMap<String, TypeDocs>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum FunctionForm {
    Text(Option<String>),
    Table { docs: Option<String> },
}

impl Docs {
    /// Reads the sections of a component.
    pub fn read(wasm: &[u8]) -> Self {
        let mut docs = Self::default();
        let mut left = MAX_DOCS_BYTES;
        let sections = sections(wasm).filter_map(|section| Some((package_of(section.custom?.0)?, section.custom?.1)));
        for (n, (package, data)) in sections.enumerate() {
            let Some(rest) = left.checked_sub(data.len()).filter(|_| n < MAX_SECTIONS) else {
                docs.problems.push(format!(
                    "its doc comments have more than {MAX_DOCS_BYTES} bytes or {MAX_SECTIONS} sections; the rest is left out"
                ));
                break;
            };
            left = rest;
            match parse(data) {
                Ok(form) => docs.add(package, form),
                Err(reason) => docs.problems.push(format!("its section `{SECTION}` cannot be read: {reason}")),
            }
        }
        docs
    }

    fn add(&mut self, package: &str, form: PackageForm) {
        for (name, interface) in form.interfaces {
            self.add_interface(&full_name(package, &name), interface);
        }
        for world in form.worlds.into_values() {
            for (name, interface) in world.interface_exports.into_iter().chain(world.interfaces) {
                self.add_interface(&name, interface);
            }
            let funcs = world.func_exports.into_iter().chain(world.funcs).collect();
            self.add_interface("", InterfaceForm { funcs, types: world.types });
        }
    }

    fn add_interface(&mut self, scope: &Scope, form: InterfaceForm) {
        for (name, FunctionForm::Text(docs) | FunctionForm::Table { docs }) in form.funcs {
            if let Some(text) = docs.and_then(cut) {
                self.functions.entry((scope.to_owned(), name)).or_insert(text);
            }
        }
        for (name, TypeDocs { docs, items }) in form.types {
            let items = items.into_iter().filter_map(|(name, text)| Some((name, cut(text)?))).collect();
            let docs = TypeDocs { docs: docs.and_then(cut), items };
            self.types.entry((scope.to_owned(), name)).or_insert(docs);
        }
    }

    /// Docs of a function.
    pub fn function(&self, scope: &Scope, name: &str) -> Option<&str> {
        let find = |scope: &Scope| self.functions.get(&(scope.to_owned(), name.to_owned()));
        find(scope).or_else(|| find(short_name(scope))).map(String::as_str)
    }

    /// Docs of a type, from the place of its export. Interfaces use each other's types, so the text may stand under the same name elsewhere, if only one
    /// such exists.
    fn named_type(&self, scope: &Scope, name: &str) -> Option<&TypeDocs> {
        let find = |scope: &Scope| self.types.get(&(scope.to_owned(), name.to_owned()));
        find(scope)
            .or_else(|| find(short_name(scope)))
            .or_else(|| the_same(self.types.iter().filter(|((_, other), _)| other == name).map(|(_, docs)| docs)))
    }

    /// Docs of a component's types, found by their shape. Types that the world itself defines are not among its exports, and get no docs.
    pub fn types(&self, component: &Component, engine: &wasmtime::Engine) -> KnownTypes {
        let mut known = KnownTypes::default();
        if self.types.is_empty() {
            return known;
        }
        let mut left = MAX_TYPES;
        let mut add = |scope: &Scope, name: &str, item: ComponentItem| {
            if let ComponentItem::Type(ty) = item
                && let Some(rest) = left.checked_sub(1)
                && let Some(shape) = WitShape::of(&ty)
            {
                left = rest;
                let docs = self.named_type(scope, name).cloned().unwrap_or_default();
                known.0.entry(shape).or_default().push((scope.to_owned(), docs));
            }
        };
        let component_type = component.component_type();
        for (name, item) in component_type.exports(engine).chain(component_type.imports(engine)) {
            match item.ty {
                ComponentItem::ComponentInstance(instance) => {
                    instance.exports(engine).for_each(|(inner, item)| add(name, inner, item.ty));
                }
                ty => add("", name, ty),
            }
        }
        known
    }
}

/// Docs of types by their shape: a signature has no names of types, but a record's fields and a variant's cases are names enough.
#[derive(Debug, Default)]
pub struct KnownTypes(BTreeMap<WitShape, Vec<(String, TypeDocs)>>);

/// Shape that tells one named type from another.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum WitShape {
    Fields(Vec<String>),
    Cases(Vec<String>),
    Flags(Vec<String>),
}

impl WitShape {
    fn of(ty: &Type) -> Option<Self> {
        let owned = |name: &str| name.to_owned();
        match ty {
            Type::Record(record) => Some(Self::Fields(record.fields().map(|field| owned(field.name)).collect())),
            Type::Variant(variant) => Some(Self::Cases(variant.cases().map(|case| owned(case.name)).collect())),
            Type::Enum(names) => Some(Self::Cases(names.names().map(owned).collect())),
            Type::Flags(names) => Some(Self::Flags(names.names().map(owned).collect())),
            _ => None,
        }
    }
}

impl KnownTypes {
    /// The docs of a type in a signature that stands in `scope`; none if types of its shape are documented differently.
    pub fn of(&self, scope: &Scope, ty: &Type) -> Option<&TypeDocs> {
        if self.0.is_empty() {
            return None;
        }
        let known = self.0.get(&WitShape::of(ty)?)?;
        let mut own = known.iter().filter(|(of, _)| of == scope).peekable();
        if own.peek().is_some() {
            the_same(own.map(|(_, docs)| docs))
        } else {
            the_same(known.iter().map(|(_, docs)| docs))
        }
    }
}

/// The one value that all items equal; none if they differ.
fn the_same<'a, T: PartialEq>(mut all: impl Iterator<Item = &'a T>) -> Option<&'a T> {
    let first = all.next()?;
    all.all(|other| other == first).then_some(first)
}

/// Package that a section describes; empty if it names none.
fn package_of(section: &str) -> Option<&str> {
    let rest = section.strip_prefix(SECTION)?;
    if rest.is_empty() { Some("") } else { rest.strip_prefix(':') }
}

/// `namespace:package@version` and `interface` as `namespace:package/interface@version`.
fn full_name(package: &str, interface: &str) -> String {
    match package.split_once('@') {
        _ if package.is_empty() => interface.to_owned(),
        Some((package, version)) => format!("{package}/{interface}@{version}"),
        None => format!("{package}/{interface}"),
    }
}

/// The interface's own name in `namespace:package/interface@version`.
pub fn short_name(interface: &str) -> &str {
    let unversioned = interface.split('@').next().unwrap_or(interface);
    unversioned.rsplit('/').next().unwrap_or(unversioned)
}

fn parse(data: &[u8]) -> Result<PackageForm, String> {
    match data.split_first() {
        Some((version, json)) if VERSIONS.contains(version) => {
            serde_json::from_slice(json).map_err(|error| error.to_string())
        }
        Some((version, _)) => Err(format!("its form has version {version}")),
        None => Err("it is empty".to_owned()),
    }
}

/// A text without the space around it, and not too long; none if nothing is left.
fn cut(text: String) -> Option<String> {
    let text = text.trim();
    match text.get(..text.floor_char_boundary(MAX_TEXT_BYTES)) {
        None | Some("") => None,
        Some(head) if head.len() < text.len() => Some(format!("{head}…")),
        Some(whole) => Some(whole.to_owned()),
    }
}

/// One section of a component, not of a nested component.
struct DocsSection<'a> {
    /// The whole section.
    bytes: &'a [u8],
    /// Name and data of a custom section.
    custom: Option<(&'a str, &'a [u8])>,
}

/// Sections of a component, as far as they can be told apart.
fn sections(wasm: &[u8]) -> impl Iterator<Item = DocsSection<'_>> {
    let mut rest = wasm.get(PREAMBLE_BYTES..).unwrap_or_default();
    std::iter::from_fn(move || {
        let mut reader = BinaryReader::new(rest, 0);
        let id = reader.read_u8().ok()?;
        let size = reader.read_var_u32().ok()?;
        let content = reader.read_bytes(usize::try_from(size).ok()?).ok()?;
        let (bytes, after) = rest.split_at_checked(reader.original_position())?;
        rest = after;
        Some(DocsSection { bytes, custom: (id == CUSTOM).then(|| custom(content)).flatten() })
    })
}

/// The magic number and the version.
const PREAMBLE_BYTES: usize = 8;
/// The id of a custom section.
const CUSTOM: u8 = 0;

fn custom(content: &[u8]) -> Option<(&str, &[u8])> {
    let mut reader = BinaryReader::new(content, 0);
    let name = reader.read_string().ok()?;
    Some((name, content.get(reader.original_position()..)?))
}

/// Reason for which docs could not be put into a component.
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    /// The host cannot read the WIT.
    #[error("cannot read the WIT: {0}")]
    Wit(String),
    /// The file is no component.
    #[error("the file is not a WebAssembly component")]
    NotAComponent,
}

/// The component with the doc comments of the WIT at `wit` (a file, or a folder with its `deps`) in it, instead of those that it had.
pub fn embed(wasm: &[u8], wit: &Path) -> Result<Vec<u8>, EmbedError> {
    let preamble = wasm.get(..PREAMBLE_BYTES).filter(|preamble| preamble.starts_with(b"\0asm\x0d\0\x01\0"));
    let mut documented = preamble.ok_or(EmbedError::NotAComponent)?.to_vec();
    let kept = sections(wasm).filter(|section| section.custom.and_then(|(name, _)| package_of(name)).is_none());
    kept.for_each(|section| documented.extend_from_slice(section.bytes));
    for (package, docs) in packages(wit).map_err(|error| EmbedError::Wit(format!("{error:#}")))? {
        let name = format!("{SECTION}:{package}");
        CustomSection { name: name.as_str().into(), data: docs.as_slice().into() }.append_to_component(&mut documented);
    }
    Ok(documented)
}

/// The sections of a WIT package, and of those whose interfaces its worlds export.
fn packages(wit: &Path) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let mut resolve = Resolve::default();
    let (main, _) = resolve.push_path(wit)?;
    let worlds = resolve.packages.get(main).into_iter().flat_map(|package| package.worlds.values());
    let exports = worlds.filter_map(|world| resolve.worlds.get(*world)).flat_map(|world| world.exports.values());
    let exported = exports.filter_map(|item| match item {
        WorldItem::Interface { id, .. } => resolve.interfaces.get(*id)?.package,
        _ => None,
    });
    let ids: BTreeSet<PackageId> = std::iter::once(main).chain(exported).collect();
    let named = ids.into_iter().filter_map(|id| Some((id, resolve.packages.get(id)?.name.to_string())));
    named.map(|(id, name)| Ok((name, PackageMetadata::extract(&resolve, id).encode()?))).collect()
}
