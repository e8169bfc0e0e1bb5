//! The names of templates and schedules apart from their steps, so that counting them reads no steps.

use mcpp_tool::store::{Budget, Cursor, Index, Map, Table, View, bites, snapshot, transact};
use serde::{Serialize, de::DeserializeOwned};

use super::MAX_SCHEDULES;
use crate::engine::WorkflowError;

/// The names of all templates and of all schedules, by their kind.
pub const NAMES: Index<String, String> = Index::new("plan-names");
/// The kind of templates.
pub const TEMPLATE: &str = "template";
/// The kind of schedules.
pub const SCHEDULE: &str = "schedule";

/// How far the names of what builds before this index wrote have been added to it; none for to the end.
const ADDED: Map<String, Option<Cursor>> = Map::new("plan-names-added");
/// Rows that one call reads for that.
const READ: Budget = Budget { entries: 2 * MAX_SCHEDULES, bytes: 8 << 20, ..Budget::UNBOUNDED };

/// A table whose names are kept.
#[derive(Debug)]
pub struct Named<V: 'static>(pub &'static str, pub &'static Table<String, V>);

impl<V: Clone + Serialize + DeserializeOwned + 'static> Named<V> {
    /// Adds the names of rows that an earlier build wrote: all within a few calls, as they may be large.
    ///
    /// # Errors
    /// Those of the store.
    pub fn learn(&self) -> Result<(), WorkflowError> {
        let behind = match ADDED.get(&snapshot()?, self.0)? {
            Some(None) => return Ok(()),
            Some(behind) => behind,
            None => None,
        };
        let rows = self.1.all().behind(behind);
        let added = bites(&mut { READ }, &rows, |t, (name, _)| {
            NAMES.insert(t, self.0, &name)?;
            Ok::<_, WorkflowError>(true)
        })?;
        transact(|t| Ok(ADDED.set(t, self.0, &added.next)?))
    }

    /// Checks that there is room for another.
    ///
    /// # Errors
    /// There is none.
    pub fn check_room(&self, t: &View<'_>) -> Result<(), WorkflowError> {
        let names: Vec<String> = NAMES.of(self.0).most(MAX_SCHEDULES).collect(t)?;
        match names.len() < MAX_SCHEDULES {
            true => Ok(()),
            false => Err(WorkflowError::Invalid(format!("at most {MAX_SCHEDULES} {}s are allowed", self.0))),
        }
    }
}
