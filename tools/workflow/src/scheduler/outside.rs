//! What happens to a node from outside: its time comes, somebody gives it what it waits for, or its handler is gone.

use serde_json::Value;

use super::{Nodes, begin, end, inner};
use crate::run::{Number, Run, State};

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
        State::Open(_) => inner::ring(run, nodes, node, now_ms),
        // The clock was set back: the alarm came too soon.
        State::Delayed { until_ms }
        | State::UndoDelayed { until_ms }
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
