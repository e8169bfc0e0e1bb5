//! What becomes of a run when something happens to one of its nodes: no store, no clock, no chance but what is given.
//!
//! Each function reads and writes nodes through [`Nodes`]; the caller makes one transaction of it. Work that could be too much for a transaction stands in the run's lists
//! (`untold`, `to_cancel`, `to_fill`, `cancelling`) and is worked off by [`follow`], so many nodes and bytes at a time.

mod inner;
mod keys;
#[cfg(test)]
pub(crate) mod model;
mod outside;

use serde_json::Value;

pub use self::{
    inner::{NO_ROOM, Place, add, has_room},
    keys::{let_on, wait_in_line},
    outside::{give_back, hear, look_again, refuse, ring, signal, time_out},
};
use crate::{
    blob::Blob,
    definition::{EventWanted, Form, Step},
    run::{Inner, Node, Number, Phase, Run, State},
};

/// The nodes of one run.
pub trait Nodes {
    /// Why they cannot be read or written.
    type Error;

    /// One node. That there is one of each number below the run's total is the caller's promise.
    fn node(&self, number: Number) -> Result<Node, Self::Error>;
    /// Writes a node.
    fn save(&mut self, node: &Node) -> Result<(), Self::Error>;
    /// Writes a node of a number that had none.
    fn add(&mut self, node: &Node) -> Result<(), Self::Error>;
    /// The result of a node; null if it has none.
    fn result(&self, number: Number) -> Result<Value, Self::Error>;
    /// The nodes of a fan-out's items, as far as those have begun, in their order.
    fn items(&self, fan: Number) -> Result<Vec<Number>, Self::Error>;
    /// Reads the results of nodes at once, so that each costs little afterwards.
    fn read_ahead(&self, numbers: &[Number]) -> Result<(), Self::Error>;
    /// Keeps the result of a node; whether it is small enough.
    fn keep(&mut self, number: Number, result: &Value) -> Result<bool, Self::Error>;
    /// Keeps a result whose pieces are written; whether they are there.
    fn keep_blob(&mut self, number: Number, blob: &Blob) -> Result<bool, Self::Error>;
    /// Whether the transaction has written so much that more should wait for the next one. A transaction that has written nothing is not full.
    fn is_full(&self) -> bool;
    /// Has [`ring`] called for a node at a time.
    fn alarm(&mut self, node: &Node, at_ms: u64) -> Result<(), Self::Error>;
    /// Has the queue cancel a task that nobody waits for any more.
    fn drop_task(&mut self, task: &str, now_ms: u64) -> Result<(), Self::Error>;
    /// The completed node with an undo that ended last.
    fn last_undoable(&self) -> Result<Option<Number>, Self::Error>;
}

/// What has happened to a node that a handler had.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It has a result.
    Completed(Value),
    /// It has a result that is larger than a record.
    Large(Blob),
    /// The attempt failed.
    Failed {
        /// Why.
        error: String,
        /// Whether another attempt is of no use.
        is_final: bool,
    },
    /// There was no room for the attempt, which does not count.
    Busy {
        /// When to try again, in milliseconds since 1970-01-01 UTC.
        again_ms: u64,
    },
    /// Its condition does not hold.
    LeftOut,
    /// It waits.
    Waits {
        /// For this signal.
        signal: Option<String>,
        /// For this token.
        token: Option<String>,
        /// Until then, in milliseconds since 1970-01-01 UTC.
        until_ms: Option<u64>,
        /// The user of a client that waits for the run is asked this.
        form: Option<Form>,
    },
    /// It waits for an event.
    Listens {
        /// Which.
        event: EventWanted,
        /// Until then, in milliseconds since 1970-01-01 UTC.
        until_ms: Option<u64>,
    },
    /// The queue has a task that does it: see [`Node::task`].
    Handed,
    /// It runs once for each of so many items.
    Fans(u32),
    /// These steps run within it.
    Holds(Vec<Step>),
}

/// Takes a node that is ready; false if it is not ready (any more).
pub fn claim<N: Nodes>(
    run: &mut Run,
    nodes: &mut N,
    number: Number,
    (claim, until_ms): (&str, u64),
    now_ms: u64,
) -> Result<bool, N::Error> {
    let mut node = nodes.node(number)?;
    let claim = claim.to_owned();
    match node.state {
        State::Ready if run.paused_ms.is_some() => {
            node.state = State::Held;
            run.held.push(number);
            nodes.save(&node)?;
            return Ok(false);
        }
        State::Ready => {
            node.state = State::Running { claim, until_ms };
            node.started_ms.get_or_insert(now_ms);
            run.started_ms.get_or_insert(now_ms);
            run.current = Some(node.path.clone());
        }
        State::Undoing { claim: None } => node.state = State::Undoing { claim: Some((claim, until_ms)) },
        _ => return Ok(false),
    }
    node.attempt = node.attempt.saturating_add(1);
    run.taken = Some(number);
    nodes.save(&node)?;
    Ok(true)
}

/// Whether a delivery has a node.
pub fn has(node: &Node, delivery: &str) -> bool {
    match &node.state {
        State::Running { claim, .. } | State::Undoing { claim: Some((claim, _)) } => claim == delivery,
        _ => false,
    }
}

/// Ends what a handler did with a node that it had.
pub fn settle<N: Nodes>(
    run: &mut Run,
    nodes: &mut N,
    mut node: Node,
    outcome: Outcome,
    (now_ms, chance): (u64, f64),
) -> Result<(), N::Error> {
    let is_undo = matches!(node.state, State::Undoing { .. });
    let has_result = matches!(outcome, Outcome::Completed(_) | Outcome::Large(_));
    let over = if is_undo || has_result { None } else { over(run, nodes, &node)? };
    let retry = node.step.undo.as_ref().filter(|_| is_undo).map_or(&node.step.retry, |undo| &undo.retry);
    match outcome {
        Outcome::Busy { again_ms } => {
            node.attempt = node.attempt.saturating_sub(1);
            match over {
                Some(_) => end(run, nodes, node, State::Cancelled, over, now_ms),
                None => delay(nodes, node, is_undo, again_ms),
            }
        }
        Outcome::Failed { error, is_final } => {
            let next = retry.next_ms(node.attempt, &error, now_ms, chance).filter(|_| !is_final);
            let next = next.filter(|_| over.is_none());
            match next {
                Some(at_ms) => {
                    node.error = Some(error);
                    delay(nodes, node, is_undo, at_ms)
                }
                None if is_undo => {
                    run.phase = Phase::UndoFailed;
                    (node.state, node.error) = (State::UndoFailed, Some(error));
                    nodes.save(&node)
                }
                None => end(run, nodes, node, State::Failed, Some(error), now_ms),
            }
        }
        Outcome::Completed(_) | Outcome::Large(_) if is_undo => {
            run.undoing = None;
            (node.state, node.error) = (State::Undone, None);
            nodes.save(&node)
        }
        Outcome::Completed(result) => match nodes.keep(node.number, &result)? {
            true => end(run, nodes, node, State::Completed, None, now_ms),
            false => end(run, nodes, node, State::Failed, Some(too_large(&result)), now_ms),
        },
        Outcome::Large(blob) => match nodes.keep_blob(node.number, &blob)? {
            true => end(run, nodes, node, State::Completed, None, now_ms),
            false => end(run, nodes, node, State::Failed, Some("its result is lost".into()), now_ms),
        },
        Outcome::LeftOut => end(run, nodes, node, State::Skipped, None, now_ms),
        Outcome::Waits { .. } | Outcome::Listens { .. } | Outcome::Handed | Outcome::Fans(_) | Outcome::Holds(_)
            if over.is_some() =>
        {
            outside::let_go(nodes, &node, now_ms)?;
            end(run, nodes, node, State::Cancelled, over, now_ms)
        }
        Outcome::Waits { signal, token, until_ms, form } => {
            if let Some(at_ms) = until_ms {
                nodes.alarm(&node, at_ms)?;
            }
            node.state = State::Waiting { signal, token, until_ms, form };
            nodes.save(&node)
        }
        Outcome::Listens { event, until_ms } => outside::listen(nodes, node, (event, until_ms), now_ms),
        Outcome::Handed => outside::hand(nodes, node, now_ms),
        Outcome::Fans(total) => inner::fan(run, nodes, node, total, now_ms),
        Outcome::Holds(steps) => inner::hold(run, nodes, node, &steps, now_ms),
    }
}

/// Why nothing more begins for a node, if so: its run is cancelled, or the node in which it stands has ended. What takes an effect back begins anyway.
fn over<N: Nodes>(run: &Run, nodes: &N, node: &Node) -> Result<Option<String>, N::Error> {
    if run.cancelled.is_some() {
        return Ok(run.cancelled.clone());
    }
    let parent = node.parent.map(|parent| nodes.node(parent)).transpose()?;
    Ok(parent.filter(|parent| parent.state.has_ended()).map(|_| ENDED_ABOVE.to_owned()))
}

/// Why a node is cancelled in a run that goes on.
const ENDED_ABOVE: &str = "the step in which it stands has ended";

fn too_large(result: &Value) -> String {
    let bytes = result.to_string().len();
    format!("the result has {bytes} bytes; at most {} are kept", crate::engine::MAX_RESULT_BYTES)
}

fn delay<N: Nodes>(nodes: &mut N, mut node: Node, is_undo: bool, until_ms: u64) -> Result<(), N::Error> {
    node.state = if is_undo { State::UndoDelayed { until_ms } } else { State::Delayed { until_ms } };
    nodes.alarm(&node, until_ms)?;
    nodes.save(&node)
}

/// Ends a node for good.
fn end<N: Nodes>(
    run: &mut Run,
    nodes: &mut N,
    mut node: Node,
    state: State,
    error: Option<String>,
    now_ms: u64,
) -> Result<(), N::Error> {
    let tally = &mut run.tally;
    tally.open = tally.open.saturating_sub(1);
    tally.to_come = tally.to_come.saturating_sub(inner::to_come(&node));
    let ended = match state {
        State::Failed => &mut tally.failed,
        State::Skipped => &mut tally.skipped,
        State::Cancelled => &mut tally.cancelled,
        _ => &mut tally.completed,
    };
    *ended = ended.saturating_add(1);
    run.sequence = run.sequence.saturating_add(1);
    (node.state, node.error, node.ended_ms, node.order) = (state, error, Some(now_ms), run.sequence);
    node.turn = None;
    if node.state == State::Failed && node.parent.is_none() && !node.step.may_fail {
        run.has_failed = true;
        let why = node.error.as_deref().unwrap_or_default();
        run.error.get_or_insert_with(|| format!("step '{}' failed: {why}", node.path));
    }
    run.untold.push((node.number, 0));
    nodes.save(&node)
}

/// Lets a node that waits for nothing more begin. It waits in line for its keys again.
fn begin<N: Nodes>(nodes: &mut N, mut node: Node, now_ms: u64) -> Result<(), N::Error> {
    (node.state, node.ready_ms, node.turn) = (State::Ready, now_ms, None);
    nodes.save(&node)
}

/// Cancels a run: nothing more begins. What runs ends, and is undone with the rest, unless that is `forced`.
pub fn cancel(run: &mut Run, reason: &str, is_forced: bool) {
    run.cancelled.get_or_insert_with(|| reason.to_owned());
    run.is_forced |= is_forced;
    run.cancelling = Some(0);
}

/// Cancels a node, if that has not ended.
fn cancel_node<N: Nodes>(run: &mut Run, nodes: &mut N, number: Number, now_ms: u64) -> Result<(), N::Error> {
    let node = nodes.node(number)?;
    match &node.state {
        State::Running { .. } if !run.is_forced => return Ok(()),
        State::Open(Inner::Fan { open, .. }) => run.to_cancel.extend(open),
        State::Open(Inner::Group { first, total, .. }) => {
            run.to_cancel.extend(*first..first.saturating_add(*total));
        }
        state if state.has_ended() => return Ok(()),
        _ => {}
    }
    let reason = run.cancelled.clone().unwrap_or_else(|| ENDED_ABOVE.to_owned());
    outside::let_go(nodes, &node, now_ms)?;
    end(run, nodes, node, State::Cancelled, Some(reason), now_ms)
}

/// Goes on with what follows from nodes that have ended, for about `most` nodes; whether all is done.
pub fn follow<N: Nodes>(run: &mut Run, nodes: &mut N, most: u32, now_ms: u64) -> Result<bool, N::Error> {
    let mut left = most;
    while left > 0 && !nodes.is_full() {
        left = left.saturating_sub(1);
        if let Some((number, told)) = run.untold.pop() {
            tell(run, nodes, (number, told), now_ms)?;
        } else if let Some(number) = run.to_cancel.pop() {
            cancel_node(run, nodes, number, now_ms)?;
        } else if let Some(number) = run.to_fill.pop() {
            // What is cancelled begins no items, and ends with those that it has.
            if run.cancelled.is_none() {
                let fan = nodes.node(number)?;
                inner::fill(run, nodes, fan, now_ms)?;
            }
        } else if let Some(number) = run.cancelling {
            run.cancelling = Some(number.saturating_add(1)).filter(|next| *next < run.tally.total);
            if number < run.tally.total {
                cancel_node(run, nodes, number, now_ms)?;
            }
        } else {
            break;
        }
    }
    let is_done =
        run.untold.is_empty() && run.to_cancel.is_empty() && run.to_fill.is_empty() && run.cancelling.is_none();
    if is_done {
        conclude(run, nodes, now_ms)?;
    }
    Ok(is_done)
}

/// Tells one dependent of a node that has ended, or, when all know, the node in which it stands.
fn tell<N: Nodes>(run: &mut Run, nodes: &mut N, (number, told): (Number, u32), now_ms: u64) -> Result<(), N::Error> {
    let node = nodes.node(number)?;
    let next = usize::try_from(told).ok().and_then(|told| node.dependents.get(told).copied());
    let Some(dependent) = next else {
        return match node.parent {
            Some(parent) => inner::tell_parent(run, nodes, parent, &node, now_ms),
            None => Ok(()),
        };
    };
    run.untold.push((number, told.saturating_add(1)));
    let mut dependent = nodes.node(dependent)?;
    if dependent.state != State::Pending {
        return Ok(());
    }
    dependent.waiting_for = dependent.waiting_for.saturating_sub(1);
    if run.cancelled.is_some() {
        end(run, nodes, dependent, State::Cancelled, run.cancelled.clone(), now_ms)
    } else if !node.lets_go_on() {
        let reason = format!("step '{}' {}", node.path, node.state.as_str());
        end(run, nodes, dependent, State::Skipped, Some(reason), now_ms)
    } else if dependent.waiting_for == 0 {
        begin(nodes, dependent, now_ms)
    } else {
        nodes.save(&dependent)
    }
}

/// Ends the run if all nodes have ended, or takes back the next effect.
fn conclude<N: Nodes>(run: &mut Run, nodes: &mut N, now_ms: u64) -> Result<(), N::Error> {
    if run.tally.open > 0 || run.phase.is_final() {
        return Ok(());
    }
    let is_bad = run.has_failed || run.cancelled.is_some();
    if is_bad && !run.is_forced {
        if run.undoing.is_some() {
            return Ok(());
        }
        if let Some(number) = nodes.last_undoable()? {
            (run.phase, run.undoing) = (Phase::Undoing, Some(number));
            let mut node = nodes.node(number)?;
            (node.state, node.attempt, node.ready_ms) = (State::Undoing { claim: None }, 0, now_ms);
            return nodes.save(&node);
        }
    }
    run.phase = match (run.cancelled.is_some(), run.has_failed) {
        (true, _) => Phase::Cancelled,
        (false, true) => Phase::Failed,
        (false, false) => Phase::Completed,
    };
    run.ended_ms = Some(now_ms);
    Ok(())
}

/// Has an undo that failed for good tried again; false if there is none.
pub fn retry_undo<N: Nodes>(run: &mut Run, nodes: &mut N, now_ms: u64) -> Result<bool, N::Error> {
    let Some(number) = run.undoing.filter(|_| run.phase == Phase::UndoFailed) else { return Ok(false) };
    let mut node = nodes.node(number)?;
    if node.state != State::UndoFailed {
        return Ok(false);
    }
    run.phase = Phase::Undoing;
    (node.state, node.attempt, node.ready_ms) = (State::Undoing { claim: None }, 0, now_ms);
    nodes.save(&node)?;
    Ok(true)
}

/// Lets go what a pause held back, for at most `most` nodes; whether all is done.
pub fn resume<N: Nodes>(run: &mut Run, nodes: &mut N, most: u32, now_ms: u64) -> Result<bool, N::Error> {
    for _ in 0..most {
        if nodes.is_full() {
            break;
        }
        let Some(number) = run.held.pop() else { return Ok(true) };
        let node = nodes.node(number)?;
        if node.state == State::Held {
            begin(nodes, node, now_ms)?;
        }
    }
    Ok(run.held.is_empty())
}

/// Ends a node of a new run that has its result from the run of which that was forked.
pub fn copy<N: Nodes>(run: &mut Run, nodes: &mut N, number: Number, now_ms: u64) -> Result<(), N::Error> {
    let node = nodes.node(number)?;
    end(run, nodes, node, State::Completed, None, now_ms)
}
