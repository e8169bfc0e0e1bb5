//! The exports of a component beside its tools, made of plain functions by [`export!`](crate::export!). Not for use by hand.
#![allow(missing_docs, reason = "hidden")]

use std::marker::PhantomData;

use crate::{
    Error,
    bindings::{
        handler::exports::mcpp::events::handler as wit, mcpp::store::transactions,
        migration::exports::mcpp::store::migration,
    },
    events::{Event, Handlers, Wake, handler_of},
};

/// The handler made of `H`.
#[derive(Debug)]
pub struct HandlerComponent<H>(PhantomData<H>);

impl<H: Handlers + 'static> wit::Guest for HandlerComponent<H> {
    fn subscriptions() -> Vec<String> {
        H::EVENTS.iter().map(|(topic, _)| (*topic).to_owned()).collect()
    }

    fn on_event(event: wit::Event) -> Result<(), wit::HandlerError> {
        let wit::Event { id, topic, key, payload, time_ms, cause, attempt } = event;
        // A delivery's caller is `system:<component>`.
        let subject = crate::caller::caller().subject;
        let Some(handler) = handler_of::<H>(&topic, subject.strip_prefix("system:")) else {
            return Err(wit::HandlerError::Failed(format!("there is no handler for the topic {topic}")));
        };
        handler(Event { id, topic, key, payload, time_ms, cause, attempt }).map_err(failed)
    }

    fn on_wake(wake: wit::Wake) -> Result<(), wit::HandlerError> {
        let Some(handler) = H::TIMERS else {
            return Err(wit::HandlerError::Failed("there is no handler for timers".into()));
        };
        let wit::Wake { id, key, payload, due_ms, cause, attempt } = wake;
        handler(Wake { id, key, payload, due_ms, cause, attempt }).map_err(failed)
    }
}

fn failed(error: Error) -> wit::HandlerError {
    wit::HandlerError::Failed(error.to_string())
}

/// A step of a migration.
pub type Step = fn(&crate::store::Transaction<'_>, u32, Option<Vec<u8>>) -> Result<Option<Vec<u8>>, Error>;

/// A component's migration of its data.
pub trait Migration {
    /// The format that this build reads and writes.
    const FORMAT: u32;
    /// One step: from which format, and where to go on; where the next one goes on, or none if all is done.
    const STEP: Step;
}

/// The migration made of `M`.
#[derive(Debug)]
pub struct MigrationComponent<M>(PhantomData<M>);

impl<M: Migration + 'static> migration::Guest for MigrationComponent<M> {
    fn format() -> u32 {
        M::FORMAT
    }

    fn step(
        transaction: &transactions::Transaction,
        from: u32,
        cursor: Option<Vec<u8>>,
    ) -> Result<Option<Vec<u8>>, migration::MigrationError> {
        if from >= M::FORMAT {
            return Err(migration::MigrationError::UnsupportedFormat);
        }
        step(M::STEP, transaction, from, cursor).map_err(|error| migration::MigrationError::Failed(error.to_string()))
    }
}

#[cfg(target_arch = "wasm32")]
fn step(
    step: Step,
    transaction: &transactions::Transaction,
    from: u32,
    cursor: Option<Vec<u8>>,
) -> Result<Option<Vec<u8>>, Error> {
    let lent = crate::store::backend::Source::Lent(transaction);
    crate::store::Transaction::within(lent, |t| step(t, from, cursor))
}

/// In a native build there is no host that could lend a transaction.
#[cfg(not(target_arch = "wasm32"))]
fn step(_: Step, _: &transactions::Transaction, _: u32, _: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, Error> {
    Err(Error::failed("there is no host"))
}
