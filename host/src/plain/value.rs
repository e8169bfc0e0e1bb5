//! JSON to component values and back, in the form that [`super::schema`] describes. An error names the place in the JSON.

mod made;
mod path;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Map, Number, Value};
use wasmtime::component::{Type, Val};

pub use self::made::params_bytes;
use self::path::Path;
use super::handles::Handles;

/// JSON that does not fit its WIT type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct ValueMismatch {
    /// JSON pointer to the value.
    pub path: String,
    /// The expected value.
    pub reason: String,
}

fn mismatch<T>(path: Path<'_>, reason: impl Into<String>) -> Result<T, ValueMismatch> {
    Err(ValueMismatch { path: path.to_string(), reason: reason.into() })
}

/// The values for a function's parameters, in its order, from an object.
pub fn to_params<'a>(
    arguments: &Value,
    params: impl Iterator<Item = (&'a str, &'a Type)>,
    handles: &mut dyn Handles,
) -> Result<Vec<Val>, ValueMismatch> {
    let Value::Object(object) = arguments else { return mismatch(Path::Whole, "the arguments must be an object") };
    params.map(|(name, ty)| to_field(object, name, ty, Path::Whole, handles)).collect()
}

fn to_field(
    object: &Map<String, Value>,
    name: &str,
    ty: &Type,
    path: Path<'_>,
    handles: &mut dyn Handles,
) -> Result<Val, ValueMismatch> {
    match (object.get(name), ty) {
        (Some(value), _) => to_val(value, ty, Path::Name(&path, name), handles),
        (None, Type::Option(_)) => Ok(Val::Option(None)),
        (None, _) => mismatch(path, format!("`{name}` is missing")),
    }
}

/// One value of type `ty`; `path` is its place.
fn to_val(value: &Value, ty: &Type, path: Path<'_>, handles: &mut dyn Handles) -> Result<Val, ValueMismatch> {
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
        (Type::Float32, Value::Number(number)) => match number.as_f64().map(|number| number as f32) {
            Some(number) if number.is_finite() => Val::Float32(number),
            _ => return mismatch(path, format!("must be a number between {:e} and {:e}", f32::MIN, f32::MAX)),
        },
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
            Val::List(to_items(items, std::iter::repeat(list.ty()), path, handles)?)
        }
        (Type::Tuple(tuple), Value::Array(items)) if items.len() == tuple.types().len() => {
            Val::Tuple(to_items(items, tuple.types(), path, handles)?)
        }
        (Type::Record(record), Value::Object(object)) => Val::Record(
            record
                .fields()
                .map(|field| Ok((field.name.to_owned(), to_field(object, field.name, &field.ty, path, handles)?)))
                .collect::<Result<_, ValueMismatch>>()?,
        ),
        (Type::Variant(variant), value) => {
            let Some((name, payload)) = tagged(value) else { return mismatch(path, expected(ty)) };
            let Some(case) = variant.cases().find(|case| case.name == name) else {
                return mismatch(path, format!("has no case `{name}`; {}", expected(ty)));
            };
            Val::Variant(name.to_owned(), to_payload(payload, case.ty.as_ref(), name, path, handles)?)
        }
        (Type::Enum(names), Value::String(text)) if names.names().any(|name| name == text) => Val::Enum(text.clone()),
        (Type::Option(_), Value::Null) => Val::Option(None),
        (Type::Option(option), value) => {
            let inner = option.ty();
            let some = if !is_nullable(&inner) {
                to_val(value, &inner, path, handles)?
            } else {
                match tagged(value) {
                    Some(("some", Some(value))) => to_val(value, &inner, Path::Name(&path, "some"), handles)?,
                    _ => return mismatch(path, "must be null or {\"some\": …}"),
                }
            };
            Val::Option(Some(Box::new(some)))
        }
        (Type::Result(result), value) => match tagged(value) {
            Some(("ok", payload)) => Val::Result(Ok(to_payload(payload, result.ok().as_ref(), "ok", path, handles)?)),
            Some(("err", payload)) => {
                Val::Result(Err(to_payload(payload, result.err().as_ref(), "err", path, handles)?))
            }
            _ => return mismatch(path, expected(ty)),
        },
        (Type::Flags(flags), Value::Array(items)) => {
            let known: Vec<&str> = flags.names().collect();
            let flag = |(n, item): (usize, &Value)| match item.as_str().filter(|name| known.contains(name)) {
                Some(name) => Ok(name.to_owned()),
                None => mismatch(Path::Item(&path, n), format!("must be one of {}", known.join(", "))),
            };
            Val::Flags(items.iter().enumerate().map(flag).collect::<Result<_, _>>()?)
        }
        (Type::Own(_) | Type::Borrow(_), Value::String(handle)) => match handles.take(handle, ty) {
            Ok(resource) => resource,
            Err(reason) => return mismatch(path, reason),
        },
        _ => return mismatch(path, expected(ty)),
    })
}

fn to_items(
    items: &[Value],
    types: impl Iterator<Item = Type>,
    path: Path<'_>,
    handles: &mut dyn Handles,
) -> Result<Vec<Val>, ValueMismatch> {
    let items = items.iter().zip(types).enumerate();
    items.map(|(n, (item, ty))| to_val(item, &ty, Path::Item(&path, n), handles)).collect()
}

fn to_payload(
    payload: Option<&Value>,
    ty: Option<&Type>,
    name: &str,
    path: Path<'_>,
    handles: &mut dyn Handles,
) -> Result<Option<Box<Val>>, ValueMismatch> {
    match (payload, ty) {
        (None | Some(Value::Null), None) => Ok(None),
        (Some(value), Some(ty)) => Ok(Some(Box::new(to_val(value, ty, Path::Name(&path, name), handles)?))),
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
fn integer<T: TryFrom<i128> + IntegerBounds>(value: &Value, path: Path<'_>) -> Result<T, ValueMismatch> {
    let number = value.as_number().and_then(|number| number.as_i128().or_else(|| number.as_f64().and_then(integral)));
    match number.map(T::try_from) {
        Some(Ok(number)) => Ok(number),
        _ => mismatch(path, format!("must be an integer between {} and {}", T::LEAST, T::MOST)),
    }
}

/// The integer that a float is. Beyond 2^53 floats leave out integers, so there the host takes only one of up to fifteen digits: the caller surely wrote
/// those digits. The SDK's arguments follow the same rule.
fn integral(float: f64) -> Option<i128> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    const SURE_DIGITS: usize = 15;
    if !float.is_finite() || float.fract() != 0.0 || float.abs() >= 1e30 {
        return None;
    }
    let integer = float as i128;
    if float.abs() < EXACT {
        return Some(integer);
    }
    let shortest = format!("{:e}", float.abs());
    let digits = shortest.split('e').next().unwrap_or_default().bytes().filter(u8::is_ascii_digit).count();
    // The digits are exact only if the float is that very decimal number.
    let is_sure =
        digits <= SURE_DIGITS && integer.unsigned_abs().to_string().trim_end_matches('0').len() <= SURE_DIGITS;
    is_sure.then_some(integer)
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
        Type::Own(_) | Type::Borrow(_) => "must be a handle".into(),
        _ => "has no JSON form".into(),
    }
}

/// A name as a JSON pointer writes it.
pub fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// Whether null is a value of this type, so that an option of it needs another form for `some`.
pub fn is_nullable(ty: &Type) -> bool {
    matches!(ty, Type::Option(_))
}

/// Most bytes of an empty object or array of JSON, and its bytes for each member.
const CONTAINER_BYTES: u64 = 600;
const MEMBER_BYTES: u64 = 240;

/// Most bytes of a value's JSON, known before it is made.
pub fn json_bytes(val: &Val) -> u64 {
    let length = |text: &str| u64::try_from(text.len()).unwrap_or(u64::MAX);
    let sum = |parts: &mut dyn Iterator<Item = u64>| parts.fold(CONTAINER_BYTES, u64::saturating_add);
    let payload = |payload: Option<&Val>| payload.map_or(0, json_bytes).saturating_add(CONTAINER_BYTES);
    let inner = match val {
        Val::String(text) | Val::Enum(text) => length(text),
        Val::List(items) if matches!(items.first(), Some(Val::U8(_))) => {
            // These bytes become base64.
            u64::try_from(items.len()).unwrap_or(u64::MAX).saturating_mul(3)
        }
        Val::List(items) | Val::Tuple(items) => sum(&mut items.iter().map(json_bytes)),
        Val::Record(fields) => sum(&mut fields.iter().map(|(name, val)| json_bytes(val).saturating_add(length(name)))),
        Val::Variant(name, val) => payload(val.as_deref()).saturating_add(length(name)),
        Val::Option(val) => payload(val.as_deref()),
        Val::Result(Ok(val) | Err(val)) => payload(val.as_deref()),
        Val::Flags(names) => sum(&mut names.iter().map(|name| length(name).saturating_add(MEMBER_BYTES))),
        _ => 0,
    };
    inner.saturating_add(MEMBER_BYTES)
}

/// The JSON of a value of type `ty`. Numbers that JSON cannot express are the strings `NaN`, `Infinity` and `-Infinity`.
pub fn to_json(val: &Val, ty: &Type, handles: &mut dyn Handles) -> Value {
    match (val, ty) {
        (Val::Bool(value), _) => Value::Bool(*value),
        (Val::S8(n), _) => Value::from(*n),
        (Val::U8(n), _) => Value::from(*n),
        (Val::S16(n), _) => Value::from(*n),
        (Val::U16(n), _) => Value::from(*n),
        (Val::S32(n), _) => Value::from(*n),
        (Val::U32(n), _) => Value::from(*n),
        (Val::S64(n), _) => Value::from(*n),
        (Val::U64(n), _) => Value::from(*n),
        // The float's own shortest digits: 0.1 stays 0.1.
        (Val::Float32(n), _) => float(n.to_string().parse().unwrap_or(f64::from(*n))),
        (Val::Float64(n), _) => float(*n),
        (Val::Char(c), _) => Value::String(c.to_string()),
        (Val::String(text), _) => Value::String(text.clone()),
        (Val::List(items), Type::List(list)) if list.ty() == Type::U8 => {
            let bytes = items.iter().filter_map(|item| if let Val::U8(byte) = item { Some(*byte) } else { None });
            Value::String(BASE64_STANDARD.encode(bytes.collect::<Vec<u8>>()))
        }
        (Val::List(items), Type::List(list)) => {
            let ty = list.ty();
            Value::Array(items.iter().map(|item| to_json(item, &ty, handles)).collect())
        }
        (Val::Tuple(items), Type::Tuple(tuple)) => {
            Value::Array(items.iter().zip(tuple.types()).map(|(item, ty)| to_json(item, &ty, handles)).collect())
        }
        (Val::Record(fields), Type::Record(record)) => {
            let fields = fields.iter().zip(record.fields());
            Value::Object(fields.map(|((name, val), field)| (name.clone(), to_json(val, &field.ty, handles))).collect())
        }
        (Val::Variant(name, payload), Type::Variant(variant)) => match payload {
            None => Value::String(name.clone()),
            Some(_) => {
                let ty = variant.cases().find(|case| case.name == name).and_then(|case| case.ty);
                tag(name, payload.as_deref(), ty.as_ref(), handles)
            }
        },
        (Val::Enum(name), _) => Value::String(name.clone()),
        (Val::Option(Some(val)), Type::Option(option)) => match option.ty() {
            inner if is_nullable(&inner) => tag("some", Some(val), Some(&inner), handles),
            inner => to_json(val, &inner, handles),
        },
        (Val::Result(Ok(payload)), Type::Result(result)) => {
            tag("ok", payload.as_deref(), result.ok().as_ref(), handles)
        }
        (Val::Result(Err(payload)), Type::Result(result)) => {
            tag("err", payload.as_deref(), result.err().as_ref(), handles)
        }
        (Val::Flags(names), _) => Value::Array(names.iter().cloned().map(Value::String).collect()),
        (Val::Resource(resource), Type::Own(_) | Type::Borrow(_)) => handles.give(resource, ty),
        // None of an option. Functions with any other type are not offered as tools (see `schema`).
        _ => Value::Null,
    }
}

fn float(number: f64) -> Value {
    match Number::from_f64(number) {
        Some(number) => Value::Number(number),
        None if number.is_nan() => Value::from("NaN"),
        None => Value::from(if number > 0.0 { "Infinity" } else { "-Infinity" }),
    }
}

fn tag(name: &str, payload: Option<&Val>, ty: Option<&Type>, handles: &mut dyn Handles) -> Value {
    let payload = payload.zip(ty).map_or(Value::Null, |(val, ty)| to_json(val, ty, handles));
    Value::Object(Map::from_iter([(name.to_owned(), payload)]))
}
