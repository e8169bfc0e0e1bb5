//! A registry of peers in the comments of a GitHub issue, as the MCP++ programs keep it (contract, section 4.1): [`record`] is the form of a comment, [`github`] speaks to the REST interface and
//! respects its limits, [`registry`] finds the issue and its records, [`public`] finds this host's address, [`tools`] are the tools.
//!
//! Records of others are kept byte for byte: a comment is changed only by its own host, and deleted only when it is too old. The token is a secret, which the component never sees.
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

pub mod github;
pub mod public;
pub mod record;
pub mod registry;
pub mod tools;

use mcpp_tool::{Error, environment::now_ms, events::Wake};

/// The heartbeat is due.
fn on_wake(_wake: Wake) -> Result<(), Error> {
    tools::beat(now_ms()).map_err(Error::from)
}

use tools::*;

mcpp_tool::export! {
    tools: [peer_registry_register, peer_registry_unregister, peer_registry_list, peer_registry_cleanup, peer_public_address],
    timers: on_wake,
}
