//! The payload of a task, as text: a claim or a completion neither reads it nor writes it anew.

use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

/// The data that a worker gets: JSON as it came. The queue carries it without a look into it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Payload(Box<RawValue>);

impl Payload {
    /// The payload with this value.
    pub fn of(value: &Value) -> Self {
        // A value has a JSON form.
        Self(serde_json::value::to_raw_value(value).unwrap_or_else(|_| RawValue::NULL.to_owned()))
    }

    /// How many bytes of JSON it has.
    pub fn bytes(&self) -> usize {
        self.0.get().len()
    }
}

impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        let value = |payload: &Self| serde_json::from_str::<Value>(payload.0.get()).ok();
        self.0.get() == other.0.get() || value(self) == value(other)
    }
}
