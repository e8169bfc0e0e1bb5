//! JSON arguments as the types of a tool's parameters.
//!
//! Two things differ from [`serde_json::from_value`]: a number such as `60.0` or `1e18` counts as the integer that it is, as JSON Schema says, and an error names the
//! place of the argument. Values that a tool takes as JSON stay as the caller wrote them.

mod place;

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};
use serde_json::{Map, Number, Value};

use self::place::Misfit;
use crate::Error;

/// The arguments as `T`.
///
/// # Errors
/// [`Error::InvalidArgument`], with the place in the arguments.
pub(crate) fn parse<T: DeserializeOwned>(arguments: Value) -> Result<T, Error> {
    // Serde reads untagged and flattened types into a buffer of its own, which keeps floats as they are. Only then are they all read as integers.
    let again = has_integral_float(&arguments).then(|| arguments.clone());
    T::deserialize(Argument(arguments)).or_else(|misfit| {
        let second = again.and_then(|arguments| T::deserialize(Argument(with_integers(arguments))).ok());
        second.ok_or_else(|| Error::invalid_argument(misfit.path(), misfit.reason))
    })
}

/// The integer that a float is. Beyond 2^53, where floats leave out integers, only one that fifteen digits say: those are surely the digits that the caller wrote.
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

/// A float that is an integer, as a JSON integer.
fn as_integer(number: &Number) -> Option<Number> {
    let float = number.as_f64().filter(|_| number.is_f64())?;
    Number::from_i128(integral(float)?)
}

fn has_integral_float(value: &Value) -> bool {
    match value {
        Value::Number(number) => as_integer(number).is_some(),
        Value::Array(items) => items.iter().any(has_integral_float),
        Value::Object(fields) => fields.values().any(has_integral_float),
        _ => false,
    }
}

fn with_integers(value: Value) -> Value {
    match value {
        Value::Number(number) => Value::Number(as_integer(&number).unwrap_or(number)),
        Value::Array(items) => Value::Array(items.into_iter().map(with_integers).collect()),
        Value::Object(fields) => {
            Value::Object(fields.into_iter().map(|(name, value)| (name, with_integers(value))).collect())
        }
        other => other,
    }
}

/// One value of the arguments.
struct Argument(Value);

impl Argument {
    fn integer<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        let Value::Number(number) = &self.0 else { return Ok(self.0.deserialize_any(visitor)?) };
        let number = as_integer(number).unwrap_or_else(|| number.clone());
        Ok(Value::Number(number).deserialize_any(visitor)?)
    }
}

/// Integers, each as [`Argument::integer`].
macro_rules! integers {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
            self.integer(visitor)
        })*
    };
}

/// JSON's own deserializer reads the types that hold no integers.
macro_rules! as_json {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
            Ok(self.0.$method(visitor)?)
        })*
    };
}

impl<'de> Deserializer<'de> for Argument {
    type Error = Misfit;

    integers! { deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128 }
    integers! { deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128 }
    as_json! { deserialize_bool deserialize_f32 deserialize_f64 deserialize_char deserialize_str deserialize_string }
    as_json! { deserialize_bytes deserialize_byte_buf deserialize_unit deserialize_identifier deserialize_ignored_any }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match self.0 {
            Value::Array(items) => items_of(items, visitor),
            Value::Object(fields) => fields_of(fields, visitor),
            plain => Ok(plain.deserialize_any(visitor)?),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Misfit> {
        Ok(self.0.deserialize_unit_struct(name, visitor)?)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Misfit> {
        // Raw JSON is a type of that crate's own.
        if name.starts_with("$serde_json") {
            return Ok(self.0.deserialize_newtype_struct(name, visitor)?);
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        self.deserialize_any(visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, Misfit> {
        self.deserialize_any(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        self.deserialize_any(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        self.deserialize_any(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        self.deserialize_any(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        match self.0 {
            Value::Object(fields) if fields.len() == 1 => match fields.into_iter().next() {
                Some((variant, payload)) => visitor.visit_enum(Case { variant, payload }),
                None => Err(Misfit::custom("an object with one field names a case")),
            },
            other => Ok(other.deserialize_enum(name, variants, visitor)?),
        }
    }
}

fn items_of<'de, V: Visitor<'de>>(items: Vec<Value>, visitor: V) -> Result<V::Value, Misfit> {
    let all = items.len();
    let mut items = Items { items: items.into_iter(), next: 0 };
    let value = visitor.visit_seq(&mut items)?;
    if items.items.len() > 0 { Err(Misfit::invalid_length(all, &"fewer items")) } else { Ok(value) }
}

fn fields_of<'de, V: Visitor<'de>>(fields: Map<String, Value>, visitor: V) -> Result<V::Value, Misfit> {
    let all = fields.len();
    let mut fields = Fields { fields: fields.into_iter(), value: None };
    let value = visitor.visit_map(&mut fields)?;
    if fields.fields.len() > 0 { Err(Misfit::invalid_length(all, &"fewer fields")) } else { Ok(value) }
}

struct Items {
    items: std::vec::IntoIter<Value>,
    next: usize,
}

impl<'de> SeqAccess<'de> for &mut Items {
    type Error = Misfit;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Misfit> {
        let Some(item) = self.items.next() else { return Ok(None) };
        let index = self.next;
        self.next += 1;
        seed.deserialize(Argument(item)).map(Some).map_err(|misfit| misfit.under(&index.to_string()))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

struct Fields {
    fields: serde_json::map::IntoIter,
    value: Option<(String, Value)>,
}

impl<'de> MapAccess<'de> for &mut Fields {
    type Error = Misfit;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Misfit> {
        let Some((name, value)) = self.fields.next() else { return Ok(None) };
        self.value = Some((name.clone(), value));
        // A map's key may be a number as text, which JSON's own map reads.
        let mut only = Map::new();
        only.insert(name, Value::Null);
        Key(only).read(seed).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Misfit> {
        let Some((name, value)) = self.value.take() else { return Err(Misfit::custom("a value without a key")) };
        seed.deserialize(Argument(value)).map_err(|misfit| misfit.under(&name))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.fields.len())
    }
}

/// A map with one key, of which only the key is wanted.
struct Key(Map<String, Value>);

impl Key {
    fn read<'de, K: DeserializeSeed<'de>>(self, seed: K) -> Result<K::Value, Misfit> {
        struct First<K>(K);
        impl<'de, K: DeserializeSeed<'de>> Visitor<'de> for First<K> {
            type Value = K::Value;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a field")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<K::Value, A::Error> {
                let key = map.next_key_seed(self.0)?.ok_or_else(|| A::Error::custom("a field without a name"))?;
                map.next_value::<serde::de::IgnoredAny>()?;
                Ok(key)
            }
        }
        Ok(Value::Object(self.0).deserialize_map(First(seed))?)
    }
}

/// A case of an enumeration, by its name.
struct Case {
    variant: String,
    payload: Value,
}

impl<'de> EnumAccess<'de> for Case {
    type Error = Misfit;
    type Variant = Payload;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Payload), Misfit> {
        let Self { variant, payload } = self;
        let name = seed.deserialize(IntoDeserializer::<Misfit>::into_deserializer(variant.clone()))?;
        Ok((name, Payload { variant, value: payload }))
    }
}

/// A case's name and payload.
struct Payload {
    variant: String,
    value: Value,
}

impl<'de> VariantAccess<'de> for Payload {
    type Error = Misfit;

    fn unit_variant(self) -> Result<(), Misfit> {
        serde::Deserialize::deserialize(Argument(self.value)).map_err(|misfit: Misfit| misfit.under(&self.variant))
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Misfit> {
        seed.deserialize(Argument(self.value)).map_err(|misfit| misfit.under(&self.variant))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, Misfit> {
        Argument(self.value).deserialize_any(visitor).map_err(|misfit| misfit.under(&self.variant))
    }

    fn struct_variant<V: Visitor<'de>>(self, _fields: &'static [&'static str], visitor: V) -> Result<V::Value, Misfit> {
        Argument(self.value).deserialize_any(visitor).map_err(|misfit| misfit.under(&self.variant))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Case {
        Bare,
        One(u8),
        Two(i64, f64),
        Named { count: u32 },
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Inner {
        count: Option<u32>,
        by_number: BTreeMap<u64, i16>,
        pairs: Vec<(i64, f64)>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(u64),
        Text(String),
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Arguments {
        seconds: u64,
        #[serde(default)]
        inner: Inner,
        #[serde(default)]
        cases: Vec<Case>,
        #[serde(default)]
        either: Option<Either>,
        #[serde(default)]
        payload: Value,
    }

    fn arguments(value: Value) -> Result<Arguments, (String, String)> {
        parse(value).map_err(|error| match error {
            Error::InvalidArgument { path, reason } => (path, reason),
            Error::Failed(output) => panic!("{output:?}"),
        })
    }

    #[test]
    fn a_float_that_is_an_integer_is_one_and_json_stays_as_it_was_written() {
        let all = arguments(json!({
            "seconds": 60.0,
            "inner": { "count": 7.0, "by_number": { "12": -3.0 }, "pairs": [[1e15, 2.5], [-4.0, 4.0]] },
            "cases": ["bare", { "one": 255.0 }, { "two": [1e18, 1.0] }, { "named": { "count": 1.0 } }],
            "payload": { "x": 60.0, "y": 60, "z": 2.5 },
        }))
        .expect("all of them fit");
        assert_eq!((all.seconds, all.inner.count), (60, Some(7)));
        assert_eq!(all.inner.by_number, BTreeMap::from([(12, -3)]));
        assert_eq!(all.inner.pairs, [(1_000_000_000_000_000, 2.5), (-4, 4.0)]);
        let cases = [Case::Bare, Case::One(255), Case::Two(1_000_000_000_000_000_000, 1.0), Case::Named { count: 1 }];
        assert_eq!(all.cases, cases);
        assert_eq!(all.payload.to_string(), r#"{"x":60.0,"y":60,"z":2.5}"#);
        // Serde reads these through a buffer of its own.
        let either = arguments(json!({ "seconds": 1, "either": 5.0 })).expect("it fits");
        assert_eq!(either.either, Some(Either::Number(5)));
        // A number that looks like an integer is a float where one is wanted.
        assert_eq!(parse::<f64>(json!(60)), Ok(60.0));
        assert_eq!(parse::<Vec<u64>>(json!([u64::MAX, 18_446_744_073_709_551_615_u64])), Ok(vec![u64::MAX; 2]));
    }

    #[test]
    fn other_numbers_are_refused_with_their_place() {
        for (wrong, path, says) in [
            (json!({ "seconds": 2.5 }), "/seconds", "floating point `2.5`"),
            (json!({ "seconds": -1.0 }), "/seconds", "integer `-1`"),
            (json!({ "seconds": 1e20 }), "/seconds", "expected u64"),
            // Seventeen digits: whether these are the digits that the caller wrote is lost.
            (json!({ "seconds": 1.2345678901234568e18 }), "/seconds", "expected u64"),
            (json!({ "seconds": 1, "inner": { "count": 4_294_967_296.0 } }), "/inner/count", "expected u32"),
            (json!({ "seconds": 1, "inner": { "by_number": { "1": 1, "2": 40_000.0 } } }), "/inner/by_number/2", "i16"),
            (json!({ "seconds": 1, "inner": { "pairs": [[1, 2], [1.5, 2]] } }), "/inner/pairs/1/0", "expected i64"),
            (json!({ "seconds": 1, "inner": { "pairs": [[1, 2, 3]] } }), "/inner/pairs/0", "invalid length 3"),
            (json!({ "seconds": 1, "cases": ["bare", { "one": 256.0 }] }), "/cases/1/one", "expected u8"),
            (json!({ "seconds": 1, "cases": [{ "named": { "count": "x" } }] }), "/cases/0/named/count", "expected u32"),
            (json!({ "seconds": 1, "cases": ["none"] }), "/cases/0", "unknown variant"),
            (json!({ "seconds": 1, "inner": { "a/b~c": 1 } }), "/inner", "unknown field `a/b~c`"),
            (json!({ "inner": {} }), "", "missing field `seconds`"),
            (json!({ "seconds": "60" }), "/seconds", "expected u64"),
        ] {
            let (place, reason) = arguments(wrong.clone()).expect_err(&wrong.to_string());
            assert_eq!(place, path, "{wrong}: {reason}");
            assert!(reason.contains(says), "{wrong}: {reason}");
        }
    }

    #[test]
    fn integers_beyond_2_53_are_taken_only_if_their_digits_are_sure() {
        for (float, integer) in [
            (9_007_199_254_740_991.0, Some(9_007_199_254_740_991)),
            // Also the nearest float to ...993.
            (9_007_199_254_740_992.0, None),
            (1e16, Some(10_i128.pow(16))),
            (-1e18, Some(-(10_i128.pow(18)))),
            (1e22, Some(10_i128.pow(22))),
            // No float is this decimal.
            (1e23, None),
            (f64::MAX, None),
            (f64::NAN, None),
            (0.5, None),
            (-0.0, Some(0)),
        ] {
            assert_eq!(integral(float), integer, "{float:e}");
        }
    }
}
