//! What a tool's JSON Schemas say of arguments with placeholders, and of paths into results. A part that a placeholder stands for is not known yet, so this refuses only what no
//! value can mend; the host checks the arguments whole when the step runs.

use serde_json::{Map, Value};

use crate::placeholder::pointer;

/// How deep schemas are followed.
const MAX_DEPTH: usize = 32;

/// The schema behind `$ref`s within `root`.
fn resolve<'a>(root: &'a Value, mut schema: &'a Value) -> &'a Value {
    for _ in 0..MAX_DEPTH {
        let reference = schema.get("$ref").and_then(Value::as_str).and_then(|reference| reference.strip_prefix('#'));
        match reference.and_then(|pointer| root.pointer(pointer)) {
            Some(target) => schema = target,
            None => break,
        }
    }
    schema
}

/// Whether a text has a placeholder, so that its value is not known.
fn is_open(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.contains("${"))
}

/// Why a tool refuses arguments, with the JSON pointer below `at`; none if that cannot be said before the placeholders are filled.
pub fn refusal(schema: &Value, arguments: &Map<String, Value>, at: &str) -> Option<(String, String)> {
    object(schema, schema, arguments, at, 0)
}

fn object(
    root: &Value,
    schema: &Value,
    fields: &Map<String, Value>,
    at: &str,
    depth: usize,
) -> Option<(String, String)> {
    let properties = schema.get("properties").and_then(Value::as_object);
    let required = schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    if let Some(missing) = required.into_iter().find(|name| !fields.contains_key(*name)) {
        return Some((format!("{at}/{}", pointer(missing)), format!("{missing:?} is missing")));
    }
    let is_closed =
        schema.get("additionalProperties") == Some(&Value::Bool(false)) && schema.get("patternProperties").is_none();
    for (name, value) in fields {
        let place = format!("{at}/{}", pointer(name));
        match properties.and_then(|properties| properties.get(name)) {
            Some(schema) => {
                if let Some(refusal) = refuse(root, schema, value, &place, depth.saturating_add(1)) {
                    return Some(refusal);
                }
            }
            None if is_closed => return Some((place, format!("the tool has no parameter {name:?}"))),
            None => {}
        }
    }
    None
}

fn refuse(root: &Value, schema: &Value, value: &Value, at: &str, depth: usize) -> Option<(String, String)> {
    if depth > MAX_DEPTH || is_open(value) {
        return None;
    }
    let schema = resolve(root, schema);
    let types: Vec<&str> = match schema.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if !types.is_empty() && !types.iter().any(|name| is_of(value, name)) {
        return Some((at.to_owned(), format!("must be of type {}, and is {}", types.join(" or "), kind(value))));
    }
    let allowed = schema.get("enum").and_then(Value::as_array);
    if let Some(allowed) = allowed.filter(|allowed| !allowed.contains(value)) {
        return Some((at.to_owned(), format!("{value} is none of {}", Value::Array(allowed.clone()))));
    }
    if let Some(constant) = schema.get("const").filter(|constant| *constant != value) {
        return Some((at.to_owned(), format!("{value} is not {constant}")));
    }
    let all = schema.get("allOf").and_then(Value::as_array).into_iter().flatten();
    if let Some(refusal) = all.into_iter().find_map(|one| refuse(root, one, value, at, depth.saturating_add(1))) {
        return Some(refusal);
    }
    for word in ["oneOf", "anyOf"] {
        let choices = schema.get(word).and_then(Value::as_array);
        if let Some(refusal) = choices.and_then(|choices| refuse_all(root, choices, value, at, depth)) {
            return Some(refusal);
        }
    }
    match value {
        Value::Object(fields) => object(root, schema, fields, at, depth),
        Value::Array(items) => {
            let schema = schema.get("items")?;
            let refuse =
                |(number, item)| refuse(root, schema, item, &format!("{at}/{number}"), depth.saturating_add(1));
            items.iter().enumerate().find_map(refuse)
        }
        _ => None,
    }
}

/// Why each of several schemas refuses a value; none if one of them may take it.
fn refuse_all(root: &Value, choices: &[Value], value: &Value, at: &str, depth: usize) -> Option<(String, String)> {
    // An enum whose words have descriptions is a choice of constants.
    let constants: Option<Vec<Value>> = choices.iter().map(|one| one.get("const").cloned()).collect();
    if let Some(constants) = constants {
        let is_none = !constants.contains(value);
        return is_none.then(|| (at.to_owned(), format!("{value} is none of {}", Value::Array(constants))));
    }
    let refused: Option<Vec<_>> =
        choices.iter().map(|one| refuse(root, one, value, at, depth.saturating_add(1))).collect();
    // Something optional is also null: then the other schema's reason is the one.
    let is_null = |schema: &Value| resolve(root, schema).get("type").and_then(Value::as_str) == Some("null");
    let mut reasons = choices.iter().zip(refused?).filter(|(one, _)| !is_null(one)).map(|(_, reason)| reason);
    match (reasons.next(), reasons.next()) {
        (Some(reason), None) => Some(reason),
        _ => Some((at.to_owned(), format!("{} fits none of {} schemas", kind(value), choices.len()))),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn is_of(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        // A later word of JSON Schema: the host knows.
        _ => true,
    }
}

/// The first name of a path that no result by this schema has.
pub fn missing<'p>(schema: &Value, path: &'p [String]) -> Option<&'p str> {
    let mut place = schema;
    for name in path {
        place = resolve(schema, place);
        // What several schemas say together is the host's matter.
        let words = ["anyOf", "oneOf", "allOf", "if", "then", "else", "patternProperties", "prefixItems"];
        if words.iter().any(|word| place.get(word).is_some()) {
            return None;
        }
        if let Ok(_number) = name.parse::<usize>() {
            place = place.get("items")?;
            continue;
        }
        let properties = place.get("properties").and_then(Value::as_object);
        match properties.and_then(|properties| properties.get(name)) {
            Some(property) => place = property,
            // An object that names no property, or allows others, may have it.
            None if properties.is_none() => return None,
            None => match place.get("additionalProperties") {
                Some(Value::Bool(true) | Value::Object(_)) => return None,
                _ => return Some(name),
            },
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn arguments_are_refused_where_no_placeholder_can_mend_them() {
        let schema = json!({
            "type": "object",
            "properties": {
                "text": { "type": "string" },
                "times": { "type": ["integer", "null"] },
                "mode": { "$ref": "#/$defs/Mode" },
                "maybe": { "anyOf": [{ "$ref": "#/$defs/Mode" }, { "type": "null" }] },
                "either": { "anyOf": [{ "type": "integer" }, { "type": "object", "required": ["x"] }] },
                "both": { "allOf": [{ "$ref": "#/$defs/Mode" }, { "const": "a" }] },
                "word": { "oneOf": [{ "const": "x" }, { "const": "y" }] },
                "list": { "type": "array", "items": { "type": "object", "required": ["x"] } }
            },
            "required": ["text"],
            "additionalProperties": false,
            "$defs": { "Mode": { "enum": ["a", "b"] } }
        });
        let said = |arguments: Value| refusal(&schema, arguments.as_object().expect("an object"), "/inputs");
        for fits in [
            json!({ "text": "x" }),
            json!({ "text": "${input}", "times": "${index}", "list": "${input.l}" }),
            json!({ "text": "", "maybe": null, "either": 1, "both": "a" }),
            json!({ "text": "", "maybe": "b", "either": { "x": "${input}" } }),
            json!({ "text": "", "maybe": "${input}", "either": "${input}" }),
            json!({ "text": "", "times": null, "mode": "b", "list": [{ "x": 1 }] }),
        ] {
            assert_eq!(said(fits.clone()), None, "{fits}");
        }
        for (wrong, at) in [
            (json!({}), "/inputs/text"),
            (json!({ "text": 5 }), "/inputs/text"),
            (json!({ "text": "", "times": 1.5 }), "/inputs/times"),
            (json!({ "text": "", "mode": "c" }), "/inputs/mode"),
            (json!({ "text": "", "word": "z" }), "/inputs/word"),
            (json!({ "text": "", "maybe": "bogus" }), "/inputs/maybe"),
            (json!({ "text": "", "either": {} }), "/inputs/either"),
            (json!({ "text": "", "either": "x" }), "/inputs/either"),
            (json!({ "text": "", "both": "b" }), "/inputs/both"),
            (json!({ "text": "", "list": [{ "x": 1 }, {}] }), "/inputs/list/1/x"),
            (json!({ "text": "", "other": 1 }), "/inputs/other"),
        ] {
            assert_eq!(said(wrong.clone()).map(|(at, _)| at).as_deref(), Some(at), "{wrong}");
        }
    }

    #[test]
    fn a_path_that_no_result_has_is_found() {
        let schema = json!({
            "type": "object",
            "properties": { "hash": { "type": "string" }, "rows": { "type": "array", "items": { "properties": { "a": {} } } }, "any": {} }
        });
        let missing =
            |path: &str| missing(&schema, &path.split('.').map(str::to_owned).collect::<Vec<_>>()).map(str::to_owned);
        for there in ["hash", "rows.0.a", "any.x.y"] {
            assert_eq!(missing(there), None, "{there}");
        }
        assert_eq!(missing("digest").as_deref(), Some("digest"));
        assert_eq!(missing("rows.0.b").as_deref(), Some("b"));
    }
}
