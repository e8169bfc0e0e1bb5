//! Bytes that the values of a JSON text will take, known before they are made. A few bytes of JSON may become many: an omitted field still has its name, and
//! each byte of a list of bytes is a value.

use serde_json::Value;
use wasmtime::component::{Type, Val};

use super::{is_nullable, tagged};

/// A value in a vector, which grows to twice its length.
const VALUE_BYTES: u64 = 2 * size_of::<Val>() as u64;
/// A text in a vector, and the least that is allocated for it.
const TEXT_BYTES: u64 = 2 * size_of::<String>() as u64 + 16;
/// Sum above which the host stops adding: adding would take long itself, and no host has so much.
const ENOUGH: u64 = 1 << 30;

/// Most bytes that the values for a function's parameters take.
pub fn params_bytes<'a>(arguments: &Value, mut params: impl Iterator<Item = (&'a str, &'a Type)>) -> u64 {
    let mut made = Made(0);
    // A sum that ends early is large enough already.
    let _enough = params.try_for_each(|(name, ty)| made.field(name, arguments.get(name), ty));
    made.0
}

/// Bytes so far.
struct Made(u64);

impl Made {
    fn add(&mut self, bytes: u64) -> Option<()> {
        self.0 = self.0.saturating_add(bytes);
        (self.0 < ENOUGH).then_some(())
    }

    fn text(&mut self, text: &str) -> Option<()> {
        self.add(length(text).saturating_add(TEXT_BYTES))
    }

    fn field(&mut self, name: &str, value: Option<&Value>, ty: &Type) -> Option<()> {
        self.text(name)?;
        match value {
            Some(value) => self.value(value, ty),
            None => self.add(VALUE_BYTES),
        }
    }

    fn payload(&mut self, value: Option<&Value>, ty: Option<Type>) -> Option<()> {
        value.zip(ty).map_or(Some(()), |(value, ty)| self.value(value, &ty))
    }

    fn value(&mut self, value: &Value, ty: &Type) -> Option<()> {
        self.add(VALUE_BYTES)?;
        match (ty, value) {
            (Type::String | Type::Enum(_), Value::String(text)) => self.text(text),
            // Base64: four letters are three bytes, each of them a value, in a vector that is made in its size.
            (Type::List(_), Value::String(text)) => {
                self.add((length(text) / 4).saturating_mul(3).saturating_mul(VALUE_BYTES / 2))
            }
            (Type::List(list), Value::Array(items)) => {
                let ty = list.ty();
                items.iter().try_for_each(|item| self.value(item, &ty))
            }
            (Type::Tuple(tuple), Value::Array(items)) => {
                items.iter().zip(tuple.types()).try_for_each(|(item, ty)| self.value(item, &ty))
            }
            (Type::Record(record), Value::Object(object)) => {
                record.fields().try_for_each(|field| self.field(field.name, object.get(field.name), &field.ty))
            }
            (Type::Variant(variant), value) => {
                let Some((name, payload)) = tagged(value) else { return Some(()) };
                self.text(name)?;
                self.payload(payload, variant.cases().find(|case| case.name == name).and_then(|case| case.ty))
            }
            (Type::Option(option), value) if !value.is_null() => {
                let inner = option.ty();
                let value = if is_nullable(&inner) { tagged(value).and_then(|(_, some)| some) } else { Some(value) };
                self.payload(value, Some(inner))
            }
            (Type::Result(result), value) => match tagged(value) {
                Some(("ok", payload)) => self.payload(payload, result.ok()),
                Some((_, payload)) => self.payload(payload, result.err()),
                None => Some(()),
            },
            (Type::Flags(_), Value::Array(items)) => {
                items.iter().filter_map(Value::as_str).try_for_each(|name| self.text(name))
            }
            _ => Some(()),
        }
    }
}

fn length(text: &str) -> u64 {
    u64::try_from(text.len()).unwrap_or(u64::MAX)
}
