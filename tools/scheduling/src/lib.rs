//! The rules that the task queue and the workflows share: the clock, the placement of tasks, their tags, the times of retries, and the reserve of a full store. Plain rules without IO, time or chance.
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

pub mod backoff;
pub mod clock;
pub mod hash;
pub mod placement;
pub mod reserve;
pub mod tags;
