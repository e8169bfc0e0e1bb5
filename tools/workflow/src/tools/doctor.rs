//! `workflow_doctor`: runs to which nothing will happen any more, what should have happened and has not, and schedules whose time is over.

use mcpp_tool::{
    environment::{now_ms, rfc3339},
    store::View,
    tool,
};
use serde_json::{Value, json};

use super::{Reply, read, settle};
use crate::{
    engine::{self, GRACE_MS, Next, WorkflowError},
    run::{Number, Run},
    schedule::SCHEDULES,
    store::{LEASES, LISTED, NODES, RUNS},
};

/// Most runs, leases and schedules together that one call looks at.
const MAX_EXAMINED: usize = 500;
/// Bytes of the store behind which a call looks at no further one: a quarter of what a call may read. One run more may take half as many.
const MAX_BYTES: u64 = 16 << 20;
/// The statuses that a run may have that has not ended.
const STATUSES: [&str; 4] = ["submitted", "running", "failed", "cancelled"];

/// Where a look begins.
#[derive(Debug, Clone, PartialEq)]
enum Place {
    /// At the nodes that handlers have, behind this one.
    Leases(Option<(u64, String, Number)>),
    /// At the runs with a status: behind this one, or within it at a node.
    Runs(usize, Option<(u64, String)>, Option<Number>),
    /// At the schedules, behind this one.
    Schedules(Option<String>),
}

impl Place {
    fn parse(cursor: Option<&str>) -> Result<Self, WorkflowError> {
        match cursor {
            None | Some("") => Ok(Self::Leases(None)),
            Some(cursor) => Self::of(cursor).ok_or_else(|| {
                WorkflowError::Invalid("cursor is none of the doctor's: it has its `next_cursor`".into())
            }),
        }
    }

    fn of(cursor: &str) -> Option<Self> {
        let (part, place) = cursor.split_once('/')?;
        if part == "schedules" {
            return Some(Self::Schedules((!place.is_empty()).then(|| place.to_owned())));
        }
        let (time, id) = place.split_once(':')?;
        let (ms, number) = match time.split_once('@') {
            Some((ms, number)) => (ms.parse().ok()?, Some(number.parse().ok()?)),
            None => (time.parse().ok()?, None),
        };
        match STATUSES.iter().position(|status| *status == part) {
            Some(status) => Some(Self::Runs(status, Some((ms, id.to_owned())), number)),
            None if part == "leases" => Some(Self::Leases(Some((ms, id.to_owned(), number?)))),
            None => None,
        }
    }

    fn cursor(&self) -> String {
        match self {
            Self::Leases(Some((ms, id, number))) => format!("leases/{ms}@{number}:{id}"),
            Self::Leases(None) => String::new(),
            Self::Runs(status, Some((ms, id)), number) => {
                let within = number.map(|number| format!("@{number}")).unwrap_or_default();
                format!("{}/{ms}{within}:{id}", STATUSES.get(*status).unwrap_or(&""))
            }
            Self::Runs(status, None, _) => format!("{}/0:", STATUSES.get(*status).unwrap_or(&"")),
            Self::Schedules(name) => format!("schedules/{}", name.as_deref().unwrap_or_default()),
        }
    }
}

/// What a call has found.
#[derive(Debug, Default)]
struct Found {
    now_ms: u64,
    begun: u64,
    seen: usize,
    examined: usize,
    stuck: Vec<Value>,
    operator: Vec<Value>,
    overdue: Vec<Value>,
    late: Vec<Value>,
}

impl Found {
    /// Counts one that was looked at; whether the call looks at no more.
    fn is_full(&mut self, t: &View<'_>) -> bool {
        self.seen = self.seen.saturating_add(1);
        self.seen >= MAX_EXAMINED || t.spent().bytes.saturating_sub(self.begun) > MAX_BYTES
    }

    fn named(&mut self, run: &Run, next: Next) {
        let waits = |words: String| json!({ "workflow_id": run.id, "phase": run.phase.as_str(), "waits_for": words });
        match next {
            Next::Nothing => self
                .stuck
                .push(json!({ "workflow_id": run.id, "phase": run.phase.as_str(), "steps_open": run.tally.open })),
            Next::Operator(words) => self.operator.push(waits(words)),
            Next::Overdue(words) => {
                let overdue = waits(words);
                // A node that a handler has is looked at twice.
                if !self.overdue.contains(&overdue) {
                    self.overdue.push(overdue);
                }
            }
            Next::Event(_) | Next::GoesOn(_) => {}
        }
    }
}

/// Looks for unfinished runs to which nothing will happen any more, for what should have happened a minute ago and has not, and for schedules whose time is over: 500 at a time.
/// There should be none. Call it again with `next_cursor` until that is null.
#[tool(read_only)]
pub fn workflow_doctor(
    /// Goes on behind another call: its `next_cursor`.
    #[arg(default)]
    cursor: Option<String>,
) -> Reply {
    settle(read(|t| examine(t, Place::parse(cursor.as_deref())?, now_ms())), "")
}

fn examine(t: &View<'_>, from: Place, now_ms: u64) -> Result<Value, WorkflowError> {
    let mut found = Found { now_ms, begun: t.spent().bytes, ..Found::default() };
    let mut place = Some(from);
    let mut next = None;
    while let Some(at) = place.take() {
        let (goes_on, then) = match at {
            Place::Leases(behind) => (leases(t, behind, &mut found)?, Some(Place::Runs(0, None, None))),
            Place::Runs(status, behind, within) => {
                let then = status.saturating_add(1);
                let then = if then < STATUSES.len() { Place::Runs(then, None, None) } else { Place::Schedules(None) };
                (runs(t, status, (behind, within), &mut found)?, Some(then))
            }
            Place::Schedules(behind) => (schedules(t, behind, &mut found)?, None),
        };
        match goes_on {
            Some(stopped) => next = Some(stopped.cursor()),
            None => place = then,
        }
    }
    let Found { examined, stuck, operator, overdue, late, .. } = found;
    Ok(json!({
        "healthy": stuck.is_empty() && overdue.is_empty() && late.is_empty(),
        "examined": examined,
        "stuck": stuck,
        "waits_for_operator": operator,
        "overdue": overdue,
        "late_schedules": late,
        "next_cursor": next,
    }))
}

/// Looks at the nodes that handlers have; where it stopped, if it did.
fn leases(
    t: &View<'_>,
    behind: Option<(u64, String, Number)>,
    found: &mut Found,
) -> Result<Option<Place>, WorkflowError> {
    let mut span = LEASES.of(&());
    if let Some(place) = &behind {
        span = span.after(place);
    }
    for place in span.walk(t) {
        let place = place?;
        if let (Some(run), Some(node)) = (RUNS.get(t, &place.1)?, NODES.get(t, &(&place.1, place.2))?)
            && let Some(next) = engine::next_of(t, &run, &node, found.now_ms)?
        {
            found.named(&run, next);
        }
        if found.is_full(t) {
            return Ok(Some(Place::Leases(Some(place))));
        }
    }
    Ok(None)
}

/// Looks at the runs with a status; where it stopped, if it did.
fn runs(
    t: &View<'_>,
    status: usize,
    (behind, within): (Option<(u64, String)>, Option<Number>),
    found: &mut Found,
) -> Result<Option<Place>, WorkflowError> {
    let mut span = LISTED.of(&(STATUSES.get(status).copied().unwrap_or_default(), ""));
    match (&behind, within) {
        (Some(place), None) => span = span.after(place),
        (Some((ms, id)), Some(_)) => span = span.from(&(*ms, id)),
        (None, _) => {}
    }
    for place in span.walk(t) {
        let place = place?;
        let Some(run) = RUNS.get(t, &place.1)? else { continue };
        let from = within.filter(|_| behind.as_ref() == Some(&place));
        if from.is_none() {
            found.examined = found.examined.saturating_add(1);
        }
        if !run.phase.is_final() {
            let next = engine::next_event(t, &run, from.unwrap_or_default(), found.now_ms)?;
            if let Next::GoesOn(number) = next {
                return Ok(Some(Place::Runs(status, Some(place), Some(number))));
            }
            found.named(&run, next);
        }
        if found.is_full(t) {
            return Ok(Some(Place::Runs(status, Some(place), None)));
        }
    }
    Ok(None)
}

/// Looks at the schedules; where it stopped, if it did.
fn schedules(t: &View<'_>, behind: Option<String>, found: &mut Found) -> Result<Option<Place>, WorkflowError> {
    let mut span = SCHEDULES.all();
    if let Some(name) = &behind {
        span = span.after(name);
    }
    for row in span.walk(t) {
        let (name, schedule) = row?;
        let late_ms = schedule.next_ms.filter(|next_ms| next_ms.saturating_add(GRACE_MS) < found.now_ms);
        if let Some(next_ms) = late_ms.filter(|_| !schedule.is_paused) {
            found.late.push(json!({ "name": name, "next_time": rfc3339(next_ms), "last_error": schedule.last_error }));
        }
        if found.is_full(t) {
            return Ok(Some(Place::Schedules(Some(name))));
        }
    }
    Ok(None)
}
