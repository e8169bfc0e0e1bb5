//! `mcpp:primitives/changed`: a component tells the clients of its tenant that a resource, or a list, has changed.
//!
//! The interface gives no power: the host tells nobody of a resource that is not the component's own. When the host only asks a component for its lists, no call exists, and nothing
//! is told.

use wasmtime::component::{HasData, Linker};

use crate::{
    call::GuestChange,
    capability::{
        bindings::mcpp::primitives::{changed, types},
        state::{Running, State},
    },
};

/// The longest URI of a resource, in bytes.
pub const MAX_URI_BYTES: usize = 2 << 10;

/// The part of an instance's state that the interface sees: the call, if one runs.
#[derive(Debug)]
pub struct ChangedView<'a>(pub Option<&'a Running>);

impl HasData for ChangedView<'static> {
    type Data<'a> = ChangedView<'a>;
}

pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    types::add_to_linker::<State, ChangedView<'static>>(linker, State::changed)?;
    changed::add_to_linker::<State, ChangedView<'static>>(linker, State::changed)
}

impl ChangedView<'_> {
    fn tell(&self, change: GuestChange<'_>) {
        if let Some(running) = self.0 {
            running.dispatch.changed(&running.principal.tenant, &running.component, change);
        }
    }
}

impl types::Host for ChangedView<'_> {}

impl changed::Host for ChangedView<'_> {
    fn updated(&mut self, uri: String) -> wasmtime::Result<()> {
        if uri.len() <= MAX_URI_BYTES {
            self.tell(GuestChange::Resource(&uri));
        }
        Ok(())
    }

    fn resource_list(&mut self) -> wasmtime::Result<()> {
        self.tell(GuestChange::ResourceList);
        Ok(())
    }

    fn prompt_list(&mut self) -> wasmtime::Result<()> {
        self.tell(GuestChange::PromptList);
        Ok(())
    }
}
