//! JSON Schemas in words: a line for each parameter, with its type and its bounds.
//!
//! The words are for a person; what counts is the schema, which JSON output has whole. A schema may be hostile: how much of it is looked at is bounded.

use serde_json::{Map, Value};

/// Most schemas within one schema that are put in words.
const MAX_PARTS: usize = 300;
/// How deep schemas in schemas are put in words.
const MAX_DEPTH: usize = 6;
/// Most choices that are listed.
const MAX_CHOICES: usize = 12;
/// Longest words for one parameter, in characters.
const MAX_WORDS: usize = 300;
/// Longest description, in characters.
const MAX_DESCRIPTION: usize = 600;

/// A parameter of a tool: its name, and what it is.
pub(super) struct Parameter {
    pub(super) name: String,
    pub(super) words: String,
}

/// The parameters that a tool's input schema has.
pub(super) fn parameters(schema: &Value) -> Vec<Parameter> {
    let mut writer = SchemaSketch { root: schema, left: MAX_PARTS };
    let target = writer.resolve(schema);
    let Some(properties) = target.get("properties").and_then(Value::as_object) else { return Vec::new() };
    let required = required(target);
    let mut found = Vec::new();
    for (name, schema) in properties {
        let optional = if required.contains(&name.as_str()) { "" } else { ", optional" };
        let words = writer.write(schema, 0);
        let description = schema.get("description").and_then(Value::as_str).map(described);
        let description = description.map(|text| format!(": {text}")).unwrap_or_default();
        found.push(Parameter {
            name: name.clone(),
            words: format!("{}{optional}{description}", short(&words, MAX_WORDS)),
        });
    }
    found
}

/// The values that a schema allows, in words.
pub(super) fn words(schema: &Value) -> String {
    short(&SchemaSketch { root: schema, left: MAX_PARTS }.write(schema, 0), MAX_WORDS)
}

/// A description in one line.
pub(super) fn described(text: &str) -> String {
    short(&text.split_whitespace().collect::<Vec<_>>().join(" "), MAX_DESCRIPTION)
}

fn short(text: &str, most: usize) -> String {
    let mut short: String = text.chars().take(most).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

fn required(schema: &Value) -> Vec<&str> {
    schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}

struct SchemaSketch<'a> {
    root: &'a Value,
    left: usize,
}

impl<'a> SchemaSketch<'a> {
    /// The schema that one refers to, or itself.
    fn resolve(&self, mut schema: &'a Value) -> &'a Value {
        for _ in 0..MAX_DEPTH {
            let target = schema.get("$ref").and_then(Value::as_str).and_then(|target| target.strip_prefix('#'));
            match target.and_then(|target| self.root.pointer(target)) {
                Some(target) => schema = target,
                None => break,
            }
        }
        schema
    }

    fn write(&mut self, schema: &'a Value, depth: usize) -> String {
        let Some(left) = self.left.checked_sub(1).filter(|_| depth <= MAX_DEPTH) else { return "…".into() };
        self.left = left;
        let target = self.resolve(schema);
        let Some(fields) = target.as_object() else {
            return if target == &Value::Bool(false) { "nothing" } else { "anything" }.into();
        };
        let default = schema.get("default").or_else(|| fields.get("default"));
        let default = default.map(|default| format!(", {default} if absent")).unwrap_or_default();
        format!("{}{default}", self.kind(fields, depth))
    }

    fn kind(&mut self, fields: &'a Map<String, Value>, depth: usize) -> String {
        if let Some(value) = fields.get("const") {
            return value.to_string();
        }
        for choice in ["enum", "anyOf", "oneOf"] {
            if let Some(choices) = fields.get(choice).and_then(Value::as_array) {
                let mut written: Vec<String> = Vec::new();
                for one in choices.iter().take(MAX_CHOICES) {
                    written.push(if choice == "enum" { one.to_string() } else { self.write(one, depth + 1) });
                }
                if choices.len() > MAX_CHOICES {
                    written.push("…".into());
                }
                return written.join(" or ");
            }
        }
        match fields.get("type") {
            Some(Value::String(kind)) => self.of_type(kind, fields, depth),
            Some(Value::Array(kinds)) => {
                let kinds = kinds.iter().take(MAX_CHOICES).filter_map(Value::as_str);
                kinds.map(|kind| self.of_type(kind, fields, depth)).collect::<Vec<_>>().join(" or ")
            }
            _ => "anything".into(),
        }
    }

    fn of_type(&mut self, kind: &str, fields: &'a Map<String, Value>, depth: usize) -> String {
        match kind {
            "string" => text(fields),
            "integer" | "number" => format!("{kind}{}", range(fields, "minimum", "maximum", "")),
            "array" => self.list(fields, depth),
            "object" => self.object(fields, depth),
            other => other.to_owned(),
        }
    }

    fn list(&mut self, fields: &'a Map<String, Value>, depth: usize) -> String {
        if let Some(items) = fields.get("prefixItems").and_then(Value::as_array) {
            let items: Vec<String> = items.iter().take(MAX_CHOICES).map(|item| self.write(item, depth + 1)).collect();
            return format!("[{}]", items.join(", "));
        }
        let bounds = range(fields, "minItems", "maxItems", " items");
        match fields.get("items") {
            Some(items) => format!("list{bounds} of {}", self.write(items, depth + 1)),
            None => format!("list{bounds}"),
        }
    }

    fn object(&mut self, fields: &'a Map<String, Value>, depth: usize) -> String {
        let Some(properties) = fields.get("properties").and_then(Value::as_object) else {
            return match fields.get("additionalProperties") {
                Some(values) if values.is_object() => format!("object of {}", self.write(values, depth + 1)),
                _ => "object".into(),
            };
        };
        let required: Vec<&str> =
            fields.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        let mut written = Vec::new();
        for (name, schema) in properties.iter().take(MAX_CHOICES) {
            let optional = if required.contains(&name.as_str()) { "" } else { "?" };
            written.push(format!("{name}{optional}: {}", self.write(schema, depth + 1)));
        }
        if properties.len() > MAX_CHOICES {
            written.push("…".into());
        }
        format!("{{{}}}", written.join(", "))
    }
}

fn text(fields: &Map<String, Value>) -> String {
    let mut words = format!("string{}", range(fields, "minLength", "maxLength", " characters"));
    for (key, before) in [("format", ", a "), ("contentEncoding", " in "), ("pattern", " that matches ")] {
        if let Some(value) = fields.get(key).and_then(Value::as_str) {
            words.push_str(before);
            words.push_str(value);
        }
    }
    words
}

/// Bounds in words, with what they count.
fn range(fields: &Map<String, Value>, least: &str, most: &str, what: &str) -> String {
    match (fields.get(least), fields.get(most)) {
        (Some(least), Some(most)) if least == most => format!(" of {least}{what}"),
        (Some(least), Some(most)) => format!(" from {least} to {most}{what}"),
        (Some(least), None) => format!(" of at least {least}{what}"),
        (None, Some(most)) => format!(" of at most {most}{what}"),
        (None, None) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn schemas_are_told_in_words() {
        for (schema, expected) in [
            (json!(true), "anything"),
            (json!({ "type": "integer", "minimum": 0, "maximum": 255 }), "integer from 0 to 255"),
            (json!({ "type": "integer", "minimum": 0, "default": 1 }), "integer of at least 0, 1 if absent"),
            (json!({ "type": "string", "minLength": 1, "maxLength": 1 }), "string of 1 characters"),
            (json!({ "type": "string", "contentEncoding": "base64" }), "string in base64"),
            (json!({ "type": ["string", "null"] }), "string or null"),
            (json!({ "anyOf": [{ "type": "boolean" }, { "type": "null" }] }), "boolean or null"),
            (json!({ "type": "string", "enum": ["red", "green"] }), "\"red\" or \"green\""),
            (
                json!({ "type": "array", "items": { "type": "string" }, "maxItems": 3 }),
                "list of at most 3 items of string",
            ),
            (json!({ "type": "array", "prefixItems": [true, { "type": "string" }] }), "[anything, string]"),
            (
                json!({ "type": "object", "properties": { "id": { "type": "string" }, "n": { "$ref": "#/$defs/N" } }, "required": ["id"], "$defs": { "N": { "type": "number" } } }),
                "{id: string, n?: number}",
            ),
            (json!({ "type": "object", "additionalProperties": { "type": "integer" } }), "object of integer"),
            (
                json!({ "oneOf": [{ "const": "none" }, { "type": "object", "properties": { "only": {} }, "required": ["only"] }] }),
                "\"none\" or {only: anything}",
            ),
        ] {
            assert_eq!(words(&schema), expected, "{schema}");
        }
    }

    #[test]
    fn a_parameter_has_a_line() {
        let schema = json!({
            "type": "object", "required": ["name"],
            "properties": {
                "name": { "type": "string", "description": "Whom to\n greet." },
                "times": { "type": "integer", "minimum": 0, "maximum": 255, "default": 1 },
            },
        });
        let lines: Vec<String> = parameters(&schema)
            .into_iter()
            .map(|parameter| format!("{} {}", parameter.name, parameter.words))
            .collect();
        assert_eq!(lines, ["name string: Whom to greet.", "times integer from 0 to 255, 1 if absent, optional"]);
    }

    #[test]
    fn a_schema_that_goes_on_for_ever_ends() {
        let twice = json!({ "$ref": "#/$defs/A" });
        let schema = json!({ "$defs": { "A": { "anyOf": [twice, twice, twice, twice] } }, "$ref": "#/$defs/A" });
        assert!(words(&schema).chars().count() <= MAX_WORDS + 1);
        assert_eq!(words(&json!({ "$ref": "#" })), "anything");
        assert_eq!(described(&"x".repeat(10_000)).chars().count(), MAX_DESCRIPTION + 1);
    }
}
