//! Lists of runs.

use mcpp_tool::{
    environment::parse_rfc3339,
    store::{Span, View},
    tool,
};
use serde_json::{Value, json};

use super::{HERE, Reply, read, settle, summary};
use crate::{
    engine::WorkflowError,
    store::{LISTED, LISTED_COUNTS, RUNS},
};

/// Most entries that one list goes through.
const MAX_WALKED: usize = 20_000;

/// How far a run is, by the contract's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Nothing of it has begun.
    Submitted,
    /// It has begun.
    Running,
    /// It completed.
    Completed,
    /// It failed.
    Failed,
    /// It was cancelled.
    Cancelled,
}

impl Status {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Submitted => "submitted",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Times between which runs were submitted.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Between {
    from_ms: Option<u64>,
    before_ms: Option<u64>,
}

impl Between {
    /// Reads two times as RFC 3339.
    pub(crate) fn parse(from: Option<&str>, before: Option<&str>) -> Result<Self, WorkflowError> {
        let time = |text: Option<&str>| match text.filter(|text| !text.is_empty()) {
            None => Ok(None),
            Some(text) => match parse_rfc3339(text) {
                Some(ms) => Ok(Some(ms)),
                None => Err(WorkflowError::Invalid(format!("{text:?} is no time as RFC 3339 has it"))),
            },
        };
        Ok(Self { from_ms: time(from)?, before_ms: time(before)? })
    }

    /// The places between them.
    pub(crate) fn narrow(self, mut span: Span<(u64, String)>) -> Span<(u64, String)> {
        if let Some(from_ms) = self.from_ms {
            span = span.from(&(from_ms,));
        }
        if let Some(before_ms) = self.before_ms {
            span = span.below(&(before_ms,));
        }
        span
    }

    fn is_any(self) -> bool {
        self.from_ms.is_none() && self.before_ms.is_none()
    }
}

/// The place that a list's cursor names.
fn from_cursor(cursor: &str) -> Result<(u64, String), WorkflowError> {
    let place = cursor.split_once(':').and_then(|(ms, id)| Some((ms.parse().ok()?, id.to_owned())));
    place.ok_or_else(|| WorkflowError::Invalid("cursor is none of a list's".into()))
}

/// The tag by which runs are found; any further ones are compared.
fn first_tag(tags: &[String]) -> &str {
    tags.first().map_or("", String::as_str)
}

/// The places of the runs that have a status and the first of the tags, those submitted last first, behind a cursor.
pub(crate) fn matching_span(
    (status, tags, between): (&str, &[String], Between),
    cursor: Option<&str>,
) -> Result<Span<(u64, String)>, WorkflowError> {
    let mut span = between.narrow(LISTED.of(&(status, first_tag(tags))));
    if let Some(cursor) = cursor {
        span = span.below(&from_cursor(cursor)?);
    }
    Ok(span.descending())
}

/// A cursor that names a place.
pub(crate) fn to_cursor((ms, id): (u64, String)) -> String {
    format!("{ms}:{id}")
}

/// Lists runs, those submitted last first.
#[tool(read_only)]
#[allow(clippy::too_many_arguments, reason = "all of them are needed")]
pub fn workflow_list(
    /// Only runs with this status.
    #[arg(default)]
    status_filter: Option<Status>,
    /// Only runs on this peer. All are on `localhost`.
    #[arg(default)]
    peer_filter: Option<String>,
    /// Only runs that have all these tags.
    #[arg(default)]
    tag_filter: Vec<String>,
    /// Only runs submitted at this time or later, as RFC 3339.
    #[arg(default)]
    created_after: Option<String>,
    /// Only runs submitted before this time, as RFC 3339.
    #[arg(default)]
    created_before: Option<String>,
    /// The most runs to list, 1 to 1,000.
    #[arg(default = 50)]
    limit: i64,
    /// How many runs to pass over.
    #[arg(default)]
    offset: i64,
    /// Goes on behind a list: its `next_cursor`.
    #[arg(default)]
    cursor: Option<String>,
) -> Reply {
    let listed = read(|t| {
        let Some(limit) = usize::try_from(limit).ok().filter(|limit| (1..=1_000).contains(limit)) else {
            return Err(WorkflowError::Invalid("Limit must be between 1 and 1000".into()));
        };
        let Ok(offset) = usize::try_from(offset) else {
            return Err(WorkflowError::Invalid("Offset must be non-negative".into()));
        };
        if offset >= MAX_WALKED {
            return Err(WorkflowError::Invalid(format!("Offset must be below {MAX_WALKED}; go on with cursor")));
        }
        if peer_filter.as_deref().is_some_and(|peer| !peer.is_empty() && peer != HERE) {
            return Ok(
                json!({ "workflows": [], "total_count": 0, "returned_count": 0, "has_more": false, "next_cursor": null }),
            );
        }
        let status = status_filter.map_or("", Status::as_str);
        let between = Between::parse(created_after.as_deref(), created_before.as_deref())?;
        list(t, (status, &tag_filter, between), (offset, limit), cursor.as_deref())
    });
    settle(listed, "")
}

fn list(
    t: &View<'_>,
    (status, tags, between): (&str, &[String], Between),
    (offset, limit): (usize, usize),
    cursor: Option<&str>,
) -> Result<Value, WorkflowError> {
    let span = matching_span((status, tags, between), cursor)?;
    let (mut runs, mut passed, mut walked, mut last, mut has_more) = (Vec::new(), 0_usize, 0_usize, None, false);
    for place in span.walk(t) {
        let place = place?;
        walked = walked.saturating_add(1);
        if runs.len() == limit || walked > MAX_WALKED {
            has_more = true;
            break;
        }
        // Without further tags what is passed over need not be read.
        if tags.len() <= 1 && passed < offset {
            passed = passed.saturating_add(1);
            last = Some(place);
            continue;
        }
        let Some(run) = RUNS.get(t, &place.1)? else { continue };
        last = Some(place);
        if !tags.iter().all(|tag| run.tags.contains(tag)) {
            continue;
        }
        if passed < offset {
            passed = passed.saturating_add(1);
            continue;
        }
        runs.push(summary(&run));
    }
    // Every number is kept, but for that of several tags together, and between two times.
    let total = match tags.len() {
        0 | 1 if between.is_any() => Some(LISTED_COUNTS.get(t, &(status, first_tag(tags)))?),
        _ => None,
    };
    let next = last.filter(|_| has_more).map(to_cursor);
    Ok(json!({
        "total_count": total,
        "returned_count": runs.len(),
        "has_more": has_more,
        "next_cursor": next,
        "workflows": runs,
    }))
}
