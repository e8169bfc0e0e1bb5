//! The Model Context Protocol: messages to calls and back, in both of its eras, for every door.
//!
//! `rmcp` is the protocol engine; this module and its children are the only ones that name it. The doors close what it leaves open: see [`envelope`] (malformed
//! messages), [`guard`] (Host and Origin), [`session`] (bounded, bound and parked sessions) and [`http`] (time, size and status).

#![expect(deprecated, reason = "logging is deprecated in MCP 2026-07-28 and still what clients of both eras use")]

pub mod client;
pub mod http;
pub mod mesh;
pub mod stdio;

mod apart;
mod binding;
mod conversation;
mod convert;
mod endpoint;
mod envelope;
mod guard;
mod handler;
mod headers;
mod in_flight;
mod inputs;
mod lane;
mod listening;
mod pages;
mod parked;
mod primitives;
mod refusal;
mod running;
mod session;
mod straight;
mod streams;
mod tasks;
mod tools;
mod wire;
mod written;

pub use self::handler::Endpoint;
use crate::call::ToolResult;

/// A tool's result in MCP's words.
pub fn result_json(result: ToolResult) -> serde_json::Result<serde_json::Value> {
    serde_json::to_value(convert::result(result))
}
