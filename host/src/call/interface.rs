//! Which interface of a tool a caller knows: what it read before it called.

use std::{collections::BTreeMap, fmt};

use serde_json::Value;

/// Identifies the texts, hints and schemas of a tool, as clients of a host read them. The tool's name is not in it: the call says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InterfaceDigest(blake3::Hash);

impl InterfaceDigest {
    /// The digest of what clients read.
    pub fn of(read: &Value) -> Self {
        let mut hasher = blake3::Hasher::new();
        hash_json(read, &mut hasher);
        Self(hasher.finalize())
    }

    /// Reads a digest: 64 hexadecimal digits.
    pub fn read(text: &str) -> Option<Self> {
        blake3::Hash::from_hex(text).ok().map(Self)
    }
}

impl fmt::Display for InterfaceDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_hex())
    }
}

/// Hashes a value of JSON so that no other value gives the same bytes, in whatever order its members stand.
pub fn hash_json(value: &Value, hasher: &mut blake3::Hasher) {
    let mut text = |tag: u8, text: &str| {
        hasher.update(&[tag]);
        hasher.update(&text.len().to_le_bytes());
        hasher.update(text.as_bytes());
    };
    match value {
        Value::String(string) => text(b's', string),
        Value::Array(items) => {
            text(b'a', &items.len().to_string());
            items.iter().for_each(|item| hash_json(item, hasher));
        }
        Value::Object(members) => {
            text(b'o', &members.len().to_string());
            for (name, member) in members.iter().collect::<BTreeMap<_, _>>() {
                hasher.update(&name.len().to_le_bytes());
                hasher.update(name.as_bytes());
                hash_json(member, hasher);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => text(b'p', &value.to_string()),
    }
}
