//! Keys that steps of all runs share. A step that has no turn waits in the line of its key, out of the way of all others. Who leaves a key lets on as many as have room, the first
//! of the line first; a timer lets on the next one of a rate.
//!
//! Each transaction looks at the head of a line, and never goes through one.

use std::collections::BTreeSet;

use mcpp_tool::store::{Alarm, Budget, StoreError, Transaction, View, bites};

use super::{
    Origin, WorkflowError,
    arguments::{Keys, keys},
    call_for,
    outlook::{Next, told},
};
use crate::{
    definition::Rate,
    run::{Limited, Line, Node, Run, State, Turn},
    scheduler::{self, Nodes as _},
    store::{
        StoredNodes,
        keys::{DUE_LINES, LINES, NEXT, OPENED, OPENS, SLOTS},
        node,
    },
};

/// Steps that one transaction lets on at a key. The others follow in the next one.
const MAX_LET_ON: u32 = 16;
/// How far behind its rate a key may be and still make up for it, in microseconds: timers ring late.
const MAKE_UP_US: u64 = 1_000_000;
/// What one ring lets on or forgets.
const RING: Budget = Budget { entries: 500, bytes: 8 << 20, ..Budget::UNBOUNDED };

/// Rings when a line goes on.
pub(super) const KEYS: Alarm = Alarm::new("keys");

/// Whether a node that is ready begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Gate {
    /// It does.
    Begins,
    /// It waits in a line now.
    Waits,
    /// It fails: a key cannot be had; why.
    Wrong(String),
}

fn us(ms: u64) -> u64 {
    ms.saturating_mul(1_000)
}

fn is_empty(t: &View<'_>, line: &Line) -> Result<bool, StoreError> {
    LINES.of(&line.key()).is_empty(t)
}

/// Whether a key has room for one more step with this limit.
fn has_room(t: &View<'_>, key: &str, limit: u32) -> Result<bool, StoreError> {
    Ok(SLOTS.get(t, key)? < i64::from(limit))
}

/// When the next step of a rate key may begin, in microseconds; 0 for now.
fn opens_us(t: &View<'_>, key: &str) -> Result<u64, StoreError> {
    Ok(OPENS.get(t, key)?.unwrap_or_default())
}

/// Looks whether a node begins that is ready, and has it wait in a line if not. Also the bytes of memory that were read for that.
pub(super) fn gate(
    t: &Transaction<'_>,
    run: &Run,
    nodes: &mut StoredNodes<'_, '_>,
    mut node: Node,
    now_ms: u64,
) -> Result<(Gate, usize), StoreError> {
    let step = &node.step;
    // A fan-out waits for nothing, but its items do. In a rehearsal nothing waits.
    let has_keys = (step.concurrency.is_some() || step.rate.is_some()) && step.for_each.is_none();
    if node.state != State::Ready || !has_keys || run.paused_ms.is_some() || run.is_rehearsal {
        return Ok((Gate::Begins, 0));
    }
    let (mut turn, read) = match node.turn.clone() {
        Some(turn) => (turn, 0),
        None => match keys(t, run, &node)? {
            (Keys::Known(turn), read) => (turn, read),
            (Keys::Free, read) => return Ok((Gate::Begins, read)),
            (Keys::Wrong(why), read) => return Ok((Gate::Wrong(why), read)),
        },
    };
    if let (Some(limit), Some(key), false) = (&step.concurrency, turn.concurrency.clone(), turn.has_slot) {
        let line = Line { of: Limited::Concurrency, key };
        if !is_empty(t, &line)? || !has_room(t, &line.key, limit.limit)? {
            return wait(nodes, node, turn, line).map(|gate| (gate, read));
        }
        turn.has_slot = true;
    }
    if let (Some(rate), Some(key)) = (&step.rate, turn.rate.clone()) {
        let line = Line { of: Limited::Rate, key };
        if !begins_evenly(t, (rate, &line), turn.is_next, now_ms)? {
            return wait(nodes, node, turn, line).map(|gate| (gate, read));
        }
    }
    if node.turn.as_ref() != Some(&turn) {
        node.turn = Some(turn);
        nodes.save(&node)?;
    }
    Ok((Gate::Begins, read))
}

fn wait(nodes: &mut StoredNodes<'_, '_>, node: Node, turn: Turn, line: Line) -> Result<Gate, StoreError> {
    nodes.touched.insert(line.clone());
    scheduler::wait_in_line(nodes, node, turn, line)?;
    Ok(Gate::Waits)
}

/// Whether a step of a rate key may begin now; then the next one may that much later.
fn begins_evenly(
    t: &Transaction<'_>,
    (rate, line): (&Rate, &Line),
    is_next: bool,
    now_ms: u64,
) -> Result<bool, StoreError> {
    let (opens_us, now_us) = (opens_us(t, &line.key)?, us(now_ms));
    let is_behind_others = !is_next && (NEXT.get(t, &line.key)? > 0 || !is_empty(t, line)?);
    if is_behind_others || opens_us > now_us {
        return Ok(false);
    }
    // Time in which nobody waited is not made up for.
    let begun_us = opens_us.max(if is_next { now_us.saturating_sub(MAKE_UP_US) } else { now_us });
    OPENS.put(t, &line.key, &begun_us.saturating_add(rate.apart_us()))?;
    Ok(true)
}

/// Lets on those who wait in lines that may go on; how many.
pub(super) fn let_on_all(t: &Transaction<'_>, lines: &BTreeSet<Line>, now_ms: u64) -> Result<u32, StoreError> {
    lines.iter().try_fold(0_u32, |sum, line| Ok(sum.saturating_add(let_on(t, line, now_ms)?)))
}

/// Lets on those of a line who have their turn; how many. A timer does the rest.
fn let_on(t: &Transaction<'_>, line: &Line, now_ms: u64) -> Result<u32, StoreError> {
    let mut count = 0_u32;
    while let Some((_, _, run, number)) = LINES.of(&line.key()).first(t)? {
        let at_us = match line.of {
            Limited::Concurrency => {
                let limit = node(t, &run, number)?.step.concurrency.map_or(1, |limit| limit.limit);
                if !has_room(t, &line.key, limit)? {
                    break;
                }
                0
            }
            // Who is next lets on the one behind.
            Limited::Rate if NEXT.get(t, &line.key)? > 0 => break,
            Limited::Rate => opens_us(t, &line.key)?,
        };
        let mut nodes = StoredNodes::new(t, &run);
        if at_us > us(now_ms) || count >= MAX_LET_ON || nodes.is_full() {
            let at_ms = at_us.div_ceil(1_000).max(now_ms);
            let (is_rate, key) = line.key();
            DUE_LINES.insert(t, &(), &(at_ms, is_rate, key))?;
            KEYS.by(t, at_ms, now_ms)?;
            break;
        }
        if !scheduler::let_on(&mut nodes, number)? {
            break;
        }
        count = count.saturating_add(1);
    }
    Ok(count)
}

/// The timer rings: lines go on whose time has come.
pub(super) fn ring(now_ms: u64) -> Result<(), WorkflowError> {
    let due = || DUE_LINES.of(&()).below(&(now_ms.saturating_add(1),));
    let let_on_due = || {
        bites(&mut { RING }, &due(), |t, (at_ms, is_rate, key)| {
            DUE_LINES.remove(t, &(), &(at_ms, is_rate, &key))?;
            let of = if is_rate { Limited::Rate } else { Limited::Concurrency };
            let count = let_on(t, &Line { of, key }, now_ms)?;
            call_for(t, count, Origin::Handler(0), now_ms)?;
            Ok::<_, WorkflowError>(true)
        })
        .map(drop)
    };
    KEYS.ring(now_ms, let_on_due, |t| Ok(DUE_LINES.of(&()).first(t)?.map(|(at_ms, ..)| at_ms)))
}

/// Sees to it that lines go on if their timer is lost.
pub(super) fn look_after(t: &Transaction<'_>, now_ms: u64) -> Result<(), StoreError> {
    if !DUE_LINES.of(&()).is_empty(t)? {
        KEYS.revive(t, now_ms)?;
    }
    Ok(())
}

/// Forgets when the next steps of rates might have begun, where that is over.
pub(super) fn forget(now_ms: u64) -> Result<(), WorkflowError> {
    let over = OPENED.of(&()).below(&(now_ms.saturating_sub(MAKE_UP_US / 1_000),));
    bites(&mut { RING }, &over, |t, (_, key)| {
        OPENS.remove(t, &key)?;
        Ok::<_, WorkflowError>(true)
    })
    .map(drop)
}

/// Whether any line waits for its time.
pub(super) fn is_any_due(t: &View<'_>) -> Result<bool, StoreError> {
    Ok(!DUE_LINES.of(&()).is_empty(t)?)
}

/// What a node in a line waits for.
pub(super) fn outlook(t: &View<'_>, node: &Node, line: &Line, now_ms: u64) -> Result<Next, StoreError> {
    let words = format!("{}: it {}", node.path, line.reason());
    Ok(match line.of {
        Limited::Concurrency => match SLOTS.get(t, &line.key)? {
            0 if !is_any_due(t)? => Next::Overdue(format!("{words}, which no step has")),
            count => Next::Event(format!("{words}, which {count} steps have")),
        },
        // Who is next has a handler that takes it.
        Limited::Rate if NEXT.get(t, &line.key)? > 0 => Next::Event(words),
        Limited::Rate => told(words, Some(opens_us(t, &line.key)?.div_ceil(1_000)), now_ms),
    })
}
