//! The store without guests: one suite for every backend, a model, and disks that fail.

mod closing;
mod disk;
mod embedded;
mod flush_points;
mod held;
mod model;
mod postgres;
pub mod suite;
mod wal;
