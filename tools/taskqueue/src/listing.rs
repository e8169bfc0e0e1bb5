//! Lists of tasks, oldest first, a page at a time: as many as fit into an answer, found with as much reading as a call has room for.

use std::collections::VecDeque;

use mcpp_tool::store::{Read, StoreError};
use serde_json::Value;

use crate::{
    engine::QueueError,
    queue::{LISTED, counted, find_sized},
    record::{Status, Task},
};

/// Bytes of keys and records that one list reads: an eighth of what a call may read by default.
const MAX_READ_BYTES: usize = 8 << 20;
/// Records that one list reads: a fifth of a call's host calls by default.
const MAX_READ_TASKS: usize = 20_000;
/// Bytes of the tasks in one answer. A call may answer with four times as much.
const MAX_ANSWER_BYTES: usize = 1 << 20;
/// Places that are read at once.
const PAGE: u32 = 500;
/// The bytes that a place in an index takes beside the task's id, about.
const PLACE_BYTES: usize = 40;

/// When a task was submitted, and its id.
type Place = (u64, String);

/// Which tasks a list is of.
#[derive(Debug, Clone)]
pub struct Query {
    /// Those with one of these statuses.
    pub statuses: Vec<Status>,
    /// Those after the end of an earlier list.
    pub after: Option<Place>,
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
pub fn parse_cursor(cursor: &str) -> Result<Place, QueueError> {
    let parsed = cursor.split_once(':').and_then(|(created, id)| Some((created.parse().ok()?, id.to_owned())));
    parsed.ok_or_else(|| QueueError::Invalid("cursor is not the next_cursor of an earlier list".into()))
}

fn cursor((created, id): &Place) -> String {
    format!("{created}:{id}")
}

/// The places of tasks with some statuses, oldest first.
struct Walk {
    lanes: Vec<Lane>,
}

/// The places of tasks with one status.
struct Lane {
    status: String,
    page: VecDeque<Place>,
    after: Option<Place>,
    is_over: bool,
}

impl Walk {
    fn new(query: &Query) -> Self {
        let lane = |status: &Status| Lane {
            status: status.as_str().to_owned(),
            page: VecDeque::new(),
            after: query.after.clone(),
            is_over: false,
        };
        Self { lanes: query.statuses.iter().map(lane).collect() }
    }

    /// The next place; its bytes that were read are added to `read_bytes`.
    fn next(&mut self, t: &mut (impl Read + ?Sized), read_bytes: &mut usize) -> Result<Option<Place>, StoreError> {
        for lane in self.lanes.iter_mut().filter(|lane| lane.page.is_empty() && !lane.is_over) {
            let page = LISTED.of(t, &lane.status, lane.after.as_ref(), PAGE)?;
            let bytes = page.iter().map(|(_, id)| id.len().saturating_add(PLACE_BYTES)).sum();
            *read_bytes = read_bytes.saturating_add(bytes);
            match page.last() {
                Some(last) => lane.after = Some(last.clone()),
                None => lane.is_over = true,
            }
            lane.page = page.into();
        }
        let first = self.lanes.iter_mut().filter(|lane| !lane.page.is_empty());
        Ok(first.min_by(|a, b| a.page.front().cmp(&b.page.front())).and_then(|lane| lane.page.pop_front()))
    }
}

/// Lists tasks that match, or all where there is no `matches`. Where a match is sought, the rest is counted as far as there is room.
pub fn list(
    t: &mut (impl Read + ?Sized),
    query: &Query,
    matches: Option<&dyn Fn(&Task) -> bool>,
    show: impl Fn(&Task) -> Value,
) -> Result<List, QueueError> {
    let (mut walk, mut list) = (Walk::new(query), List::default());
    let (mut read_bytes, mut read_tasks, mut answer_bytes, mut seen) = (0_usize, 0_usize, 0_usize, 0_usize);
    // The last place that this list is done with, and whether it takes no more.
    let (mut last, mut is_full): (Option<Place>, bool) = (None, false);
    let is_complete = loop {
        if read_bytes >= MAX_READ_BYTES || read_tasks >= MAX_READ_TASKS {
            list.next = last.as_ref().map(cursor);
            break false;
        }
        let Some(place) = walk.next(t, &mut read_bytes)? else { break true };
        if matches.is_none() && is_full {
            list.next = last.as_ref().map(cursor);
            break false;
        }
        let passed_over = matches.is_none() && seen < query.offset;
        let found = if passed_over { None } else { find_sized(t, &place.1)? };
        let bytes = found.as_ref().map_or(0, |(_, bytes)| *bytes);
        (read_bytes, read_tasks) =
            (read_bytes.saturating_add(bytes), read_tasks.saturating_add(usize::from(bytes > 0)));
        let found = found.filter(|(task, _)| matches.is_none_or(|matches| matches(task)));
        if passed_over || found.is_some() {
            seen = seen.saturating_add(1);
        }
        let wanted = found.filter(|_| seen > query.offset);
        if let (true, Some(_)) = (is_full, &wanted) {
            list.next = last.as_ref().map(cursor);
        }
        if let (false, Some((task, _))) = (is_full, &wanted) {
            let shown = show(task);
            answer_bytes = answer_bytes.saturating_add(shown.to_string().len());
            is_full = answer_bytes > MAX_ANSWER_BYTES && !list.tasks.is_empty();
            if is_full {
                list.next = last.as_ref().map(cursor);
            } else {
                list.tasks.push(shown);
                last = Some(place);
                is_full = list.tasks.len() >= query.limit;
            }
        } else if !is_full {
            last = Some(place);
        }
        if matches.is_none() && list.next.is_some() {
            break false;
        }
    };
    list.total = match matches {
        Some(_) => (is_complete && query.after.is_none()).then(|| u64::try_from(seen).unwrap_or(u64::MAX)),
        None => {
            let sum = |sum: u64, status: &Status| Ok::<_, StoreError>(sum.saturating_add(counted(t, *status)?));
            Some(query.statuses.iter().try_fold(0, sum)?)
        }
    };
    Ok(list)
}
