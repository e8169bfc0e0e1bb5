//! What a workflow is made of: steps, as a client writes them. Only the form is here; [`validate`](crate::validate) says whether steps fit together.

mod event;
mod keys;
mod task;

use mcpp_tool::environment::parse_rfc3339;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Number, Value};

pub use self::{
    event::EventWanted,
    keys::{
        CACHE_TTL_S, Cache, Concurrency, MAX_CONCURRENCY, MAX_KEY_BYTES, MAX_KEY_TEXT_BYTES, MAX_RATE, RATE_PERIOD_S,
        Rate,
    },
    task::{MAX_TASK_TYPE_BYTES, SUBMIT, TASK, TASK_FIELDS, submission},
};

/// Most steps in one list, and so in one submission or planner's answer. All of one list are written in one transaction.
pub const MAX_STEPS: usize = 1_000;
/// Most steps that a run may have together with those that its steps add.
pub const MAX_RUN_STEPS: u32 = 10_000;
/// Most items of a fan-out.
pub const MAX_ITEMS: usize = 1_000;
/// How deep steps may stand within steps.
pub const MAX_DEPTH: u8 = 4;
/// Longest id of a step, in bytes.
pub const MAX_STEP_ID_BYTES: usize = 64;
/// Largest definition of a run, in bytes of JSON.
pub const MAX_DEFINITION_BYTES: usize = 512 << 10;
/// Most attempts of a step.
pub const MAX_ATTEMPTS: u32 = 1_000;
/// Longest time in a definition, in seconds: a year.
pub const MAX_TIME_S: f64 = 366.0 * 24.0 * 3_600.0;

/// Longest time that a step waits, in seconds: ten years.
pub const MAX_WAIT_S: f64 = 3_653.0 * 24.0 * 3_600.0;
/// Longest name of a signal, in bytes: it is part of keys in the store.
pub const MAX_SIGNAL_BYTES: usize = 200;
/// Largest step that runs once for each item, in bytes of JSON without its `for_each`: each item's node has it again.
pub const MAX_ITEM_STEP_BYTES: usize = 16 << 10;

/// Longest message of a form, and its longest schema, in bytes.
pub const MAX_FORM_BYTES: usize = 16 << 10;

/// The action of a step that waits.
pub const WAIT: &str = "wait";
/// The action of a step that is a workflow by itself.
pub const WORKFLOW: &str = "workflow";

/// One step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Its name: 1 to 64 of `a-z A-Z 0-9 _ -`.
    pub step_id: String,
    /// The tool that it calls; or `wait`, `task` or `workflow`.
    pub action: String,
    /// Arguments of the tool. `${steps.NAME.result.path}`, `${input.path}`, `${metadata.path}`, `${item}` and `${index}` stand for values.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub inputs: Map<String, Value>,
    /// Steps that must have ended before. A step in a placeholder is one of them by itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<String>,
    /// How often it is tried.
    #[serde(default, skip_serializing_if = "Retry::is_default")]
    pub retry: Retry,
    /// Longest time in seconds: of one attempt, of waiting for a signal, a token or an event, or of all steps of a `workflow` step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<f64>,
    /// The step is skipped unless this holds. Its dependents go on then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<Condition>,
    /// Runs the step once for each item of a list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_each: Option<ForEach>,
    /// Takes the step's effect back when the run fails or is cancelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<Undo>,
    /// The tool's answer has `steps`: they become part of the run.
    #[serde(default, skip_serializing_if = "is_false")]
    pub plan: bool,
    /// Lower is sooner, among the ready steps of all runs; the priority of the run, or of the step in which it stands, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<f64>,
    /// The run goes on if the step fails.
    #[serde(default, skip_serializing_if = "is_false")]
    pub may_fail: bool,
    /// At most so many steps of a key run at once. In a step with `for_each` this is of each item.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<Concurrency>,
    /// Steps of a key begin evenly. In a step with `for_each` this is of each item.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Takes the result of an earlier step with the same tool, arguments and rights. In a step with `for_each` this is of each item.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<Cache>,
}

impl Step {
    /// The step as each item of its fan-out has it.
    pub fn of_item(&self) -> Self {
        Self { for_each: None, when: None, depends_on: Vec::new(), ..self.clone() }
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

/// How often a step is tried, and when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Retry {
    /// Attempts in all.
    pub max_attempts: u32,
    /// Wait after the first failed attempt, in seconds.
    pub backoff_s: f64,
    /// How many times longer each further wait is.
    pub factor: f64,
    /// Longest wait, in seconds.
    pub max_backoff_s: f64,
    /// Part of a wait that is left to chance, 0 to 1.
    pub jitter: f64,
    /// An error that contains one of these texts is final.
    pub final_errors: Vec<String>,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            max_attempts: 1,
            backoff_s: 1.0,
            factor: 2.0,
            max_backoff_s: 300.0,
            jitter: 0.1,
            final_errors: Vec::new(),
        }
    }
}

impl Retry {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// When the next attempt begins after `attempts` of them have failed; none if there is none. `chance` is from 0 to below 1.
    pub fn next_ms(&self, attempts: u32, error: &str, now_ms: u64, chance: f64) -> Option<u64> {
        if attempts >= self.max_attempts || self.final_errors.iter().any(|text| error.contains(text)) {
            return None;
        }
        let doublings = i32::try_from(attempts.saturating_sub(1)).unwrap_or(i32::MAX);
        let wait_s = (self.backoff_s * self.factor.powi(doublings)).min(self.max_backoff_s);
        let wait_s = wait_s * (1.0 - self.jitter * chance);
        Some(now_ms.saturating_add(ms(wait_s)))
    }
}

/// Seconds in milliseconds; none below 0.
pub fn ms(seconds: f64) -> u64 {
    // A float becomes the nearest integer that there is.
    (seconds * 1_000.0).round() as u64
}

/// A condition on a value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// The value, with placeholders.
    pub value: Value,
    /// It holds if the value is this one, which may be null. Without `is`, `is_not` and `above` it holds for every value but null, false, 0, and what is empty.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub is: Option<Value>,
    /// It holds if the value is another one.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub is_not: Option<Value>,
    /// It holds if the value is a number above this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub above: Option<f64>,
}

/// A value that is there, null too.
fn given<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(from).map(Some)
}

/// Whether two values are the same. Numbers are compared by their values: 1 is 1.0.
fn are_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => match (whole(one), whole(other)) {
            (None, None) => one.as_f64() == other.as_f64(),
            (one, other) => one == other,
        },
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| are_same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            let has = |(name, value): (&String, &Value)| other.get(name).is_some_and(|other| are_same(value, other));
            one.len() == other.len() && one.iter().all(has)
        }
        (one, other) => one == other,
    }
}

/// A number that is whole and exactly known.
fn whole(number: &Number) -> Option<i128> {
    let exact = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
    // Beyond these a float is equal to no integer that JSON has here.
    let is_whole = |float: &f64| float.fract() == 0.0 && float.abs() < 1e30;
    exact.or_else(|| number.as_f64().filter(is_whole).map(|float| float as i128))
}

impl Condition {
    /// Whether it holds for a value.
    pub fn holds(&self, value: &Value) -> bool {
        let is_something = match value {
            Value::Null => false,
            Value::Bool(value) => *value,
            Value::Number(number) => number.as_f64() != Some(0.0),
            Value::String(text) => !text.is_empty(),
            Value::Array(items) => !items.is_empty(),
            Value::Object(fields) => !fields.is_empty(),
        };
        let is_bare = self.is.is_none() && self.is_not.is_none() && self.above.is_none();
        (!is_bare || is_something)
            && self.is.as_ref().is_none_or(|is| are_same(is, value))
            && self.is_not.as_ref().is_none_or(|is_not| !are_same(is_not, value))
            && self.above.is_none_or(|above| value.as_f64().is_some_and(|number| number > above))
    }
}

/// A step for each item of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ForEach {
    /// The list, or a placeholder for it: at most 1,000 items.
    pub items: Value,
    /// How many run at once, 1 to 100.
    #[serde(default = "ForEach::parallel")]
    pub parallel: u32,
    /// How many items must succeed.
    #[serde(default)]
    pub join: Join,
}

impl ForEach {
    fn parallel() -> u32 {
        8
    }
}

/// How many items of a fan-out must succeed. The step ends as soon as it is known whether they do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Join {
    /// All.
    #[default]
    All,
    /// One.
    Any,
    /// So many.
    AtLeast(u32),
}

impl Join {
    /// How many of `total` items must succeed.
    pub fn needed(self, total: u32) -> u32 {
        match self {
            Self::All => total,
            // Of no items at all, none can fail.
            Self::Any => total.min(1),
            Self::AtLeast(needed) => needed,
        }
    }

    /// Whether enough of `total` items have succeeded, or too many failed; none while that is open.
    pub fn decided(self, total: u32, succeeded: u32, failed: u32) -> Option<bool> {
        let needed = self.needed(total);
        if succeeded >= needed {
            Some(true)
        } else if total.saturating_sub(failed) < needed {
            Some(false)
        } else {
            None
        }
    }
}

/// How a step's effect is taken back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Undo {
    /// The tool that it calls.
    pub action: String,
    /// Arguments of the tool. `${result.path}` is the result of the step itself.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub inputs: Map<String, Value>,
    /// How often it is tried.
    #[serde(default = "Undo::retry")]
    pub retry: Retry,
}

impl Undo {
    fn retry() -> Retry {
        Retry { max_attempts: 5, ..Retry::default() }
    }
}

/// What a step that waits waits for: exactly one of the first five, and a form only with a signal.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Wait {
    /// So many seconds.
    pub seconds: Option<f64>,
    /// A time, as RFC 3339.
    pub until: Option<String>,
    /// A signal of this name: see `workflow_signal`.
    pub signal: Option<String>,
    /// The one-time token of the step, which its status shows: see `workflow_signal`.
    pub webhook: Option<bool>,
    /// An event that a component emits after the step began to wait.
    pub event: Option<EventWanted>,
    /// With `signal`: the user of a client that waits for the run is asked this, and the values of the form are the signal's payload.
    pub form: Option<Form>,
}

impl Wait {
    /// Whether it is a time, which needs no one else.
    pub fn is_time(&self) -> bool {
        self.seconds.is_some() || self.until.is_some()
    }

    /// What is wrong with it at a time in milliseconds since 1970-01-01 UTC, if anything; the field, and the reason.
    pub fn fault(&self, now_ms: u64) -> Option<(&'static str, String)> {
        let until = self.until.as_ref().map(|time| (time, parse_rfc3339(time)));
        let most_ms = now_ms.saturating_add(ms(MAX_WAIT_S));
        let signal = self.signal.as_ref().map(String::len);
        if self.seconds.is_some_and(|seconds| seconds > MAX_WAIT_S) {
            Some(("seconds", "a wait ends within ten years".into()))
        } else if let Some((time, None)) = until {
            Some(("until", format!("{:?} is no time as RFC 3339 has it", time.chars().take(100).collect::<String>())))
        } else if until.is_some_and(|(_, at_ms)| at_ms.is_some_and(|at_ms| at_ms > most_ms)) {
            Some(("until", "a wait ends within ten years".into()))
        } else if signal.is_some_and(|bytes| !(1..=MAX_SIGNAL_BYTES).contains(&bytes)) {
            Some(("signal", format!("a signal's name has 1 to {MAX_SIGNAL_BYTES} bytes")))
        } else if self.webhook == Some(false) {
            Some(("webhook", "it is true, or absent".into()))
        } else if let Some(fault) = self.event.as_ref().and_then(EventWanted::fault) {
            Some(("event", fault))
        } else if self.form.is_some() && signal.is_none() {
            Some(("form", "a form needs a signal, which is given when the user has answered".into()))
        } else {
            self.form.as_ref().and_then(Form::fault).map(|fault| ("form", fault.into()))
        }
    }

    /// How many of the five it waits for.
    pub fn count(&self) -> usize {
        let times = [self.seconds.is_some(), self.until.is_some()];
        let given = [self.signal.is_some(), self.webhook.is_some(), self.event.is_some()];
        times.into_iter().chain(given).filter(|given| *given).count()
    }
}

/// A form for the user of a client that waits for a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Form {
    /// What is asked and why: 1 byte to 16 KiB.
    pub message: String,
    /// JSON Schema of the values: an object whose properties are strings, numbers, booleans or choices. Without properties the user says yes or no.
    #[serde(default = "Form::no_fields")]
    pub schema: Value,
}

impl Form {
    fn no_fields() -> Value {
        mcpp_tool::deferred::no_fields()
    }

    /// What is wrong with it, if anything.
    pub fn fault(&self) -> Option<&'static str> {
        let is_object = self.schema.get("type").and_then(Value::as_str) == Some("object");
        let is_flat = |field: &Value| {
            let kinds = ["string", "number", "integer", "boolean", "array"];
            field.get("type").and_then(Value::as_str).is_some_and(|kind| kinds.contains(&kind))
        };
        let properties = self.schema.get("properties").and_then(Value::as_object);
        let has_properties = properties.is_some_and(|fields| fields.values().all(is_flat));
        if self.message.trim().is_empty() || self.message.len() > MAX_FORM_BYTES {
            Some("a form's message has 1 byte to 16 KiB")
        } else if !is_object || !has_properties || self.schema.to_string().len() > MAX_FORM_BYTES {
            Some("a form's schema is of an object with flat `properties`, and has at most 16 KiB")
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_condition_compares_null_and_numbers_by_value() {
        for (condition, value, holds) in [
            (json!({ "is": null }), json!(null), true),
            (json!({ "is": null }), json!(0), false),
            (json!({ "is_not": null }), json!(0), true),
            (json!({ "is_not": null }), json!(null), false),
            (json!({ "is": 1 }), json!(1.0), true),
            (json!({ "is": 1.0 }), json!(1), true),
            (json!({ "is_not": 1 }), json!(1.0), false),
            (json!({ "is": 0 }), json!(-0.0), true),
            (json!({ "is": 0.5 }), json!(0.5), true),
            (json!({ "is": 1 }), json!("1"), false),
            (json!({ "is": 9_007_199_254_740_993_u64 }), json!(9_007_199_254_740_992.0), false),
            (json!({ "is": [{ "a": 1 }] }), json!([{ "a": 1.0 }]), true),
            (json!({ "is": [{ "a": 1 }] }), json!([{ "b": 1 }]), false),
            (json!({}), json!(0), false),
            (json!({}), json!(2), true),
        ] {
            let mut whole = condition.clone();
            whole["value"] = json!("${input}");
            let read: Condition = serde_json::from_value(whole.clone()).expect("a condition");
            assert_eq!(read.holds(&value), holds, "{condition} of {value}");
            assert_eq!(serde_json::to_value(&read).expect("written"), whole, "as it was read");
        }
    }
}
