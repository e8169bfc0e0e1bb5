//! Answers that a component's calls have put off. Each question about one runs in an instance of its own.

use std::sync::Arc;

use wasmtime::{Store, component::InstancePre};

use super::{
    instance::{Failure, from_wit, run, within_budget},
    new_store,
};
use crate::{
    call::{
        CallError, ToolResult,
        inputs::{AskError, InputQuestion},
    },
    capability::{
        bindings::{
            deferred::{
                Deferring, DeferringPre,
                exports::mcpp::tasks::deferred::{self as wit, Entry, Form, Outcome},
            },
            mcpp::client::inputs::{self, NamedQuestion},
        },
        inputs::{bytes_of, checked},
        state::{Running, State},
    },
    control::{Control, redactor::Redactor},
    engine::Engine,
    memory::{MemoryUse, Reservation},
};

pub use crate::capability::bindings::deferred::exports::mcpp::tasks::deferred::{Answer as FormAnswer, Progress};

/// The interface by which the host knows that a component has such answers, without its version.
pub(super) const INTERFACE: &str = "mcpp:tasks/deferred";

/// A linked component that has answers which its calls put off.
#[derive(Clone)]
pub struct DeferredExport(DeferringPre<State>);

impl std::fmt::Debug for DeferredExport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeferredExport").finish_non_exhaustive()
    }
}

/// How the work is that an answer waits for.
#[derive(Debug)]
pub enum Deferred {
    /// It goes on.
    Running(DeferredWork),
    /// It has ended with this answer.
    Ended(ToolResult),
    /// Somebody has cancelled it.
    Cancelled,
    /// There is none, or the caller has no right to it.
    Unknown,
}

/// Forms by name, and the memory that they hold.
pub type AskedForms = (Vec<(String, InputQuestion)>, Reservation);

/// Work that goes on.
#[derive(Debug)]
pub struct DeferredWork {
    /// How far it is.
    pub progress: Option<Progress>,
    /// What its user is asked.
    pub asks: Option<AskedForms>,
    /// When this entry of the component's store is another one, there is news.
    pub changes: Option<Entry>,
}

impl DeferredExport {
    pub(super) fn new(linked: InstancePre<State>) -> wasmtime::Result<Self> {
        DeferringPre::new(linked).map(Self)
    }

    /// How the work of this handle is.
    pub async fn look(
        &self,
        engine: &Engine,
        handle: String,
        running: Box<Running>,
        control: Arc<Control>,
    ) -> Result<Deferred, CallError> {
        let shared = Arc::clone(&control);
        let look = async move |instance: Deferring, mut store: Store<State>| {
            let outcome = instance.mcpp_tasks_deferred().call_look(&mut store, &handle).await?;
            if let Outcome::Running(wit::State { progress: Some(Progress { message: Some(message), .. }), .. }) =
                &outcome
            {
                // As a report of progress that a guest makes by itself.
                shared.charge_log(message.len())?;
            }
            let redactor = shared.redactor();
            let ended = |wit, is_error| {
                let result = within_budget(from_wit(wit, is_error, &shared)?, &shared)?;
                redactor.outcome(Ok(result)).map(Deferred::Ended)
            };
            let looked = match outcome {
                Outcome::Completed(answer) => ended(answer, false),
                Outcome::Failed(answer) => ended(answer, true),
                Outcome::Cancelled => Ok(Deferred::Cancelled),
                Outcome::Unknown => Ok(Deferred::Unknown),
                Outcome::Running(state) => {
                    let hide = |progress: Progress| Progress {
                        message: progress.message.map(|message| redactor.text(message)),
                        ..progress
                    };
                    let progress = state.progress.map(hide);
                    let asks = asks(state.asks, &shared, redactor);
                    asks.map(|asks| Deferred::Running(DeferredWork { progress, asks, changes: state.changes }))
                }
            };
            looked.map_err(Failure::Call)
        };
        self.ask(engine, running, control, look).await
    }

    /// Gives the answer to a form.
    pub async fn reply(
        &self,
        engine: &Engine,
        (handle, form, answer): (String, String, FormAnswer),
        running: Box<Running>,
        control: Arc<Control>,
    ) -> Result<(), CallError> {
        let reply = async move |instance: Deferring, mut store: Store<State>| {
            Ok(instance.mcpp_tasks_deferred().call_reply(&mut store, &handle, &form, &answer).await?)
        };
        self.ask(engine, running, control, reply).await
    }

    /// Says that nobody wants the answer any more.
    pub async fn cancel(
        &self,
        engine: &Engine,
        handle: String,
        running: Box<Running>,
        control: Arc<Control>,
    ) -> Result<(), CallError> {
        let cancel = async move |instance: Deferring, mut store: Store<State>| {
            Ok(instance.mcpp_tasks_deferred().call_cancel(&mut store, &handle).await?)
        };
        self.ask(engine, running, control, cancel).await
    }

    /// Asks an instance of its own.
    async fn ask<T: Send + 'static, R: Future<Output = Result<T, Failure>> + Send>(
        &self,
        engine: &Engine,
        running: Box<Running>,
        control: Arc<Control>,
        question: impl FnOnce(Deferring, Store<State>) -> R + Send + 'static,
    ) -> Result<T, CallError> {
        // No client waits at a door for this.
        control.note_slice();
        let component = Arc::clone(&running.component);
        let mut store = new_store(self.0.engine(), &component, &control, Some(running));
        let export = self.0.clone();
        let guest = async move {
            let instance = export.instantiate_async(&mut store).await?;
            question(instance, store).await
        };
        run(engine, guest, control).await
    }
}

/// The forms as questions to a client, within the bounds of such.
fn asks(forms: Vec<Form>, control: &Control, redactor: &Redactor) -> Result<Option<AskedForms>, CallError> {
    if forms.is_empty() {
        return Ok(None);
    }
    let question = |Form { name, message, schema }| NamedQuestion {
        name,
        question: inputs::Question::Form(inputs::Form { message, schema }),
    };
    let questions: Vec<_> = forms.into_iter().map(question).collect();
    let bytes = questions.iter().map(bytes_of).fold(0, u64::saturating_add);
    let held = control.memory().reserve(MemoryUse::Messages, bytes);
    let mut held = held.map_err(|full| CallError::Interrupted { reason: full.to_string() })?;
    let asked = checked(questions, |text| redactor.text(text), &mut held).map_err(|refused| match refused {
        AskError::Invalid(reason) => CallError::InvalidResult { path: "/asks".to_owned(), reason },
        _ => CallError::Interrupted { reason: "there is no memory for its forms".to_owned() },
    })?;
    Ok(Some((asked, held)))
}
