//! The tree of a run, line by line.

use console::measure_text_width;
use serde_json::json;

use super::*;

const PEER: &str = "12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Ao";

fn step(path: &str, status: &str, more: Value) -> Value {
    let mut step = json!({ "step_id": path, "action": "echo", "status": status, "attempts": 1 });
    let Value::Object(more) = more else { panic!("an object") };
    step.as_object_mut().expect("an object").extend(more);
    step
}

fn run(steps: &[Value]) -> Value {
    json!({ "workflow_id": "w", "name": "nightly", "phase": "running", "progress": 43.0, "steps": steps })
}

fn texts(run: &Value, room: (usize, usize)) -> Vec<String> {
    let now = humantime::parse_rfc3339("2026-01-01T00:01:12Z").expect("a time");
    lines(run, room, now).into_iter().map(|line| line.text).collect()
}

/// A fan-out of 1,000 items of which 709 have begun.
fn fan() -> Vec<Value> {
    let items = json!({ "total": 1_000, "succeeded": 700, "failed": 1, "open": 8 });
    let mut steps = vec![step("each", "running", json!({ "items": items, "start_time": "2026-01-01T00:01:02Z" }))];
    for item in 0..709 {
        let status = match item {
            3 => "failed",
            701.. => "running",
            _ => "completed",
        };
        steps.push(step(&format!("each/{item}"), status, json!({ "error": (item == 3).then_some("no") })));
    }
    steps
}

#[test]
fn a_tree_shows_each_step_in_its_place_with_its_time_its_host_and_its_reason() {
    let run = run(&[
        step("first", "completed", json!({ "duration_s": 0.3, "end_time": "2026-01-01T00:00:01Z", "host": "here" })),
        step("sub", "running", json!({ "start_time": "2026-01-01T00:00:00Z", "action": "workflow" })),
        step("go", "waiting", json!({ "action": "wait", "waits_for": { "signal": "ok", "until": null } })),
        step("bad", "failed", json!({ "attempts": 3, "duration_s": 3_725.0, "host": PEER, "error": "it\nbroke" })),
        step("later", "pending", json!({})),
        step("left", "skipped", json!({ "reason": "its condition does not hold" })),
        step("sub/in", "running", json!({ "start_time": "2026-01-01T00:01:10Z" })),
        step("ahead", "running", json!({ "start_time": "2026-01-01T00:02:00Z" })),
    ]);
    let expected = [
        "w nightly  running, 43.0 %",
        "✓ first  echo  0.3 s  here",
        "● sub  workflow  1 min 12 s",
        "  ● in  echo  2.0 s",
        "◐ go  wait  waiting  for the signal ok",
        "✗ bad  echo  failed  (attempt 3)  1 h 2 min  …kSCVe2Ao  it broke",
        "○ later  echo  pending",
        "– left  echo  skipped  its condition does not hold",
        "● ahead  echo  0.0 s",
    ];
    assert_eq!(texts(&run, (20, 200)), expected);
    let styles: Vec<Style> = lines(&run, (20, 200), SystemTime::now()).iter().map(|line| line.style).collect();
    assert_eq!(styles[..6], [Style::Plain, Style::Good, Style::Warning, Style::Warning, Style::Warning, Style::Bad]);
}

#[test]
fn a_long_fan_out_is_one_line_of_numbers_and_its_items_that_failed() {
    let mut steps = fan();
    steps.push(step("each/3/x", "failed", json!({})));
    let expected = [
        "w nightly  running, 43.0 %",
        "● each  echo  (700/1000 done, 8 running, 1 failed)  10.0 s",
        "  ✗ 3  echo  failed  no",
    ];
    assert_eq!(texts(&run(&steps), (20, 200)), expected);
    // A short one has a line for each item, and its numbers.
    let items = json!({ "total": 2, "succeeded": 1, "failed": 0, "open": 1 });
    let short = [
        step("each", "running", json!({ "items": items })),
        step("each/0", "completed", json!({})),
        step("each/1", "delayed", json!({})),
    ];
    let expected =
        ["w nightly  running, 43.0 %", "● each  echo  (1/2 done, 1 waiting)", "  ✓ 0  echo", "  ◐ 1  echo  delayed"];
    assert_eq!(texts(&run(&short), (20, 200)), expected);
}

#[test]
fn a_terminal_gets_no_more_lines_than_it_has_and_the_failed_and_running_ones_first() {
    let mut steps: Vec<Value> = (0..9).map(|number| step(&format!("s{number}"), "completed", json!({}))).collect();
    steps.push(step("g", "completed", json!({})));
    steps.push(step("g/run", "running", json!({})));
    steps.push(step("g/bad", "failed", json!({})));
    let run = run(&steps);
    assert_eq!(texts(&run, (13, 200)).len(), 13, "all have room");
    let expected = ["w nightly  running, 43.0 %", "✓ s0  echo", "● g/run  echo", "✗ g/bad  echo  failed", "… 9 more"];
    assert_eq!(texts(&run, (5, 200)), expected, "a step whose parent has no line says where it stands");
    for rows in 0..14 {
        assert!(texts(&run, (rows, 200)).len() <= rows, "{rows} rows");
    }
}

#[test]
fn no_line_is_wider_than_the_terminal_and_no_name_moves_its_cursor() {
    let steps = [
        step("a", "failed", json!({ "action": "x\u{1b}[2J\ty\nz", "error": "長い理由".repeat(40) })),
        step("b", "waiting", json!({ "waits_for": { "signal": "s\u{1b}]0;t\u{7}\nx" } })),
    ];
    let mut run = run(&steps);
    run["name"] = json!("evil\u{1b}[31m\nname");
    for columns in [0, 1, 20, 80] {
        for text in texts(&run, (20, columns)) {
            assert!(measure_text_width(&text) <= columns, "{columns}: {text:?}");
            assert!(!text.contains(char::is_control), "{text:?}");
        }
    }
}
