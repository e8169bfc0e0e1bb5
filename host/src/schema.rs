//! The JSON Schemas of a tool, compiled once when its component is loaded, checked at every call.
//!
//! Schemas come from guests: they are bounded in size and depth, may not refer outside themselves (nothing is ever fetched), and their patterns run on an
//! engine without backtracking. The host knows the cost of compiling a schema, and of checking a value against it, before it does either ([`Steps`]).

mod cost;
mod graph;
mod known;
mod pattern;

use std::sync::Arc;

use serde_json::{Map, Value};

use self::cost::CheckCost;
pub use self::cost::Steps;

/// Largest schema, in bytes of JSON.
pub const MAX_SCHEMA_BYTES: usize = 256 << 10;
/// Steps of a check in a millisecond, at least: what is measured is several times that.
pub const STEPS_PER_MS: u64 = 50_000;
/// Deepest nesting of a schema.
const MAX_SCHEMA_DEPTH: usize = 64;
/// Most that is looked for when a value does not fit: each finding takes memory until the first of them is told.
const MAX_FINDINGS: u64 = 100_000;
/// Memory of a schema's JSON, by its bytes.
const TIMES_JSON: u64 = 4;
/// Memory of each value and name in it, however short. It is there several times: as it came, and in parts of what it is compiled to. Measured: 630 for the names of enums.
const VALUE_BYTES: u64 = 640;

/// A schema with its compiled form.
#[derive(Debug, Clone)]
pub struct Schema {
    /// The schema as the component gave it.
    pub json: Arc<Map<String, Value>>,
    compiled: Arc<CompiledSchema>,
}

#[derive(Debug)]
struct CompiledSchema {
    json: Arc<Map<String, Value>>,
    validator: jsonschema::Validator,
    cost: CheckCost,
    json_bytes: u64,
}

/// Why a schema is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// Too large.
    #[error("it has {0} bytes; at most {MAX_SCHEMA_BYTES} are allowed")]
    TooLarge(usize),
    /// Not JSON.
    #[error("it is not JSON: {0}")]
    NotJson(String),
    /// Not of an object.
    #[error("it must be an object schema (`\"type\": \"object\"`)")]
    NotAnObject,
    /// Too deep.
    #[error("it is nested deeper than {MAX_SCHEMA_DEPTH}")]
    TooDeep,
    /// Another dialect.
    #[error("its dialect `{0}` is not supported; use JSON Schema 2020-12")]
    Dialect(String),
    /// Not a valid schema.
    #[error("it is not a valid JSON Schema: {0}")]
    Invalid(String),
    /// A reference to elsewhere.
    #[error("it refers to {0:?}, which is not within it")]
    Reference(String),
    /// A schema within it has an identity of its own.
    #[error("a schema within it has an `$id`")]
    NestedId,
    /// Too many subschemas.
    #[error("it has more than {} subschemas", graph::MAX_SUBSCHEMAS)]
    TooManySubschemas,
    /// A subschema that never ends.
    #[error("a subschema applies itself to the same value")]
    AppliesItself,
    /// Too many subschemas for one value.
    #[error("its subschemas apply one another to the same value too deep")]
    AppliedTooDeep,
    /// The values that a subschema leaves over depend on itself.
    #[error("`unevaluatedProperties` or `unevaluatedItems` depends on itself through a reference")]
    LeavesItself,
    /// Using it costs too much.
    #[error("with its references followed, it costs too much to hold even an empty object to it")]
    TooCostly,
    /// Compiling it costs too much.
    #[error("with its references followed, it is too large to compile")]
    TooMuchToCompile,
    /// Too many patterns.
    #[error("it has more than {} patterns", pattern::MAX_PATTERNS)]
    TooManyPatterns,
    /// Its patterns are too large.
    #[error("its patterns are too large together")]
    Patterns,
}

/// A value that does not match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// JSON pointer to the place in the value.
    pub path: String,
    /// The error there.
    pub reason: String,
}

/// The dialects with the meaning that we give a schema. Absent means 2020-12.
const DIALECTS: [&str; 2] =
    ["https://json-schema.org/draft/2020-12/schema", "http://json-schema.org/draft/2020-12/schema"];

impl Schema {
    /// Parses and compiles a schema that a component wrote; one that is in use already serves here too.
    pub fn parse(text: &str) -> Result<Self, SchemaError> {
        if text.len() > MAX_SCHEMA_BYTES {
            return Err(SchemaError::TooLarge(text.len()));
        }
        let digest = blake3::hash(text.as_bytes());
        if let Some(known) = known::find(&digest) {
            return Ok(Self::of(known));
        }
        let json = serde_json::from_str(text).map_err(|error| SchemaError::NotJson(error.to_string()))?;
        let schema = Self::compile(json)?;
        known::note(digest, &schema.compiled);
        Ok(schema)
    }

    fn of(compiled: Arc<CompiledSchema>) -> Self {
        Self { json: Arc::clone(&compiled.json), compiled }
    }

    /// Compiles a schema.
    pub fn compile(json: Value) -> Result<Self, SchemaError> {
        if json.get("type").and_then(Value::as_str) != Some("object") {
            return Err(SchemaError::NotAnObject);
        }
        if depth_exceeds(&json, MAX_SCHEMA_DEPTH) {
            return Err(SchemaError::TooDeep);
        }
        if let Some(dialect) = json.get("$schema").and_then(Value::as_str)
            && !DIALECTS.contains(&dialect.trim_end_matches('#'))
        {
            return Err(SchemaError::Dialect(dialect.to_owned()));
        }
        let cost = CheckCost::of(&graph::Graph::of(&json)?)?;
        let patterns = jsonschema::PatternOptions::regex()
            .size_limit(pattern::MAX_PATTERN_BYTES)
            .dfa_size_limit(pattern::CACHE_BYTES);
        let validator = jsonschema::options()
            .with_draft(jsonschema::Draft::Draft202012)
            .with_pattern_options(patterns)
            .build(&json)
            .map_err(|error| SchemaError::Invalid(error.to_string()))?;
        let json_bytes = graph::size(&json).saturating_mul(TIMES_JSON);
        let json_bytes = json_bytes.saturating_add(graph::values(&json).saturating_mul(VALUE_BYTES));
        let Value::Object(json) = json else { return Err(SchemaError::NotAnObject) };
        Ok(Self::of(Arc::new(CompiledSchema { json: Arc::new(json), validator, cost, json_bytes })))
    }

    /// The memory that it takes, in bytes, on the safe side.
    pub fn memory_bytes(&self) -> u64 {
        self.compiled.json_bytes.saturating_add(self.compiled.cost.memory_bytes)
    }

    /// The cost of checking a value against the schema, known before the check.
    pub fn steps(&self, value: &Value) -> Result<Steps, Mismatch> {
        let refuse = |reason: &str| Mismatch { path: String::new(), reason: reason.to_owned() };
        let steps = self.compiled.cost.with(value).map_err(|_| refuse("it is nested too deep to be checked"))?;
        if steps.fits_a_stack() {
            Ok(steps)
        } else {
            Err(refuse("it is nested too deep for what its schema refers to"))
        }
    }

    /// Checks a value; the first thing wrong with it, where that can be found in `most` steps.
    pub fn check(&self, value: &Value, most: u64) -> Result<(), Mismatch> {
        self.check_counted(value, self.steps(value)?, most)
    }

    /// As [`Schema::check`], for a value whose `steps` are counted.
    pub fn check_counted(&self, value: &Value, steps: Steps, most: u64) -> Result<(), Mismatch> {
        if self.compiled.validator.is_valid(value) {
            return Ok(());
        }
        if steps.whether.saturating_add(steps.why) > most || steps.findings > MAX_FINDINGS {
            let reason = "it does not match its schema; it is too large to say where".to_owned();
            return Err(Mismatch { path: String::new(), reason });
        }
        self.compiled.validator.validate(value).map_err(|error| Mismatch {
            path: error.instance_path().to_string(),
            // The value itself may be large or private; the place and the rule are what the caller needs.
            reason: error.masked_with("the value").to_string(),
        })
    }
}

fn depth_exceeds(value: &Value, left: usize) -> bool {
    let Some(left) = left.checked_sub(1) else { return true };
    match value {
        Value::Array(items) => items.iter().any(|item| depth_exceeds(item, left)),
        Value::Object(object) => object.values().any(|item| depth_exceeds(item, left)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Each definition applies the next one twice; `beside` stands beside the first.
    fn chain(length: usize, beside: &Value) -> Value {
        let mut schema = beside.clone();
        schema["type"] = json!("object");
        schema["$ref"] = json!("#/$defs/d0");
        for n in 0..length {
            let next = json!({ "$ref": format!("#/$defs/d{}", n + 1) });
            schema["$defs"][format!("d{n}")] = json!({ "allOf": [next.clone(), next] });
        }
        schema["$defs"][format!("d{length}")] = json!({});
        schema
    }

    fn patterns(number: usize) -> Value {
        let patterns = (0..number).map(|n| (format!("^[a-z]{{3}}{n}$"), json!(true)));
        json!({ "type": "object", "patternProperties": patterns.collect::<Map<_, _>>() })
    }

    #[test]
    fn ordinary_schemas_are_taken_and_cheap() {
        let tree = json!({
            "type": "object", "$ref": "#/$defs/node", "unevaluatedProperties": false,
            "$defs": { "node": { "$anchor": "node", "properties": {
                "name": { "type": "string", "pattern": "^[a-z]+$" },
                "kind": { "enum": ["a", "b"] },
                "children": { "type": "array", "items": { "$ref": "#node" }, "uniqueItems": true },
            }, "required": ["name"] } },
        });
        let tree = Schema::compile(tree).expect("ordinary");
        let leaf = json!({ "name": "x", "kind": "a" });
        let value = json!({ "name": "root", "children": [leaf, { "name": "y", "children": [leaf] }] });
        assert_eq!(tree.check(&value, u64::MAX), Ok(()));
        let steps = tree.steps(&value).expect("a bound");
        assert!(steps.whether < 100_000, "{steps:?}");
        assert!(Schema::compile(patterns(100)).is_ok(), "as many as are allowed");
        let twins = json!({ "type": "object", "properties": { "a": { "$ref": "#/properties/b" }, "b": { "type": "integer" } } });
        let twins = Schema::compile(twins).expect("ordinary");
        assert!(twins.check(&json!({ "a": "x" }), u64::MAX).expect_err("no integer").path == "/a");
    }

    #[test]
    fn a_schema_that_branches_as_deep_as_its_value_has_a_bound_that_says_so() {
        let branching = json!({ "type": "object", "$defs": { "n": { "allOf": [
            { "properties": { "a": { "$ref": "#/$defs/n" } } }, { "properties": { "a": { "$ref": "#/$defs/n" } } },
        ] } }, "$ref": "#/$defs/n" });
        let schema = Schema::compile(branching).expect("it is cheap for what is flat");
        let nested = |depth: usize| (0..depth).fold(json!({}), |inner, _| json!({ "a": inner }));
        assert_eq!(schema.check(&nested(3), u64::MAX), Ok(()));
        let steps = |depth| schema.steps(&nested(depth)).expect("a bound").whether;
        assert!(steps(40) > 1 << 40 && steps(40) < 1 << 60, "{}", steps(40));
        assert_eq!(steps(90), u64::MAX, "sums do not wrap");
    }

    #[test]
    fn the_innermost_value_that_is_allowed_fits_the_stack() {
        let ladder = (0..20)
            .fold(json!({ "properties": { "a": { "$ref": "#/$defs/n" } } }), |inner, _| json!({ "allOf": [inner] }));
        let schema = json!({ "type": "object", "$ref": "#/$defs/n", "$defs": { "n": ladder } });
        let schema = Schema::compile(schema).expect("nested within bounds");
        let nested = |depth: usize| (0..depth).fold(json!({}), |inner, _| json!({ "a": inner }));
        let deepest = (0..120).take_while(|depth| schema.steps(&nested(*depth)).is_ok()).last().expect("some");
        assert!((20..60).contains(&deepest), "{deepest}");
        assert_eq!(schema.check(&nested(deepest), u64::MAX), Ok(()));
        let refused = schema.check(&nested(deepest + 1), u64::MAX).expect_err("too deep");
        assert!(refused.reason.contains("nested too deep"), "{refused:?}");
    }

    #[test]
    fn what_is_too_large_to_be_explained_is_refused_without() {
        let schema =
            Schema::compile(json!({ "type": "object", "properties": { "a": { "items": { "type": "string" } } } }))
                .expect("ordinary");
        let value = json!({ "a": [1, 2] });
        let steps = schema.steps(&value).expect("a bound");
        let all = steps.whether + steps.why;
        assert_eq!(schema.check(&value, all).expect_err("no strings").path, "/a/0");
        assert!(schema.check(&value, all - 1).expect_err("no strings").reason.contains("too large to say where"));
    }

    #[test]
    fn hostile_schemas_are_refused() {
        let deep = (0..80).fold(json!({}), |inner, _| json!({ "not": inner }));
        for (schema, says) in [
            (json!(true).to_string(), "must be an object schema"),
            ("{".to_owned(), "not JSON"),
            (json!({ "type": "object", "properties": { "a": deep } }).to_string(), "nested deeper"),
            (
                json!({ "type": "object", "properties": { "a": { "$ref": "http://127.0.0.1/x" } } }).to_string(),
                "not within it",
            ),
            (
                json!({ "type": "object", "properties": { "a": { "$ref": "file:///etc/passwd" } } }).to_string(),
                "not within it",
            ),
            (json!({ "type": "object", "$schema": "http://json-schema.org/draft-07/schema#" }).to_string(), "dialect"),
            (json!({ "type": "object", "properties": 7 }).to_string(), "not a valid JSON Schema"),
            (
                json!({ "type": "object", "properties": { "a": { "pattern": "(a{1000}){1000}" } } }).to_string(),
                "not a valid JSON Schema",
            ),
            (chain(40, &json!({})).to_string(), "apply one another to the same value too deep"),
            (chain(25, &json!({})).to_string(), "costs too much to hold even an empty object"),
            (chain(25, &json!({ "unevaluatedProperties": false })).to_string(), "too large to compile"),
            (json!({ "type": "object", "allOf": [{ "$ref": "#" }] }).to_string(), "applies itself to the same value"),
            (
                json!({ "type": "object", "properties": { "a": { "$id": "https://a.example", "$ref": "#" } } })
                    .to_string(),
                "has an `$id`",
            ),
            (
                json!({ "type": "object", "items": (0..20_001).map(|_| json!({})).collect::<Value>() }).to_string(),
                "not a valid",
            ),
            (
                json!({ "type": "object", "prefixItems": (0..20_001).map(|_| json!({})).collect::<Value>() })
                    .to_string(),
                "more than 20000 subschemas",
            ),
            (patterns(101).to_string(), "more than 100 patterns"),
            (json!({ "type": "object", "description": "x".repeat(MAX_SCHEMA_BYTES) }).to_string(), "at most"),
        ] {
            let error = Schema::parse(&schema).expect_err(&schema.chars().take(80).collect::<String>());
            assert!(error.to_string().contains(says), "{error} does not say {says:?}");
        }
    }

    #[test]
    fn a_mismatch_names_the_place() {
        let schema = Schema::compile(json!({
            "type": "object", "properties": { "items": { "type": "array", "items": { "type": "integer", "maximum": 5 } } }, "required": ["items"]
        }))
        .expect("valid");
        assert_eq!(schema.check(&json!({ "items": [1] }), u64::MAX), Ok(()));
        assert_eq!(schema.check(&json!({ "items": [1, 9] }), u64::MAX).expect_err("too large").path, "/items/1");
        let missing = schema.check(&json!({}), u64::MAX).expect_err("missing");
        assert!(missing.reason.contains("items"), "{missing:?}");
    }
}
