//! mcpp: a WebAssembly-extensible tool host for the Model Context Protocol.
//!
//! The modules stand in the order in which a call meets them: a door in [`mcp`] turns bytes into a [`call::Call`], [`tenant`] authorizes it,
//! [`registry`] finds the live revision and admits it, [`wasm`] runs it in an instance of its own, and [`capability`] is all it can reach from there.
//! Nothing outside [`mcp`] knows JSON-RPC, and nothing outside [`wasm`] knows an instance.

pub mod config;
mod files;
pub mod memory;
pub mod permits;
pub mod telemetry;

pub mod mcp;

pub mod call;
pub mod tenant;

pub mod registry;
pub mod reload;
pub mod tenants;

pub mod capability;
pub mod events;
pub mod grants;
pub mod secrets;
pub mod store;
pub mod wasm;

pub mod admin;
pub mod author;
pub mod cli;
pub mod host;
