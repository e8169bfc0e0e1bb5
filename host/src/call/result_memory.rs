//! The tenant's memory that a result holds while it is on its way.

use std::sync::Arc;

use crate::memory::Reservation;

/// Tenant's memory that a result holds, given back with its last clone. It is no part of the tool's answer.
#[derive(Debug, Clone, Default)]
pub struct ResultMemory(Vec<Arc<Reservation>>);

impl ResultMemory {
    /// Keeps `held` for as long as the result is there.
    pub fn keep(&mut self, held: Reservation) {
        self.0.push(Arc::new(held));
    }

    /// Whether the result holds any memory.
    pub fn is_charged(&self) -> bool {
        !self.0.is_empty()
    }
}

impl PartialEq for ResultMemory {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
