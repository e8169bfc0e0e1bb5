//! wip
pub mod definition;
pub mod engine { pub const MAX_RESULT_BYTES: usize = 960 << 10; }
pub mod placeholder;
pub mod run;
pub mod scheduler;
pub mod schema;
pub mod validate;
