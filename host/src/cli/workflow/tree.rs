//! A run as a tree of its steps, in as many lines as a terminal has: those that fail and run come first where there is no room for all.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use console::truncate_str;
use serde_json::Value;

use super::{
    field,
    steps::{attempt, depth, has, in_order, path, waits_for, why},
};
use crate::cli::style::Style;

/// A step within which are more than so many is shown with their numbers, and with those of them alone that fail.
const MAX_OPEN: usize = 10;
/// Last characters of a peer's id that tell peers apart: the first ones are the same for all.
const SHOWN_OF_PEER: usize = 8;

/// One line, without a color, and the color that it has.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TreeLine {
    pub(super) text: String,
    pub(super) style: Style,
}

/// The kinds of steps, the most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum StepKind {
    Failed,
    Running,
    Waiting,
    Ready,
    Pending,
    Left,
    Done,
}

impl StepKind {
    fn of(step: &Value) -> Self {
        match step.get("status").and_then(Value::as_str).unwrap_or_default() {
            "failed" | "undo_failed" => Self::Failed,
            "running" | "undoing" => Self::Running,
            "waiting" | "delayed" => Self::Waiting,
            "ready" | "held" => Self::Ready,
            "skipped" | "cancelled" | "undone" => Self::Left,
            "completed" => Self::Done,
            _ => Self::Pending,
        }
    }

    fn mark(self) -> char {
        match self {
            Self::Failed => '✗',
            Self::Running => '●',
            Self::Waiting => '◐',
            Self::Ready | Self::Pending => '○',
            Self::Left => '–',
            Self::Done => '✓',
        }
    }

    fn style(self) -> Style {
        match self {
            Self::Failed => Style::Bad,
            Self::Running | Self::Waiting => Style::Warning,
            Self::Done => Style::Good,
            Self::Ready | Self::Pending | Self::Left => Style::Plain,
        }
    }
}

/// The lines of a run at a time: at most `rows` of them, none wider than `columns`.
pub(super) fn lines(run: &Value, (rows, columns): (usize, usize), now: SystemTime) -> Vec<TreeLine> {
    let steps = in_order(run);
    let within = within(&steps);
    let seen: Vec<&Value> = steps.iter().copied().filter(|step| is_seen(step, &within)).collect();
    // The head, and the line that counts what has no room.
    let room = rows.saturating_sub(1);
    let shown = if seen.len() <= room { seen.clone() } else { most_urgent(&seen, room.saturating_sub(1)) };
    let paths: BTreeSet<&str> = shown.iter().map(|step| path(step)).collect();
    let mut lines = vec![TreeLine { text: head(run), style: Style::Plain }];
    for step in &shown {
        let text = line(step, within.get(path(step)), &paths, now);
        lines.push(TreeLine { text, style: StepKind::of(step).style() });
    }
    let more = seen.len().saturating_sub(shown.len());
    if more > 0 {
        lines.push(TreeLine { text: format!("… {more} more"), style: Style::Plain });
    }
    lines.truncate(rows);
    let tail = if columns > 0 { "…" } else { "" };
    for line in &mut lines {
        line.text = truncate_str(&line.text, columns, tail).into_owned();
    }
    lines
}

fn head(run: &Value) -> String {
    let name = one_line(run, "name");
    format!("{} {name}  {}, {} %", one_line(run, "workflow_id"), field(run, "phase"), field(run, "progress"))
}

/// A field as text that stays on its line.
fn one_line(record: &Value, name: &str) -> String {
    field(record, name).replace(['\n', '\t'], " ")
}

fn parent(path: &str) -> Option<&str> {
    path.rsplit_once('/').map(|(parent, _)| parent)
}

/// The steps directly within a step, by kind.
type Counts = BTreeMap<StepKind, usize>;

fn within<'a>(steps: &[&'a Value]) -> BTreeMap<&'a str, Counts> {
    let mut within: BTreeMap<&str, Counts> = BTreeMap::new();
    for step in steps {
        if let Some(parent) = parent(path(step)) {
            let count = within.entry(parent).or_default().entry(StepKind::of(step)).or_default();
            *count = count.saturating_add(1);
        }
    }
    within
}

fn is_collapsed(counts: &Counts) -> bool {
    counts.values().fold(0_usize, |sum, count| sum.saturating_add(*count)) > MAX_OPEN
}

/// Whether a step has a line of its own: not if one in which it stands is shown by numbers, unless it has failed there itself.
fn is_seen(step: &Value, within: &BTreeMap<&str, Counts>) -> bool {
    let own = path(step);
    let mut above = parent(own);
    while let Some(path) = above {
        let is_item = parent(own) == Some(path);
        if within.get(path).is_some_and(is_collapsed) && !(is_item && StepKind::of(step) == StepKind::Failed) {
            return false;
        }
        above = parent(path);
    }
    true
}

/// The most urgent steps, as many as have room, in the order in which they were.
fn most_urgent<'a>(steps: &[&'a Value], room: usize) -> Vec<&'a Value> {
    let mut places: Vec<usize> = (0..steps.len()).collect();
    places.sort_by_key(|place| steps.get(*place).map(|step| StepKind::of(step)));
    places.truncate(room);
    places.sort_unstable();
    places.into_iter().filter_map(|place| steps.get(place).copied()).collect()
}

fn line(step: &Value, counts: Option<&Counts>, shown: &BTreeSet<&str>, now: SystemTime) -> String {
    let (kind, own) = (StepKind::of(step), path(step));
    // A step whose parent has no line says where it stands.
    let is_below = parent(own).is_none_or(|parent| shown.contains(parent));
    let name = one_line(step, "step_id");
    let (indent, name) = match is_below {
        true => ("  ".repeat(depth(own)), name.rsplit('/').next().unwrap_or_default().to_owned()),
        false => (String::new(), name),
    };
    let mut words = vec![format!("{indent}{} {name}", kind.mark()), one_line(step, "action")];
    words.extend((!matches!(kind, StepKind::Done | StepKind::Running)).then(|| one_line(step, "status")));
    words.extend(attempt(step));
    words
        .extend(counts.filter(|counts| has(step, "items") || is_collapsed(counts)).map(|counts| numbers(step, counts)));
    words.extend(took(step, now).map(in_words));
    words.extend(has(step, "host").then(|| place(&one_line(step, "host"))));
    words.extend(waits_for(step).into_iter().map(|waits_for| waits_for.replace(['\n', '\t'], " ")));
    words.extend(why(step).map(|why| why.replace('\t', " ")));
    words.join("  ")
}

/// The numbers of the steps within a step; of all items of a fan-out, also of those that have not begun.
fn numbers(step: &Value, counts: &Counts) -> String {
    let of = |kind| counts.get(&kind).copied().unwrap_or_default();
    let item = |name: &str| step.get("items")?.get(name)?.as_u64();
    let or = |known: Option<u64>, counted: usize| known.unwrap_or(u64::try_from(counted).unwrap_or(u64::MAX));
    let all = counts.values().fold(0_usize, |sum, count| sum.saturating_add(*count));
    let mut words = vec![format!("{}/{} done", or(item("succeeded"), of(StepKind::Done)), or(item("total"), all))];
    let running = of(StepKind::Running);
    words.extend((running > 0).then(|| format!("{running} running")));
    let waiting = of(StepKind::Waiting);
    words.extend((waiting > 0).then(|| format!("{waiting} waiting")));
    let failed = or(item("failed"), of(StepKind::Failed));
    words.extend((failed > 0).then(|| format!("{failed} failed")));
    format!("({})", words.join(", "))
}

/// How long a step took, or has taken so far; none if it has not begun.
fn took(step: &Value, now: SystemTime) -> Option<Duration> {
    if let Some(seconds) = step.get("duration_s").and_then(Value::as_f64) {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    if has(step, "end_time") {
        return None;
    }
    let began = humantime::parse_rfc3339_weak(step.get("start_time")?.as_str()?).ok()?;
    // The host's clock may be ahead of this one.
    Some(now.duration_since(began).unwrap_or_default())
}

fn in_words(time: Duration) -> String {
    let seconds = time.as_secs();
    match (seconds / 3_600, seconds / 60) {
        (0, 0) => format!("{:.1} s", time.as_secs_f64()),
        (0, minutes) => format!("{minutes} min {} s", seconds % 60),
        (hours, minutes) => format!("{hours} h {} min", minutes % 60),
    }
}

/// A peer by the end of its id; this host as it is.
fn place(host: &str) -> String {
    let characters = host.chars().count();
    if characters <= SHOWN_OF_PEER.saturating_mul(2) {
        return host.to_owned();
    }
    format!("…{}", host.chars().skip(characters.saturating_sub(SHOWN_OF_PEER)).collect::<String>())
}

#[cfg(test)]
mod tests;
