//! What happens to a node from outside: its time comes, somebody gives it what it waits for, or its handler is gone.

use serde_json::Value;

use super::{Nodes, Outcome, begin, end, inner, settle, too_large};
use crate::{
    definition::{EventWanted, TASK, ms},
    run::{Node, Number, Run, State},
};

/// When the queue is asked for a task first, and how much later at most each further time, in milliseconds.
const LOOK_MS: u64 = 30_000;
const MAX_LOOK_MS: u64 = 300_000;

/// The time of a node has come.
pub fn ring<N: Nodes>(run: &mut Run, nodes: &mut N, number: Number, now_ms: u64) -> Result<(), N::Error> {
    let mut node = nodes.node(number)?;
    match &node.state {
        State::Delayed { until_ms } if *until_ms <= now_ms => begin(nodes, node, now_ms),
        State::UndoDelayed { until_ms } if *until_ms <= now_ms => {
            (node.state, node.ready_ms) = (State::Undoing { claim: None }, now_ms);
            nodes.save(&node)
        }
        State::Waiting { signal: None, token: None, until_ms: Some(until_ms), .. } if *until_ms <= now_ms => {
            end(run, nodes, node, State::Completed, None, now_ms)
        }
        State::Waiting { until_ms: Some(until_ms), .. } if *until_ms <= now_ms => {
            let error = Some("the time to wait is over, and no signal came".to_owned());
            end(run, nodes, node, State::Failed, error, now_ms)
        }
        State::Listening { until_ms: Some(until_ms), .. } if *until_ms <= now_ms => {
            let error = Some("the time to wait is over, and no such event came".to_owned());
            end(run, nodes, node, State::Failed, error, now_ms)
        }
        State::Open(_) => inner::ring(run, nodes, node, now_ms),
        // The clock was set back: the alarm came too soon.
        State::Delayed { until_ms }
        | State::UndoDelayed { until_ms }
        | State::Listening { until_ms: Some(until_ms), .. }
        | State::Waiting { until_ms: Some(until_ms), .. } => nodes.alarm(&node, *until_ms),
        // An alarm of before, or one that came twice.
        _ => Ok(()),
    }
}

/// Somebody gives a node for which it waits; false if it does not wait (any more).
pub fn signal<N: Nodes>(
    run: &mut Run,
    nodes: &mut N,
    number: Number,
    payload: &Value,
    now_ms: u64,
) -> Result<bool, N::Error> {
    let node = nodes.node(number)?;
    if !matches!(node.state, State::Waiting { .. }) || !nodes.keep(number, payload)? {
        return Ok(false);
    }
    end(run, nodes, node, State::Completed, None, now_ms)?;
    Ok(true)
}

/// The user whom a node asked says no; false if it does not ask (any more).
pub fn refuse<N: Nodes>(run: &mut Run, nodes: &mut N, number: Number, now_ms: u64) -> Result<bool, N::Error> {
    let node = nodes.node(number)?;
    if !matches!(node.state, State::Waiting { form: Some(_), .. }) {
        return Ok(false);
    }
    end(run, nodes, node, State::Failed, Some("the user who was asked said no".to_owned()), now_ms)?;
    Ok(true)
}

/// Gives back a node whose delivery is gone; the attempt does not count.
pub fn give_back<N: Nodes>(nodes: &mut N, number: Number, now_ms: u64) -> Result<(), N::Error> {
    let mut node = nodes.node(number)?;
    match &node.state {
        State::Running { until_ms, .. } if *until_ms <= now_ms => (node.state, node.turn) = (State::Ready, None),
        State::Undoing { claim: Some((_, until_ms)) } if *until_ms <= now_ms => {
            node.state = State::Undoing { claim: None };
        }
        _ => return Ok(()),
    }
    (node.attempt, node.ready_ms) = (node.attempt.saturating_sub(1), now_ms);
    nodes.save(&node)
}

/// A node begins to wait for an event.
pub(super) fn listen<N: Nodes>(
    nodes: &mut N,
    mut node: Node,
    (event, until_ms): (EventWanted, Option<u64>),
    now_ms: u64,
) -> Result<(), N::Error> {
    if let Some(at_ms) = until_ms {
        nodes.alarm(&node, at_ms)?;
    }
    node.state = State::Listening { event, since_ms: now_ms, until_ms };
    nodes.save(&node)
}

/// The event for which a node waits has come; false if it waits for none (any more).
pub fn hear<N: Nodes>(
    run: &mut Run,
    nodes: &mut N,
    number: Number,
    event: &Value,
    now_ms: u64,
) -> Result<bool, N::Error> {
    let node = nodes.node(number)?;
    if !matches!(node.state, State::Listening { .. }) {
        return Ok(false);
    }
    let (state, error) = match nodes.keep(number, event)? {
        true => (State::Completed, None),
        false => (State::Failed, Some(too_large(event))),
    };
    end(run, nodes, node, state, error, now_ms)?;
    Ok(true)
}

/// A node begins to wait for the end of its task. If that has ended already, the queue is asked at once.
pub(super) fn hand<N: Nodes>(nodes: &mut N, mut node: Node, now_ms: u64) -> Result<(), N::Error> {
    let until_ms = node.step.timeout_s.map(|seconds| now_ms.saturating_add(ms(seconds)));
    let has_ended = node.task.as_ref().is_some_and(|task| task.has_ended);
    let look_ms = if has_ended { now_ms } else { now_ms.saturating_add(LOOK_MS) };
    node.state = State::Handed { until_ms, look_ms };
    nodes.alarm(&node, until_ms.unwrap_or(look_ms).min(look_ms))?;
    nodes.save(&node)
}

/// The queue was asked for the task of a node, which has not ended: it is asked again, later each time.
pub fn look_again<N: Nodes>(nodes: &mut N, mut node: Node, now_ms: u64) -> Result<(), N::Error> {
    let (State::Handed { until_ms, .. }, Some(task)) = (node.state.clone(), node.task.as_mut()) else { return Ok(()) };
    task.looks = task.looks.saturating_add(1);
    let wait_ms = LOOK_MS.saturating_mul(1_u64.checked_shl(task.looks).unwrap_or(u64::MAX)).min(MAX_LOOK_MS);
    let look_ms = now_ms.saturating_add(wait_ms);
    node.state = State::Handed { until_ms, look_ms };
    nodes.alarm(&node, until_ms.unwrap_or(look_ms).min(look_ms))?;
    nodes.save(&node)
}

/// The attempt of a node with a task has taken too long: the task is cancelled, and the attempt failed.
pub fn time_out<N: Nodes>(
    run: &mut Run,
    nodes: &mut N,
    node: Node,
    (now_ms, chance): (u64, f64),
) -> Result<(), N::Error> {
    let_go(nodes, &node, now_ms)?;
    let error = "its task did not end within timeout_s".to_owned();
    settle(run, nodes, node, Outcome::Failed { error, is_final: false }, (now_ms, chance))
}

/// Has the queue cancel the task of a node, if it may have one that has not ended.
pub(super) fn let_go<N: Nodes>(nodes: &mut N, node: &Node, now_ms: u64) -> Result<(), N::Error> {
    match &node.task {
        Some(task) if node.step.action == TASK => nodes.drop_task(&task.id, now_ms),
        _ => Ok(()),
    }
}
