//! Which of the tasks that wait here are this host's, and which are a peer's.
//!
//! The rule of the MCP++ programs (contract, section 3): the owner is the peer whose hashed id differs in the fewest bits from the hash of clock and task. A task is also this host's if its owner
//! has failed, if it must stay, or if it waited longer than a peer may be silent: then its owner cannot be reached from here.

use mcpp_tool::store::{StoreError, Transaction, View};
use scheduling::{clock::VectorClock, hash::Hash, placement::combined};

use crate::{
    peers::{Candidate, PEER_TIMEOUT_MS},
    tasks::{READY, State, TASKS, Task},
};

/// Tasks that one call looks at, the most important first. With 256 peers that takes a few milliseconds of a transaction's 50.
const MAX_LOOKED_AT: usize = 500;
/// Tasks that are read with one call of the store.
const PAGE: usize = 100;

/// The owner of a task among `candidates`; of two that are equally near, the first.
pub fn owner<'c>(clock_root: &Hash, task_hash: &Hash, candidates: &'c [Candidate]) -> Option<&'c Candidate> {
    let combined = combined(clock_root, task_hash);
    candidates.iter().min_by_key(|candidate| combined.distance(&candidate.hash))
}

/// Whom a task is for.
#[derive(Debug)]
pub enum For<'c> {
    /// This host.
    This,
    /// A peer that has not failed.
    Peer(&'c Candidate),
}

fn judge<'c>(id: &str, task: &Task, clock: &VectorClock, candidates: &'c [Candidate], now_ms: u64) -> For<'c> {
    let is_late = task.created_ms.saturating_add(PEER_TIMEOUT_MS) < now_ms;
    match owner(&clock.root(), &task.hash(id), candidates) {
        Some(owner) if owner.id != clock.node_id() && owner.is_alive && !task.stays && !is_late => For::Peer(owner),
        _ => For::This,
    }
}

/// The tasks that wait, each with the peer that it is for, until `found` has enough.
///
/// # Errors
/// See [`StoreError`].
pub fn look<'c>(
    t: &View<'_>,
    clock: &VectorClock,
    candidates: &'c [Candidate],
    now_ms: u64,
    mut found: impl FnMut(String, Task, For<'c>) -> bool,
) -> Result<(), StoreError> {
    let ready: Vec<String> =
        READY.of(&()).most(MAX_LOOKED_AT).walk(t).map(|place| Ok(place?.2)).collect::<Result<_, StoreError>>()?;
    for page in ready.chunks(PAGE) {
        TASKS.read_ahead(t, page.iter())?;
        for id in page {
            let Some(task) = TASKS.get(t, id)? else { continue };
            let whose = judge(id, &task, clock, candidates, now_ms);
            if found(id.clone(), task, whose) {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Assigns the first task that is this host's.
///
/// # Errors
/// See [`StoreError`].
pub fn assign(
    t: &Transaction<'_>,
    clock: &VectorClock,
    candidates: &[Candidate],
    now_ms: u64,
) -> Result<Option<(String, Task)>, StoreError> {
    let mut next = None;
    look(t, clock, candidates, now_ms, |id, task, whose| {
        let is_ours = matches!(whose, For::This);
        if is_ours {
            next = Some((id, task));
        }
        is_ours
    })?;
    if let Some((id, task)) = &mut next {
        task.state = State::Assigned;
        TASKS.put(t, id, task)?;
    }
    Ok(next)
}
