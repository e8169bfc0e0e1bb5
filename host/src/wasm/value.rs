//! JSON to component values and back, in the form that [`super::schema`] describes. An error names the place in the JSON.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Map, Number, Value};
use wasmtime::component::{Type, Val};

/// JSON that does not fit its WIT type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Mismatch {
    /// JSON pointer to the value.
    pub path: String,
    /// What it should be.
    pub reason: String,
}

fn mismatch<T>(path: &str, reason: impl Into<String>) -> Result<T, Mismatch> {
    Err(Mismatch { path: path.to_owned(), reason: reason.into() })
}

/// The values for a function's parameters, in its order, from an object.
pub fn to_params<'a>(
    arguments: &Value,
    params: impl Iterator<Item = (&'a str, &'a Type)>,
) -> Result<Vec<Val>, Mismatch> {
    let Value::Object(object) = arguments else { return mismatch("", "the arguments must be an object") };
    params.map(|(name, ty)| to_field(object, name, ty, "")).collect()
}

fn to_field(object: &Map<String, Value>, name: &str, ty: &Type, path: &str) -> Result<Val, Mismatch> {
    match (object.get(name), ty) {
        (Some(value), _) => to_val(value, ty, &format!("{path}/{}", escape(name))),
        (None, Type::Option(_)) => Ok(Val::Option(None)),
        (None, _) => mismatch(path, format!("`{name}` is missing")),
    }
}

/// One value of type `ty`; `path` is where it stands.
pub fn to_val(value: &Value, ty: &Type, path: &str) -> Result<Val, Mismatch> {
    Ok(match (ty, value) {
        (Type::Bool, Value::Bool(value)) => Val::Bool(*value),
        (Type::S8, value) => Val::S8(integer(value, path)?),
        (Type::U8, value) => Val::U8(integer(value, path)?),
        (Type::S16, value) => Val::S16(integer(value, path)?),
        (Type::U16, value) => Val::U16(integer(value, path)?),
        (Type::S32, value) => Val::S32(integer(value, path)?),
        (Type::U32, value) => Val::U32(integer(value, path)?),
        (Type::S64, value) => Val::S64(integer(value, path)?),
        (Type::U64, value) => Val::U64(integer(value, path)?),
        (Type::Float32, Value::Number(number)) => Val::Float32(number.as_f64().unwrap_or(f64::NAN) as f32),
        (Type::Float64, Value::Number(number)) => Val::Float64(number.as_f64().unwrap_or(f64::NAN)),
        (Type::Char, Value::String(text)) => {
            let mut chars = text.chars();
            match (chars.next(), chars.next()) {
                (Some(only), None) => Val::Char(only),
                _ => return mismatch(path, "must be exactly one character"),
            }
        }
        (Type::String, Value::String(text)) => Val::String(text.clone()),
        (Type::List(list), Value::String(text)) if list.ty() == Type::U8 => match BASE64_STANDARD.decode(text) {
            Ok(bytes) => Val::List(bytes.into_iter().map(Val::U8).collect()),
            Err(error) => return mismatch(path, format!("must be base64: {error}")),
        },
        (Type::List(list), Value::Array(items)) if list.ty() != Type::U8 => {
            Val::List(to_items(items, std::iter::repeat(list.ty()), path)?)
        }
        (Type::Tuple(tuple), Value::Array(items)) if items.len() == tuple.types().len() => {
            Val::Tuple(to_items(items, tuple.types(), path)?)
        }
        (Type::Record(record), Value::Object(object)) => Val::Record(
            record
                .fields()
                .map(|field| Ok((field.name.to_owned(), to_field(object, field.name, &field.ty, path)?)))
                .collect::<Result<_, Mismatch>>()?,
        ),
        (Type::Variant(variant), value) => {
            let Some((name, payload)) = tagged(value) else { return mismatch(path, expected(ty)) };
            let Some(case) = variant.cases().find(|case| case.name == name) else {
                return mismatch(path, format!("has no case `{name}`; {}", expected(ty)));
            };
            Val::Variant(name.to_owned(), to_payload(payload, case.ty.as_ref(), name, path)?)
        }
        (Type::Enum(names), Value::String(text)) if names.names().any(|name| name == text) => Val::Enum(text.clone()),
        (Type::Option(_), Value::Null) => Val::Option(None),
        (Type::Option(option), value) => Val::Option(Some(Box::new(to_val(value, &option.ty(), path)?))),
        (Type::Result(result), value) => match tagged(value) {
            Some(("ok", payload)) => Val::Result(Ok(to_payload(payload, result.ok().as_ref(), "ok", path)?)),
            Some(("err", payload)) => Val::Result(Err(to_payload(payload, result.err().as_ref(), "err", path)?)),
            _ => return mismatch(path, expected(ty)),
        },
        (Type::Flags(flags), Value::Array(items)) => {
            let known: Vec<&str> = flags.names().collect();
            let set = items.iter().map(|item| item.as_str().filter(|name| known.contains(name)).map(str::to_owned));
            match set.collect() {
                Some(set) => Val::Flags(set),
                None => return mismatch(path, expected(ty)),
            }
        }
        _ => return mismatch(path, expected(ty)),
    })
}

fn to_items(items: &[Value], types: impl Iterator<Item = Type>, path: &str) -> Result<Vec<Val>, Mismatch> {
    items.iter().zip(types).enumerate().map(|(n, (item, ty))| to_val(item, &ty, &format!("{path}/{n}"))).collect()
}

fn to_payload(
    payload: Option<&Value>,
    ty: Option<&Type>,
    name: &str,
    path: &str,
) -> Result<Option<Box<Val>>, Mismatch> {
    match (payload, ty) {
        (None | Some(Value::Null), None) => Ok(None),
        (Some(value), Some(ty)) => Ok(Some(Box::new(to_val(value, ty, &format!("{path}/{}", escape(name)))?))),
        (None, Some(_)) => mismatch(path, format!("`{name}` needs a value: {{\"{name}\": …}}")),
        (Some(_), None) => mismatch(path, format!("`{name}` takes no value")),
    }
}

/// A case by its name, with or without payload.
fn tagged(value: &Value) -> Option<(&str, Option<&Value>)> {
    match value {
        Value::String(name) => Some((name, None)),
        Value::Object(object) if object.len() == 1 => {
            object.iter().next().map(|(name, payload)| (name.as_str(), Some(payload)))
        }
        _ => None,
    }
}

/// An integer in the range of `T`. A float with an integral value counts, as JSON Schema says.
fn integer<T: TryFrom<i128> + IntegerBounds>(value: &Value, path: &str) -> Result<T, Mismatch> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let number = value.as_number().and_then(|number| {
        number.as_i128().or_else(|| number.as_f64().filter(|f| f.fract() == 0.0 && f.abs() <= EXACT).map(|f| f as i128))
    });
    match number.map(T::try_from) {
        Some(Ok(number)) => Ok(number),
        _ => mismatch(path, format!("must be an integer between {} and {}", T::LEAST, T::MOST)),
    }
}

trait IntegerBounds {
    const LEAST: i128;
    const MOST: i128;
}

macro_rules! bounds {
    ($($ty:ty)*) => { $(impl IntegerBounds for $ty { const LEAST: i128 = <$ty>::MIN as i128; const MOST: i128 = <$ty>::MAX as i128; })* };
}
bounds!(i8 u8 i16 u16 i32 u32 i64 u64);

fn expected(ty: &Type) -> String {
    match ty {
        Type::Bool => "must be true or false".into(),
        Type::Float32 | Type::Float64 => "must be a number".into(),
        Type::Char => "must be a string of one character".into(),
        Type::String => "must be a string".into(),
        Type::List(list) if list.ty() == Type::U8 => "must be a base64 string".into(),
        Type::List(_) => "must be an array".into(),
        Type::Tuple(tuple) => format!("must be an array of {} items", tuple.types().len()),
        Type::Record(_) => "must be an object".into(),
        Type::Enum(names) => format!("must be one of {}", names.names().collect::<Vec<_>>().join(", ")),
        Type::Flags(flags) => format!("must be an array of {}", flags.names().collect::<Vec<_>>().join(", ")),
        Type::Variant(variant) => {
            format!("must be one case of {}", variant.cases().map(|case| case.name).collect::<Vec<_>>().join(", "))
        }
        Type::Result(_) => "must be {\"ok\": …} or {\"err\": …}".into(),
        _ => "has no JSON form".into(),
    }
}

/// A name as a JSON pointer writes it.
pub fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// The JSON of a value. Numbers that JSON cannot say (NaN, infinities) become null.
pub fn to_json(val: &Val) -> Value {
    match val {
        Val::Bool(value) => Value::Bool(*value),
        Val::S8(n) => Value::from(*n),
        Val::U8(n) => Value::from(*n),
        Val::S16(n) => Value::from(*n),
        Val::U16(n) => Value::from(*n),
        Val::S32(n) => Value::from(*n),
        Val::U32(n) => Value::from(*n),
        Val::S64(n) => Value::from(*n),
        Val::U64(n) => Value::from(*n),
        Val::Float32(n) => Number::from_f64(f64::from(*n)).map_or(Value::Null, Value::Number),
        Val::Float64(n) => Number::from_f64(*n).map_or(Value::Null, Value::Number),
        Val::Char(c) => Value::String(c.to_string()),
        Val::String(text) => Value::String(text.clone()),
        Val::List(items) => bytes(items).map_or_else(
            || Value::Array(items.iter().map(to_json).collect()),
            |bytes| Value::String(BASE64_STANDARD.encode(bytes)),
        ),
        Val::Tuple(items) | Val::FixedLengthList(items) => Value::Array(items.iter().map(to_json).collect()),
        Val::Record(fields) => Value::Object(fields.iter().map(|(name, val)| (name.clone(), to_json(val))).collect()),
        Val::Variant(name, None) => Value::String(name.clone()),
        Val::Variant(name, Some(payload)) => tag(name, Some(payload)),
        Val::Enum(name) => Value::String(name.clone()),
        Val::Option(None) => Value::Null,
        Val::Option(Some(val)) => to_json(val),
        Val::Result(Ok(payload)) => tag("ok", payload.as_deref()),
        Val::Result(Err(payload)) => tag("err", payload.as_deref()),
        Val::Flags(names) => Value::Array(names.iter().cloned().map(Value::String).collect()),
        // Functions with these types are not offered as tools (see `schema`).
        Val::Map(_) | Val::Resource(_) | Val::Future(_) | Val::Stream(_) | Val::ErrorContext(_) => Value::Null,
    }
}

fn tag(name: &str, payload: Option<&Val>) -> Value {
    Value::Object(Map::from_iter([(name.to_owned(), payload.map_or(Value::Null, to_json))]))
}

/// The bytes of a `list<u8>`; an empty list has no type to see and is an empty array, except that callers know the schema.
fn bytes(items: &[Val]) -> Option<Vec<u8>> {
    if items.is_empty() {
        return None;
    }
    items.iter().map(|item| if let Val::U8(byte) = item { Some(*byte) } else { None }).collect()
}
