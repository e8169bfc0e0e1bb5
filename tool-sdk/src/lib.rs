//! Write tools for mcpp: a typed, commented function is a whole tool.
//!
//! ```
//! use mcpp_tool::tool;
//!
//! /// Adds two numbers.
//! #[tool(read_only)]
//! fn add(
//!     /// The first number.
//!     a: i64,
//!     /// The second number.
//!     b: i64,
//! ) -> Result<i64, mcpp_tool::Error> {
//!     a.checked_add(b).ok_or_else(|| mcpp_tool::Error::failed("the sum is too large"))
//! }
//!
//! mcpp_tool::export!(add);
//! # fn main() {}
//! ```
//!
//! The function's name is the tool's name, its doc comment the description, its parameters the input schema (or, if its only parameter is called `args`, that type
//! is), its return type the output schema. `Err` is an error that the caller can read. A function stays a function: test it as one.
//!
//! Within a call, [`log`], [`progress`], [`caller`], [`call`], [`client`], [`container`], [`http`], [`mesh`], [`config`] and [`store`] reach the host, and [`environment`] has time, chance and ids; [`events`] tells a component of what happens between calls. Outside a component (in a native test) they do nothing but what their pages say.
#![deny(missing_docs)]

#[cfg(target_arch = "wasm32")]
pub mod allocator;
pub mod batch;
pub mod builds;
pub mod call;
pub mod caller;
pub mod cancellation;
pub mod changed;
pub mod client;
pub mod config;
pub mod container;
pub mod deferred;
pub mod environment;
pub mod events;
pub mod hooks;
pub mod http;
pub mod log;
pub mod mesh;
pub mod progress;
pub mod prompts;
pub mod resources;
pub mod rights;
pub mod store;

mod arguments;
#[cfg(any(target_arch = "wasm32", test))]
mod compare;
mod definition;
mod envelope;
mod error;
#[doc(hidden)]
pub mod exports;
mod output;
mod primitives;

pub use mcpp_tool_macros::{export, prompt, resource, tool};

pub use self::{
    call::call,
    caller::caller,
    envelope::{Envelope, Failure, Flag, IsOk, Success},
    error::Error,
    output::{Content, Output},
};

/// The items that the macros need. Not for use by hand; may change in any version.
#[doc(hidden)]
pub mod internal {
    pub use schemars;
    pub use serde;
    pub use serde_json;

    pub use crate::{
        batch::{Batch, BatchComponent, Batches, serve},
        bindings::{
            batch::export_batch, completions::export_completions, deferred::export_deferred, export_component,
            handler::export_handler, migration::export_migration, prompts::export_prompts, resources::export_resources,
            task_support::export_task_support,
        },
        deferred::DeferredComponent,
        definition::{
            Annotations, Component, Definition, TaskComponent, TaskSupport, Tools, input_schema, no_arguments_schema,
            parse,
        },
        events::Handlers,
        exports::{HandlerComponent, Migration, MigrationComponent, Step},
        output::{IntoOutput, no_output_schema},
        primitives::{CompletionComponent, PromptComponent, ResourceComponent},
        prompts::{ArgumentDefinition, FromArgument, IntoFilled, PromptDefinition, Prompts},
        resources::{IntoContents, ResourceDefinition, Resources},
    };
}

/// The Rust of the docs, compiled as the examples of this crate are.
#[cfg(doctest)]
mod documentation {
    #[doc = include_str!("../../README.md")]
    struct FrontDoor;
    #[doc = include_str!("../docs/rust.md")]
    struct Rust;
    #[doc = include_str!("../docs/resources.md")]
    struct Primitives;
    #[doc = include_str!("../docs/store.md")]
    struct Store;
    #[doc = include_str!("../docs/client.md")]
    struct Client;
    #[doc = include_str!("../docs/containers.md")]
    struct Containers;
    #[doc = include_str!("../docs/tasks.md")]
    struct Tasks;
    #[doc = include_str!("../docs/http.md")]
    struct Http;
    #[doc = include_str!("../docs/mesh.md")]
    struct Mesh;
}

#[doc(hidden)]
pub mod bindings;
