//! WASI 0.3, as far as every component has 0.2: clocks, random numbers, and standard output as log records. Its waits are those of tasks, which
//! [`crate::guest::tasks`] races against the call's end.

use wasmtime::component::Linker;
use wasmtime_wasi::p3::{cli, clocks, random};

use crate::capability::state::State;

/// Links the interfaces, on an engine that has tasks.
pub(super) fn link(l: &mut Linker<State>) -> wasmtime::Result<()> {
    cli::add_to_linker(l)?;
    clocks::add_to_linker(l)?;
    random::add_to_linker(l)
}
