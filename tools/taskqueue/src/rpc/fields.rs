//! The fields of a request, most under several names. A value that the queue cannot use is refused with the field's name, never passed over.
//!
//! Numbers may come as text (`"9"`), times also as RFC 3339 (`"2099-01-01T00:00:00Z"`). Empty text and null count as nothing, as the protocol's clients send them.

use super::Failure;
use crate::{record::seconds, rules::Claim};
use mcpp_tool::environment::parse_rfc3339;
use scheduling::clock::VectorClock;
use serde::Deserialize;
use serde_json::{Map, Value};

/// The last second of the year 9999: later times have no RFC 3339 text.
const LAST_SECOND: f64 = 253_402_300_799.0;

/// The fields of a request, or of its payload.
#[derive(Clone, Copy)]
pub(super) struct Request<'a> {
    fields: &'a Map<String, Value>,
    within: &'static str,
}

/// A field under the name that the request uses.
struct Field<'a> {
    name: String,
    value: &'a Value,
}

impl Field<'_> {
    fn must_be<T>(&self, what: &str) -> Result<T, Failure> {
        Err(invalid(format!("`{}` must be {what}", self.name)))
    }
}

fn invalid(detail: String) -> Failure {
    Failure { error: "invalid_message", detail: Some(detail) }
}

impl<'a> Request<'a> {
    pub(super) fn new(fields: &'a Map<String, Value>) -> Self {
        Self { fields, within: "" }
    }

    /// The fields that the queue reads in a payload.
    pub(super) fn of_payload(fields: &'a Map<String, Value>) -> Self {
        Self { fields, within: "payload." }
    }

    /// The fields of one of many tasks.
    pub(super) fn of_task(fields: &'a Map<String, Value>) -> Self {
        Self { fields, within: "tasks." }
    }

    /// The fields of a line of a log.
    pub(super) fn of_line(fields: &'a Map<String, Value>) -> Self {
        Self { fields, within: "logs." }
    }

    fn field(&self, names: &[&str]) -> Option<Field<'a>> {
        names.iter().find_map(|name| {
            let value = self.fields.get(*name).filter(|value| !value.is_null() && *value != "")?;
            Some(Field { name: format!("{}{name}", self.within), value })
        })
    }

    /// The request itself, as the operation of this name.
    pub(super) fn whole_request(&self, op: &str) -> Value {
        let mut request = self.fields.clone();
        request.insert("op".into(), op.into());
        Value::Object(request)
    }

    /// A value of any type.
    pub(super) fn any(&self, name: &str) -> Option<&'a Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    /// A text, exactly as it is written.
    pub(super) fn text(&self, names: &[&str]) -> Result<Option<&'a str>, Failure> {
        let Some(field) = self.field(names) else { return Ok(None) };
        field.value.as_str().map_or_else(|| field.must_be("a string"), |text| Ok(Some(text)))
    }

    /// A word of the protocol, such as an operation: white space around it means nothing.
    pub(super) fn word(&self, name: &str) -> Result<Option<&'a str>, Failure> {
        Ok(self.text(&[name])?.map(str::trim))
    }

    pub(super) fn needs(&self, names: &[&str], missing: &'static str) -> Result<&'a str, Failure> {
        self.text(names)?.ok_or(Failure::of(missing))
    }

    /// A number.
    pub(super) fn number(&self, names: &[&str]) -> Result<Option<f64>, Failure> {
        let Some(field) = self.field(names) else { return Ok(None) };
        let number = field.value.as_f64().or_else(|| field.value.as_str().and_then(number_of));
        number.map_or_else(|| field.must_be("a number, such as 5 or \"5\""), |number| Ok(Some(number)))
    }

    /// A whole number from 0 on.
    pub(super) fn whole(&self, names: &[&str]) -> Result<Option<u64>, Failure> {
        let Some(field) = self.field(names) else { return Ok(None) };
        let number = match field.value {
            Value::Number(number) => number.as_u64().or_else(|| number.as_f64().and_then(whole_of)),
            Value::String(text) => text.parse().ok().or_else(|| number_of(text).and_then(whole_of)),
            _ => None,
        };
        number.map_or_else(|| field.must_be("a whole number from 0 on, such as 5 or \"5\""), |number| Ok(Some(number)))
    }

    /// A time, in milliseconds since 1970-01-01 UTC; 0 and what is before that for no time.
    pub(super) fn time_ms(&self, name: &str) -> Result<Option<u64>, Failure> {
        let Some(field) = self.field(&[name]) else { return Ok(None) };
        let seconds = match field.value {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => number_of(text).or_else(|| parse_rfc3339(text).map(seconds)),
            _ => None,
        };
        match seconds.filter(|seconds| *seconds <= LAST_SECOND) {
            Some(seconds) => Ok(Some((seconds.max(0.0) * 1_000.0) as u64)),
            None => field.must_be("a unix time in seconds up to the year 9999, or such as \"2026-11-26T12:00:00Z\""),
        }
    }

    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>, Failure> {
        let Some(field) = self.field(&[name]) else { return Ok(None) };
        field.value.as_bool().map_or_else(|| field.must_be("true or false"), |flag| Ok(Some(flag)))
    }

    /// A list of texts, or one text with commas. Only the commas' white space means nothing.
    pub(super) fn texts(&self, names: &[&str]) -> Result<Vec<String>, Failure> {
        let Some(field) = self.field(names) else { return Ok(Vec::new()) };
        let all = match field.value {
            Value::Array(items) => items.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
            Value::String(texts) => {
                let texts = texts.split(',').map(str::trim).filter(|text| !text.is_empty());
                Some(texts.map(str::to_owned).collect())
            }
            _ => None,
        };
        all.map_or_else(|| field.must_be("an array of strings, or one string with commas"), Ok)
    }

    /// A list of objects.
    pub(super) fn objects(&self, name: &str) -> Result<Vec<&'a Map<String, Value>>, Failure> {
        let Some(field) = self.field(&[name]) else { return Ok(Vec::new()) };
        let objects = field.value.as_array().and_then(|items| items.iter().map(Value::as_object).collect());
        objects.map_or_else(|| field.must_be("an array of objects"), Ok)
    }

    /// By what right a task is changed.
    pub(super) fn claim(&self) -> Result<Claim<'a>, Failure> {
        Ok(Claim { worker: self.text(&["worker_id", "assigned_worker"])?, token: self.whole(&["fencing_token"])? })
    }

    pub(super) fn clock(&self) -> Result<Option<VectorClock>, Failure> {
        let Some(field) = self.field(&["clock"]) else { return Ok(None) };
        VectorClock::deserialize(field.value).map(Some).map_err(|error| invalid(format!("`clock`: {error}")))
    }
}

/// A number that is written as text: digits, not words such as `inf`.
fn number_of(text: &str) -> Option<f64> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.' | b'e' | b'E'));
    text.parse().ok().filter(|number: &f64| is_number && number.is_finite())
}

/// A float that is a whole number, and surely that one.
fn whole_of(number: f64) -> Option<u64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    (number.fract() == 0.0 && (0.0..EXACT).contains(&number)).then_some(number as u64)
}
