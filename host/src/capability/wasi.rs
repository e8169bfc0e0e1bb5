//! The harmless part of WASI: clocks, random numbers, streams, and standard output as log records.
//!
//! The environment is empty: language runtimes import it and run without. `wasi:filesystem` is in [`super::files`].
//! Waiting is the host's: a WASI guest can park only in `wasi:io/poll` and in blocking stream operations. The host races these against the call's end here.

mod streams;
mod tasks;

use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::{
    WasiView,
    cli::{WasiCli, WasiCliView as _},
    clocks::{WasiClocks, WasiClocksView as _},
    p2::{
        DynPollable,
        bindings::{cli, clocks, io, random},
    },
    random::WasiRandom,
};

use crate::{capability::state::State, control::Control};

/// Handles that a guest waits for at once. Each costs the host some memory for as long as the guest waits, and one may be named any number of times.
const MAX_POLLED: usize = 10_000;

struct Io;

impl HasData for Io {
    type Data<'a> = &'a mut ResourceTable;
}

/// The table of handles with the controls of the call that owns it.
#[derive(Debug)]
pub struct WaitingTable<'a> {
    table: &'a mut ResourceTable,
    control: &'a Control,
}

impl HasData for WaitingTable<'static> {
    type Data<'a> = WaitingTable<'a>;
}

impl io::poll::Host for WaitingTable<'_> {
    async fn poll(&mut self, pollables: Vec<Resource<DynPollable>>) -> wasmtime::Result<Vec<u32>> {
        if pollables.len() > MAX_POLLED {
            return Err(wasmtime::Error::msg(format!("it waits for more than {MAX_POLLED} handles at once")));
        }
        self.control.wait(io::poll::Host::poll(self.table, pollables)).await?
    }
}

impl io::poll::HostPollable for WaitingTable<'_> {
    async fn block(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        self.control.wait(io::poll::HostPollable::block(self.table, pollable)).await?
    }

    async fn ready(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<bool> {
        io::poll::HostPollable::ready(self.table, pollable).await
    }

    fn drop(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        io::poll::HostPollable::drop(self.table, pollable)
    }
}

fn waiting(state: &mut State) -> WaitingTable<'_> {
    let (table, control) = state.table_and_control();
    WaitingTable { table, control }
}

/// Links the interfaces.
pub(super) fn link(l: &mut Linker<State>) -> wasmtime::Result<()> {
    io::error::add_to_linker::<State, Io>(l, |state| state.ctx().table)?;
    io::streams::add_to_linker::<State, WaitingTable<'static>>(l, waiting)?;
    io::poll::add_to_linker::<State, WaitingTable<'static>>(l, waiting)?;
    clocks::wall_clock::add_to_linker::<State, WasiClocks>(l, State::clocks)?;
    clocks::monotonic_clock::add_to_linker::<State, WasiClocks>(l, State::clocks)?;
    random::random::add_to_linker::<State, WasiRandom>(l, |state| {
        wasmtime_wasi::random::WasiRandomView::random(state)
    })?;
    random::insecure::add_to_linker::<State, WasiRandom>(l, |state| {
        wasmtime_wasi::random::WasiRandomView::random(state)
    })?;
    random::insecure_seed::add_to_linker::<State, WasiRandom>(l, |state| {
        wasmtime_wasi::random::WasiRandomView::random(state)
    })?;
    cli::exit::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::environment::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::stdin::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::stdout::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::stderr::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::terminal_input::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::terminal_output::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::terminal_stdin::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::terminal_stdout::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::terminal_stderr::add_to_linker::<State, WasiCli>(l, State::cli)?;
    if l.engine().get_concurrency_support() { tasks::link(l) } else { Ok(()) }
}
