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

mod abandoned;
mod arguments;
mod author;
mod backend;
mod batches;
mod cache;
mod cancellation;
mod command_line;
mod compat;
mod compile_child;
mod components;
mod containers;
mod contract;
mod documentation;
mod doors;
mod event_loops;
mod events;
mod every_door;
mod field;
mod files;
mod foreign_servers;
mod frozen;
mod fuel;
mod fuzz;
mod guest_memory;
mod handles;
mod heap;
mod hooks;
mod hostile_guests;
mod house;
mod http;
mod http_bounds;
mod identity;
mod inputs;
mod inspect;
mod keyvalue;
mod kills;
mod lanes;
mod limits;
mod loads;
mod loads_watch;
mod logs_files;
mod logs_metrics;
mod logs_stderr;
mod long_calls;
mod mcp_tasks;
mod mesh;
mod mesh_abuse;
mod mesh_components;
mod mesh_guest;
mod mesh_interface;
mod mesh_join;
mod mesh_lab;
#[cfg(target_os = "linux")]
mod mesh_lanes;
mod mesh_mounts;
mod mesh_mounts_abuse;
mod mesh_nat;
mod mesh_old_peers;
mod mesh_old_services;
mod mesh_peers;
mod mesh_remote;
mod mesh_tenants;
mod messages;
mod migration;
mod nested_calls;
mod observers;
mod outbound_shares;
mod peers;
mod plain;
mod policy;
mod precompiled;
mod primitives;
mod registry;
mod runtime;
mod schema_costs;
mod secrets;
mod session_owners;
mod sessions;
mod shutdown;
mod slow_clients;
mod stdio;
mod store;
mod straight;
mod swap;
mod taskqueue;
mod taskqueue_kills;
mod taskqueue_life;
mod tasks;
mod tenants;
mod tenants_isolation;
mod threats;
mod three_hosts;
mod two_hosts;
mod upstream;
mod values;
mod websocket;
mod websocket_bounds;
mod wit_types;
mod worker;
mod workflow;
mod workflow_awaited;
mod workflow_effects;
mod workflow_hosts;
mod workflow_keys;
mod workflow_kills;
mod workflow_outside;
mod workflow_pinned;
mod workflow_test;
