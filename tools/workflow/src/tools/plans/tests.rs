use mcpp_tool::{
    environment::rfc3339,
    store::{memory, snapshot, transact},
};
use serde_json::Map;

use super::{
    super::{show::workflow_result, submission::*},
    *,
};
use crate::{
    definition::MAX_DEFINITION_BYTES,
    engine::{
        MAX_INPUT_BYTES,
        tests::{clear, run_all},
    },
    schedule::{NAMES, Overlap, SCHEDULES, Schedule, due, put, schedule},
};

fn submission(id: &str) -> Submission {
    Submission { workflow_id: id.into(), name: "test".into(), priority: 1.0, ..Submission::default() }
}

fn named(name: &str) -> Planned {
    Planned { name: Some(name.into()), ..Planned::default() }
}

/// One that is written anew, every second.
fn anew(name: &str) -> Planned {
    Planned { cron: Some("* * * * * *".into()), steps: vec![echo(0)], ..named(name) }
}

/// A step of so many bytes.
fn echo(bytes: usize) -> Value {
    json!({ "step_id": "a", "action": "echo", "inputs": { "x": "x".repeat(bytes) } })
}

fn write(planned: Planned) -> Map<String, Value> {
    workflow_schedule(planned).into_result().expect("written")
}

fn refused(planned: Planned) -> String {
    workflow_schedule(planned).into_result().expect_err("refused").error
}

fn stored(name: &str) -> Schedule {
    schedule(&snapshot().expect("a snapshot"), name).expect("there")
}

#[test]
fn templates_and_schedules_are_written_shown_and_removed() {
    clear();
    let steps = vec![json!({ "step_id": "a", "action": "echo", "inputs": { "n": "${input.n}" } })];
    let written = workflow_template(Some("t".into()), Some(steps), vec!["tag".into()], false, None)
        .into_result()
        .expect("written");
    assert_eq!(written["steps"][0]["step_id"], "a");
    let of_template =
        Submission { input: json!({ "n": 3 }), template: Some("t".into()), tags: Vec::new(), ..submission("w") };
    let steps = vec![json!({ "step_id": "a", "action": "echo" })];
    let both = Submission { template: Some("t".into()), steps, ..submission("x") };
    assert_eq!(
        workflow_submit(both).into_result().expect_err("which of them?").error,
        "give steps or template, not both"
    );
    let submitted = workflow_submit(of_template);
    submitted.into_result().expect("submitted");
    run_all();
    assert_eq!(
        workflow_result("w".into(), true, false).into_result().expect("ended")["result"],
        json!({ "a": { "n": 3 } })
    );
    let schedule = |cron: Option<&str>, paused, remove| {
        workflow_schedule(Planned {
            cron: cron.map(str::to_owned),
            time_zone: Some("Europe/Paris".into()),
            template: Some("t".into()),
            input: Some(json!({ "n": 4 })),
            catch_up_s: Some(60.0),
            paused,
            remove,
            ..named("s")
        })
        .into_result()
    };
    let shown = schedule(Some("0 3 * * *"), None, false).expect("written");
    assert!(shown["next_time"].as_str().expect("a time").ends_with(":00:00Z"), "{shown:?}");
    assert_eq!(schedule(None, Some(true), false).expect("paused")["next_time"], Value::Null);
    assert!(schedule(None, Some(false), false).expect("goes on")["next_time"].is_string());
    let all = workflow_schedule(Planned::default());
    assert_eq!(all.into_result().expect("a list")["schedules"].as_array().map(Vec::len), Some(1));
    assert!(schedule(Some("never"), None, false).expect_err("wrong").error.contains("no cron expression"));
    assert_eq!(schedule(None, None, true).expect("removed")["removed"], json!(true));
    assert_eq!(
        workflow_template(Some("t".into()), None, Vec::new(), true, None).into_result().expect("removed")["removed"],
        json!(true)
    );
    assert_eq!(
        workflow_template(Some("t".into()), None, Vec::new(), false, None).into_result().expect_err("gone").error,
        "Template t not found"
    );
}

#[test]
fn a_paused_schedule_that_is_written_anew_stays_paused() {
    clear();
    write(Planned { paused: Some(true), ..anew("s") });
    assert_eq!(write(anew("s"))["paused"], json!(true));
    assert!(!memory::timers().contains_key("s:s"));
    assert_eq!(write(Planned { paused: Some(false), ..anew("s") })["paused"], json!(false));
}

#[test]
fn without_a_time_only_what_is_given_changes() {
    clear();
    write(Planned { input: Some(json!(7)), ..anew("o") });
    let changed = write(Planned {
        overlap: Some(Overlap::Cancel),
        catch_up_s: Some(5.0),
        time_zone: Some("Europe/Berlin".into()),
        steps: vec![echo(3)],
        ..named("o")
    });
    assert_eq!(
        (&changed["overlap"], &changed["catch_up_s"], &changed["time_zone"], &changed["cron"]),
        (&json!("cancel"), &json!(5), &json!("Europe/Berlin"), &json!("* * * * * *"))
    );
    let there = stored("o");
    assert_eq!((there.steps[0].inputs["x"].as_str(), &there.input), (Some("xxx"), &json!(7)));
    assert_eq!(write(Planned { input: Some(json!(8)), ..named("o") })["overlap"], "cancel");
    assert_eq!(stored("o").input, json!(8));
    assert_eq!(refused(Planned { overlap: Some(Overlap::Skip), ..named("p") }), "Schedule p not found");
    assert!(refused(Planned { time_zone: Some("Mars/Base".into()), ..named("o") }).contains("no time zone"));
}

#[test]
fn times_within_a_pause_begin_no_runs() {
    clear();
    write(anew("s"));
    let now = now_ms();
    // It has been paused for 8 seconds.
    let paused = Schedule { is_paused: true, next_ms: Some((now / 1_000 - 8) * 1_000), ..stored("s") };
    transact(|t| put(t, &paused)).expect("written");
    write(Planned { paused: Some(false), ..named("s") });
    let there = stored("s");
    assert!((9..=11).contains(&there.left_out) && there.next_ms.is_some_and(|next| next > now), "{there:?}");
    due("s", now).expect("due");
    assert_eq!(stored("s").runs, 0);
}

#[test]
fn a_schedule_has_the_tags_of_its_template() {
    clear();
    let tags = vec!["nightly".into(), "s".into()];
    workflow_template(Some("t".into()), Some(vec![echo(0)]), tags, false, None).into_result().expect("written");
    write(Planned { template: Some("t".into()), steps: Vec::new(), ..anew("s") });
    assert_eq!(stored("s").tags, ["s", "nightly"]);
    let tags = vec!["x".repeat(65)];
    let error = workflow_template(Some("u".into()), Some(vec![echo(0)]), tags, false, None).into_result();
    assert!(error.expect_err("refused").error.contains("tags of 1 to 64 bytes"));
}

#[test]
fn what_could_never_run_is_refused_when_it_is_written() {
    clear();
    let at = |ms: u64| Planned { cron: None, at: Some(rfc3339(ms)), ..anew("s") };
    assert!(refused(at(1_600_000_000_000)).contains("still to come"));
    write(at(now_ms() + 60_000));
    let text = |bytes: usize| Some(json!("x".repeat(bytes)));
    assert!(refused(Planned { input: text(300_000), ..anew("s") }).contains("at most 262144 are allowed"));
    assert!(refused(Planned { input: text(300_000), ..named("s") }).contains("at most 262144 are allowed"));
    write(Planned { input: text(MAX_INPUT_BYTES - 2), ..anew("s") });
    assert!(refused(Planned { steps: vec![echo(MAX_DEFINITION_BYTES)], ..anew("s") }).contains("steps has"));
    let large = workflow_template(Some("t".into()), Some(vec![echo(900_000)]), Vec::new(), false, None).into_result();
    assert!(large.expect_err("refused").error.contains("at most 524288 are allowed"));
}

/// Lists everything; the names, and how many pages they were.
fn listed(list: impl Fn(Option<String>) -> Map<String, Value>, field: &str) -> (Vec<Value>, usize) {
    let (mut all, mut cursor, mut pages) = (Vec::new(), None, 0);
    loop {
        memory::spent();
        let page = list(cursor);
        let spent = memory::spent();
        assert!(spent.bytes < 11 << 20, "{spent:?}");
        pages += 1;
        all.extend(page[field].as_array().expect("a list").iter().cloned());
        cursor = page["next_cursor"].as_str().map(str::to_owned);
        if cursor.is_none() {
            return (all, pages);
        }
    }
}

#[test]
fn the_largest_templates_and_schedules_are_counted_and_listed_by_pages() {
    clear();
    let step = echo(MAX_DEFINITION_BYTES - 60);
    for number in 0..24 {
        let name = format!("n{number:02}");
        let written = workflow_template(Some(name.clone()), Some(vec![step.clone()]), Vec::new(), false, None);
        written.into_result().expect("written");
        memory::spent();
        let input = Some(json!("x".repeat(MAX_INPUT_BYTES - 2)));
        write(Planned { steps: vec![step.clone()], input, paused: Some(true), ..anew(&name) });
        let spent = memory::spent();
        assert!(spent.bytes < 4 << 20, "{number}: {spent:?}");
    }
    let templates = listed(
        |cursor| workflow_template(None, None, Vec::new(), false, cursor).into_result().expect("a list"),
        "templates",
    );
    assert!(templates.0.len() == 24 && templates.1 > 1, "{templates:?}");
    let schedules = listed(|cursor| write(Planned { cursor, ..Planned::default() }), "schedules");
    assert!(schedules.0.len() == 24 && schedules.1 > 1, "{schedules:?}");
}

#[test]
fn those_of_earlier_builds_count_too_and_the_bound_holds() {
    clear();
    let one = {
        write(Planned { paused: Some(true), ..anew("s") });
        stored("s")
    };
    clear();
    // As an earlier build wrote them: their names stand nowhere else.
    for number in 0..MAX_SCHEDULES - 1 {
        let value = serde_json::to_vec(&Schedule { name: format!("n{number}"), ..one.clone() }).expect("JSON");
        transact(|t| t.set(&SCHEDULES.key(&format!("n{number}")), &value)).expect("written");
    }
    write(anew("last"));
    assert_eq!(refused(anew("more")), "at most 1000 schedules are allowed");
    write(anew("n7"));
    write(Planned { remove: true, ..named("n8") });
    write(anew("more"));
    assert_eq!(refused(anew("again")), "at most 1000 schedules are allowed");
    let t = snapshot().expect("a snapshot");
    assert_eq!(NAMES.of("schedule").walk(&t).count(), MAX_SCHEDULES);
}
