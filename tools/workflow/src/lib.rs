//! Durable workflows: graphs of tool calls, on nothing but the public store, events and calls. [`validate`] says whether steps fit together, [`scheduler`] what becomes of a run,
//! [`engine`] does it in one transaction each, and [`tools`] are the tools.
//!
//! A run is data. Handlers of the component's own events take what is ready, so a submitted run ends with nothing else installed.
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        reason = "a test stops at the first surprise"
    )
)]

pub mod blob;
pub mod definition;
pub mod draw;
pub mod engine;
pub mod placeholder;
pub mod run;
pub mod schedule;
pub mod scheduler;
pub mod schema;
pub mod store;
pub mod tools;
pub mod validate;

use mcpp_tool::{
    Error,
    events::{Event, Wake},
    store::Transaction,
};

/// Something is ready. The payload says how many events of the chain came before.
fn on_ready(event: Event) -> Result<(), Error> {
    let hops = std::str::from_utf8(&event.payload).ok().and_then(|text| text.parse().ok()).unwrap_or(u32::MAX);
    engine::work(&event.id, hops).map_err(Error::from)
}

/// A component has emitted something of which the operator lets this one hear.
fn on_event(event: Event) -> Result<(), Error> {
    engine::hear(&event).map_err(Error::from)
}

/// A timer is due.
fn on_wake(wake: Wake) -> Result<(), Error> {
    engine::wake(&wake.key, &wake.id).map_err(Error::from)
}

/// Since format 1 the items of a fan-out stand apart. This build reads what builds before it wrote, so nothing moves; but those could not go on with what it writes, and the host refuses
/// them from now on. Since format 2 a step may wait for a key, an event or a task.
fn migrate(_: &Transaction<'_>, _: u32, _: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, Error> {
    Ok(None)
}

use tools::{
    awaited::*, backfill::*, builds::*, bulk::*, control::*, doctor::*, listing::*, plans::*, rehearsal::*, show::*,
    submission::*, transfer::*,
};

#[cfg(target_arch = "wasm32")]
#[global_allocator]
static ALLOCATOR: mcpp_tool::allocator::Allocator = mcpp_tool::allocator::new();

mcpp_tool::export! {
    tools: [
        workflow_submit, workflow_status, workflow_cancel, workflow_list, workflow_dependencies, workflow_result,
        workflow_pause, workflow_resume, workflow_retry, workflow_fork, workflow_signal,
        workflow_template, workflow_schedule, workflow_doctor, workflow_rehearse, workflow_output,
        workflow_bulk, workflow_backfill, workflow_builds, workflow_delete, workflow_export, workflow_import,
        workflow_run, workflow_wait,
    ],
    resources: [workflow_run_status, workflow_run_result, workflow_step_result],
    deferred: Runs,
    events: { "ready" => on_ready, "*" => on_event },
    timers: on_wake,
    migration: 2 => migrate,
}
