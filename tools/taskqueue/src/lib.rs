//! The MCP++ task queue on nothing but the public store: [`rules`] decide what may happen to one task, [`queue`] keeps the records and the indexes by which they are found,
//! [`engine`] is what the tools do in one transaction each, [`rpc`] the task-queue protocol on top of it, [`remote`] the same of other hosts, [`tools`] the tools.
//!
//! Time, chance and new ids come in as arguments, so everything here is tested as plain functions on a store in memory.
#![deny(missing_docs)]
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

pub mod engine;
pub mod listing;
pub mod migration;
pub mod origin;
pub mod queue;
pub mod record;
pub mod remote;
pub mod rpc;
pub mod rules;
pub mod statistics;
pub mod tools;

#[cfg(test)]
mod model;

use mcpp_tool::{
    Error,
    environment::{chance, now_ms},
    events::Wake,
};

/// The queue's timer is due.
fn on_wake(_wake: Wake) -> Result<(), Error> {
    engine::wake(now_ms(), chance()).map_err(Error::from)
}

use tools::{batch::*, bulk::*, docker::*, interchange::*, p2p::*, queue::*, tasks::*, workers::*};

#[cfg(target_arch = "wasm32")]
#[global_allocator]
static ALLOCATOR: mcpp_tool::allocator::Allocator = mcpp_tool::allocator::new();

mcpp_tool::export! {
    tools: [
        task_submit, task_status, task_cancel, task_list, task_priority, task_result, task_retry,
        task_submit_many, task_claim, task_complete_many, task_renew_many, task_bulk, task_bulk_status, task_export, task_import,
        queue_stats, queue_pause, queue_resume, queue_clear, queue_limit,
        worker_register, worker_unregister, worker_status,
        p2p_taskqueue_status, p2p_taskqueue_submit, p2p_taskqueue_claim_next, p2p_taskqueue_call_tool,
        p2p_taskqueue_list_tasks, p2p_taskqueue_get_task, p2p_taskqueue_wait_task, p2p_taskqueue_complete_task,
        p2p_taskqueue_heartbeat, p2p_taskqueue_cache_get, p2p_taskqueue_cache_set,
        p2p_taskqueue_submit_docker_hub, p2p_taskqueue_submit_docker_github,
        task_queue_rpc,
    ],
    batches: { task_submit => task_submit_each },
    timers: on_wake,
    migration: 1 => migration::migrate,
}
