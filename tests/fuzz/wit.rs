//! Generated WIT types with values of them.

use std::fmt::{self, Display, Formatter, Write as _};

use proptest::{
    collection::{btree_set, vec},
    option,
    prelude::*,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value, json};

/// A WIT type that has a JSON form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wit {
    Bool,
    S8,
    U8,
    S16,
    U16,
    S32,
    U32,
    S64,
    U64,
    F32,
    F64,
    Char,
    String,
    List(Box<Wit>),
    Tuple(Vec<Wit>),
    Record(Vec<(String, Wit)>),
    Variant(Vec<(String, Option<Wit>)>),
    Enum(Vec<String>),
    Flags(Vec<String>),
    Option(Box<Wit>),
    Result(Option<Box<Wit>>, Option<Box<Wit>>),
}

/// Any type, with a value of it.
pub fn typed() -> impl Strategy<Value = (Wit, Value)> {
    any_type().prop_flat_map(|ty| {
        let value = value_of(&ty);
        (Just(ty), value)
    })
}

fn names() -> impl Strategy<Value = Vec<String>> {
    btree_set("[a-z][a-z0-9]{0,6}(-[a-z][a-z0-9]{0,3})?", 1..5).prop_map(|names| names.into_iter().collect())
}

fn any_type() -> impl Strategy<Value = Wit> {
    use Wit::{Bool, Char, F32, F64, S8, S16, S32, S64, U8, U16, U32, U64};
    let simple = prop::sample::select(vec![Bool, S8, U8, S16, U16, S32, U32, S64, U64, F32, F64, Char, Wit::String]);
    let leaf = prop_oneof![4 => simple, 1 => names().prop_map(Wit::Enum), 1 => names().prop_map(Wit::Flags)];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let boxed = || inner.clone().prop_map(Box::new);
        let members = |inner: BoxedStrategy<Wit>| {
            (names(), vec(inner, 4)).prop_map(|(names, types)| names.into_iter().zip(types).collect::<Vec<_>>())
        };
        let payloads = (names(), vec(option::of(inner.clone()), 4));
        prop_oneof![
            boxed().prop_map(Wit::List),
            vec(inner.clone(), 1..4).prop_map(Wit::Tuple),
            members(inner.clone()).prop_map(Wit::Record),
            payloads.prop_map(|(names, types)| Wit::Variant(names.into_iter().zip(types).collect())),
            boxed().prop_map(Wit::Option),
            (option::of(boxed()), option::of(boxed())).prop_map(|(ok, err)| Wit::Result(ok, err)),
        ]
    })
}

fn float(number: f64) -> Value {
    Number::from_f64(number).map_or_else(|| json!(0.5), Value::Number)
}

/// Values of a type, in the form that comes out again.
fn value_of(ty: &Wit) -> BoxedStrategy<Value> {
    let tagged = |name: &str, ty: &Wit| {
        let name = name.to_owned();
        value_of(ty).prop_map(move |value| json!({ name.clone(): value })).boxed()
    };
    match ty {
        Wit::Bool => any::<bool>().prop_map(Value::from).boxed(),
        Wit::S8 => any::<i8>().prop_map(Value::from).boxed(),
        Wit::U8 => any::<u8>().prop_map(Value::from).boxed(),
        Wit::S16 => any::<i16>().prop_map(Value::from).boxed(),
        Wit::U16 => any::<u16>().prop_map(Value::from).boxed(),
        Wit::S32 => any::<i32>().prop_map(Value::from).boxed(),
        Wit::U32 => any::<u32>().prop_map(Value::from).boxed(),
        Wit::S64 => any::<i64>().prop_map(Value::from).boxed(),
        Wit::U64 => any::<u64>().prop_map(Value::from).boxed(),
        Wit::F32 => any::<f32>().prop_map(|n| float(n.to_string().parse().expect("a number"))).boxed(),
        Wit::F64 => any::<f64>().prop_map(float).boxed(),
        Wit::Char => any::<char>().prop_map(|c| Value::from(c.to_string())).boxed(),
        Wit::String => {
            let long = (any::<String>(), 0_usize..1_000).prop_map(|(text, times)| text.repeat(times));
            prop_oneof![3 => any::<String>(), 1 => long].prop_map(Value::from).boxed()
        }
        Wit::List(item) if **item == Wit::U8 => {
            prop::sample::select(vec!["", "AA==", "aGk=", "////"]).prop_map(Value::from).boxed()
        }
        Wit::List(item) => vec(value_of(item), 0..4).prop_map(Value::from).boxed(),
        Wit::Tuple(types) => types.iter().map(value_of).collect::<Vec<_>>().prop_map(Value::from).boxed(),
        Wit::Record(fields) => {
            let names: Vec<String> = fields.iter().map(|(name, _)| name.clone()).collect();
            let values: Vec<_> = fields.iter().map(|(_, ty)| value_of(ty)).collect();
            values
                .prop_map(move |values| Value::Object(names.iter().cloned().zip(values).collect::<Map<_, _>>()))
                .boxed()
        }
        Wit::Variant(cases) => {
            let cases = cases.iter().map(|(name, payload)| match payload {
                None => Just(Value::from(name.as_str())).boxed(),
                Some(ty) => tagged(name, ty),
            });
            proptest::strategy::Union::new(cases).boxed()
        }
        Wit::Enum(names) => prop::sample::select(names.clone()).prop_map(Value::from).boxed(),
        Wit::Flags(names) => prop::sample::subsequence(names.clone(), 0..=names.len()).prop_map(Value::from).boxed(),
        Wit::Option(inner) => {
            let some = if matches!(**inner, Wit::Option(_)) { tagged("some", inner) } else { value_of(inner) };
            prop_oneof![Just(Value::Null), some].boxed()
        }
        Wit::Result(ok, err) => {
            let side = |name: &'static str, ty: &Option<Box<Wit>>| match ty {
                None => Just(json!({ name: null })).boxed(),
                Some(ty) => tagged(name, ty),
            };
            prop_oneof![side("ok", ok), side("err", err)].boxed()
        }
    }
}

impl Wit {
    /// Adds component text that defines the type to `text`; what it is called there.
    pub fn define(&self, text: &mut String, next: &mut usize) -> String {
        let quoted = |names: &[String]| names.iter().map(|name| format!(" \"{name}\"")).collect::<String>();
        let definition = match self {
            Self::List(item) => format!("(list {})", item.define(text, next)),
            Self::Tuple(types) => {
                let types: Vec<_> = types.iter().map(|ty| ty.define(text, next)).collect();
                format!("(tuple {})", types.join(" "))
            }
            Self::Record(fields) => {
                let field = |(name, ty): &(String, Self)| format!("(field \"{name}\" {})", ty.define(text, next));
                format!("(record {})", fields.iter().map(field).collect::<String>())
            }
            Self::Variant(cases) => {
                let case = |(name, ty): &(String, Option<Self>)| {
                    format!("(case \"{name}\" {})", ty.as_ref().map(|ty| ty.define(text, next)).unwrap_or_default())
                };
                format!("(variant {})", cases.iter().map(case).collect::<String>())
            }
            Self::Enum(names) => format!("(enum{})", quoted(names)),
            Self::Flags(names) => format!("(flags{})", quoted(names)),
            Self::Option(inner) => format!("(option {})", inner.define(text, next)),
            Self::Result(ok, err) => {
                let ok = ok.as_ref().map(|ty| ty.define(text, next)).unwrap_or_default();
                let err = err.as_ref().map(|ty| format!("(error {})", ty.define(text, next))).unwrap_or_default();
                format!("(result {ok} {err})")
            }
            simple => return simple.to_string(),
        };
        *next += 1;
        let named = matches!(self, Self::Record(_) | Self::Variant(_) | Self::Enum(_) | Self::Flags(_));
        if named {
            write!(text, "(type $d{next} {definition}) (import \"t{next}\" (type $t{next} (eq $d{next}))) ")
        } else {
            write!(text, "(type $t{next} {definition}) ")
        }
        .expect("written");
        format!("$t{next}")
    }

    /// The value that the component gives back for a value; none if the value is not legal.
    pub fn canonical(&self, value: &Value) -> Option<Value> {
        match (self, value) {
            (Self::Bool, Value::Bool(_)) | (Self::String, Value::String(_)) => Some(value.clone()),
            (Self::S8, _) => integer(value, i8::MIN, i8::MAX),
            (Self::U8, _) => integer(value, u8::MIN, u8::MAX),
            (Self::S16, _) => integer(value, i16::MIN, i16::MAX),
            (Self::U16, _) => integer(value, u16::MIN, u16::MAX),
            (Self::S32, _) => integer(value, i32::MIN, i32::MAX),
            (Self::U32, _) => integer(value, u32::MIN, u32::MAX),
            (Self::S64, _) => integer(value, i64::MIN, i64::MAX),
            (Self::U64, _) => integer(value, u64::MIN, u64::MAX),
            (Self::F32, Value::Number(number)) => {
                let single = number.as_f64()? as f32;
                single.is_finite().then(|| float(single.to_string().parse().expect("a number")))
            }
            (Self::F64, Value::Number(number)) => Some(float(number.as_f64()?)),
            (Self::Char, Value::String(text)) => (text.chars().count() == 1).then(|| value.clone()),
            (Self::List(item), Value::String(text)) if **item == Self::U8 => is_base64(text).then(|| value.clone()),
            (Self::List(item), Value::Array(items)) if **item != Self::U8 => {
                items.iter().map(|value| item.canonical(value)).collect()
            }
            (Self::Tuple(types), Value::Array(items)) if types.len() == items.len() => {
                types.iter().zip(items).map(|(ty, value)| ty.canonical(value)).collect()
            }
            (Self::Record(fields), Value::Object(given)) => {
                let known = given.keys().all(|name| fields.iter().any(|(field, _)| field == name));
                let field = |(name, ty): &(String, Self)| match given.get(name) {
                    Some(value) => Some((name.clone(), ty.canonical(value)?)),
                    None => matches!(ty, Self::Option(_)).then(|| (name.clone(), Value::Null)),
                };
                let fields: Option<Map<_, _>> = fields.iter().map(field).collect();
                fields.filter(|_| known).map(Value::Object)
            }
            (Self::Variant(cases), Value::String(name)) => {
                cases.iter().any(|(case, payload)| case == name && payload.is_none()).then(|| value.clone())
            }
            (Self::Variant(cases), Value::Object(_)) => cases.iter().find_map(|(name, ty)| {
                ty.as_ref().and_then(|ty| Some(json!({ name.clone(): ty.canonical(tagged(value, name)?)? })))
            }),
            (Self::Enum(names), Value::String(name)) => names.contains(name).then(|| value.clone()),
            (Self::Flags(names), Value::Array(given)) => {
                let is_new = |(n, name): (usize, &Value)| !given[..n].contains(name);
                let known = given.iter().all(|name| names.iter().any(|known| name == known));
                let set = names.iter().filter(|name| given.contains(&json!(name))).map(|name| json!(name)).collect();
                (known && given.iter().enumerate().all(is_new)).then_some(set)
            }
            (Self::Option(_), Value::Null) => Some(Value::Null),
            (Self::Option(inner), _) if matches!(**inner, Self::Option(_)) => {
                Some(json!({ "some": inner.canonical(tagged(value, "some")?)? }))
            }
            (Self::Option(inner), _) => inner.canonical(value),
            (Self::Result(ok, err), _) => [("ok", ok), ("err", err)].into_iter().find_map(|(name, ty)| {
                let payload = tagged(value, name)?;
                let payload = match ty {
                    Some(ty) => ty.canonical(payload)?,
                    None => payload.is_null().then_some(Value::Null)?,
                };
                Some(json!({ name: payload }))
            }),
            _ => None,
        }
    }

    /// A value with one wrong thing somewhere in it, and where that is.
    pub fn spoil(&self, value: &Value, path: &str, choices: &mut impl Iterator<Item = usize>) -> (Value, String) {
        let inside = self.inside(value);
        let choice = choices.next().unwrap_or_default();
        // One of the values inside it, or itself.
        match inside.get(choice % (inside.len() + 1)) {
            Some((pointer, ty)) => {
                let part = value.pointer(pointer).expect("inside");
                let (spoiled, at) = ty.spoil(part, &format!("{path}{pointer}"), choices);
                let mut whole = value.clone();
                *whole.pointer_mut(pointer).expect("inside") = spoiled;
                (whole, at)
            }
            None => {
                let (wrong, inside) = self.wrong();
                (wrong, format!("{path}{inside}"))
            }
        }
    }

    /// The values in a value: their pointers and types.
    fn inside<'a>(&'a self, value: &Value) -> Vec<(String, &'a Self)> {
        match (self, value) {
            (Self::List(item), Value::Array(items)) => {
                (0..items.len()).map(|n| (format!("/{n}"), item.as_ref())).collect()
            }
            (Self::Tuple(types), _) => types.iter().enumerate().map(|(n, ty)| (format!("/{n}"), ty)).collect(),
            (Self::Record(fields), _) => fields.iter().map(|(name, ty)| (format!("/{name}"), ty)).collect(),
            (Self::Variant(cases), Value::Object(tagged)) => cases
                .iter()
                .filter_map(|(name, ty)| Some((format!("/{name}"), ty.as_ref().filter(|_| tagged.contains_key(name))?)))
                .collect(),
            (Self::Option(inner), Value::Object(_)) if matches!(**inner, Self::Option(_)) => {
                vec![("/some".to_owned(), inner.as_ref())]
            }
            (Self::Option(inner), some) if !some.is_null() => inner.inside(some),
            (Self::Result(ok, err), Value::Object(tagged)) => [("ok", ok), ("err", err)]
                .into_iter()
                .filter_map(|(name, ty)| {
                    Some((format!("/{name}"), ty.as_deref().filter(|_| tagged.contains_key(name))?))
                })
                .collect(),
            _ => Vec::new(),
        }
    }

    /// A value that is not of this type, and where in it that shows.
    fn wrong(&self) -> (Value, &'static str) {
        let value = match self {
            Self::Flags(_) => return (json!(["no such flag"]), "/0"),
            Self::Option(inner) if matches!(**inner, Self::Option(_)) => json!(1),
            Self::Option(inner) => return inner.wrong(),
            Self::String | Self::List(_) | Self::Record(_) | Self::Enum(_) => json!(1),
            Self::Tuple(_) => json!([]),
            Self::Variant(_) | Self::Result(..) => json!({ "no such case": 1 }),
            _ => json!("no such value"),
        };
        (value, "")
    }
}

/// The one member of an object, if it is called `name`.
fn tagged<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    value.as_object().filter(|members| members.len() == 1)?.get(name)
}

/// An integer within its range. Of floats beyond 2^53 only those that fifteen digits say exactly.
fn integer(value: &Value, least: impl Into<i128>, most: impl Into<i128>) -> Option<Value> {
    let number = match value.as_number()?.as_i128() {
        Some(number) => number,
        None => {
            let float = value.as_f64().filter(|float| float.fract() == 0.0 && float.abs() < 1e20)?;
            // Rust writes all digits of a float.
            let exact: i128 = format!("{float:.0}").parse().expect("an integer");
            let is_said = exact.to_string().trim_start_matches('-').trim_end_matches('0').len() <= 15;
            (float.abs() < 9_007_199_254_740_992.0 || is_said).then_some(exact)?
        }
    };
    let legal = (least.into()..=most.into()).contains(&number);
    legal.then(|| i64::try_from(number).map_or_else(|_| json!(u64::try_from(number).expect("in range")), Value::from))
}

/// With padding, and nothing in the bits that padding leaves over (RFC 4648, section 3.5).
fn is_base64(text: &str) -> bool {
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = text.strip_suffix("==").or_else(|| text.strip_suffix('=')).unwrap_or(text);
    let left_over = match text.len() - digits.len() {
        0 => 1,
        1 => 4,
        _ => 16,
    };
    let last = digits.chars().last().and_then(|digit| ALPHABET.find(digit));
    text.len().is_multiple_of(4)
        && digits.chars().all(|digit| ALPHABET.contains(digit))
        && last.is_none_or(|last| last % left_over == 0)
}

/// As WIT says it; what has a name there says what it is.
impl Display for Wit {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let simple = match self {
            Self::Bool => "bool",
            Self::S8 => "s8",
            Self::U8 => "u8",
            Self::S16 => "s16",
            Self::U16 => "u16",
            Self::S32 => "s32",
            Self::U32 => "u32",
            Self::S64 => "s64",
            Self::U64 => "u64",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::Char => "char",
            Self::String => "string",
            Self::List(item) => return write!(f, "list<{item}>"),
            Self::Tuple(types) => {
                return write!(f, "tuple<{}>", types.iter().map(Self::to_string).collect::<Vec<_>>().join(", "));
            }
            Self::Record(fields) => {
                let fields: Vec<_> = fields.iter().map(|(name, ty)| format!("{name}: {ty}")).collect();
                return write!(f, "record {{ {} }}", fields.join(", "));
            }
            Self::Variant(cases) => {
                let case = |(name, ty): &(String, Option<Self>)| {
                    ty.as_ref().map_or_else(|| name.clone(), |ty| format!("{name}({ty})"))
                };
                return write!(f, "variant {{ {} }}", cases.iter().map(case).collect::<Vec<_>>().join(", "));
            }
            Self::Enum(names) => return write!(f, "enum {{ {} }}", names.join(", ")),
            Self::Flags(names) => return write!(f, "flags {{ {} }}", names.join(", ")),
            Self::Option(inner) => return write!(f, "option<{inner}>"),
            Self::Result(ok, err) => {
                let side = |ty: &Option<Box<Self>>| ty.as_ref().map_or_else(|| "_".to_owned(), ToString::to_string);
                return write!(f, "result<{}, {}>", side(ok), side(err));
            }
        };
        f.write_str(simple)
    }
}
