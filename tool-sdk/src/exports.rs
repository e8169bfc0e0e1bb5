//! What a component may export beside its tools, made of plain functions by [`export!`](crate::export!). Not for use by hand.
#![allow(missing_docs, reason = "hidden")]

use std::marker::PhantomData;

use self::{
    handler_bindings::exports::mcpp::events::handler as wit, migration_bindings::exports::mcpp::store::migration,
};
use crate::{
    Error,
    events::{Event, Handlers, Wake, handler_of},
    output::Content,
    store::Write,
};

#[allow(
    unsafe_code,
    unreachable_pub,
    missing_debug_implementations,
    clippy::all,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]
pub mod handler_bindings {
    wit_bindgen::generate!({
        inline: "
            package mcpp:sdk-handler;

            world handling {
                export mcpp:events/handler@0.1.0;
            }
        ",
        path: ["../wit/tool", "../wit/endpoint", "../wit/store", "../wit/events"],
        pub_export_macro: true,
        export_macro_name: "export_handler",
        default_bindings_module: "mcpp_tool::exports::handler_bindings",
        generate_all,
    });
}

#[allow(
    unsafe_code,
    unreachable_pub,
    missing_debug_implementations,
    clippy::all,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]
pub mod migration_bindings {
    wit_bindgen::generate!({
        inline: "
            package mcpp:sdk-migration;

            world migrating {
                export mcpp:store/migration@0.1.0;
            }
        ",
        path: ["../wit/tool", "../wit/endpoint", "../wit/store", "../wit/events"],
        pub_export_macro: true,
        export_macro_name: "export_migration",
        default_bindings_module: "mcpp_tool::exports::migration_bindings",
        with: {
            "mcpp:store/types@0.1.0": crate::bindings::mcpp::store::types,
            "mcpp:store/transactions@0.1.0": crate::bindings::mcpp::store::transactions,
        },
    });
}

/// The handler made of `H`.
#[derive(Debug)]
pub struct HandlerComponent<H>(PhantomData<H>);

impl<H: Handlers + 'static> wit::Guest for HandlerComponent<H> {
    fn subscriptions() -> Vec<String> {
        H::EVENTS.iter().map(|(topic, _)| (*topic).to_owned()).collect()
    }

    fn on_event(event: wit::Event) -> Result<(), wit::HandlerError> {
        let wit::Event { id, topic, key, payload, time_ms, cause, attempt } = event;
        let Some(handler) = handler_of::<H>(&topic) else {
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
    wit::HandlerError::Failed(text(error))
}

/// An error as one text.
fn text(error: Error) -> String {
    match error {
        Error::InvalidArgument { path, reason } => format!("{path}: {reason}"),
        Error::Failed(output) => {
            let texts = output.content.into_iter();
            let texts = texts.filter_map(|block| if let Content::Text(text) = block { Some(text) } else { None });
            texts.collect::<Vec<_>>().join("; ")
        }
    }
}

/// A step of a migration.
pub type Step = fn(&mut dyn Write, u32, Option<Vec<u8>>) -> Result<Option<Vec<u8>>, Error>;

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
        mut transaction: &crate::bindings::mcpp::store::transactions::Transaction,
        from: u32,
        cursor: Option<Vec<u8>>,
    ) -> Result<Option<Vec<u8>>, migration::MigrationError> {
        if from >= M::FORMAT {
            return Err(migration::MigrationError::UnsupportedFormat);
        }
        // In a native build there is no host that could lend a transaction.
        #[cfg(not(target_arch = "wasm32"))]
        let step: Result<Option<Vec<u8>>, Error> = {
            let _nothing_lent = (&mut transaction, cursor);
            Err(Error::failed("there is no host"))
        };
        #[cfg(target_arch = "wasm32")]
        let step = (M::STEP)(&mut transaction, from, cursor);
        step.map_err(|error| migration::MigrationError::Failed(text(error)))
    }
}
