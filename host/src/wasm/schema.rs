//! WIT types as JSON Schema (2020-12). The JSON that matches is the JSON that [`super::value`] reads and writes.
//!
//! Resources, streams and futures have no JSON form yet; a function that uses one is not offered as a tool, and the component's author is told.

use serde_json::{Map, Value, json};
use wasmtime::component::Type;

/// A type without a JSON form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at} is a {what}, which has no JSON form")]
pub struct NoJsonForm {
    /// Where in the signature.
    pub at: String,
    /// What it is.
    pub what: &'static str,
}

/// The schema of a function's parameters: an object with one property a parameter.
pub fn of_params<'a>(params: impl Iterator<Item = (&'a str, Type)>) -> Result<Value, NoJsonForm> {
    let fields = params.map(|(name, ty)| (name.to_owned(), ty));
    of_fields(fields, "parameter")
}

/// The schema of a result: records as they are, anything else as the property `result` of an object, as MCP wants an object.
pub fn of_result(ty: &Type) -> Result<Value, NoJsonForm> {
    let schema = of_type(ty, "result")?;
    Ok(if matches!(ty, Type::Record(_)) {
        schema
    } else {
        json!({ "type": "object", "properties": { "result": schema }, "required": ["result"], "additionalProperties": false })
    })
}

fn of_fields(fields: impl Iterator<Item = (String, Type)>, at: &str) -> Result<Value, NoJsonForm> {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for (name, ty) in fields {
        let schema = of_type(&ty, &format!("{at} `{name}`"))?;
        if !matches!(ty, Type::Option(_)) {
            required.push(name.clone());
        }
        properties.insert(name, schema);
    }
    Ok(json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false }))
}

fn of_type(ty: &Type, at: &str) -> Result<Value, NoJsonForm> {
    let no = |what| Err(NoJsonForm { at: at.to_owned(), what });
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
        Type::Float32 | Type::Float64 => json!({ "type": "number" }),
        Type::Char => json!({ "type": "string", "minLength": 1, "maxLength": 1 }),
        Type::String => json!({ "type": "string" }),
        Type::List(list) if list.ty() == Type::U8 => json!({ "type": "string", "contentEncoding": "base64" }),
        Type::List(list) => json!({ "type": "array", "items": of_type(&list.ty(), &format!("an item of {at}"))? }),
        Type::Record(record) => {
            of_fields(record.fields().map(|field| (field.name.to_owned(), field.ty)), &format!("{at}, field"))?
        }
        Type::Tuple(tuple) => {
            let items = tuple.types().map(|ty| of_type(&ty, at)).collect::<Result<Vec<_>, _>>()?;
            json!({ "type": "array", "minItems": items.len(), "maxItems": items.len(), "prefixItems": items, "items": false })
        }
        Type::Variant(variant) => {
            let cases = variant.cases().map(|case| of_case(case.name, case.ty, at)).collect::<Result<Vec<_>, _>>()?;
            json!({ "oneOf": cases })
        }
        Type::Enum(names) => json!({ "type": "string", "enum": names.names().collect::<Vec<_>>() }),
        Type::Option(option) => json!({ "anyOf": [of_type(&option.ty(), at)?, { "type": "null" }] }),
        Type::Result(result) => {
            json!({ "oneOf": [of_tagged("ok", result.ok(), at)?, of_tagged("err", result.err(), at)?] })
        }
        Type::Flags(flags) => {
            json!({ "type": "array", "uniqueItems": true, "items": { "type": "string", "enum": flags.names().collect::<Vec<_>>() } })
        }
        Type::Own(_) | Type::Borrow(_) => return no("resource"),
        Type::Future(_) => return no("future"),
        Type::Stream(_) => return no("stream"),
        Type::ErrorContext => return no("error context"),
        Type::Map(_) => return no("map"),
        Type::FixedLengthList(_) => return no("fixed-length list"),
    })
}

fn integer(least: impl Into<i128>, most: impl Into<i128>) -> Value {
    let number = |bound: i128| {
        i64::try_from(bound).map_or_else(|_| json!(u64::try_from(bound).unwrap_or(u64::MAX)), |n| json!(n))
    };
    json!({ "type": "integer", "minimum": number(least.into()), "maximum": number(most.into()) })
}

/// A variant's case: its name alone, or an object with the payload under the name.
fn of_case(name: &str, payload: Option<Type>, at: &str) -> Result<Value, NoJsonForm> {
    match payload {
        None => Ok(json!({ "const": name })),
        Some(_) => of_tagged(name, payload, at),
    }
}

fn of_tagged(name: &str, payload: Option<Type>, at: &str) -> Result<Value, NoJsonForm> {
    let payload =
        payload.map_or_else(|| Ok(json!({ "type": "null" })), |ty| of_type(&ty, &format!("{at}, case `{name}`")))?;
    Ok(json!({ "type": "object", "properties": { name: payload }, "required": [name], "additionalProperties": false }))
}
