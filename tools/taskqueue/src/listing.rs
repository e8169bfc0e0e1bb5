//! Lists of tasks, oldest first, a page at a time: as many as fit into an answer, found with as much reading as a call has room for.

use std::iter::Peekable;

use mcpp_tool::store::{StoreError, View, Walk};
use serde_json::Value;

use crate::{
    engine::{Filter, QueueError},
    queue::{LISTED, TASKS, TaskKey, counted},
    record::Task,
};

/// Bytes of keys and records that one list reads: an eighth of what a call may read by default.
const MAX_READ_BYTES: u64 = 8 << 20;
/// Host calls that one list makes: a fifth of a call's by default.
const MAX_READS: u64 = 20_000;
/// Bytes of records that are read behind a full page, to count what else matches.
const MAX_COUNT_BYTES: u64 = 1 << 20;
/// Bytes of the tasks in one answer. A call may answer with four times as much.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Which tasks a list is of.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// Those that match.
    pub filter: Filter,
    /// Those after the end of an earlier list.
    pub after: Option<TaskKey>,
    /// Tasks to pass over.
    pub offset: usize,
    /// Most tasks.
    pub limit: usize,
}

/// A list of tasks.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct List {
    /// The tasks, as they are shown.
    pub tasks: Vec<Value>,
    /// How many there are in all; none where that could not be counted within a call's budgets.
    pub total: Option<u64>,
    /// Where the next list begins; none if there is nothing more.
    pub next: Option<String>,
}

/// The place where an earlier list ended.
pub fn parse_cursor(cursor: &str) -> Result<TaskKey, QueueError> {
    let parsed = cursor.split_once(':').and_then(|(created, id)| Some((created.parse().ok()?, id.to_owned())));
    parsed.ok_or_else(|| QueueError::Invalid("cursor is not the next_cursor of an earlier list".into()))
}

/// The tasks with some statuses, oldest first.
struct Merged<'t>(Vec<Peekable<Walk<'t, TaskKey>>>);

impl<'t> Merged<'t> {
    fn new(t: &'t View<'_>, query: &Query) -> Self {
        let of = |status: &crate::record::Status| {
            let all = LISTED.of(status.as_str());
            query.after.iter().fold(all, |all, after| all.after(after)).walk(t).peekable()
        };
        Self(query.filter.statuses.iter().map(of).collect())
    }
}

impl Iterator for Merged<'_> {
    type Item = Result<TaskKey, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        let heads = self.0.iter_mut().enumerate();
        let heads = heads.filter_map(|(number, walk)| Some((walk.peek()?.as_ref().ok().cloned(), number)));
        // One that cannot be read comes first, and is an error.
        let (_, first) = heads.min()?;
        self.0.get_mut(first)?.next()
    }
}

/// Lists tasks that match. Where more than the status is looked at, the rest is counted as far as there is room.
pub fn list(t: &View<'_>, query: &Query, show: impl Fn(&Task) -> Value) -> Result<List, QueueError> {
    let (begun, is_narrow) = (t.spent(), query.filter.is_narrow());
    let (mut list, mut answer_bytes, mut seen) = (List::default(), 0_usize, 0_usize);
    // The last place that this list is done with, and whether it takes no more.
    let (mut last, mut is_full): (Option<TaskKey>, bool) = (None, false);
    let next = |last: &Option<TaskKey>| last.as_ref().map(|(created, id)| format!("{created}:{id}"));
    let (mut is_complete, mut most_bytes) = (true, MAX_READ_BYTES);
    for key in Merged::new(t, query) {
        let key = key?;
        let spent = t.spent();
        let bytes = spent.bytes.saturating_sub(begun.bytes);
        if is_full && most_bytes == MAX_READ_BYTES {
            most_bytes = MAX_READ_BYTES.min(bytes.saturating_add(MAX_COUNT_BYTES));
        }
        let is_spent = bytes >= most_bytes || spent.ops.saturating_sub(begun.ops) >= MAX_READS;
        if is_spent || is_full && !is_narrow {
            is_complete = false;
            list.next = next(&last);
            break;
        }
        // Without a record to look at, those that are passed over need not be read.
        if !is_narrow && seen < query.offset {
            seen = seen.saturating_add(1);
            last = Some(key);
            continue;
        }
        let Some(task) = TASKS.get(t, &key)?.filter(|task| query.filter.matches(task)) else {
            last = if is_full { last } else { Some(key) };
            continue;
        };
        seen = seen.saturating_add(1);
        if is_full {
            list.next = next(&last);
            continue;
        }
        if seen > query.offset {
            let shown = show(&task);
            answer_bytes = answer_bytes.saturating_add(shown.to_string().len());
            if answer_bytes > MAX_ANSWER_BYTES && !list.tasks.is_empty() {
                is_full = true;
                list.next = next(&last);
                continue;
            }
            list.tasks.push(shown);
            is_full = list.tasks.len() >= query.limit;
        }
        last = Some(key);
    }
    list.total = match is_narrow {
        true => (is_complete && query.after.is_none()).then(|| u64::try_from(seen).unwrap_or(u64::MAX)),
        false => {
            let sum = |sum: u64, status: &_| Ok::<_, StoreError>(sum.saturating_add(counted(t, *status)?));
            Some(query.filter.statuses.iter().try_fold(0, sum)?)
        }
    };
    Ok(list)
}
