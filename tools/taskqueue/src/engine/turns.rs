//! The turns of keys. A key has a line of its own, and one task of it at a time stands among those that are ready: so a key with a million tasks takes as many turns as a key
//! with one. The next task of a line is admitted when that one is claimed, unless as many as may run already, or the key's rate is used up.

use mcpp_tool::store::{Index, Map, Span, StoreError, Transaction, View, bites};
use serde::{Deserialize, Serialize};

use super::{QueueError, check_name, save, upkeep, upkeep::UPKEEP, waiting};
use crate::{
    queue::{ADMITTED, HELD_BACK, IN_LINE, LINES, RUNNING, TASKS},
    record::{Line, Task},
    rules::{self, Refused},
};

/// The limits of each key, by its line.
const LIMITS: Map<(bool, String), Limit> = Map::new("limits");
/// When the next task of a rate key may begin, in microseconds since 1970-01-01 UTC: they begin evenly.
const EVEN: Map<String, u64> = Map::new("even");
/// The last turn that a key was given, in microseconds.
const LAST_TURN: Map<(), u64> = Map::new("turn");
/// Lines that wait for their rate, by when it lets them on.
const RATES: Index<(), (u64, bool, String)> = Index::new("rates");

/// The limits of a key. None means none.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default)]
pub struct Limit {
    /// Most tasks of a concurrency key that run at once.
    pub concurrency: Option<u32>,
    /// Most tasks of a rate key that begin in a period, evenly.
    pub rate: Option<u32>,
    /// The period, in milliseconds; a second if absent.
    pub period_ms: Option<u64>,
    /// Most tasks of the key that wait behind the one whose turn is next.
    pub max_waiting: Option<u64>,
    /// The rule for a task beyond those.
    pub overflow: Overflow,
}

/// The rule for a task beyond those that may wait.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Overflow {
    /// It waits all the same.
    #[default]
    Queue,
    /// It is refused.
    DropNewest,
    /// The oldest one of the least priority is cancelled for it.
    CancelOldest,
}

impl Limit {
    /// How far apart tasks begin, in microseconds.
    fn apart_us(&self) -> Option<u64> {
        let period_us = self.period_ms.unwrap_or(1_000).max(1).saturating_mul(1_000);
        self.rate.map(|rate| period_us / u64::from(rate.max(1)))
    }
}

/// The limits of a key.
pub fn limit(t: &View<'_>, line: Line<'_>) -> Result<Limit, StoreError> {
    Ok(LIMITS.get(t, &line)?.unwrap_or_default())
}

/// Sets the limits of a key, also while its tasks wait and run; the default removes them.
pub fn set_limit(t: &Transaction<'_>, line: Line<'_>, limit: &Limit, now_ms: u64) -> Result<(), QueueError> {
    check_name("key", line.1)?;
    match *limit == Limit::default() {
        true => drop(LIMITS.remove(t, &line)?),
        false => LIMITS.set(t, &line, limit)?,
    }
    admit(t, line, now_ms)
}

/// How many tasks of a key wait, are ready, and run.
pub fn in_line(t: &View<'_>, (is_concurrency, name): Line<'_>) -> Result<[u64; 3], StoreError> {
    let count = |kind: u8| Ok::<_, StoreError>(IN_LINE.get(t, &(is_concurrency, name, kind))?.unsigned_abs());
    Ok([count(HELD_BACK)?, count(ADMITTED)?, count(RUNNING)?])
}

/// Makes room for a new task of a key, by the key's rule.
pub(super) fn make_room(t: &Transaction<'_>, task: &Task, now_ms: u64) -> Result<(), QueueError> {
    let Some(line) = task.spec.line() else { return Ok(()) };
    let limit = limit(t, line)?;
    let Some(most) = limit.max_waiting.filter(|_| limit.overflow != Overflow::Queue) else { return Ok(()) };
    let [held, ready, running] = in_line(t, line)?;
    let is_next = held == 0 && ready == 0 && limit.concurrency.is_none_or(|most| running < u64::from(most));
    if is_next || held < most {
        return Ok(());
    }
    let last = LINES.of(&line).descending().first(t)?;
    let oldest = match last.filter(|_| limit.overflow == Overflow::CancelOldest) {
        Some((rank, ..)) => LINES.of(&line).from(&(rank,)).first(t)?,
        None => None,
    };
    let Some((_, _, id, _)) = oldest else { return Err(Refused::Full.into()) };
    super::cancel(t, &id, "a newer task of its key came", false, now_ms).map(drop)
}

/// Admits the next task of a line, if it may be.
pub(super) fn admit(t: &Transaction<'_>, line: Line<'_>, now_ms: u64) -> Result<(), QueueError> {
    let [held, ready, running] = in_line(t, line)?;
    if held == 0 || ready > 0 {
        return Ok(());
    }
    let limit = limit(t, line)?;
    if limit.concurrency.is_some_and(|most| running >= u64::from(most)) {
        return Ok(());
    }
    let Some((_, _, id, created_ms)) = LINES.of(&line).first(t)? else { return Ok(()) };
    let Some(before) = TASKS.get(t, &(created_ms, id))? else { return Ok(()) };
    if let Some(at_ms) = rate_opens(t, &before, now_ms)? {
        RATES.insert(t, &(), &(at_ms, line.0, line.1))?;
        return Ok(UPKEEP.by(t, at_ms, now_ms)?);
    }
    let mut after = before.clone();
    rules::admit(&mut after, next_turn_us(t, &before, now_ms)?, now_ms);
    save(t, Some(&before), Some(&after), now_ms)?;
    Ok(waiting::ring(t, std::slice::from_ref(&after), now_ms)?)
}

/// The turn behind all that were given; behind the time too, so that tasks without a key wait no longer than those with one.
fn next_turn_us(t: &Transaction<'_>, task: &Task, now_ms: u64) -> Result<u64, StoreError> {
    let now_us = now_ms.max(task.created_ms).saturating_mul(1_000);
    let turn_us = LAST_TURN.get(t, &())?.map_or(now_us, |last| now_us.max(last.saturating_add(1)));
    LAST_TURN.set(t, &(), &turn_us)?;
    Ok(turn_us)
}

/// When a task's rate key lets it begin; none for now.
fn rate_opens(t: &View<'_>, task: &Task, now_ms: u64) -> Result<Option<u64>, StoreError> {
    let Some(key) = task.spec.rate_key.as_deref() else { return Ok(None) };
    if limit(t, (false, key))?.apart_us().is_none() {
        return Ok(None);
    }
    let at_ms = EVEN.get(t, key)?.unwrap_or_default() / 1_000;
    Ok((at_ms > now_ms).then_some(at_ms))
}

/// Whether a ready task may begin: its key's limits may have changed since it was admitted, and other lines share its rate.
pub(super) fn may_begin(t: &View<'_>, task: &Task, now_ms: u64) -> Result<bool, StoreError> {
    if let Some(line) = task.spec.line() {
        let [_, _, running] = in_line(t, line)?;
        if limit(t, line)?.concurrency.is_some_and(|most| running >= u64::from(most)) {
            return Ok(false);
        }
    }
    Ok(rate_opens(t, task, now_ms)?.is_none())
}

/// Notes that a task of a rate key begins.
pub(super) fn begins(t: &Transaction<'_>, task: &Task, now_ms: u64) -> Result<(), StoreError> {
    let Some(key) = task.spec.rate_key.as_deref() else { return Ok(()) };
    let Some(apart_us) = limit(t, (false, key))?.apart_us() else { return EVEN.remove(t, key).map(drop) };
    let even_us = EVEN.get(t, key)?.unwrap_or_default().max(now_ms.saturating_mul(1_000));
    EVEN.set(t, key, &even_us.saturating_add(apart_us))
}

fn due(now_ms: u64) -> Span<(u64, bool, String)> {
    RATES.of(&()).below(&(now_ms.saturating_add(1),))
}

/// Whether lines wait that their rate allows to go on.
pub(super) fn is_due(t: &View<'_>, now_ms: u64) -> Result<bool, StoreError> {
    Ok(!due(now_ms).is_empty(t)?)
}

/// Lets lines on whose rate allows it; whether there is more to do.
pub(super) fn catch_up(now_ms: u64) -> Result<bool, QueueError> {
    let let_on = |t: &Transaction<'_>, (at_ms, is_concurrency, key): (u64, bool, String)| {
        RATES.remove(t, &(), &(at_ms, is_concurrency, &key))?;
        admit(t, (is_concurrency, &key), now_ms)?;
        Ok::<_, QueueError>(true)
    };
    Ok(bites(&mut { upkeep::STEP }, &due(now_ms), let_on)?.is_worth_more())
}

/// When a line's rate lets it on next.
pub(super) fn next_due(t: &View<'_>) -> Result<Option<u64>, StoreError> {
    Ok(RATES.of(&()).first(t)?.map(|(at_ms, ..)| at_ms))
}

#[cfg(test)]
mod tests;
