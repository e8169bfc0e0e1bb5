//! Templates and schedules.

use mcpp_tool::{
    caller,
    environment::{now_ms, parse_rfc3339},
    rights, tool,
};
use serde_json::{Value, json};

use super::{Reply, read, run, settle, time};
use crate::{
    definition::{MAX_TIME_S, ms},
    engine::{VisibleTools, WorkflowError},
    schedule::{
        MAX_SCHEDULES, Overlap, SCHEDULES, Schedule, TEMPLATES, Template, check_name, check_writer, next_time, put,
        schedule, template,
    },
    validate::{check, parse},
};

fn invalid<T>(reason: impl Into<String>) -> Result<T, WorkflowError> {
    Err(WorkflowError::Invalid(reason.into()))
}

/// Keeps steps under a name, to be submitted by `workflow_submit` with `template`. Without `steps` it shows the template; without a name, the names of all.
#[tool]
pub fn workflow_template(
    /// The name.
    #[arg(default)]
    name: Option<String>,
    /// Its steps from now on.
    #[arg(default)]
    steps: Option<Vec<Value>>,
    /// Tags of its runs.
    #[arg(default)]
    tags: Vec<String>,
    /// Removes it.
    #[arg(default)]
    remove: bool,
) -> Reply {
    let rights = rights::of_caller();
    let shown = (|| {
        let Some(name) = &name else {
            return read(|t| {
                let names = TEMPLATES.all().most(MAX_SCHEDULES).walk(t).map(|row| Ok(row?.0));
                Ok(json!({ "templates": names.collect::<Result<Vec<String>, WorkflowError>>()? }))
            });
        };
        check_name(name)?;
        let steps = match &steps {
            Some(steps) => {
                let steps = parse(steps)?;
                check(&steps, 0, &VisibleTools(&rights, &[]))?;
                Some(steps)
            }
            None => None,
        };
        run(|t| {
            let there = TEMPLATES.get(t, name)?;
            if let Some(there) = there.as_ref().filter(|_| remove || steps.is_some()) {
                check_writer(&there.rights, &rights)?;
            }
            if remove {
                let there = TEMPLATES.remove(t, name)?;
                return Ok(json!({ "template": name, "removed": there.is_some() }));
            }
            if let Some(steps) = &steps {
                if there.is_none() && TEMPLATES.all().most(MAX_SCHEDULES).walk(t).count() >= MAX_SCHEDULES {
                    return invalid(format!("at most {MAX_SCHEDULES} templates are allowed"));
                }
                let by = caller::caller().subject;
                let template = Template {
                    steps: steps.clone(),
                    tags: tags.clone(),
                    by,
                    rights: rights.clone(),
                    written_ms: now_ms(),
                };
                TEMPLATES.put(t, name, &template)?;
            }
            let there = template(t, name)?;
            Ok(
                json!({ "template": name, "steps": there.steps, "tags": there.tags, "written_by": there.by, "written_at": time(Some(there.written_ms)) }),
            )
        })
    })();
    settle(shown, "")
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

/// Submits a workflow at a time, or again and again. With a name and nothing else it shows the schedule; without a name, all of them.
#[tool]
#[allow(clippy::too_many_arguments, reason = "all of them are needed")]
pub fn workflow_schedule(
    /// Its name. A run's id is the name, `-`, and its time in milliseconds.
    #[arg(default)]
    name: Option<String>,
    /// A cron expression of five fields, or six with seconds in front.
    #[arg(default)]
    cron: Option<String>,
    /// One time instead, as RFC 3339.
    #[arg(default)]
    at: Option<String>,
    /// The zone of the expression, by IANA's name; UTC if absent.
    #[arg(default)]
    time_zone: Option<String>,
    /// The template whose steps it has, as they are now.
    #[arg(default)]
    template: Option<String>,
    /// Its steps instead.
    #[arg(default)]
    steps: Vec<Value>,
    /// The input of its runs.
    #[arg(default)]
    input: Value,
    /// What happens while the last run has not ended: `skip`, `allow` or `cancel`.
    #[arg(default)]
    overlap: Overlap,
    /// How late a run may begin after the host was down, in seconds.
    #[arg(default = 3600.0)]
    catch_up_s: f64,
    /// Whether nothing begins; as it was if absent.
    #[arg(default)]
    paused: Option<bool>,
    /// Removes it.
    #[arg(default)]
    remove: bool,
) -> Reply {
    let (now, rights) = (now_ms(), rights::of_caller());
    let reply = (|| {
        let Some(name) = &name else {
            return read(|t| {
                let all = SCHEDULES.all().most(MAX_SCHEDULES).walk(t).map(|row| Ok(shown(&row?.1)));
                Ok(json!({ "schedules": all.collect::<Result<Vec<Value>, WorkflowError>>()? }))
            });
        };
        check_name(name)?;
        if !(0.0..=MAX_TIME_S).contains(&catch_up_s) {
            return invalid("catch_up_s must be 0 to a year");
        }
        let is_new = cron.is_some() || at.is_some();
        let time_zone = time_zone.clone().unwrap_or_else(|| "UTC".into());
        let next_ms = match (&cron, &at) {
            (Some(_), Some(_)) => return invalid("give cron or at, not both"),
            (Some(cron), None) => match next_time(cron, &time_zone, now)? {
                Some(next) => Some(next),
                None => return invalid(format!("{cron:?} has no time any more")),
            },
            (None, Some(at)) => match parse_rfc3339(at) {
                Some(at_ms) => Some(at_ms),
                None => return invalid(format!("{at:?} is no time as RFC 3339 has it")),
            },
            (None, None) => None,
        };
        let steps = match (&template, is_new) {
            (_, false) => Vec::new(),
            (Some(template), true) => read(|t| self::template(t, template))?.steps,
            (None, true) => parse(&steps)?,
        };
        if is_new {
            check(&steps, 0, &VisibleTools(&rights, &[]))?;
        }
        run(|t| {
            let there = SCHEDULES.get(t, name)?;
            if let Some(there) = there.as_ref().filter(|_| remove || is_new || paused.is_some()) {
                check_writer(&there.rights, &rights)?;
            }
            if remove {
                SCHEDULES.remove(t, name)?;
                t.cancel_wake(&format!("s:{name}"))?;
                return Ok(json!({ "schedule": name, "removed": there.is_some() }));
            }
            if is_new {
                if there.is_none() && SCHEDULES.all().most(MAX_SCHEDULES).walk(t).count() >= MAX_SCHEDULES {
                    return invalid(format!("at most {MAX_SCHEDULES} schedules are allowed"));
                }
                let written = Schedule {
                    name: name.clone(),
                    cron: cron.clone(),
                    time_zone: time_zone.clone(),
                    overlap,
                    catch_up_ms: ms(catch_up_s),
                    is_paused: paused.unwrap_or(false),
                    steps: steps.clone(),
                    tags: vec![name.chars().take(64).collect()],
                    input: input.clone(),
                    by: caller::caller().subject,
                    rights: rights.clone(),
                    next_ms,
                    last_run: there.as_ref().and_then(|there| there.last_run.clone()),
                    runs: there.as_ref().map_or(0, |there| there.runs),
                    left_out: there.as_ref().map_or(0, |there| there.left_out),
                    last_error: None,
                };
                put(t, &written)?;
            } else if let (Some(paused), Some(there)) = (paused, &there) {
                put(t, &Schedule { is_paused: paused, ..there.clone() })?;
            }
            Ok(shown(&schedule(t, name)?))
        })
    })();
    settle(reply, "")
}
