//! mcpp: a WebAssembly-extensible tool host for the Model Context Protocol.
//!
//! A door in [`mcp`] turns bytes into a [`call::Call`], [`tenant`] authorizes it, [`registry`] finds the live revision, [`control`] admits the call and holds it to its
//! limits, [`guest`] runs it in an instance that no other call has, and [`capability`] is all that the instance can reach from there.
//! Nothing outside [`mcp`] knows JSON-RPC, and nothing above [`registry`] knows an instance.
//!
//! Each module uses those that stand above it here, and none below: a test of the whole host holds that.

pub mod error;
mod files;
pub mod limits;
pub mod memory;
pub mod names;
pub mod permits;
pub mod schema;
mod threads;

pub mod auth;
pub mod call;
pub mod events;
pub mod grants;
pub mod mesh;
pub mod peers;
pub mod secrets;
pub mod store;
pub mod tasks;
pub mod telemetry;
pub mod tenant;

pub mod capability;
pub mod control;
pub mod engine;
pub mod guest;
pub mod plain;

pub mod components;
pub mod config;
pub mod mcp;
pub mod mounts;
pub mod registry;
pub mod reload;
pub mod tenants;

pub mod info;
pub mod inspect;

pub mod admin;
pub mod author;
pub mod cli;
pub mod host;
