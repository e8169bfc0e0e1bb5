//! What steps of all runs share: keys, and results.

use super::*;

mod cached;
mod lines;
mod turns;
