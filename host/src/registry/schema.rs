//! The JSON Schemas of a tool, compiled once when its component is loaded, checked at every call.
//!
//! Schemas come from guests: they are bounded in size and depth, may not refer outside themselves (nothing is ever fetched), and their patterns run on an
//! engine without backtracking.

use std::sync::Arc;

use serde_json::{Map, Value};

/// Largest schema, in bytes of JSON.
pub const MAX_SCHEMA_BYTES: usize = 256 << 10;
/// Deepest nesting of a schema.
const MAX_SCHEMA_DEPTH: usize = 64;
/// Largest compiled pattern, in bytes.
const MAX_PATTERN_BYTES: usize = 1 << 20;

/// A schema with its compiled form.
#[derive(Debug, Clone)]
pub struct Schema {
    /// The schema as the component gave it.
    pub json: Arc<Map<String, Value>>,
    validator: Arc<jsonschema::Validator>,
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
}

/// A value that does not match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// JSON pointer to the place in the value.
    pub path: String,
    /// What is wrong there.
    pub reason: String,
}

/// The dialects with the meaning that we give a schema. Absent means 2020-12.
const DIALECTS: [&str; 2] =
    ["https://json-schema.org/draft/2020-12/schema", "http://json-schema.org/draft/2020-12/schema"];

impl Schema {
    /// Parses and compiles a schema that a component wrote.
    pub fn parse(text: &str) -> Result<Self, SchemaError> {
        if text.len() > MAX_SCHEMA_BYTES {
            return Err(SchemaError::TooLarge(text.len()));
        }
        Self::compile(serde_json::from_str(text).map_err(|error| SchemaError::NotJson(error.to_string()))?)
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
        let validator = jsonschema::options()
            .with_draft(jsonschema::Draft::Draft202012)
            .with_pattern_options(jsonschema::PatternOptions::regex().size_limit(MAX_PATTERN_BYTES))
            .build(&json)
            .map_err(|error| SchemaError::Invalid(error.to_string()))?;
        let Value::Object(json) = json else { return Err(SchemaError::NotAnObject) };
        Ok(Self { json: Arc::new(json), validator: Arc::new(validator) })
    }

    /// Checks a value; the first thing wrong with it.
    pub fn check(&self, value: &Value) -> Result<(), Mismatch> {
        self.validator.validate(value).map_err(|error| Mismatch {
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

    #[test]
    fn hostile_schemas_are_refused() {
        let deep = (0..80).fold(json!({}), |inner, _| json!({ "not": inner }));
        for (schema, says) in [
            (json!(true).to_string(), "must be an object schema"),
            ("{".to_owned(), "not JSON"),
            (json!({ "type": "object", "properties": { "a": deep } }).to_string(), "nested deeper"),
            (
                json!({ "type": "object", "properties": { "a": { "$ref": "http://127.0.0.1/x" } } }).to_string(),
                "not a valid JSON Schema",
            ),
            (
                json!({ "type": "object", "properties": { "a": { "$ref": "file:///etc/passwd" } } }).to_string(),
                "not a valid JSON Schema",
            ),
            (json!({ "type": "object", "$schema": "http://json-schema.org/draft-07/schema#" }).to_string(), "dialect"),
            (json!({ "type": "object", "properties": 7 }).to_string(), "not a valid JSON Schema"),
            (
                json!({ "type": "object", "properties": { "a": { "pattern": "(a{1000}){1000}" } } }).to_string(),
                "not a valid JSON Schema",
            ),
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
        assert_eq!(schema.check(&json!({ "items": [1] })), Ok(()));
        assert_eq!(schema.check(&json!({ "items": [1, 9] })).expect_err("too large").path, "/items/1");
        let missing = schema.check(&json!({})).expect_err("missing");
        assert!(missing.reason.contains("items"), "{missing:?}");
    }
}
