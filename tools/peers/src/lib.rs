//! The peers of a tenant on nothing but the public WIT: [`records`] keeps who was heard of and what was measured by the hour, [`rounds`] measures and tidies in the background, [`measures`] makes
//! of that what the tools show, [`sources`] finds addresses of peers, [`announce`] writes this host's own, [`tools`] are the tools.
//!
//! Every value that is shown was measured, or is null. Deliberately not here: dialing, which is the host's, and rights, which an operator gives.
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

pub mod address;
pub mod announce;
pub mod measures;
pub mod records;
pub mod rounds;
pub mod sources;
pub mod tools;

use mcpp_tool::{Error, environment::now_ms, events::Wake};

/// The round is due.
fn on_wake(_wake: Wake) -> Result<(), Error> {
    rounds::round(now_ms()).map_err(Error::from)
}

use tools::{bootstrap::*, connections::*, list::*, peers::*};

mcpp_tool::export! {
    tools: [
        peer_discover, peer_connect, peer_disconnect, peer_list, peer_metrics, bootstrap_network, list_peers,
        p2p_bootstrap_from_file, p2p_bootstrap_from_env, p2p_bootstrap_from_public, p2p_bootstrap_list,
    ],
    timers: on_wake,
}
