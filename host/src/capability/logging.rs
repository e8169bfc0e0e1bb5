//! `wasi:logging/logging`: log records by the standard interface. They take the same way and the same budget as those of `mcpp:endpoint/log`.

use wasmtime::{StoreContextMut, component::Linker};

use crate::{
    call::LogLevel,
    capability::{bindings::standard::wasi::logging::logging, endpoint::EndpointView, state::State},
};

/// The interface as the draft's repository has it, without a version.
const UNVERSIONED: &str = "wasi:logging/logging";

/// Links the interface, with the draft's version and without.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    logging::add_to_linker::<State, EndpointView<'static>>(linker, State::endpoint)?;
    linker.instance(UNVERSIONED)?.func_wrap(
        "log",
        |mut store: StoreContextMut<'_, State>, (level, context, message): (logging::Level, String, String)| {
            logging::Host::log(&mut store.data_mut().endpoint(), level, context, message)
        },
    )
}

impl From<logging::Level> for LogLevel {
    fn from(level: logging::Level) -> Self {
        match level {
            logging::Level::Trace | logging::Level::Debug => Self::Debug,
            logging::Level::Info => Self::Info,
            logging::Level::Warn => Self::Warning,
            logging::Level::Error => Self::Error,
            logging::Level::Critical => Self::Critical,
        }
    }
}

impl logging::Host for EndpointView<'_> {
    fn log(&mut self, level: logging::Level, context: String, message: String) -> wasmtime::Result<()> {
        let message = if context.is_empty() { message } else { format!("{context}: {message}") };
        self.log(level.into(), message)
    }
}
