//! What an unfinished run waits for, so that `workflow_doctor` finds one to which nothing will happen any more, or happened too late.

use mcpp_tool::{
    environment::rfc3339,
    store::{StoreError, View},
};

use super::{event_refusal, keys, upkeep::WATCH_MS};
use crate::{
    definition::EventWanted,
    run::{Node, Number, Phase, Run, State},
    store::{CLAIMS, NODES, stored_run},
};

/// How long behind its time an event may come, in milliseconds: the watch rings twice meanwhile.
pub const GRACE_MS: u64 = 2 * WATCH_MS;
/// Bytes of nodes that one look at a run goes through.
const MAX_LOOK_BYTES: u64 = 8 << 20;

/// What comes next in an unfinished run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// This, in words.
    Event(String),
    /// An operator does something about it, in words.
    Operator(String),
    /// This should have come, and has not.
    Overdue(String),
    /// Nothing will happen any more.
    Nothing,
    /// The nodes before this one are ended or wait for others; the look goes on there.
    GoesOn(Number),
}

impl Next {
    /// In words, for a run's status; none if nothing will happen any more.
    pub fn words(self) -> Option<String> {
        match self {
            Self::Event(words) | Self::Operator(words) | Self::Overdue(words) => Some(words),
            Self::Nothing => None,
            Self::GoesOn(_) => {
                Some("one of its further steps: they are too large to look at all of them here".to_owned())
            }
        }
    }
}

/// What an unfinished run waits for next, where the look at its nodes begins at `from`.
///
/// # Errors
/// See [`StoreError`].
pub fn next_event(t: &View<'_>, run: &Run, from: Number, now_ms: u64) -> Result<Next, StoreError> {
    let event = |text: &str| Ok(Next::Event(text.to_owned()));
    match run.phase {
        Phase::Completed | Phase::Failed | Phase::Cancelled => return event("it has ended"),
        Phase::UndoFailed => {
            let words = "an operator: `workflow_retry`, or `workflow_cancel` with `force`";
            return Ok(Next::Operator(words.to_owned()));
        }
        Phase::Blocked if !run.waits_for.is_empty() => return end_of_others(t, run, now_ms),
        _ => {}
    }
    if run.paused_ms.is_some() && !run.held.is_empty() {
        return event("`workflow_resume`");
    }
    if !run.untold.is_empty() || !run.to_cancel.is_empty() || run.cancelling.is_some() {
        return event("its timer, for what follows from steps that ended");
    }
    // Mostly the node that was taken last has not ended, or the one whose effect is taken back: then no other need be looked at.
    for number in [run.undoing, run.taken].into_iter().flatten() {
        let node = NODES.get(t, &(&run.id, number))?;
        if let Some(next) = node.map(|node| next_of(t, run, &node, now_ms)).transpose()?.flatten() {
            return Ok(next);
        }
    }
    let begun = t.spent().bytes;
    for row in NODES.under(&(&run.id,)).from(&(&run.id, from)).walk(t) {
        let node = row?.1;
        if let Some(next) = next_of(t, run, &node, now_ms)? {
            return Ok(next);
        }
        if t.spent().bytes.saturating_sub(begun) > MAX_LOOK_BYTES {
            return Ok(Next::GoesOn(node.number.saturating_add(1)));
        }
    }
    Ok(Next::Nothing)
}

/// What a run that waits for others waits for: those of them that have not ended.
fn end_of_others(t: &View<'_>, run: &Run, now_ms: u64) -> Result<Next, StoreError> {
    for id in &run.waits_for {
        let Some(other) = stored_run(t, id)? else {
            return Ok(Next::Overdue(format!("the end of {id}, which is not there any more")));
        };
        match other.ended_ms.filter(|_| other.phase.is_final()) {
            Some(ended_ms) if ended_ms.saturating_add(GRACE_MS) < now_ms => {
                return Ok(Next::Overdue(format!("the end of {id}, which ended at {}", rfc3339(ended_ms))));
            }
            _ => {}
        }
    }
    Ok(Next::Event(format!("the end of {}", run.waits_for.join(", "))))
}

/// What a node waits for; none if it waits for other nodes, or has ended.
pub fn next_of(t: &View<'_>, run: &Run, node: &Node, now_ms: u64) -> Result<Option<Next>, StoreError> {
    let (next, until_ms) = match &node.state {
        State::InLine(line) => {
            return keys::outlook(t, node, line, now_ms).map(Some);
        }
        State::Ready | State::Undoing { claim: None } => ("a handler that takes it", None),
        State::Running { claim, until_ms } | State::Undoing { claim: Some((claim, until_ms)) } => {
            // A delivery that comes again finds its node by its claim. Without one only the end of the lease gives the node back.
            let has_it = CLAIMS.get(t, claim)?.is_some_and(|(id, number)| id == run.id && number == node.number);
            if !has_it {
                let words = format!("{}: no handler has it; its lease ends at {}", node.path, rfc3339(*until_ms));
                return Ok(Some(Next::Overdue(words)));
            }
            ("the end of its call", Some(*until_ms))
        }
        State::Delayed { until_ms } | State::UndoDelayed { until_ms } => ("its next attempt", Some(*until_ms)),
        State::Waiting { signal: None, token: None, until_ms, .. } => ("its time", *until_ms),
        State::Waiting { until_ms, .. } => ("a signal", *until_ms),
        State::Listening { event, until_ms, .. } => return Ok(Some(next_event_of(node, event, *until_ms, now_ms))),
        State::Handed { until_ms, look_ms } => {
            ("the end of its task", Some(until_ms.unwrap_or(*look_ms).min(*look_ms)))
        }
        State::Held => ("`workflow_resume`", None),
        _ => return Ok(None),
    };
    Ok(Some(told(format!("{}: {next}", node.path), until_ms, now_ms)))
}

/// An event, or that its time was over long ago.
pub(super) fn told(words: String, until_ms: Option<u64>, now_ms: u64) -> Next {
    match until_ms.filter(|until_ms| until_ms.saturating_add(GRACE_MS) < now_ms) {
        Some(until_ms) => Next::Overdue(format!("{words}, which was over at {}", rfc3339(until_ms))),
        None => Next::Event(words),
    }
}

/// What a node waits for that waits for an event: the event, or, where nobody would tell of it, the operator.
fn next_event_of(node: &Node, event: &EventWanted, until_ms: Option<u64>, now_ms: u64) -> Next {
    let EventWanted { topic, key } = event;
    let key = key.as_ref().map(|key| format!(" with the key {key:?}")).unwrap_or_default();
    let words = format!("{}: an event on {topic}{key}", node.path);
    match (until_ms, event_refusal(event)) {
        (Some(until_ms), _) if until_ms.saturating_add(GRACE_MS) < now_ms => {
            Next::Overdue(format!("{words}; the time for it was over at {}", rfc3339(until_ms)))
        }
        (None, Some(reason)) => Next::Operator(format!("{words}: {reason}")),
        _ => Next::Event(words),
    }
}
