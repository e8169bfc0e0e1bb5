//! Used and refused permissions of components, for `mcpp explain` and `mcpp learn`.
//!
//! The ledger is always on, and bounded: a few hundred different lines a component, each counted. It is lost with the process.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};

use crate::names::{ComponentName, TenantId};

/// Different notes of one component; the ledger only counts further ones.
const MAX_LINES: usize = 256;
/// Longest line that is noted, in bytes: a guest may make up the address that it wants to reach.
const MAX_LINE_BYTES: usize = 1_024;

/// One action or attempt of a component, as the lines of a grant that allow it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Lines of TOML that would allow exactly this; none if no grant can.
    pub grant: Option<String>,
    /// Reason for a denial; none if the host allowed it.
    pub denied: Option<String>,
    /// The tool that did it last.
    pub tool: String,
    /// How often it happened.
    pub count: u64,
    /// When it last happened, in seconds since 1970-01-01 UTC.
    pub last: u64,
}

/// Notes of one component.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notes {
    /// Different notes, in the order in which they first happened.
    pub notes: Vec<Note>,
    /// Number of further notes, for which there was no room.
    pub dropped: u64,
}

/// All notes of a host.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<BTreeMap<(TenantId, ComponentName), Notes>>);

impl Ledger {
    /// Notes of a component.
    pub fn of(&self, tenant: &TenantId, component: &ComponentName) -> Notes {
        let notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        notes.get(&(tenant.clone(), component.clone())).cloned().unwrap_or_default()
    }

    /// Forgets a tenant.
    pub fn forget(&self, tenant: &TenantId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|(known, _), _| known != tenant);
    }

    fn note(
        &self,
        tenant: &TenantId,
        component: &ComponentName,
        tool: &str,
        grant: Option<String>,
        denied: Option<String>,
    ) {
        let is_long = |text: &Option<String>| text.as_ref().is_some_and(|text| text.len() > MAX_LINE_BYTES);
        let last = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let notes = all.entry((tenant.clone(), component.clone())).or_default();
        if let Some(known) = notes.notes.iter_mut().find(|known| known.grant == grant && known.denied == denied) {
            known.count = known.count.saturating_add(1);
            known.last = last;
            tool.clone_into(&mut known.tool);
        } else if notes.notes.len() < MAX_LINES && !is_long(&grant) && !is_long(&denied) {
            notes.notes.push(Note { grant, denied, tool: tool.to_owned(), count: 1, last });
        } else {
            notes.dropped = notes.dropped.saturating_add(1);
        }
    }
}

/// Notes the actions of one call.
#[derive(Debug, Clone)]
pub struct Witness {
    ledger: Arc<Ledger>,
    tenant: TenantId,
    component: ComponentName,
    tool: Arc<str>,
}

impl Witness {
    /// A witness for a call of a component's tool.
    pub fn new(ledger: Arc<Ledger>, tenant: TenantId, component: ComponentName, tool: Arc<str>) -> Self {
        Self { ledger, tenant, component, tool }
    }

    /// Notes that the tool did something that `grant` allows.
    pub fn used(&self, grant: String) {
        self.ledger.note(&self.tenant, &self.component, &self.tool, Some(grant), None);
    }

    /// Notes that the host denied the tool something that `grant` would allow; none if no grant can.
    pub fn denied(&self, grant: Option<String>, why: String) {
        self.ledger.note(&self.tenant, &self.component, &self.tool, grant, Some(why));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_counted_and_the_number_is_bounded() {
        let (ledger, tenant) = (Arc::new(Ledger::default()), TenantId::local());
        let component = ComponentName::new("c").expect("legal");
        let witness = Witness::new(Arc::clone(&ledger), tenant.clone(), component.clone(), "t".into());
        witness.used("store = {}".into());
        witness.used("store = {}".into());
        witness.denied(Some("call = [\"x\"]".into()), "no".into());
        let notes = ledger.of(&tenant, &component).notes;
        assert_eq!(notes.iter().map(|note| note.count).collect::<Vec<_>>(), [2, 1]);
        (0..1_000).for_each(|n| witness.denied(Some(format!("call = [\"x{n}\"]")), "no".into()));
        witness.used("x".repeat(MAX_LINE_BYTES + 1));
        let notes = ledger.of(&tenant, &component);
        assert_eq!((notes.notes.len(), notes.dropped), (MAX_LINES, 1_000 - (MAX_LINES as u64 - 2) + 1));
        assert_eq!(ledger.of(&TenantId::new("other").expect("legal"), &component), Notes::default());
        ledger.forget(&tenant);
        assert_eq!(ledger.of(&tenant, &component), Notes::default());
    }
}
