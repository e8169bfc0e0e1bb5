//! The author's side: a new project from a template, its build in its own language's tools, and the watch over its sources.
//!
//! Nothing here knows a running host; `cli/dev.rs` brings the two together. A build installs into the project's folder only.

pub mod build;
pub mod language;
pub mod project;
pub mod sdk;
pub mod sources;
pub mod template;

mod leftovers;
mod location;
mod step;
mod wit;
