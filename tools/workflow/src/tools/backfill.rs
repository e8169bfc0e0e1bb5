//! `workflow_backfill`: the runs of a schedule's times that are over.

use mcpp_tool::{environment::now_ms, environment::parse_rfc3339, rights, tool};
use serde_json::json;

use super::{Reply, read, run, settle, time};
use crate::{
    engine::{self, Draft, Origin, VisibleTools, WorkflowError},
    schedule::{Schedule, check_writer, next_time, schedule},
    store::RUNS,
};

/// Most times for which one call begins runs.
const MAX_TIMES: usize = 100;
/// Most bytes of their steps and inputs together: they count towards the call's budgets more than once.
const MAX_BYTES: usize = 8 << 20;

/// Begins the runs of a schedule for times that are over, 100 at a time, or fewer large ones, whatever its `overlap` and pause are. A time that had its run is left out, so that a repetition changes nothing.
#[tool(idempotent)]
pub fn workflow_backfill(
    /// The schedule.
    name: String,
    /// The first time, as RFC 3339.
    from: String,
    /// The time before which they are; now if absent.
    #[arg(default)]
    until: Option<String>,
    /// Says only which times there are.
    #[arg(default)]
    dry_run: bool,
) -> Reply {
    let (now, rights) = (now_ms(), rights::of_caller());
    let filled = (|| {
        let at = |text: &str| {
            parse_rfc3339(text).ok_or_else(|| WorkflowError::Invalid(format!("{text:?} is no time as RFC 3339 has it")))
        };
        let until_ms = until.as_deref().map(at).transpose()?.unwrap_or(now).min(now);
        let schedule = read(|t| schedule(t, &name))?;
        check_writer(&schedule.rights, &rights)?;
        // The tools are looked up once: the runs differ by their times alone.
        let like = schedule.draft(until_ms);
        let most = most_times(&like);
        let (times, next_ms) = times(&schedule, (at(&from)?, until_ms), most)?;
        let visible = VisibleTools(&like.rights, &[]);
        let graph = if dry_run { like.check_form(&visible)? } else { like.check(&visible)? };
        let (mut begun, mut there) = (Vec::new(), Vec::new());
        for time_ms in times {
            let draft = schedule.draft(time_ms);
            if read(|t| Ok(RUNS.get(t, &draft.id)?.is_some()))? {
                there.push(draft.id);
                continue;
            }
            if !dry_run {
                run(|t| engine::submit(t, &draft, &graph, Origin::Unknown, now))?;
            }
            begun.push(draft.id);
        }
        Ok(
            json!({ "schedule": name, "begun": begun, "had_begun": there, "dry_run": dry_run, "next_from": time(next_ms) }),
        )
    })();
    settle(filled, "")
}

/// For how many times one call begins runs like this one: 1 at least.
fn most_times(draft: &Draft) -> usize {
    let bytes = draft.json_bytes().max(1);
    (MAX_BYTES / bytes).clamp(1, MAX_TIMES)
}

/// The times of a schedule from one time to below another, and the one behind the last, if these are too many.
fn times(
    schedule: &Schedule,
    (from_ms, until_ms): (u64, u64),
    most: usize,
) -> Result<(Vec<u64>, Option<u64>), WorkflowError> {
    let Some(cron) = &schedule.cron else {
        return Err(WorkflowError::Refused("the schedule is for one time".into()));
    };
    let (mut times, mut behind_ms) = (Vec::new(), from_ms.saturating_sub(1));
    while let Some(time_ms) = next_time(cron, &schedule.time_zone, behind_ms)?.filter(|time_ms| *time_ms < until_ms) {
        if times.len() == most {
            return Ok((times, Some(time_ms)));
        }
        times.push(time_ms);
        behind_ms = time_ms;
    }
    Ok((times, None))
}

#[cfg(test)]
mod tests {
    use mcpp_tool::store::transact;

    use super::*;
    use crate::{
        engine::tests::{clear, run_all},
        schedule::put,
        tools::{
            listing::workflow_list,
            plans::{Planned, workflow_schedule},
        },
    };

    #[test]
    fn times_that_are_over_have_their_runs_once() {
        clear();
        let steps = vec![json!({ "step_id": "a", "action": "echo" })];
        let zone = Some("Europe/Berlin".into());
        let written = workflow_schedule(Planned {
            name: Some("s".into()),
            cron: Some("30 2 * * *".into()),
            time_zone: zone,
            steps,
            catch_up_s: Some(60.0),
            paused: Some(true),
            ..Planned::default()
        });
        written.into_result().expect("written");
        let fill = |from: &str, until: &str, dry_run| {
            workflow_backfill("s".into(), from.into(), Some(until.into()), dry_run).into_result().expect("filled")
        };
        // The clock is set back in the night to the 26th: its time comes twice, and counts once.
        let seen = fill("2025-10-24T00:00:00Z", "2025-10-29T00:00:00Z", true);
        assert_eq!(seen["begun"].as_array().map(Vec::len), Some(5), "{seen:?}");
        let begun = fill("2025-10-24T00:00:00Z", "2025-10-29T00:00:00Z", false);
        assert_eq!(begun["begun"], seen["begun"]);
        run_all();
        let again = fill("2025-10-24T00:00:00Z", "2025-10-30T00:00:00Z", false);
        assert_eq!((again["begun"].as_array().map(Vec::len), &again["had_begun"]), (Some(1), &begun["begun"]));
        run_all();
        let all = workflow_list(None, None, Vec::new(), None, None, 50, 0, None).into_result().expect("a list");
        assert_eq!(all["total_count"], 6);
        // More times than one call has.
        let first = fill("2025-01-01T00:00:00Z", "2025-10-01T00:00:00Z", true);
        assert_eq!(
            (first["begun"].as_array().map(Vec::len), &first["next_from"]),
            (Some(100), &json!("2025-04-11T00:30:00Z"))
        );
        let once = transact(|t| put(t, &Schedule { cron: None, ..schedule(t, "s")? }).map_err(WorkflowError::from));
        once.expect("written");
        let refused = workflow_backfill("s".into(), "2025-01-01T00:00:00Z".into(), None, true).into_result();
        assert_eq!(refused.expect_err("one time").error, "the schedule is for one time");
    }
}
