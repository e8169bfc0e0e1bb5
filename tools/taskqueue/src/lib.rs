//! The MCP++ task queue on nothing but the public store: [`rules`] decide what may happen to one task, [`queue`] keeps the records and the indexes by which they are found,
//! [`engine`] is what the tools do in one transaction each.
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
pub mod queue;
pub mod record;
pub mod rules;
pub mod statistics;

#[cfg(test)]
mod model;
