//! Answers that say in themselves whether they are a success: for contracts in which a failure of the domain is a result, not an error.

use std::marker::PhantomData;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{Error, Output, output::IntoOutput};

/// The name of the flag that begins an envelope.
pub trait Flag {
    /// The property's name.
    const NAME: &'static str;
}

/// `success`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Success;

impl Flag for Success {
    const NAME: &'static str = "success";
}

/// `ok`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IsOk;

impl Flag for IsOk {
    const NAME: &'static str = "ok";
}

/// A failure that a tool gives as a result.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// Why, for a reader or as a word of a contract.
    pub error: String,
    /// More properties, such as the id that was asked for.
    pub more: Map<String, Value>,
}

impl Failure {
    /// A failure for this reason.
    pub fn new(error: impl ToString) -> Self {
        Self { error: error.to_string(), more: Map::new() }
    }

    /// The same with one more property.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.more.insert(name.to_owned(), value.into());
        self
    }
}

/// `{"success": true, …}` with the properties of `T`, or `{"success": false, "error": …, …}`. A tool that returns it has an output schema that says both.
///
/// ```
/// use mcpp_tool::{Envelope, Failure, tool};
///
/// #[derive(serde::Serialize, schemars::JsonSchema)]
/// struct Half { half: i64 }
///
/// /// Halves an even number.
/// #[tool(read_only)]
/// fn halve(number: i64) -> Envelope<Half> {
///     match number % 2 {
///         0 => Ok(Half { half: number / 2 }).into(),
///         _ => Err(Failure::new("the number is odd").with("number", number)).into(),
///     }
/// }
/// # mcpp_tool::export!(halve);
/// assert_eq!(halve(4).into_result().map(|half| half.half), Ok(2));       // {"success":true,"half":2}
/// assert!(halve(5).into_result().is_err_and(|failure| failure.error == "the number is odd"));
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope<T, F = Success> {
    result: Result<T, Failure>,
    flag: PhantomData<F>,
}

impl<T, F> Envelope<T, F> {
    /// The answer without its envelope.
    ///
    /// # Errors
    /// The failure, if it is one.
    pub fn into_result(self) -> Result<T, Failure> {
        self.result
    }
}

impl<F> Envelope<Map<String, Value>, F> {
    /// An answer without a type of its own: the properties of an object, or another value as the property `result`.
    pub fn of_json(result: Result<Value, Failure>) -> Self {
        let fields = |value| match value {
            Value::Object(fields) => fields,
            other => Map::from_iter([("result".to_owned(), other)]),
        };
        result.map(fields).into()
    }
}

impl<T, F> From<Result<T, Failure>> for Envelope<T, F> {
    fn from(result: Result<T, Failure>) -> Self {
        Self { result, flag: PhantomData }
    }
}

/// The properties of a value that is an object stand beside the flag; another value is the property `result`.
impl<T: Serialize + JsonSchema, F: Flag> IntoOutput for Envelope<T, F> {
    fn output_schema() -> Option<Value> {
        let mut success = T::output_schema()?;
        let parts = success.as_object_mut()?;
        let definitions = parts.remove("$defs");
        ["type", "description", "additionalProperties"].into_iter().for_each(|word| drop(parts.remove(word)));
        let mut schema = json!({
            "type": "object",
            "properties": { F::NAME: { "type": "boolean" } },
            "required": [F::NAME],
            "if": { "properties": { F::NAME: { "const": true } } },
            "else": { "properties": { "error": { "type": "string" } }, "required": ["error"] },
        });
        if let Some(schema) = schema.as_object_mut() {
            // A type that allows any properties says nothing of a success.
            if success.as_object().is_some_and(|success| !success.is_empty()) {
                schema.insert("then".into(), success);
            }
            if let Some(definitions) = definitions {
                schema.insert("$defs".into(), definitions);
            }
        }
        Some(schema)
    }

    fn into_output(self) -> Result<Output, Error> {
        let mut fields = Map::from_iter([(F::NAME.to_owned(), json!(self.result.is_ok()))]);
        match self.result {
            Ok(value) => match serde_json::to_value(value)? {
                Value::Object(more) => fields.extend(more),
                other => drop(fields.insert("result".into(), other)),
            },
            Err(Failure { error, more }) => {
                fields.insert("error".into(), error.into());
                fields.extend(more);
            }
        }
        Ok(Output { content: Vec::new(), structured: Some(Value::Object(fields)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_is_no_object_is_a_property_and_the_schema_says_both_outcomes() {
        let schema = <Envelope<u8, IsOk> as IntoOutput>::output_schema().expect("a schema");
        assert_eq!(schema["then"]["properties"]["result"]["maximum"], 255, "{schema}");
        assert_eq!((&schema["required"][0], &schema["else"]["required"][0]), (&json!("ok"), &json!("error")));
        let structured = |envelope: Envelope<u8, IsOk>| envelope.into_output().expect("an output").structured;
        assert_eq!(structured(Ok(7).into()), Some(json!({ "ok": true, "result": 7 })));
        let failed = Envelope::from(Err(Failure::new("no").with("number", 3)));
        assert_eq!(structured(failed), Some(json!({ "ok": false, "error": "no", "number": 3 })));
    }
}
