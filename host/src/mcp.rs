//! The Model Context Protocol: messages to calls and back, in both of its eras, for every door.
//!
//! `rmcp` is the protocol engine; this module and its children are the only ones that name it. The doors close what it leaves open: see [`envelope`] (malformed
//! messages), [`guard`] (Host and Origin), [`session`] (bounded, bound and parked sessions) and [`http`] (time, size and status).

#![expect(deprecated, reason = "logging is deprecated in MCP 2026-07-28 and still what clients of both eras use")]

pub mod client;
pub mod http;
pub mod stdio;

mod convert;
mod envelope;
mod guard;
mod handler;
mod in_flight;
mod pages;
mod running;
mod session;
mod straight;
mod streams;
mod tools;
mod written;

pub use self::handler::Endpoint;
