//! Answers that come later than their call ends: of work that goes on in the component's store, over restarts of the host.
//!
//! A tool begins the work and calls [`defer`]. A client that can wait gets the answer as that of the call: by an MCP task, or by `task_wait`. The host asks the component for
//! it again and again, and no instance waits in between. Everybody else, such as another tool, gets what the tool itself returns.
//!
//! ```
//! use mcpp_tool::{Error, deferred::{self, Deferred, FormAnswer, Outcome, Work}, store::{Map, snapshot, transact}, tool};
//!
//! const OPEN: Map<String, String> = Map::new("open");
//!
//! /// Asks somebody to approve something, however long that takes.
//! #[tool]
//! fn approve(id: String, what: String) -> Result<String, Error> {
//!     transact(|t| OPEN.set(t, &id, &what))?;
//!     deferred::defer(&id)?;
//!     Ok(format!("{id} waits for somebody"))
//! }
//!
//! struct Approvals;
//!
//! impl Deferred for Approvals {
//!     fn look(handle: &str) -> Result<Outcome, Error> {
//!         let t = snapshot()?;
//!         let (state, version) = OPEN.get_versioned(&t, handle)?;
//!         Ok(match state.as_deref() {
//!             None => Outcome::Unknown,
//!             Some("yes") => Outcome::completed("approved")?,
//!             Some("no") => Outcome::Failed(Error::failed("not approved")),
//!             Some(what) => Outcome::Running(
//!                 Work::new().form("ok", what, deferred::no_fields()).changes(OPEN.key(handle), version),
//!             ),
//!         })
//!     }
//!
//!     fn reply(handle: &str, _: &str, answer: FormAnswer) -> Result<(), Error> {
//!         let state = if matches!(answer, FormAnswer::Accepted(_)) { "yes" } else { "no" };
//!         Ok(transact(|t| OPEN.set(t, handle, &state.to_owned()))?)
//!     }
//!
//!     fn cancel(handle: &str) -> Result<(), Error> {
//!         Ok(transact(|t| OPEN.remove(t, handle).map(drop))?)
//!     }
//! }
//!
//! mcpp_tool::export! { tools: [approve], deferred: Approvals }
//! # fn main() {
//! #     assert!(matches!(Approvals::look("a"), Ok(Outcome::Unknown)));
//! #     approve("a".into(), "Shall it rain?".into()).expect("it waits");
//! #     assert!(matches!(Approvals::look("a"), Ok(Outcome::Running(_))));
//! #     Approvals::reply("a", "ok", FormAnswer::Declined).expect("an answer");
//! #     assert!(matches!(Approvals::look("a"), Ok(Outcome::Failed(_))));
//! # }
//! ```

use std::marker::PhantomData;

use serde_json::{Value, json};

use crate::{
    Error, Output,
    bindings::{deferred::exports::mcpp::tasks::deferred as wit, mcpp::tool::types::ToolResult},
    output::IntoOutput,
};

/// Says that the answer of the running call comes later, from this component's [`Deferred`], which knows it by `handle` (1 to 256 bytes). In a native test it does nothing.
///
/// # Errors
/// The handle is not legal, or the call has put off its answer before.
pub fn defer(handle: &str) -> Result<(), Error> {
    #[cfg(target_arch = "wasm32")]
    {
        use crate::bindings::mcpp::tasks::deferral::{self, DeferError};
        deferral::defer(handle).map_err(|error| {
            Error::failed(match error {
                DeferError::InvalidHandle => "the handle of an answer that comes later has 1 to 256 bytes",
                DeferError::AlreadyDeferred => "the call has put off its answer already",
            })
        })
    }
    #[cfg(not(target_arch = "wasm32"))]
    {
        let _nobody_waits = handle;
        Ok(())
    }
}

/// How far work is, and what it asks.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Work {
    progress: Option<(f64, Option<f64>, Option<String>)>,
    asks: Vec<(String, String, Value)>,
    changes: Option<(Vec<u8>, u64)>,
}

impl Work {
    /// Work of which nothing is known but that it goes on.
    pub fn new() -> Self {
        Self::default()
    }

    /// How much is done, of how much, and what happens now.
    #[must_use]
    pub fn progress(self, done: f64, total: Option<f64>, message: Option<String>) -> Self {
        Self { progress: Some((done, total, message)), ..self }
    }

    /// Asks the user a form: its name (1 to 64 of `A-Z a-z 0-9 _ . -`), which is its own for as long as it is asked, what is asked and why, and the JSON Schema of the reply,
    /// as of [`client::schema`](crate::client::schema). At most 16 forms.
    #[must_use]
    pub fn form(mut self, name: impl Into<String>, message: impl Into<String>, schema: Value) -> Self {
        self.asks.push((name.into(), message.into(), schema));
        self
    }

    /// The host looks again as soon as this entry of the component's store has another version, and else once a minute.
    #[must_use]
    pub fn changes(self, key: Vec<u8>, version: u64) -> Self {
        Self { changes: Some((key, version)), ..self }
    }

    /// The names of the forms.
    pub fn asks(&self) -> impl Iterator<Item = &str> {
        self.asks.iter().map(|(name, ..)| name.as_str())
    }
}

/// The schema of a form without fields: the user can send it or say no.
pub fn no_fields() -> Value {
    json!({ "type": "object", "properties": {} })
}

/// How work is.
#[derive(Debug)]
pub enum Outcome {
    /// It goes on.
    Running(Work),
    /// It has ended; the tool's answer.
    Completed(Output),
    /// It has ended, and the tool did not succeed.
    Failed(Error),
    /// Somebody has cancelled it.
    Cancelled,
    /// There is no such work, or the caller has no right to it.
    Unknown,
}

impl Outcome {
    /// It has ended with this value, as a tool returns it.
    ///
    /// # Errors
    /// The value is no JSON.
    pub fn completed(value: impl IntoOutput) -> Result<Self, Error> {
        value.into_output().map(Self::Completed)
    }
}

/// What a user did with a form.
#[derive(Debug, Clone, PartialEq)]
pub enum FormAnswer {
    /// Sent it; its values, which match the schema.
    Accepted(Value),
    /// Said no.
    Declined,
}

/// Work whose answers come later. Each function runs as the caller of the tool, in an instance of its own.
pub trait Deferred {
    /// How the work of a handle is.
    ///
    /// # Errors
    /// It cannot be looked at now; the host looks again later.
    fn look(handle: &str) -> Result<Outcome, Error>;

    /// The answer to a form. The host may give it twice.
    ///
    /// # Errors
    /// It cannot be taken now; the host gives it again.
    fn reply(handle: &str, form: &str, answer: FormAnswer) -> Result<(), Error>;

    /// Nobody wants the answer any more: the work should end. The host may say it twice.
    ///
    /// # Errors
    /// It cannot be taken now; the host says it again.
    fn cancel(handle: &str) -> Result<(), Error>;
}

/// The export made of `D`.
#[doc(hidden)]
#[derive(Debug)]
pub struct DeferredComponent<D>(PhantomData<D>);

impl<D: Deferred + 'static> wit::Guest for DeferredComponent<D> {
    fn look(handle: String) -> wit::Outcome {
        match or_trap(D::look(&handle)) {
            Outcome::Running(work) => {
                let progress = work.progress.map(|(done, total, message)| wit::Progress { done, total, message });
                let form =
                    |(name, message, schema): (_, _, Value)| wit::Form { name, message, schema: schema.to_string() };
                wit::Outcome::Running(wit::State {
                    progress,
                    asks: work.asks.into_iter().map(form).collect(),
                    changes: work.changes.map(|(key, version)| wit::Entry { key, version }),
                })
            }
            Outcome::Completed(output) => wit::Outcome::Completed(ToolResult::from(output)),
            Outcome::Failed(error) => wit::Outcome::Failed(ToolResult::from(match error {
                Error::Failed(output) => output,
                wrong @ Error::InvalidArgument { .. } => Output::text(wrong.to_string()),
            })),
            Outcome::Cancelled => wit::Outcome::Cancelled,
            Outcome::Unknown => wit::Outcome::Unknown,
        }
    }

    fn reply(handle: String, form: String, answer: wit::Answer) {
        let answer = match answer {
            wit::Answer::Accepted(values) => {
                FormAnswer::Accepted(or_trap(serde_json::from_str(&values).map_err(Error::from)))
            }
            wit::Answer::Declined => FormAnswer::Declined,
        };
        or_trap(D::reply(&handle, &form, answer));
    }

    fn cancel(handle: String) {
        or_trap(D::cancel(&handle));
    }
}

/// The value; an error ends the instance, and the host asks again later.
#[allow(clippy::panic, reason = "the interface has no other way to say that it does not work now")]
fn or_trap<T>(result: Result<T, Error>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{error}"),
    }
}
