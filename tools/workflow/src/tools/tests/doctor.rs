//! What the doctor finds, and that it finds it however much there is.

use mcpp_tool::{environment::now_ms, store::memory};

use super::*;
use crate::{
    schedule::{self, SCHEDULES},
    store::{CLAIMS, NODES, RUNS, node},
    tools::plans::{Planned, workflow_schedule},
};

fn call(cursor: Option<String>) -> Map<String, Value> {
    memory::spent();
    let reply = workflow_doctor(cursor).into_result().expect("examined");
    let bytes = memory::spent().bytes;
    assert!(bytes < 32 << 20, "a call reads {bytes} bytes");
    reply
}

/// All parts together: how many there are, the runs examined, and what is in a list of each.
fn all(list: &str) -> (usize, u64, Vec<Value>) {
    let (mut parts, mut examined, mut found, mut cursor) = (0, 0, Vec::new(), None);
    loop {
        let reply = call(cursor);
        parts += 1;
        examined += reply["examined"].as_u64().expect("a number");
        found.extend(reply[list].as_array().expect("a list").iter().cloned());
        cursor = reply["next_cursor"].as_str().map(str::to_owned);
        if cursor.is_none() {
            return (parts, examined, found);
        }
    }
}

fn waits(id: &str, text: &str) {
    let condition = json!({ "value": text });
    submit(id, json!([{ "step_id": "a", "action": "wait", "inputs": { "signal": "go" }, "when": condition }]))
        .expect("submitted");
}

fn strand(id: &str, number: u32) {
    run(|t| {
        let mut node = node(t, id, number)?;
        node.state = State::Pending;
        NODES.put(t, &(id.to_owned(), number), &node)?;
        Ok(())
    })
    .expect("written");
}

#[test]
fn runs_with_large_steps_are_examined_part_by_part() {
    clear();
    for number in 0..45 {
        waits(&format!("w{number:02}"), &"x".repeat(480_000));
    }
    run_all();
    strand("w44", 0);
    let (parts, examined, stuck) = all("stuck");
    assert_eq!((examined, stuck.len(), &stuck[0]["workflow_id"]), (45, 1, &json!("w44")));
    assert!(parts > 1, "they are more than one call reads");
}

#[test]
fn one_run_may_have_more_than_a_call_looks_at() {
    clear();
    super::bulky::bulky("w", 50);
    assert_eq!(all("stuck"), (1, 1, Vec::new()), "the step that was taken last waits");
    strand("w", 1);
    let (parts, examined, stuck) = all("stuck");
    assert_eq!((examined, stuck.len(), &stuck[0]["workflow_id"]), (1, 1, &json!("w")));
    assert!(parts > 2, "{parts}");
    let status = workflow_status("w".into(), false, false, 0).into_result().expect("there");
    assert!(status["next_event"].as_str().is_some_and(|next| next.contains("further steps")), "{status:?}");
}

#[test]
fn chains_of_runs_are_examined_to_their_end() {
    clear();
    waits("w0", "x");
    run_all();
    for number in 1..=1_100 {
        let dependencies = vec![format!("w{}", number - 1)];
        let steps = json!([{ "step_id": "a", "action": "echo" }]);
        let next = Submission { dependencies, ..submission(&format!("w{number}"), steps) };
        workflow_submit(next).into_result().expect("submitted");
    }
    let (parts, examined, overdue) = all("overdue");
    assert_eq!((parts, examined, overdue.len()), (3, 1_101, 0));
    // One that nobody told of an end, and one whose run is gone.
    run(|t| {
        let mut ended = engine::find(t, "w700")?;
        (ended.phase, ended.ended_ms) = (crate::run::Phase::Completed, Some(now_ms() - 100_000));
        RUNS.put(t, &"w700".to_owned(), &ended)?;
        RUNS.remove(t, &"w900".to_owned())?;
        Ok(())
    })
    .expect("written");
    let (_, _, overdue) = all("overdue");
    let ids: Vec<&Value> = overdue.iter().map(|run| &run["workflow_id"]).collect();
    assert_eq!(ids, ["w701", "w901"], "{overdue:?}");
}

#[test]
fn nodes_that_no_handler_has_any_more_and_times_that_passed_are_named() {
    clear();
    for id in ["over", "lost", "busy"] {
        submit(id, json!([{ "step_id": "a", "action": "echo" }, { "step_id": "b", "action": "echo" }]))
            .expect("submitted");
    }
    submit("late", json!([{ "step_id": "a", "action": "wait", "inputs": { "seconds": 1 } }])).expect("submitted");
    run(|t| {
        for (id, until_ms, is_claimed) in [
            ("over", now_ms() - 100_000, true),
            ("lost", now_ms() + 100_000, false),
            ("busy", now_ms() + 100_000, true),
        ] {
            let mut node = node(t, id, 0)?;
            node.state = State::Running { claim: id.into(), until_ms };
            NODES.put(t, &(id.to_owned(), 0), &node)?;
            if is_claimed {
                CLAIMS.set(t, id, &(id.to_owned(), 0))?;
            }
        }
        let mut node = node(t, "late", 0)?;
        node.state = State::Waiting { signal: None, token: None, until_ms: Some(now_ms() - 100_000), form: None };
        NODES.put(t, &("late".to_owned(), 0), &node)?;
        Ok(())
    })
    .expect("written");
    let doctor = call(None);
    let named = |id: &str| {
        let overdue = doctor["overdue"].as_array().expect("a list");
        let mut words = overdue.iter().filter(|run| run["workflow_id"] == id).map(|run| run["waits_for"].to_string());
        (words.next(), words.next())
    };
    assert!(
        matches!(named("over"), (Some(words), None) if words.contains("a: the end of its call, which was over at"))
    );
    assert!(matches!(named("lost"), (Some(words), None) if words.contains("a: no handler has it; its lease ends at")));
    assert!(matches!(named("late"), (Some(words), None) if words.contains("a: its time, which was over at")));
    assert_eq!((named("busy"), &doctor["healthy"]), ((None, None), &json!(false)));
}

#[test]
fn schedules_whose_time_is_over_are_named_unless_they_are_paused() {
    clear();
    for (name, paused) in [("late", false), ("paused", true), ("soon", false)] {
        let steps = vec![json!({ "step_id": "a", "action": "echo" })];
        let (name, cron) = (Some(name.into()), Some("0 3 * * *".into()));
        let planned = Planned { name, cron, steps, paused: Some(paused), ..Planned::default() };
        workflow_schedule(planned).into_result().expect("written");
    }
    assert_eq!(call(None)["healthy"], true);
    run(|t| {
        for name in ["late", "paused"] {
            let mut schedule = schedule::schedule(t, name)?;
            schedule.next_ms = Some(now_ms() - 100_000);
            SCHEDULES.put(t, &name.to_owned(), &schedule)?;
        }
        Ok(())
    })
    .expect("written");
    let doctor = call(None);
    let late = doctor["late_schedules"].as_array().expect("a list");
    assert_eq!((late.len(), &late[0]["name"], &doctor["healthy"]), (1, &json!("late"), &json!(false)));
}

#[test]
fn a_cursor_that_is_none_is_refused() {
    clear();
    waits("w", "x");
    for wrong in ["x", "running", "running/", "running/x:w", "running/1@x:w", "lost/1:w", "leases/1:w", "7:w"] {
        let refused = workflow_doctor(Some(wrong.into())).into_result().expect_err(wrong);
        assert_eq!(refused.error, "cursor is none of the doctor's: it has its `next_cursor`");
    }
    for right in ["", "submitted/1:w", "running/1@7:a/b:c", "leases/1@7:w", "schedules/", "schedules/s"] {
        workflow_doctor(Some(right.into())).into_result().expect(right);
    }
}
