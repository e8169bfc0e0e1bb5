//! The whole host, from outside: a real [`mcpp::host::Host`] on port 0 with temporary folders, and real clients.
//!
//! Hostile guests are component text, so that the sandbox's tests need no guest toolchain; `probe` and `caller` are real SDK components.

#![allow(unreachable_pub, reason = "helpers of one binary; `pub` says that other modules use them")]
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::type_complexity,
    reason = "a test stops at the first surprise, and so do its helpers"
)]

mod support;

mod arguments;
mod author;
mod backend;
mod cache;
mod cancellation;
mod command_line;
mod components;
mod events;
mod files;
mod frozen;
mod fuel;
mod handles;
mod heap;
mod hostile_guests;
mod http;
mod inspect;
mod keyvalue;
mod kills;
mod limits;
mod messages;
mod migration;
mod nested_calls;
mod observers;
mod plain;
mod policy;
mod secrets;
mod sessions;
mod shutdown;
mod stdio;
mod store;
mod swap;
mod taskqueue;
mod tasks;
mod tenants;
mod threats;
mod upstream;
mod wit_types;
