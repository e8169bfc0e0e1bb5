//! `mcpp:cancellation`: notice that the caller has given up, and time to put things in order.

use tokio_util::sync::CancellationToken;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::p2::{DynPollable, Pollable, subscribe};

use crate::{
    capability::{bindings::mcpp::cancellation::notice, state::State},
    control::Control,
};

/// The part of an instance's state that notices of cancellation need.
#[derive(Debug)]
pub struct NoticeView<'a> {
    /// Controls of the call.
    pub control: &'a Control,
    /// The guest's handles.
    pub table: &'a mut ResourceTable,
}

impl HasData for NoticeView<'static> {
    type Data<'a> = NoticeView<'a>;
}

/// Links them.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    notice::add_to_linker::<State, NoticeView<'static>>(linker, State::notice)
}

/// Ready when the caller has given up.
struct GivenUp(CancellationToken);

#[wasmtime_wasi::async_trait]
impl Pollable for GivenUp {
    async fn ready(&mut self) {
        self.0.cancelled().await;
    }
}

impl notice::Host for NoticeView<'_> {
    fn subscribe(&mut self) -> wasmtime::Result<Resource<DynPollable>> {
        self.control.end_in_order();
        let given_up = self.table.push(GivenUp(self.control.cancel_token().clone()))?;
        subscribe(self.table, given_up)
    }
}
