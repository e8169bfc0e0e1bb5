//! `mcpp:tasks/deferral`: a call whose answer comes later.

use wasmtime::component::Linker;

use super::endpoint::EndpointView;
use crate::capability::{
    bindings::mcpp::tasks::deferral::{self, DeferError},
    state::State,
};

/// Longest handle of an answer that comes later, in bytes.
const MAX_HANDLE_BYTES: usize = 256;

/// Links it.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    deferral::add_to_linker::<State, EndpointView<'static>>(linker, State::endpoint)
}

impl deferral::Host for EndpointView<'_> {
    fn defer(&mut self, handle: String) -> wasmtime::Result<Result<(), DeferError>> {
        if !(1..=MAX_HANDLE_BYTES).contains(&handle.len()) {
            return Ok(Err(DeferError::InvalidHandle));
        }
        Ok(if self.control.defer(handle) { Ok(()) } else { Err(DeferError::AlreadyDeferred) })
    }
}
