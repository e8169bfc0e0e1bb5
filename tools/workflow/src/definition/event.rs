//! The event that a step waits for.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// Longest part of a topic, on each side of its slash, in bytes.
const MAX_NAME_BYTES: usize = 64;
/// Longest key of an event, in bytes.
const MAX_KEY_BYTES: usize = 256;

/// An event of a component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EventWanted {
    /// Its topic: `<component>/<name>`.
    pub topic: String,
    /// Its key: at most 256 bytes, or a number; any key if absent.
    #[serde(default, deserialize_with = "key", skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// A key as a text: a placeholder may stand for a number.
fn key<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    match Value::deserialize(from)? {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text)),
        Value::Number(number) => Ok(Some(number.to_string())),
        _ => Err(serde::de::Error::custom("the key of an event is a text or a number")),
    }
}

impl EventWanted {
    /// What is wrong with it, if anything.
    pub fn fault(&self) -> Option<String> {
        let is_name = |name: &str| {
            (1..=MAX_NAME_BYTES).contains(&name.len())
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
        };
        let is_topic = self.topic.split_once('/').is_some_and(|(of, name)| is_name(of) && is_name(name));
        if !is_topic {
            let shown: String = self.topic.chars().take(160).collect();
            return Some(format!("{shown:?} is no topic: a topic is `<component>/<name>`"));
        }
        let is_long = self.key.as_ref().is_some_and(|key| key.len() > MAX_KEY_BYTES);
        is_long.then(|| format!("the key of an event has at most {MAX_KEY_BYTES} bytes"))
    }
}
