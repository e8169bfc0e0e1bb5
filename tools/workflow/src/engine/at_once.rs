//! Steps that only wait: they begin in the transaction in which they are ready, and need no handler. So what they wait for finds them as soon as anybody knows that they are there.

use mcpp_tool::{environment::chance, store::Transaction};

use super::{
    WorkflowError, arguments, event,
    job::{Work, given},
};
use crate::{
    run::{Node, Run, State},
    scheduler::{self, Nodes as _, Outcome},
    store::StoredNodes,
};

/// Steps that begin so in one transaction; handlers take further ones.
const MOST: usize = 16;
/// Bytes of the store behind which no further one begins so: a transaction has little time, and decodes what it reads.
const MOST_BYTES: u64 = 256 << 10;

/// What becomes of a node that is to wait: it may be that it has what it waits for already.
pub(super) fn known(t: &Transaction<'_>, run: &Run, outcome: &Outcome) -> Result<Option<Outcome>, WorkflowError> {
    match given(t, &run.id, outcome)? {
        Some(payload) => Ok(Some(Outcome::Completed(payload))),
        None => Ok(event::known_end(t, &run.id, outcome)?),
    }
}

/// Has steps begin that only wait, of those that have become ready; whether there were any. The first one for which much must be read leaves itself and the others to handlers.
pub(super) fn begin(
    t: &Transaction<'_>,
    run: &mut Run,
    nodes: &mut StoredNodes<'_, '_>,
    now_ms: u64,
) -> Result<bool, WorkflowError> {
    let (before, mut is_any) = (t.spent().bytes, false);
    for number in std::mem::take(&mut nodes.waits).into_iter().take(MOST) {
        if t.spent().bytes.saturating_sub(before) >= MOST_BYTES || nodes.is_full() || run.is_rehearsal {
            break;
        }
        let node = nodes.node(number)?;
        if node.state != State::Ready {
            continue;
        }
        let Some(outcome) = outcome(t, (run, &node), now_ms)? else { break };
        if scheduler::claim(run, nodes, number, ("", now_ms), now_ms)? {
            let node = nodes.node(number)?;
            let outcome = known(t, run, &outcome)?.unwrap_or(outcome);
            scheduler::settle(run, nodes, node, outcome, (now_ms, chance()))?;
        }
        // No handler need come for it.
        nodes.woken = nodes.woken.saturating_sub(1);
        is_any = true;
    }
    Ok(is_any)
}

/// What becomes of a step; none if more must be read for that than a transaction reads.
fn outcome(t: &Transaction<'_>, (run, node): (&Run, &Node), now_ms: u64) -> Result<Option<Outcome>, WorkflowError> {
    match arguments::work(t, (run, node), (None, now_ms), &arguments::AMONG_OTHERS)? {
        Work::Known(done) => Ok(Some(done.outcome)),
        Work::Call { .. } | Work::Unread => Ok(None),
    }
}
