//! Templates, and schedules that submit workflows: at a time, or again and again by a cron expression in a time zone.
//!
//! A schedule has the steps and the rights with which it was written, so a template that another client changes later changes nothing for it.

mod due;
mod names;
mod times;

use mcpp_tool::{
    rights::Rights,
    store::{Places, StoreError, Table, Transaction, View},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub(crate) use self::due::due;
pub use self::{
    names::{NAMES, Named, SCHEDULE, TEMPLATE},
    times::{check_zone, next_time},
};
use crate::{
    definition::Step,
    engine::{Draft, WorkflowError},
};

/// Most schedules, and most templates, of a tenant.
pub const MAX_SCHEDULES: usize = 1_000;
/// Longest name of a schedule or template, in bytes: a run's id is that of its schedule and a time.
pub const MAX_NAME_BYTES: usize = 80;

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
    /// How many times were left out: too late, within a pause, or the last run had not ended.
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

fn declare_template(name: &String, _: &Template, places: &mut Places) {
    places.index(&NAMES, TEMPLATE, name);
}

fn declare_schedule(name: &String, _: &Schedule, places: &mut Places) {
    places.index(&NAMES, SCHEDULE, name);
}

/// All templates.
pub const TEMPLATES: Table<String, Template> = Table::new("templates", declare_template);
/// All schedules.
pub const SCHEDULES: Table<String, Schedule> = Table::new("schedules", declare_schedule);

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

/// Writes a schedule and sets its timer.
///
/// # Errors
/// Those of the store.
pub fn put(t: &Transaction<'_>, schedule: &Schedule) -> Result<(), StoreError> {
    SCHEDULES.put(t, &schedule.name, schedule)?;
    match schedule.next_ms.filter(|_| !schedule.is_paused) {
        Some(at_ms) => t.wake_at(&timer(&schedule.name), at_ms, b""),
        None => t.cancel_wake(&timer(&schedule.name)).map(drop),
    }
}

/// Removes a schedule and its timer; whether there was one.
///
/// # Errors
/// Those of the store.
pub fn remove(t: &Transaction<'_>, name: &String) -> Result<bool, StoreError> {
    let there = SCHEDULES.remove(t, name)?;
    t.cancel_wake(&timer(name))?;
    Ok(there.is_some())
}

/// The key of a schedule's timer.
fn timer(name: &str) -> String {
    format!("s:{name}")
}

#[cfg(test)]
mod tests;
