//! The MCP++ workflow scheduler on nothing but the public WIT: [`tasks`] keeps the tasks, [`peers`] the peers and the clock, [`owners`] decides which tasks are this host's, [`rounds`] deals with
//! other hosts, [`tools`] are the seven tools.
//!
//! A task is nowhere dropped. A task of another peer waits here until that peer has it, and is this host's if the peer falls silent.
//! Deliberately not here: the rules of clock, placement and tags, which `scheduling` has.
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

pub mod owners;
pub mod peers;
pub mod rounds;
pub mod tasks;
pub mod tools;

#[cfg(test)]
mod tests;

use mcpp_tool::{Error, environment::now_ms, events::Wake};

/// The round is due.
fn on_wake(_wake: Wake) -> Result<(), Error> {
    rounds::round(now_ms()).map_err(Error::from)
}

use tools::*;

mcpp_tool::export! {
    tools: [
        p2p_scheduler_status, p2p_submit_task, p2p_get_next_task, p2p_mark_task_complete, p2p_check_workflow_tags,
        p2p_get_merkle_clock, p2p_update_peer_state,
    ],
    timers: on_wake,
}
