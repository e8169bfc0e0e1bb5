//! wip
pub mod definition;
pub mod engine;
pub mod placeholder;
pub mod run;
pub mod schedule;
pub mod scheduler;
pub mod schema;
pub mod store;
pub mod validate;
