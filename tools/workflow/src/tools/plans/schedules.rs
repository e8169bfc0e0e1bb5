//! `workflow_schedule`.

use mcpp_tool::{
    caller,
    environment::{now_ms, parse_rfc3339},
    rights::{self, Rights},
    tool,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    super::{Reply, read, run, settle, time},
    page,
};
use crate::{
    definition::{MAX_TIME_S, Step, ms},
    engine::{VisibleTools, WorkflowError},
    schedule::{
        self, Named, Overlap, SCHEDULE, SCHEDULES, Schedule, check_name, check_writer, check_zone, next_time, put,
        schedule, template,
    },
    validate::parse,
};

/// How late a run may begin if nothing is said, in milliseconds.
const CATCH_UP_MS: u64 = 3_600_000;
/// How often a change is made anew that others were in the way of.
const MAX_ROUNDS: usize = 10;
/// The names of all schedules.
const KNOWN: Named<Schedule> = Named(SCHEDULE, &SCHEDULES);

fn invalid<T>(reason: impl Into<String>) -> Result<T, WorkflowError> {
    Err(WorkflowError::Invalid(reason.into()))
}

fn shown(schedule: &Schedule) -> Value {
    json!({
        "schedule": schedule.name,
        "cron": schedule.cron,
        "time_zone": schedule.time_zone,
        "overlap": schedule.overlap,
        "catch_up_s": schedule.catch_up_ms / 1_000,
        "paused": schedule.is_paused,
        "next_time": time(schedule.next_ms.filter(|_| !schedule.is_paused)),
        "last_workflow_id": schedule.last_run,
        "runs": schedule.runs,
        "left_out": schedule.left_out,
        "last_error": schedule.last_error,
        "written_by": schedule.by,
    })
}

/// What a client says of a schedule.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
pub struct Planned {
    /// Its name. A run's id is the name, `-`, and its time in milliseconds.
    #[serde(default)]
    pub name: Option<String>,
    /// A cron expression of five fields, or six with seconds in front. With `cron` or `at` the schedule is written anew.
    #[serde(default)]
    pub cron: Option<String>,
    /// One time instead, as RFC 3339, which is still to come.
    #[serde(default)]
    pub at: Option<String>,
    /// The zone of the expression, by IANA's name; UTC for a new one.
    #[serde(default)]
    pub time_zone: Option<String>,
    /// The template whose steps and tags it has, as they are now.
    #[serde(default)]
    pub template: Option<String>,
    /// Its steps instead.
    #[serde(default)]
    pub steps: Vec<Value>,
    /// The input of its runs.
    #[serde(default)]
    pub input: Option<Value>,
    /// What happens while the last run has not ended: `skip`, `allow` or `cancel`; `skip` for a new one.
    #[serde(default)]
    pub overlap: Option<Overlap>,
    /// How late a run may begin after the host was down, in seconds; 3,600 for a new one.
    #[serde(default)]
    pub catch_up_s: Option<f64>,
    /// Whether nothing begins; as it was if absent. Times within a pause are left out.
    #[serde(default)]
    pub paused: Option<bool>,
    /// Removes it.
    #[serde(default)]
    pub remove: bool,
    /// Goes on behind a list: its `next_cursor`.
    #[serde(default)]
    pub cursor: Option<String>,
}

impl Planned {
    fn is_anew(&self) -> bool {
        self.cron.is_some() || self.at.is_some()
    }

    fn has_steps(&self) -> bool {
        self.template.is_some() || !self.steps.is_empty()
    }

    fn changes(&self) -> bool {
        let is_other = self.time_zone.is_some() || self.overlap.is_some() || self.catch_up_s.is_some();
        self.is_anew() || self.has_steps() || is_other || self.input.is_some() || self.paused.is_some()
    }

    /// The steps and tags of its runs.
    fn work(&self, name: &str) -> Result<(Vec<Step>, Vec<String>), WorkflowError> {
        let mut tags: Vec<String> = vec![name.chars().take(64).collect()];
        let Some(template) = &self.template else { return Ok((parse(&self.steps)?, tags)) };
        let template = read(|t| self::template(t, template))?;
        for tag in template.tags {
            if !tags.contains(&tag) {
                tags.push(tag);
            }
        }
        Ok((template.steps, tags))
    }

    /// The first time of one that is written anew.
    fn first_ms(&self, time_zone: &str, now_ms: u64) -> Result<Option<u64>, WorkflowError> {
        match (&self.cron, &self.at) {
            (Some(_), Some(_)) => invalid("give cron or at, not both"),
            (Some(cron), None) => match next_time(cron, time_zone, now_ms)? {
                Some(next_ms) => Ok(Some(next_ms)),
                None => invalid(format!("{cron:?} has no time any more")),
            },
            (None, Some(at)) => match parse_rfc3339(at) {
                Some(at_ms) if at_ms >= now_ms => Ok(Some(at_ms)),
                Some(_) => invalid(format!("at must be still to come; {at:?} is over")),
                None => invalid(format!("{at:?} is no time as RFC 3339 has it")),
            },
            (None, None) => Ok(None),
        }
    }

    /// The schedule that this makes of the one that is there; checked.
    fn made_of(
        &self,
        name: &str,
        there: Option<&Schedule>,
        (rights, now_ms): (&Rights, u64),
    ) -> Result<Schedule, WorkflowError> {
        let mut made = match there.filter(|_| !self.is_anew()) {
            Some(there) => there.clone(),
            None => Schedule {
                name: name.to_owned(),
                cron: self.cron.clone(),
                time_zone: "UTC".into(),
                overlap: Overlap::default(),
                catch_up_ms: CATCH_UP_MS,
                is_paused: there.is_some_and(|there| there.is_paused),
                steps: Vec::new(),
                tags: Vec::new(),
                input: Value::Null,
                by: String::new(),
                rights: Rights::default(),
                next_ms: None,
                last_run: there.and_then(|there| there.last_run.clone()),
                runs: there.map_or(0, |there| there.runs),
                left_out: there.map_or(0, |there| there.left_out),
                last_error: None,
            },
        };
        if let Some(catch_up_s) = self.catch_up_s {
            if !(0.0..=MAX_TIME_S).contains(&catch_up_s) {
                return invalid("catch_up_s must be 0 to a year");
            }
            made.catch_up_ms = ms(catch_up_s);
        }
        made.overlap = self.overlap.unwrap_or(made.overlap);
        if let Some(input) = &self.input {
            made.input = input.clone();
        }
        if self.is_anew() || self.has_steps() {
            (made.steps, made.tags) = self.work(name)?;
            (made.by, made.rights) = (caller::caller().subject, rights.clone());
        }
        if let Some(time_zone) = &self.time_zone {
            check_zone(time_zone)?;
            made.time_zone = time_zone.clone();
        }
        if self.is_anew() {
            made.next_ms = self.first_ms(&made.time_zone, now_ms)?;
            made.is_paused = self.paused.unwrap_or(made.is_paused);
        } else {
            match self.paused {
                Some(true) => made.is_paused = true,
                Some(false) => made = made.resumed(now_ms)?,
                None => {}
            }
            if let (Some(cron), Some(time_zone)) = (&made.cron, &self.time_zone) {
                made.next_ms = next_time(cron, time_zone, now_ms)?;
            }
        }
        // A pause is possible whatever has become of the tools.
        if self.is_anew() || self.has_steps() || self.input.is_some() {
            made.draft(made.next_ms.unwrap_or(now_ms)).check_form(&VisibleTools(&made.rights, &[]))?;
        }
        Ok(made)
    }

    /// Does it; the answer.
    fn done(&self) -> Result<Value, WorkflowError> {
        let (now_ms, rights) = (now_ms(), rights::of_caller());
        let Some(name) = &self.name else {
            return read(|t| {
                let (all, next) = page(t, &SCHEDULES, self.cursor.as_deref(), |_, schedule| shown(schedule))?;
                Ok(json!({ "schedules": all, "next_cursor": next }))
            });
        };
        check_name(name)?;
        if self.remove {
            return run(|t| {
                if let Some(there) = SCHEDULES.get(t, name)? {
                    check_writer(&there.rights, &rights)?;
                }
                Ok(json!({ "schedule": name, "removed": schedule::remove(t, name)? }))
            });
        }
        if !self.changes() {
            return read(|t| Ok(shown(&schedule(t, name)?)));
        }
        for _ in 0..MAX_ROUNDS {
            let there = match self.is_anew() {
                true => read(|t| Ok(SCHEDULES.get(t, name)?))?,
                false => Some(read(|t| schedule(t, name))?),
            };
            match &there {
                Some(there) => check_writer(&there.rights, &rights)?,
                None => KNOWN.learn()?,
            }
            // Outside of the transaction: it may take long to count the times of a pause.
            let made = self.made_of(name, there.as_ref(), (&rights, now_ms))?;
            let is_done = run(|t| {
                if SCHEDULES.get(t, name)? != there {
                    return Ok(false);
                }
                if there.is_none() {
                    KNOWN.check_room(t)?;
                }
                put(t, &made)?;
                Ok(true)
            })?;
            if is_done {
                return Ok(shown(&made));
            }
        }
        Err(WorkflowError::Refused(format!("Schedule {name} was changed meanwhile, again and again")))
    }
}

/// Submits a workflow at a time, or again and again. With a name and nothing else it shows the schedule; without a name, all of them, page by page. With a name that is there and neither
/// `cron` nor `at` it changes only what is given.
#[tool]
pub fn workflow_schedule(
    /// What is said of it.
    #[arg(flatten)]
    planned: Planned,
) -> Reply {
    settle(planned.done(), "")
}
