//! A schema as a graph: its subschemas, which of them are applied to the same value and which to the values within it, with references followed.
//!
//! Only what stands in the schema itself can be referred to. Nothing is recursive here, however deep references go.

use std::collections::{BTreeMap, HashMap, VecDeque};

use serde_json::{Map, Value};

use super::{SchemaError, pattern::Patterns};

/// Most subschemas, those that are only referred to included.
pub(super) const MAX_SUBSCHEMAS: usize = 20_000;
/// The cost of one subschema beside its keywords, in steps.
const STEPS_OF_ONE: u64 = 4;
/// Bytes of an `enum` or a `const` that are compared in a step.
const BYTES_OF_A_STEP: u64 = 8;
/// How often each value below an array with `uniqueItems` is looked at: short arrays are compared in pairs, fifteen by fifteen.
const STEPS_OF_UNIQUE: u64 = 16;

/// The value of a keyword: one subschema, a list of them, or a table.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    One,
    List,
    Table,
}

/// To which values a keyword's subschemas are applied.
#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    /// To the same value.
    Same,
    /// Each value within has one of them.
    OneOf,
    /// A value within may have all of them.
    AllOf,
}

/// The keywords that have subschemas and apply them.
const APPLICATORS: [(&str, Form, To); 18] = [
    ("allOf", Form::List, To::Same),
    ("anyOf", Form::List, To::Same),
    ("oneOf", Form::List, To::Same),
    ("not", Form::One, To::Same),
    ("if", Form::One, To::Same),
    ("then", Form::One, To::Same),
    ("else", Form::One, To::Same),
    ("dependentSchemas", Form::Table, To::Same),
    ("dependencies", Form::Table, To::Same),
    // To the names in an object, which count as parts of it.
    ("propertyNames", Form::One, To::Same),
    ("properties", Form::Table, To::OneOf),
    ("additionalProperties", Form::One, To::OneOf),
    ("prefixItems", Form::List, To::OneOf),
    ("items", Form::One, To::OneOf),
    ("patternProperties", Form::Table, To::AllOf),
    ("contains", Form::One, To::AllOf),
    ("unevaluatedProperties", Form::One, To::AllOf),
    ("unevaluatedItems", Form::One, To::AllOf),
];
/// References; within one schema the dynamic one is like the other.
const REFERENCES: [&str; 2] = ["$ref", "$dynamicRef"];

/// One subschema.
#[derive(Debug, Default)]
pub(super) struct Node {
    /// Steps for each part of a value to which it is applied.
    pub(super) own: u64,
    /// Steps for each part of all that is within such a value.
    pub(super) within: u64,
    /// Subschemas that are applied to the same value, and stand in this subschema.
    pub(super) in_place: Vec<usize>,
    /// Subschemas that are applied to the same value, and stand elsewhere.
    pub(super) references: Vec<usize>,
    /// Subschemas of which a value within has one.
    pub(super) one_of: Vec<usize>,
    /// Subschemas of which a value within may have all.
    pub(super) all_of: Vec<usize>,
    /// Whether what its subschemas left over has to be found out.
    pub(super) unevaluated: bool,
}

/// A schema's subschemas; the first is the schema itself.
#[derive(Debug)]
pub(super) struct Graph {
    pub(super) nodes: Vec<Node>,
    /// The memory of its patterns, in bytes.
    pub(super) pattern_bytes: u64,
    /// Whether there are alternatives: where none of them fits, all that is wrong with each is collected.
    pub(super) has_alternatives: bool,
}

impl Graph {
    /// The graph of a schema that is nested in bounds.
    pub(super) fn of(schema: &Value) -> Result<Self, SchemaError> {
        let mut reader = Reader {
            schema,
            anchors: BTreeMap::new(),
            known: HashMap::new(),
            waiting: VecDeque::new(),
            has_alternatives: false,
        };
        reader.read_anchors(schema);
        let mut patterns = Patterns::default();
        let mut nodes = Vec::new();
        reader.number(schema)?;
        while let Some(value) = reader.waiting.pop_front() {
            nodes.push(match value {
                Value::Object(keywords) => reader.node(keywords, &mut patterns)?,
                _ => Node { own: STEPS_OF_ONE, ..Node::default() },
            });
        }
        Ok(Self { nodes, pattern_bytes: patterns.bytes(), has_alternatives: reader.has_alternatives })
    }
}

struct Reader<'a> {
    schema: &'a Value,
    anchors: BTreeMap<&'a str, &'a Value>,
    /// The numbers of subschemas, by where they are.
    known: HashMap<*const Value, usize>,
    waiting: VecDeque<&'a Value>,
    has_alternatives: bool,
}

impl<'a> Reader<'a> {
    /// Anchors may stand anywhere; the first of a name has it.
    fn read_anchors(&mut self, value: &'a Value) {
        match value {
            Value::Object(object) => {
                for key in ["$anchor", "$dynamicAnchor"] {
                    if let Some(name) = object.get(key).and_then(Value::as_str) {
                        self.anchors.entry(name).or_insert(value);
                    }
                }
                object.values().for_each(|value| self.read_anchors(value));
            }
            Value::Array(items) => items.iter().for_each(|value| self.read_anchors(value)),
            _ => {}
        }
    }

    fn number(&mut self, value: &'a Value) -> Result<usize, SchemaError> {
        let next = self.known.len();
        let number = *self.known.entry(std::ptr::from_ref(value)).or_insert(next);
        if number == next {
            if next >= MAX_SUBSCHEMAS {
                return Err(SchemaError::TooManySubschemas);
            }
            self.waiting.push_back(value);
        }
        Ok(number)
    }

    fn node(&mut self, keywords: &'a Map<String, Value>, patterns: &mut Patterns<'a>) -> Result<Node, SchemaError> {
        let mut node = Node { own: STEPS_OF_ONE, ..Node::default() };
        for (keyword, value) in keywords {
            node.own = node.own.saturating_add(1);
            let keyword = keyword.as_str();
            if let Some((_, form, to)) = APPLICATORS.iter().find(|(name, ..)| *name == keyword) {
                let into = match to {
                    To::Same => &mut node.in_place,
                    To::OneOf => &mut node.one_of,
                    To::AllOf => &mut node.all_of,
                };
                self.subschemas(value, *form, into, &mut node.own)?;
            } else if REFERENCES.contains(&keyword) {
                node.references.push(self.referred(value)?);
            }
            self.has_alternatives |= ["anyOf", "oneOf"].contains(&keyword);
            match (keyword, value) {
                ("unevaluatedProperties" | "unevaluatedItems", _) => node.unevaluated = true,
                ("patternProperties", Value::Object(table)) => {
                    for pattern in table.keys() {
                        node.own = node.own.saturating_add(patterns.add(pattern)?);
                    }
                }
                ("pattern", Value::String(pattern)) => {
                    node.own = node.own.saturating_add(patterns.add(pattern)?);
                }
                ("enum" | "const" | "required" | "dependentRequired" | "dependencies", value) => {
                    node.own = node.own.saturating_add(size(value) / BYTES_OF_A_STEP);
                }
                ("uniqueItems", _) => node.within = STEPS_OF_UNIQUE,
                // Below it the same names would mean something else.
                ("$id", Value::String(_)) if !std::ptr::eq(keywords, as_object(self.schema)) => {
                    return Err(SchemaError::NestedId);
                }
                _ => {}
            }
        }
        if node.within > 0 {
            node.own = node.own.saturating_add(node.within);
        }
        Ok(node)
    }

    /// Numbers the subschemas of a keyword. Each is looked for, so it is a step.
    fn subschemas(
        &mut self,
        value: &'a Value,
        form: Form,
        into: &mut Vec<usize>,
        own: &mut u64,
    ) -> Result<(), SchemaError> {
        let of: Vec<&Value> = match (form, value) {
            (Form::List, Value::Array(items)) => items.iter().collect(),
            (Form::Table, Value::Object(table)) => table.values().collect(),
            (_, one) => vec![one],
        };
        *own = own.saturating_add(u64::try_from(of.len()).unwrap_or(u64::MAX));
        for subschema in of {
            into.push(self.number(subschema)?);
        }
        Ok(())
    }

    fn referred(&mut self, reference: &Value) -> Result<usize, SchemaError> {
        let reference = reference.as_str().unwrap_or_default();
        let target = self.find(reference);
        let target = target.ok_or_else(|| SchemaError::Reference(reference.chars().take(160).collect()))?;
        self.number(target)
    }

    fn find(&self, reference: &str) -> Option<&'a Value> {
        let fragment = decoded(reference.strip_prefix('#')?)?;
        if fragment.is_empty() {
            return Some(self.schema);
        }
        let Some(pointer) = fragment.strip_prefix('/') else { return self.anchors.get(fragment.as_str()).copied() };
        let mut at = self.schema;
        for part in pointer.split('/') {
            at = match at {
                Value::Object(object) => object.get(&part.replace("~1", "/").replace("~0", "~"))?,
                Value::Array(items) => items.get(part.parse::<usize>().ok()?)?,
                _ => return None,
            };
            if as_object(at).get("$id").is_some_and(Value::is_string) {
                return None;
            }
        }
        Some(at)
    }
}

fn as_object(value: &Value) -> &Map<String, Value> {
    static NOTHING: std::sync::OnceLock<Map<String, Value>> = std::sync::OnceLock::new();
    value.as_object().unwrap_or_else(|| NOTHING.get_or_init(Map::new))
}

/// A fragment without its percent signs.
fn decoded(fragment: &str) -> Option<String> {
    if !fragment.contains('%') {
        return Some(fragment.to_owned());
    }
    let mut bytes = Vec::with_capacity(fragment.len());
    let mut rest = fragment.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

/// How many values and names a schema has.
pub(super) fn values(value: &Value) -> u64 {
    match value {
        Value::Array(items) => items.iter().fold(1, |sum: u64, item| sum.saturating_add(values(item))),
        Value::Object(object) => {
            object.values().fold(1, |sum: u64, item| sum.saturating_add(1).saturating_add(values(item)))
        }
        _ => 1,
    }
}

/// About the bytes of a value as JSON.
pub(super) fn size(value: &Value) -> u64 {
    let length = |text: &str| u64::try_from(text.len()).unwrap_or(u64::MAX).saturating_add(BYTES_OF_A_STEP);
    match value {
        Value::String(text) => length(text),
        Value::Array(items) => items.iter().fold(BYTES_OF_A_STEP, |sum, item| sum.saturating_add(size(item))),
        Value::Object(object) => object
            .iter()
            .fold(BYTES_OF_A_STEP, |sum, (key, item)| sum.saturating_add(length(key)).saturating_add(size(item))),
        _ => BYTES_OF_A_STEP,
    }
}
