//! Schemas and values at random: the bound of a check's cost, which is known before the check, holds.
//!
//! Each subschema of a case counts how often it is looked at. That is work which can be counted without a clock; the bound is in steps, of which each look takes several.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use jsonschema::{Draft, Keyword, ValidationError};
use mcpp::schema::Schema;
use serde_json::{Map, Value, json};

use super::random::Random;

/// The keyword that counts.
const COUNTS: &str = "x-counts";
/// A case whose bound is above this is not checked: that would take long, which is what the bound says.
const MAX_STEPS: u64 = 20_000_000;

/// A schema and a value for it.
#[derive(Debug)]
pub struct Case {
    pub schema: Value,
    pub value: Value,
}

/// The outcome of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The schema is refused, by name.
    Refused,
    /// The check is refused, as its bound is too high.
    TooMuch,
    /// It was checked, within its bound.
    Held,
}

impl Case {
    pub fn parse(text: &str) -> Self {
        let mut case: Value = serde_json::from_str(text).expect("JSON");
        Self { schema: case["schema"].take(), value: case["value"].take() }
    }

    pub fn random(random: &mut Random) -> Self {
        let names = random.below(6) + 1;
        let mut schema = subschema(random, 3, names);
        schema["type"] = json!("object");
        let definitions = (0..names).map(|n| (format!("d{n}"), subschema(random, 2, names))).collect::<Map<_, _>>();
        schema["$defs"] = Value::Object(definitions);
        Self { schema, value: Value::Object((0..3).map(|n| (name(n), value(random, 5))).collect()) }
    }

    /// A case with a value that is large enough to be timed. Mostly its schema takes everything, so that nothing ends the check early.
    pub fn large(random: &mut Random) -> Self {
        let Self { mut schema, value } = if random.below(2) == 0 { Self::random(random) } else { Self::flat(random) };
        if random.below(5) > 0 {
            take_everything(&mut schema);
            schema["type"] = json!("object");
        }
        Self { schema, value: grown(value, random, 0) }
    }

    /// A few subschemas for many values: here the bound is the nearest to what is done.
    fn flat(random: &mut Random) -> Self {
        let of_items = if random.below(2) == 0 { subschema(random, 1, 1) } else { single(random) };
        let of_members = single(random);
        let schema = json!({
            "properties": { "a": { "items": of_items, COUNTS: true } }, "additionalProperties": of_members,
            "$defs": { "d0": { COUNTS: true } }, COUNTS: true, "type": "object",
        });
        let items: Vec<Value> = (0..40).map(|_| value(random, 1)).collect();
        let members = (0..random.below(200)).map(|n| (format!("m{n}"), value(random, 1)));
        let members: Map<_, _> = members.collect();
        Self {
            schema,
            value: Value::Object(Map::from_iter([("a".to_owned(), json!(items))]).into_iter().chain(members).collect()),
        }
    }

    pub fn json(&self) -> Value {
        json!({ "schema": self.schema, "value": self.value })
    }

    /// Whether the bound holds.
    pub fn run(&self) -> Outcome {
        let Ok(schema) = Schema::parse(&self.schema.to_string()) else { return Outcome::Refused };
        let Ok(steps) = schema.steps(&self.value) else { return Outcome::TooMuch };
        if steps.whether.saturating_add(steps.why) > MAX_STEPS {
            return Outcome::TooMuch;
        }
        let looks = Arc::new(AtomicU64::new(0));
        let validator = counting(&self.schema, &looks);
        let is_valid = validator.is_valid(&self.value);
        let whether = looks.swap(0, Ordering::Relaxed);
        assert!(whether <= steps.whether, "{whether} looks in {} steps: {}", steps.whether, self.json());
        let _what_is_wrong = validator.validate(&self.value).is_ok();
        let why = looks.load(Ordering::Relaxed);
        assert!(why <= steps.whether.saturating_add(steps.why), "{why} looks in {steps:?}: {}", self.json());
        assert_eq!(schema.check(&self.value, u64::MAX).is_ok(), is_valid, "{}", self.json());
        Outcome::Held
    }

    /// How long checking takes for each step of its bound, in nanoseconds, at the fastest of three times: what else the machine does is not the check's. To find the bound,
    /// once over the value, is not in it. Nothing for a check in few steps, or one that takes no longer than to find its bound: those have another end.
    pub fn step_ns(&self) -> Option<f64> {
        let schema = Schema::parse(&self.schema.to_string()).ok()?;
        let steps = schema.steps(&self.value).ok().filter(|steps| (10_000..MAX_STEPS).contains(&steps.whether))?;
        let bound = fastest(|| drop(schema.steps(&self.value)));
        let check = fastest(|| drop(schema.check(&self.value, 0)));
        let alone = check.checked_sub(bound).filter(|alone| *alone > bound)?;
        Some(alone.as_secs_f64() * 1e9 / steps.whether as f64)
    }
}

fn fastest(work: impl Fn()) -> Duration {
    let once = || {
        let started = Instant::now();
        work();
        started.elapsed()
    };
    [once(), once(), once()].into_iter().min().unwrap_or_default()
}

struct Counts(Arc<AtomicU64>);

impl<'i> Keyword<'i> for Counts {
    fn validate(&self, _: &'i Value) -> Result<(), ValidationError<'i>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn is_valid(&self, _: &'i Value) -> bool {
        self.0.fetch_add(1, Ordering::Relaxed);
        true
    }
}

fn counting(schema: &Value, looks: &Arc<AtomicU64>) -> jsonschema::Validator {
    let looks = Arc::clone(looks);
    jsonschema::options()
        .with_draft(Draft::Draft202012)
        .with_pattern_options(jsonschema::PatternOptions::regex())
        .with_keyword(COUNTS, move |_, _, _| Ok(Box::new(Counts(Arc::clone(&looks)))))
        .build(schema)
        .expect("the host took it")
}

fn name(n: usize) -> String {
    ["a", "b", "c", "ab", "abc", "d"].get(n % 6).copied().unwrap_or("e").to_owned()
}

fn subschema(random: &mut Random, depth: usize, definitions: usize) -> Value {
    let mut schema = Map::from_iter([(COUNTS.to_owned(), json!(true))]);
    for _ in 0..random.below(3) + 1 {
        let mut inner = |random: &mut Random| match depth.checked_sub(1) {
            Some(depth) => subschema(random, depth, definitions),
            None => json!({ "$ref": format!("#/$defs/d{}", random.below(definitions)), COUNTS: true }),
        };
        let (keyword, value) = match random.below(25) {
            0 => ("properties", table(random, &mut inner)),
            1 => ("patternProperties", json!({ "^a": inner(random), "b$": inner(random) })),
            2 => ("additionalProperties", inner(random)),
            3 => ("propertyNames", json!({ "maxLength": 2, COUNTS: true })),
            4 => ("items", inner(random)),
            5 => ("prefixItems", json!([inner(random), inner(random)])),
            6 => ("contains", inner(random)),
            7 => ("allOf", json!([inner(random), inner(random)])),
            8 => ("anyOf", json!([inner(random), inner(random), inner(random)])),
            9 => ("oneOf", json!([inner(random), inner(random)])),
            10 => ("not", inner(random)),
            11 => ("if", inner(random)),
            12 => ("then", inner(random)),
            13 => ("dependentSchemas", table(random, &mut inner)),
            14 => ("unevaluatedProperties", inner(random)),
            15 => ("unevaluatedItems", inner(random)),
            16 => ("uniqueItems", json!(true)),
            17 => ("type", json!(["object", "array", "integer"])),
            18 => ("pattern", json!(["^(a|b)*c$", "(ab|bc|ca)+$", "[a-c]{1,20}d?$", r"\p{L}+$"][random.below(4)])),
            19 => ("enum", (0..random.below(20)).map(|_| value(random, 2)).collect()),
            20 => ("const", value(random, 2)),
            21 => ("required", (0..random.below(4)).map(name).collect()),
            22 => ("minLength", json!(random.below(5))),
            23 => ("multipleOf", json!(0.1)),
            _ => ("$ref", json!(format!("#/$defs/d{}", random.below(definitions)))),
        };
        schema.insert(keyword.to_owned(), value);
    }
    Value::Object(schema)
}

fn table(random: &mut Random, inner: &mut impl FnMut(&mut Random) -> Value) -> Value {
    Value::Object((0..random.below(3) + 1).map(|n| (name(n), inner(random))).collect())
}

fn value(random: &mut Random, depth: usize) -> Value {
    match (random.below(6), depth.checked_sub(1)) {
        (0 | 1, Some(depth)) => Value::Object((0..random.below(5)).map(|n| (name(n), value(random, depth))).collect()),
        (2 | 3, Some(depth)) => (0..random.below(5)).map(|_| value(random, depth)).collect(),
        (4, _) => json!("abc".repeat(random.below(4))),
        _ => json!(random.below(3)),
    }
}

/// A subschema with one keyword.
fn single(random: &mut Random) -> Value {
    let keywords = subschema(random, 0, 1);
    keywords
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(keyword, _)| *keyword != COUNTS)
        .take(1)
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect()
}

/// Makes each thing that a value could fail one of two alternatives.
fn take_everything(schema: &mut Value) {
    let strict = [
        "enum",
        "const",
        "required",
        "minLength",
        "multipleOf",
        "pattern",
        "type",
        "propertyNames",
        "not",
        "oneOf",
        "contains",
    ];
    match schema {
        Value::Array(items) => items.iter_mut().for_each(take_everything),
        Value::Object(members) => {
            members.values_mut().for_each(take_everything);
            let is_table = !members.contains_key(COUNTS);
            let strict = strict.iter().filter_map(|name| members.shift_remove_entry(*name).filter(|_| !is_table));
            let strict: Map<_, _> = strict.collect();
            if !strict.is_empty() && !members.contains_key("anyOf") {
                members.insert("anyOf".to_owned(), json!([strict, true]));
            }
        }
        _ => {}
    }
}

/// The value with longer texts, longer arrays and more members.
fn grown(value: Value, random: &mut Random, depth: usize) -> Value {
    match value {
        Value::String(text) if random.below(8) == 0 => json!(text.repeat(random.below(500))),
        Value::Array(items) => {
            let items: Vec<Value> = items.into_iter().map(|item| grown(item, random, depth + 1)).collect();
            let times = 1 + random.below([60, 60, 8].get(depth).copied().unwrap_or(1));
            std::iter::repeat_n(items, times).flatten().collect()
        }
        Value::Object(members) => {
            let more = (0..random.below(20)).map(|n| (format!("{}{n}", name(n)), json!(n)));
            let members: Map<_, _> =
                members.into_iter().map(|(name, item)| (name, grown(item, random, depth + 1))).collect();
            Value::Object(members.into_iter().chain(more).collect())
        }
        other => other,
    }
}
