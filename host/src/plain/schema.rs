//! WIT types as JSON Schema (2020-12). The JSON that matches is the JSON that [`super::value`] reads and writes.
//!
//! A resource that the component exports is a handle ([`super::handles`]). Other resources, streams and futures have no JSON form: the host does not offer a
//! function that uses one as a tool, and tells the component's author. A few lines of WIT can declare a type of any size, so the host bounds a schema's size
//! and depth while it makes the schema.

use serde_json::{Map, Value, json};
use wasmtime::component::Type;

use super::{
    docs::{KnownTypes, TypeDocs},
    handles::Resources,
    value::is_nullable,
};

/// Largest schema, in bytes; the registry takes a little more from any component.
const MAX_SCHEMA_BYTES: usize = 200 << 10;
/// Greatest depth in a schema at which another type's schema begins. The registry still accepts the depth of that one's contents.
const MAX_SCHEMA_DEPTH: usize = 56;

/// Reason for which a type has no schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoSchema {
    /// It has no JSON form.
    #[error("{at} is a {what}, which has no JSON form")]
    NoJsonForm {
        /// Place in the signature.
        at: String,
        /// Kind of the type.
        what: &'static str,
    },
    /// It is too large.
    #[error("its schema would have more than {MAX_SCHEMA_BYTES} bytes")]
    TooLarge,
    /// It is nested too deep.
    #[error("its types are nested too deep")]
    TooDeep,
}

/// Whether values go into a function or come out of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    In,
    Out,
}

/// The schema of a function's parameters: an object with one property a parameter.
pub fn of_params<'a>(
    params: impl Iterator<Item = (&'a str, Type)> + Clone,
    known: &KnownTypes,
    resources: &Resources,
    scope: &str,
) -> Result<Value, NoSchema> {
    described(known, |known| {
        SchemaWriter::new(known, resources, scope, Direction::In).fields(params.clone(), None, "parameter", 0)
    })
}

/// The schema of a result: records as they are, anything else as the property `result` of an object, as MCP wants an object.
pub fn of_result(ty: &Type, known: &KnownTypes, resources: &Resources, scope: &str) -> Result<Value, NoSchema> {
    described(known, |known| {
        let mut writer = SchemaWriter::new(known, resources, scope, Direction::Out);
        if matches!(ty, Type::Record(_)) {
            return writer.write(ty, "result", 0);
        }
        let schema = writer.write(ty, "result", 2)?;
        Ok(
            json!({ "type": "object", "properties": { "result": schema }, "required": ["result"], "additionalProperties": false }),
        )
    })
}

/// A schema with its docs, or without them if the docs make it too large.
fn described(known: &KnownTypes, write: impl Fn(&KnownTypes) -> Result<Value, NoSchema>) -> Result<Value, NoSchema> {
    let bounded = |known: &KnownTypes| match write(known)? {
        schema if schema.to_string().len() > MAX_SCHEMA_BYTES => Err(NoSchema::TooLarge),
        schema => Ok(schema),
    };
    match bounded(known) {
        Err(NoSchema::TooLarge) => bounded(&KnownTypes::default()),
        done => done,
    }
}

/// Writes one schema.
struct SchemaWriter<'a> {
    known: &'a KnownTypes,
    resources: &'a Resources,
    scope: &'a str,
    direction: Direction,
    bytes_left: usize,
}

impl<'a> SchemaWriter<'a> {
    fn new(known: &'a KnownTypes, resources: &'a Resources, scope: &'a str, direction: Direction) -> Self {
        Self { known, resources, scope, direction, bytes_left: MAX_SCHEMA_BYTES }
    }

    fn charge(&mut self, bytes: usize) -> Result<(), NoSchema> {
        self.bytes_left = self.bytes_left.checked_sub(bytes).ok_or(NoSchema::TooLarge)?;
        Ok(())
    }

    /// Schema of a type, with the docs of the type itself.
    fn write(&mut self, ty: &Type, at: &str, depth: usize) -> Result<Value, NoSchema> {
        if depth > MAX_SCHEMA_DEPTH {
            return Err(NoSchema::TooDeep);
        }
        self.charge(TYPE_BYTES)?;
        let docs = self.known.of(self.scope, ty);
        let mut schema = self.bare(ty, docs, at, depth)?;
        self.describe(&mut schema, docs.and_then(|docs| docs.docs.as_deref()))?;
        Ok(schema)
    }

    /// Describes a schema with `text`, in place of its present description.
    fn describe(&mut self, schema: &mut Value, text: Option<&str>) -> Result<(), NoSchema> {
        if let (Value::Object(schema), Some(text)) = (schema, text) {
            self.charge(text.len())?;
            schema.insert("description".to_owned(), Value::String(text.to_owned()));
        }
        Ok(())
    }

    fn bare(&mut self, ty: &Type, docs: Option<&TypeDocs>, at: &str, depth: usize) -> Result<Value, NoSchema> {
        let no = |what| Err(NoSchema::NoJsonForm { at: at.to_owned(), what });
        Ok(match ty {
            Type::Bool => json!({ "type": "boolean" }),
            Type::S8 => integer(i8::MIN, i8::MAX),
            Type::U8 => integer(u8::MIN, u8::MAX),
            Type::S16 => integer(i16::MIN, i16::MAX),
            Type::U16 => integer(u16::MIN, u16::MAX),
            Type::S32 => integer(i32::MIN, i32::MAX),
            Type::U32 => integer(u32::MIN, u32::MAX),
            Type::S64 => integer(i64::MIN, i64::MAX),
            Type::U64 => integer(u64::MIN, u64::MAX),
            Type::Float32 | Type::Float64 if self.direction == Direction::In => json!({ "type": "number" }),
            // A caller has no use for these as arguments; a function may produce them.
            Type::Float32 | Type::Float64 => {
                json!({ "anyOf": [{ "type": "number" }, { "enum": ["NaN", "Infinity", "-Infinity"] }] })
            }
            Type::Char => json!({ "type": "string", "minLength": 1, "maxLength": 1 }),
            Type::String => json!({ "type": "string" }),
            Type::List(list) if list.ty() == Type::U8 => json!({ "type": "string", "contentEncoding": "base64" }),
            Type::List(list) => {
                json!({ "type": "array", "items": self.write(&list.ty(), &format!("an item of {at}"), depth + 1)? })
            }
            Type::Record(record) => {
                let fields = record.fields().map(|field| (field.name, field.ty));
                self.fields(fields, docs, &format!("{at}, field"), depth)?
            }
            Type::Tuple(tuple) => {
                let items = tuple.types().map(|ty| self.write(&ty, at, depth + 2)).collect::<Result<Vec<_>, _>>()?;
                json!({ "type": "array", "minItems": items.len(), "maxItems": items.len(), "prefixItems": items, "items": false })
            }
            Type::Variant(variant) => {
                let cases = variant.cases().map(|case| self.case(case.name, case.ty, docs, at, depth + 2));
                json!({ "oneOf": cases.collect::<Result<Vec<_>, _>>()? })
            }
            Type::Enum(names) => self.names(names.names(), docs)?,
            Type::Option(option) => {
                let inner = option.ty();
                let schema = if is_nullable(&inner) {
                    self.tagged("some", Some(inner), at, depth + 2)?
                } else {
                    self.write(&inner, at, depth + 2)?
                };
                json!({ "anyOf": [schema, { "type": "null" }] })
            }
            Type::Result(result) => {
                let ok = self.tagged("ok", result.ok(), at, depth + 2)?;
                json!({ "oneOf": [ok, self.tagged("err", result.err(), at, depth + 2)?] })
            }
            Type::Flags(flags) => {
                json!({ "type": "array", "uniqueItems": true, "items": self.names(flags.names(), docs)? })
            }
            Type::Own(resource) | Type::Borrow(resource) => match self.resources.schema(resource) {
                Some(schema) => schema,
                None => return no("resource that the component does not export"),
            },
            Type::Future(_) => return no("future"),
            Type::Stream(_) => return no("stream"),
            Type::ErrorContext => return no("error context"),
            Type::Map(_) => return no("map"),
            Type::FixedLengthList(_) => return no("fixed-length list"),
        })
    }

    fn fields<'f>(
        &mut self,
        fields: impl Iterator<Item = (&'f str, Type)>,
        docs: Option<&TypeDocs>,
        at: &str,
        depth: usize,
    ) -> Result<Value, NoSchema> {
        let mut properties = Map::new();
        let mut required = Vec::new();
        for (name, ty) in fields {
            self.charge(name.len().saturating_mul(2))?;
            let mut schema = self.write(&ty, &format!("{at} `{name}`"), depth + 2)?;
            self.describe(&mut schema, item(docs, name))?;
            if !matches!(ty, Type::Option(_)) {
                required.push(name.to_owned());
            }
            properties.insert(name.to_owned(), schema);
        }
        Ok(json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false }))
    }

    /// One of several strings. Only an alternative can have a description.
    fn names<'n>(&mut self, names: impl Iterator<Item = &'n str>, docs: Option<&TypeDocs>) -> Result<Value, NoSchema> {
        if docs.is_none_or(|docs| docs.items.is_empty()) {
            let names = names.map(|name| self.charge(name.len()).map(|()| name));
            return Ok(json!({ "type": "string", "enum": names.collect::<Result<Vec<_>, _>>()? }));
        }
        let names = names.map(|name| self.constant(name, docs)).collect::<Result<Vec<_>, _>>()?;
        Ok(json!({ "type": "string", "oneOf": names }))
    }

    fn constant(&mut self, name: &str, docs: Option<&TypeDocs>) -> Result<Value, NoSchema> {
        self.charge(TYPE_BYTES.saturating_add(name.len()))?;
        let mut schema = json!({ "const": name });
        self.describe(&mut schema, item(docs, name))?;
        Ok(schema)
    }

    /// A variant's case: its name alone, or an object with the payload under the name.
    fn case(
        &mut self,
        name: &str,
        payload: Option<Type>,
        docs: Option<&TypeDocs>,
        at: &str,
        depth: usize,
    ) -> Result<Value, NoSchema> {
        if payload.is_none() {
            return self.constant(name, docs);
        }
        let mut schema = self.tagged(name, payload, at, depth)?;
        self.describe(&mut schema, item(docs, name))?;
        Ok(schema)
    }

    fn tagged(&mut self, name: &str, payload: Option<Type>, at: &str, depth: usize) -> Result<Value, NoSchema> {
        self.charge(TYPE_BYTES.saturating_add(name.len().saturating_mul(2)))?;
        let payload = match payload {
            None => json!({ "type": "null" }),
            Some(ty) => self.write(&ty, &format!("{at}, case `{name}`"), depth + 2)?,
        };
        Ok(
            json!({ "type": "object", "properties": { name: payload }, "required": [name], "additionalProperties": false }),
        )
    }
}

/// Bytes of a type's schema, roughly: enough to stop before it is far too large.
const TYPE_BYTES: usize = 40;

fn item<'d>(docs: Option<&'d TypeDocs>, name: &str) -> Option<&'d str> {
    docs?.items.get(name).map(String::as_str)
}

fn integer(least: impl Into<i128>, most: impl Into<i128>) -> Value {
    let number = |bound: i128| {
        i64::try_from(bound).map_or_else(|_| json!(u64::try_from(bound).unwrap_or(u64::MAX)), |n| json!(n))
    };
    json!({ "type": "integer", "minimum": number(least.into()), "maximum": number(most.into()) })
}
