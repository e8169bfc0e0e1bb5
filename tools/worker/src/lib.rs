//! A worker on nothing but the public WIT: it claims tasks from this host's queue and from those of peers, and runs each as a call of a tool. [`service`] says what it does for whom, [`bound`] what
//! a task may call, [`source`] speaks to queues, [`held`] keeps the tasks that it has, [`claimer`] gets them, [`docker`] runs containers, [`runner`] runs them, [`beat`] keeps their leases, [`tools`] are the tools.
//!
//! A task runs within the rights of its submitter and of the caller that set the service up, and within the service's own list. A queue decides by its own clock and by fencing tokens
//! whose the task is; no time of this host is compared with one of another.
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

pub mod beat;
pub mod bound;
pub mod claimer;
pub mod docker;
pub mod held;
pub mod runner;
pub mod service;
pub mod source;
pub mod tools;

#[cfg(test)]
mod tests;

use mcpp_tool::{Error, environment::now_ms, events::Wake};

/// A timer is due: the beat's, a service's claimer's, or a task's.
fn on_wake(wake: Wake) -> Result<(), Error> {
    if wake.key == beat::BEAT.name() {
        return Ok(beat::beat(now_ms())?);
    }
    match wake.key.split_once(':') {
        Some(("c", service)) => Ok(claimer::claim(service)?),
        Some(("t", id)) => Ok(runner::run(id)?),
        _ => Ok(()),
    }
}

use docker::tools::*;
use tools::*;

mcpp_tool::export! {
    tools: [worker_serve, worker_drain, worker_remove, worker_services, docker_execute, docker_github],
    timers: on_wake,
}
