//! JSON as text, and the memory that it takes parsed, known before the host parses it: up to a hundred times its text.

use serde_json::Value;

/// Most of an array's next element: vectors grow to twice their length.
const ELEMENT_BYTES: u64 = 2 * size_of::<Value>() as u64;
/// Most of an object's next member: its hash, its key and its value, and its place in the table.
const MEMBER_BYTES: u64 = 2 * (size_of::<Value>() as u64 + 48);
/// Most of an array with one element: room for four is made.
const ARRAY_BYTES: u64 = 4 * size_of::<Value>() as u64;
/// Most of an object with one member: room for three is made, and a table.
const OBJECT_BYTES: u64 = 4 * (size_of::<Value>() as u64 + 48) + 64;
/// The least that is allocated for a text.
const TEXT_BYTES: u64 = 16;

/// A value as JSON, written at once: `Display` writes the same in many small pieces.
pub fn json_text(value: &Value) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// The most that `text` takes, in bytes, while it is kept as text and as values.
pub fn json_bytes(text: &str) -> u64 {
    let mut bytes = u64::try_from(text.len()).unwrap_or(u64::MAX).saturating_mul(2).saturating_add(ELEMENT_BYTES);
    let (mut in_text, mut escaped) = (false, false);
    for byte in text.bytes() {
        let more = match byte {
            _ if escaped => {
                escaped = false;
                0
            }
            b'\\' if in_text => {
                escaped = true;
                0
            }
            b'"' => {
                in_text = !in_text;
                TEXT_BYTES / 2
            }
            _ if in_text => 0,
            b',' => MEMBER_BYTES.max(ELEMENT_BYTES),
            b'[' => ARRAY_BYTES,
            b'{' => OBJECT_BYTES,
            _ => 0,
        };
        bytes = bytes.saturating_add(more);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The least that a value holds.
    fn held(value: &Value) -> u64 {
        let inner: u64 = match value {
            Value::Array(items) => {
                let room = items.capacity().saturating_sub(items.len()) * size_of::<Value>();
                items.iter().map(held).sum::<u64>() + u64::try_from(room).expect("small")
            }
            Value::Object(members) => members
                .iter()
                .map(|(key, value)| held(value) + 56 + u64::try_from(key.capacity()).expect("small"))
                .sum(),
            Value::String(text) => u64::try_from(text.capacity()).expect("small"),
            _ => 0,
        };
        u64::try_from(size_of::<Value>()).expect("small") + inner
    }

    #[test]
    fn no_value_holds_more_than_its_text_told() {
        let many = |item: &str| format!("[{}]", vec![item; 1_000].join(","));
        for text in
            [many("0"), many("[]"), many("[0]"), many("{}"), many(r#"{"a":0}"#), many(r#""\",[{""#), many("[[[0]]]")]
        {
            let value: Value = serde_json::from_str(&text).expect("JSON");
            assert!(held(&value) <= json_bytes(&text), "{}", &text[..20]);
        }
        let prose = format!("\"{}\"", "a, b and [c]; ".repeat(1_000));
        assert!(
            json_bytes(&prose) < 3 * u64::try_from(prose.len()).expect("small"),
            "what stands in texts is no structure"
        );
    }
}
