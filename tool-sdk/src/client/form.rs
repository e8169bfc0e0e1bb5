//! The schema of a form: MCP allows an object of plain values, and schemas of Rust types say more.

use schemars::JsonSchema;
use serde_json::{Map, Value, json};

use crate::definition::settings;

/// The schema of a type as a form. An option is a question that need not be answered.
pub fn schema<T: JsonSchema>() -> Value {
    let mut settings = settings().for_deserialize();
    settings.inline_subschemas = true;
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    let Some(form) = schema.as_object_mut() else { return json!({ "type": "object", "properties": {} }) };
    form.retain(|key, _| matches!(key.as_str(), "type" | "properties" | "required"));
    if let Some(Value::Object(properties)) = form.get_mut("properties") {
        properties.values_mut().for_each(simplify);
    }
    form.entry("properties").or_insert_with(|| json!({}));
    schema
}

/// A question in words that clients know.
fn simplify(question: &mut Value) {
    let Some(members) = question.as_object_mut() else { return };
    without_null(members);
    as_choice(members);
    if let Some(items) = members.get_mut("items") {
        simplify(items);
    }
}

/// `null` stands for no answer, which needs no word.
fn without_null(members: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = members.get_mut("type") {
        types.retain(|of| of != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            members.insert("type".into(), only);
        }
    }
    if members.get("default") == Some(&Value::Null) {
        members.remove("default");
    }
    if let Some(Value::Array(choices)) = members.get_mut("enum") {
        choices.retain(|choice| !choice.is_null());
    }
    if let Some(Value::Array(variants)) = members.get_mut("anyOf") {
        variants.retain(|variant| variant.get("type").is_none_or(|of| of != "null"));
        if let [Value::Object(only)] = variants.as_slice() {
            let only = only.clone();
            members.remove("anyOf");
            for (name, value) in only {
                // What is said of the question goes before what is said of its type.
                members.entry(name).or_insert(value);
            }
        }
    }
}

/// Variants with comments are choices with titles.
fn as_choice(members: &mut Map<String, Value>) {
    let Some(Value::Array(variants)) = members.get("oneOf") else { return };
    let choices: Option<Vec<Value>> =
        variants.iter().map(choices_of).collect::<Option<Vec<_>>>().map(|all| all.concat());
    if let Some(choices) = choices {
        members.insert("type".into(), "string".into());
        members.insert("oneOf".into(), Value::Array(choices));
    }
}

fn choices_of(variant: &Value) -> Option<Vec<Value>> {
    let title = |choice: &Value| json!({ "const": choice, "title": variant.get("description").unwrap_or(choice) });
    match (variant.get("const"), variant.get("enum")) {
        (Some(choice @ Value::String(_)), _) => Some(vec![title(choice)]),
        (None, Some(Value::Array(choices))) => Some(choices.iter().map(title).collect()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize, JsonSchema)]
    #[expect(dead_code, reason = "only its schema counts")]
    struct Order {
        /// Who gets it.
        name: String,
        /// How many.
        count: Option<u8>,
        paid: bool,
        size: Size,
        colors: Vec<Color>,
        other: Option<Size>,
    }

    #[derive(Deserialize, JsonSchema)]
    enum Size {
        /// One person's.
        Small,
        /// A family's.
        Large,
    }

    #[derive(Deserialize, JsonSchema)]
    enum Color {
        Red,
        Blue,
    }

    #[test]
    fn a_type_is_a_form_of_plain_values() {
        let titled =
            json!([{ "const": "Small", "title": "One person's." }, { "const": "Large", "title": "A family's." }]);
        let expected = json!({
            "type": "object",
            "properties": {
                "name": { "description": "Who gets it.", "type": "string" },
                "count": { "description": "How many.", "type": "integer", "minimum": 0, "maximum": 255 },
                "paid": { "type": "boolean" },
                "size": { "type": "string", "oneOf": titled },
                "colors": { "type": "array", "items": { "type": "string", "enum": ["Red", "Blue"] } },
                "other": { "type": "string", "oneOf": titled },
            },
            "required": ["name", "paid", "size", "colors"],
        });
        assert_eq!(schema::<Order>(), expected);
    }
}
