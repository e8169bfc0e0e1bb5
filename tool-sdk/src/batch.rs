//! Many calls of one tool at once: calls that wait anyway are served together, by one function, in one transaction.
//!
//! Name the function in `export!`. It gets the arguments of up to 32 calls of one caller, and gives an outcome for each, in their order: the one that the tool itself
//! would give. A call that nothing waits beside goes to the tool, and no call waits for others to come. The arguments are one type, as of a tool whose parameter is
//! called `args`. Only a tool that is `read_only` or `idempotent` is called this way: where the whole fails, each call runs again alone.
//!
//! ```
//! use mcpp_tool::{Error, batch::OutcomeEach, store::{Map, transact}, tool};
//! use schemars::JsonSchema;
//! use serde::Deserialize;
//!
//! const NOTES: Map<String, String> = Map::new("notes");
//!
//! #[derive(Deserialize, JsonSchema)]
//! struct Note {
//!     name: String,
//!     text: String,
//! }
//!
//! /// Keeps a note.
//! #[tool(idempotent)]
//! fn note_keep(args: Note) -> Result<String, Error> {
//!     keep_each(vec![args]).remove(0)
//! }
//!
//! fn keep_each(notes: Vec<Note>) -> OutcomeEach<String> {
//!     let kept = transact(|t| notes.iter().try_for_each(|note| NOTES.set(t, &note.name, &note.text)));
//!     notes.into_iter().map(|note| Ok(kept.map(|()| note.name)?)).collect()
//! }
//!
//! mcpp_tool::export! { tools: [note_keep], batches: { note_keep => keep_each } }
//! # fn main() {
//! #     let note = |name: &str| Note { name: name.into(), text: "rain".into() };
//! #     assert_eq!(keep_each(vec![note("a"), note("b")]).len(), 2);
//! #     assert_eq!(note_keep(note("c")).expect("kept"), "c");
//! # }
//! ```

use std::marker::PhantomData;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    Error, Output,
    bindings::{
        batch::exports::mcpp::batch::tools::Guest,
        mcpp::tool::types::{ToolError, ToolResult},
    },
    definition::Definition,
    output::IntoOutput,
};

/// An outcome for each of many calls, in their order.
pub type OutcomeEach<T> = Vec<Result<T, Error>>;

/// A tool, and what serves many calls of it.
#[doc(hidden)]
#[derive(Debug)]
pub struct Batch {
    /// The tool.
    pub tool: &'static Definition,
    /// Serves them.
    pub call: fn(Vec<Value>) -> OutcomeEach<Output>,
}

/// The tools of a component of which it serves many calls at once.
#[doc(hidden)]
pub trait Batches {
    /// All of them.
    const BATCHES: &'static [Batch];
}

/// The component made of `T`.
#[doc(hidden)]
#[derive(Debug)]
pub struct BatchComponent<T>(PhantomData<T>);

impl<T: Batches + 'static> Guest for BatchComponent<T> {
    fn of_tools() -> Vec<String> {
        T::BATCHES.iter().map(|batch| batch.tool.name.to_owned()).collect()
    }

    fn call_many(name: String, arguments: Vec<String>) -> Vec<Result<ToolResult, ToolError>> {
        let Some(batch) = T::BATCHES.iter().find(|batch| batch.tool.name == name) else {
            return arguments.iter().map(|_| Err(ToolError::UnknownTool)).collect();
        };
        let parse = |arguments: String| serde_json::from_str(&arguments);
        // The host wrote the arguments, so they are JSON.
        let arguments: Vec<Value> = arguments.into_iter().map(|text| parse(text).unwrap_or_default()).collect();
        let outcomes = (batch.call)(arguments).into_iter();
        outcomes.map(|outcome| outcome.map(ToolResult::from).map_err(ToolError::from)).collect()
    }
}

/// Serves many calls by `all`; those whose arguments are no `A` are refused, and do not stop the others.
#[doc(hidden)]
pub fn serve<A: DeserializeOwned, R: IntoOutput>(
    arguments: Vec<Value>,
    all: fn(Vec<A>) -> OutcomeEach<R>,
) -> OutcomeEach<Output> {
    let (mut legal, mut refused) = (Vec::with_capacity(arguments.len()), Vec::with_capacity(arguments.len()));
    for arguments in arguments {
        match crate::arguments::parse(arguments) {
            Ok(parsed) => {
                legal.push(parsed);
                refused.push(None);
            }
            Err(error) => refused.push(Some(error)),
        }
    }
    let mut served = if legal.is_empty() { Vec::new() } else { all(legal) }.into_iter();
    let outcome = |refused: Option<Error>| match refused {
        Some(error) => Err(error),
        None => {
            served.next().unwrap_or_else(|| Err(Error::failed("the tool gave no outcome for this call")))?.into_output()
        }
    };
    refused.into_iter().map(outcome).collect()
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Deserialize)]
    struct Half {
        of: i64,
    }

    fn halve(numbers: Vec<Half>) -> OutcomeEach<i64> {
        let half = |Half { of }| if of % 2 == 0 { Ok(of / 2) } else { Err(Error::failed("it is odd")) };
        numbers.into_iter().map(half).collect()
    }

    fn said(outcome: Result<Output, Error>) -> String {
        outcome.map_or_else(|error| error.to_string(), |output| output.into_value().to_string())
    }

    #[test]
    fn each_call_has_its_own_outcome_in_its_place() {
        let asked = [json!({ "of": 4 }), json!({ "of": "four" }), json!({ "of": 5 }), json!({ "of": 8 })];
        let outcomes: Vec<String> = serve(asked.to_vec(), halve).into_iter().map(said).collect();
        assert_eq!(outcomes.first().map(String::as_str), Some(r#"{"result":2}"#));
        assert!(outcomes.get(1).is_some_and(|refused| refused.contains("of")), "{outcomes:?}");
        assert!(outcomes.get(2).is_some_and(|failed| failed.contains("it is odd")), "{outcomes:?}");
        assert_eq!(outcomes.get(3).map(String::as_str), Some(r#"{"result":4}"#));
    }

    #[test]
    fn an_outcome_that_is_missing_is_an_error_of_its_call() {
        let outcomes =
            serve(vec![json!({ "of": 2 }), json!({ "of": 4 })], |numbers| halve(numbers).into_iter().take(1).collect());
        let outcomes: Vec<String> = outcomes.into_iter().map(said).collect();
        assert_eq!(outcomes.len(), 2);
        assert!(outcomes.last().is_some_and(|missing| missing.contains("no outcome")), "{outcomes:?}");
    }
}
