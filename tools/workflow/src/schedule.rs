//! Templates, and schedules that submit workflows: at a time, or again and again by a cron expression in a time zone.
//!
//! A schedule has the steps and the rights with which it was written, so a template that another client changes later changes nothing for it.

use std::str::FromStr as _;

use chrono::DateTime;
use chrono_tz::Tz;
use croner::Cron;
use mcpp_tool::{
    rights::Rights,
    store::{Places, StoreError, Table, Transaction, View, snapshot, transact},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    definition::Step,
    engine::{self, Draft, Origin, VisibleTools, WorkflowError},
    store::RUNS,
};

/// Most schedules, and most templates, of a tenant.
pub const MAX_SCHEDULES: usize = 1_000;
/// Longest name of a schedule or template, in bytes: a run's id is that of its schedule and a time.
pub const MAX_NAME_BYTES: usize = 80;
/// Longest cron expression, in bytes.
const MAX_CRON_BYTES: usize = 100;

/// Steps under a name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Template {
    /// Its steps.
    pub steps: Vec<Step>,
    /// Tags of its runs.
    pub tags: Vec<String>,
    /// Who wrote it.
    pub by: String,
    /// What that one may use.
    pub rights: Rights,
    /// When, in milliseconds since 1970-01-01 UTC.
    pub written_ms: u64,
}

/// What happens when a schedule's time comes while its last run has not ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// The time is left out.
    #[default]
    Skip,
    /// Both run.
    Allow,
    /// The last run is cancelled.
    Cancel,
}

/// When runs begin by themselves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// Its name.
    pub name: String,
    /// The cron expression; none if it is for one time.
    pub cron: Option<String>,
    /// Its time zone, by IANA's name.
    pub time_zone: String,
    /// What happens if the last run has not ended.
    pub overlap: Overlap,
    /// How late a run may begin, in milliseconds.
    pub catch_up_ms: u64,
    /// Whether nothing begins.
    pub is_paused: bool,
    /// The steps of its runs.
    pub steps: Vec<Step>,
    /// Tags of its runs.
    pub tags: Vec<String>,
    /// The input of its runs.
    pub input: Value,
    /// Who wrote it.
    pub by: String,
    /// What that one may use.
    pub rights: Rights,
    /// When the next run begins, in milliseconds since 1970-01-01 UTC; none if none does.
    pub next_ms: Option<u64>,
    /// The last run.
    pub last_run: Option<String>,
    /// How many runs it began.
    pub runs: u64,
    /// How many times were left out: too late, or the last run had not ended.
    pub left_out: u64,
    /// Why the last time began no run.
    pub last_error: Option<String>,
}

impl Schedule {
    /// The run of one of its times.
    pub fn draft(&self, time_ms: u64) -> Draft {
        let name = &self.name;
        Draft {
            id: format!("{name}-{time_ms}"),
            name: name.clone(),
            steps: self.steps.clone(),
            priority: 1.0,
            tags: self.tags.clone(),
            metadata: Map::from_iter([("schedule".into(), name.as_str().into()), ("time_ms".into(), time_ms.into())]),
            input: self.input.clone(),
            rights: self.rights.clone(),
            by: self.by.clone(),
            ..Draft::default()
        }
    }
}

fn nowhere<T>(_: &String, _: &T, _: &mut Places) {}

/// All templates.
pub const TEMPLATES: Table<String, Template> = Table::new("templates", nowhere);
/// All schedules.
pub const SCHEDULES: Table<String, Schedule> = Table::new("schedules", nowhere);

/// Checks a name of a schedule or template.
///
/// # Errors
/// It is not legal.
pub fn check_name(name: &str) -> Result<(), WorkflowError> {
    let is_legal = (1..=MAX_NAME_BYTES).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
    match is_legal {
        true => Ok(()),
        false => Err(WorkflowError::Invalid(format!(
            "a name has 1 to {MAX_NAME_BYTES} characters of a-z, A-Z, 0-9, _, - and ."
        ))),
    }
}

/// The template of this name.
///
/// # Errors
/// There is none.
pub fn template(t: &View<'_>, name: &str) -> Result<Template, WorkflowError> {
    check_name(name)?;
    TEMPLATES.get(t, name)?.ok_or_else(|| WorkflowError::Refused(format!("Template {name} not found")))
}

/// The schedule of this name.
///
/// # Errors
/// There is none.
pub fn schedule(t: &View<'_>, name: &str) -> Result<Schedule, WorkflowError> {
    check_name(name)?;
    SCHEDULES.get(t, name)?.ok_or_else(|| WorkflowError::Refused(format!("Schedule {name} not found")))
}

/// Whether somebody may change what another wrote: it works with the writer's rights, or for others who trust it.
///
/// # Errors
/// Their rights differ.
pub fn check_writer(writer: &Rights, caller: &Rights) -> Result<(), WorkflowError> {
    match caller.0.is_none() || caller == writer {
        true => Ok(()),
        false => Err(WorkflowError::Refused("it was written with other rights than yours".into())),
    }
}

/// The first time of a cron expression after another one, in milliseconds since 1970-01-01 UTC; none if there is none.
///
/// # Errors
/// The expression or the zone is not legal.
pub fn next_time(cron: &str, time_zone: &str, after_ms: u64) -> Result<Option<u64>, WorkflowError> {
    if cron.len() > MAX_CRON_BYTES {
        return Err(WorkflowError::Invalid(format!("cron has at most {MAX_CRON_BYTES} bytes")));
    }
    let zone = Tz::from_str(time_zone)
        .map_err(|_| WorkflowError::Invalid(format!("{time_zone:?} is no time zone, such as Europe/Berlin or UTC")))?;
    let cron = Cron::from_str(cron)
        .map_err(|error| WorkflowError::Invalid(format!("{cron:?} is no cron expression: {error}")))?;
    let after = i64::try_from(after_ms).ok().and_then(DateTime::from_timestamp_millis);
    let next = after.and_then(|after| cron.find_next_occurrence(&after.with_timezone(&zone), false).ok());
    Ok(next.and_then(|next| u64::try_from(next.timestamp_millis()).ok()))
}

/// Writes a schedule and sets its timer.
///
/// # Errors
/// Those of the store.
pub fn put(t: &Transaction<'_>, schedule: &Schedule) -> Result<(), StoreError> {
    SCHEDULES.put(t, &schedule.name, schedule)?;
    let key = format!("s:{}", schedule.name);
    match schedule.next_ms.filter(|_| !schedule.is_paused) {
        Some(at_ms) => t.wake_at(&key, at_ms, b""),
        None => t.cancel_wake(&key).map(drop),
    }
}

/// The timer of a schedule is due: begins the run of its time, and sets the timer for the next.
pub(crate) fn due(name: &str, now_ms: u64) -> Result<(), WorkflowError> {
    let Some(seen) = SCHEDULES.get(&snapshot()?, name)? else { return Ok(()) };
    let Some(time_ms) = seen.next_ms.filter(|_| !seen.is_paused) else { return Ok(()) };
    let mut next = Schedule { last_error: None, ..seen.clone() };
    if time_ms > now_ms {
        return transact(|t| Ok(put(t, &next)?));
    }
    // Outside of the transaction: it may take long to find that an expression has no further time.
    let is_late = time_ms.saturating_add(seen.catch_up_ms) < now_ms;
    let behind_ms = time_ms.max(now_ms.saturating_sub(seen.catch_up_ms));
    next.next_ms = match &seen.cron {
        Some(cron) => next_time(cron, &seen.time_zone, behind_ms)?,
        None => None,
    };
    let draft = seen.draft(time_ms);
    let graph = draft.check(&VisibleTools(&draft.rights, &[]));
    transact(|t| {
        // Somebody may have changed it meanwhile; its timer is another one then.
        if SCHEDULES.get(t, name)?.as_ref() != Some(&seen) {
            return Ok(());
        }
        let mut next = next.clone();
        let last = match &seen.last_run {
            Some(last) => RUNS.get(t, last)?.filter(|run| !run.phase.is_final()),
            None => None,
        };
        match (&graph, last) {
            (Err(error), _) => next.last_error = Some(error.to_string()),
            _ if is_late => next.left_out = next.left_out.saturating_add(1),
            (_, Some(_)) if seen.overlap == Overlap::Skip => next.left_out = next.left_out.saturating_add(1),
            (Ok(graph), last) => {
                if let Some(last) = last.filter(|_| seen.overlap == Overlap::Cancel) {
                    engine::cancel(
                        t,
                        &last.id,
                        ("the next run of its schedule begins", false),
                        Origin::Handler(0),
                        now_ms,
                    )?;
                }
                engine::submit(t, &draft, graph, Origin::Handler(0), now_ms)?;
                next.last_run = Some(draft.id.clone());
                next.runs = next.runs.saturating_add(1);
            }
        }
        Ok(put(t, &next)?)
    })
}

#[cfg(test)]
mod tests {
    use mcpp_tool::{
        environment::{now_ms, parse_rfc3339, rfc3339},
        store::memory,
    };
    use serde_json::json;

    use super::*;
    use crate::engine::tests::{clear, draft, effects, run_all};

    #[test]
    fn times_follow_the_clock_of_the_zone_over_its_changes() {
        let next = |cron: &str, zone: &str, after: &str| {
            next_time(cron, zone, parse_rfc3339(after).expect("a time")).expect("legal").map(rfc3339)
        };
        for (cron, zone, after, time) in [
            ("*/5 * * * *", "UTC", "2026-11-27T13:42:00Z", "2026-11-27T13:45:00Z"),
            ("30 9 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", "2026-10-25T08:30:00Z"),
            ("30 9 * * *", "Europe/Berlin", "2026-07-01T12:00:00Z", "2026-07-02T07:30:00Z"),
            // On the day on which 02:30 is left out.
            ("0 0 1 1 *", "America/New_York", "2026-06-01T00:00:00Z", "2027-01-01T05:00:00Z"),
            ("0 12 * * MON", "UTC", "2026-11-27T00:00:00Z", "2026-11-30T12:00:00Z"),
        ] {
            assert_eq!(next(cron, zone, after).as_deref(), Some(time), "{cron} {zone}");
        }
        assert_eq!(next("0 0 30 2 *", "UTC", "2026-11-27T00:00:00Z"), None);
        for (cron, zone) in [("61 * * * *", "UTC"), ("* * * * *", "Mars/Base"), ("", "UTC"), (&*"*".repeat(200), "UTC")]
        {
            assert!(next_time(cron, zone, 0).is_err(), "{cron} {zone}");
        }
    }

    fn every_minute(overlap: Overlap, next_ms: u64) -> Schedule {
        Schedule {
            name: "s".into(),
            cron: Some("* * * * *".into()),
            time_zone: "UTC".into(),
            overlap,
            catch_up_ms: 150_000,
            is_paused: false,
            steps: draft("x", json!([{ "step_id": "w", "action": "wait", "inputs": { "signal": "go" } }]), Value::Null)
                .steps,
            tags: vec!["nightly".into()],
            input: Value::Null,
            by: "test".into(),
            rights: Rights::default(),
            next_ms: Some(next_ms),
            last_run: None,
            runs: 0,
            left_out: 0,
            last_error: None,
        }
    }

    fn seen() -> Schedule {
        schedule(&snapshot().expect("a snapshot"), "s").expect("there")
    }

    #[test]
    fn a_time_begins_one_run_and_what_is_too_late_or_overlaps_is_left_out() {
        const MINUTE: u64 = 60_000;
        let now = now_ms() / MINUTE * MINUTE;
        for (overlap, running, ended) in [(Overlap::Skip, 1, 0), (Overlap::Allow, 2, 0), (Overlap::Cancel, 1, 1)] {
            clear();
            transact(|t| put(t, &every_minute(overlap, now))).expect("written");
            due("s", now).expect("due");
            // A delivery that comes again finds another time.
            due("s", now).expect("due");
            assert_eq!((seen().runs, seen().next_ms), (1, Some(now + MINUTE)));
            run_all();
            due("s", now + MINUTE).expect("due");
            run_all();
            let t = snapshot().expect("a snapshot");
            let count = |status: &str| crate::store::LISTED_COUNTS.get(&t, &(status, "nightly")).expect("read");
            assert_eq!((count("running"), count("cancelled")), (running, ended), "{overlap:?}");
            assert_eq!(memory::timers()["s:s"].at_ms, now + 2 * MINUTE);
        }
        // The host was down for ten minutes: what is within the window begins, what is older does not.
        clear();
        transact(|t| put(t, &every_minute(Overlap::Allow, now))).expect("written");
        let back = now + 10 * MINUTE;
        while seen().next_ms.expect("a time") <= back {
            due("s", back).expect("due");
        }
        assert_eq!((seen().runs, seen().left_out), (3, 1), "{:?}", seen());
        assert_eq!(effects(), Vec::<String>::new());
    }

    #[test]
    fn a_pause_takes_the_timer_away_and_one_time_is_one_run() {
        clear();
        let now = now_ms();
        let once = Schedule { cron: None, ..every_minute(Overlap::Skip, now) };
        transact(|t| put(t, &Schedule { is_paused: true, ..once.clone() })).expect("written");
        assert!(!memory::timers().contains_key("s:s"));
        due("s", now).expect("due");
        assert_eq!(seen().runs, 0);
        transact(|t| put(t, &once)).expect("written");
        due("s", now).expect("due");
        assert_eq!((seen().runs, seen().next_ms, memory::timers().contains_key("s:s")), (1, None, false));
    }
}
