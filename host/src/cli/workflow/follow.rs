//! `mcpp workflow follow`: a run's steps as they go on, on a live line each, or as lines of text or JSON.

use std::{collections::BTreeMap, io::IsTerminal as _, time::Duration};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::{ask, field};
use crate::{
    cli::{clean, print, print_json},
    mcp::client::Client,
};

/// How often the command asks.
const LOOK: Duration = Duration::from_millis(300);
/// Steps that have a live line each.
const MAX_LINES: usize = 200;

pub(super) async fn follow(client: &Client, id: &str, as_json: bool) -> anyhow::Result<u8> {
    let is_live = std::io::stderr().is_terminal() && !as_json;
    let lines = MultiProgress::new();
    let style = ProgressStyle::with_template("{spinner} {prefix} {msg}")?;
    let mut followed: BTreeMap<String, (ProgressBar, String)> = BTreeMap::new();
    loop {
        let run = Value::Object(ask(client, "workflow_status", json!({ "workflow_id": id })).await?);
        for step in run.get("steps").and_then(Value::as_array).into_iter().flatten() {
            let (path, said) = (field(step, "step_id"), describe(step));
            if !followed.contains_key(&path) {
                let is_shown = is_live && followed.len() < MAX_LINES;
                let bar = if is_shown { lines.add(ProgressBar::new_spinner()) } else { ProgressBar::hidden() };
                bar.set_style(style.clone());
                bar.set_prefix(path.clone());
                bar.enable_steady_tick(Duration::from_millis(100));
                followed.insert(path.clone(), (bar, String::new()));
            }
            let Some((bar, before)) = followed.get_mut(&path) else { continue };
            if *before == said {
                continue;
            }
            bar.set_message(said.clone());
            if as_json {
                print_json(step)?;
            } else if !is_live {
                print(&format!("{} {said}", clean(&path)))?;
            }
            if !step.get("end_time").is_none_or(Value::is_null) {
                bar.finish();
            }
            *before = said;
        }
        // An undo that failed waits for an operator, and would be followed without end.
        let waits_for_operator = field(&run, "phase") == "undo_failed";
        if waits_for_operator || !run.get("end_time").is_none_or(Value::is_null) {
            followed.values().for_each(|(bar, _)| bar.finish());
            let status = field(&run, "status");
            if !as_json {
                print(&format!("{}: {status} ({})", clean(id), field(&run, "phase")))?;
            }
            return Ok(u8::from(status != "completed"));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// A step in a line.
fn describe(step: &Value) -> String {
    let mut line = field(step, "status");
    if step.get("attempts").and_then(Value::as_u64).is_some_and(|attempts| attempts > 1) {
        line.push_str(&format!(" (attempt {})", field(step, "attempts")));
    }
    if let Some(seconds) = step.get("duration_s").and_then(Value::as_f64) {
        line.push_str(&format!(" in {seconds} s"));
    }
    if step.get("cached") == Some(&Value::Bool(true)) {
        line.push_str(", with the result of an earlier step");
    }
    if let Some(waits_for) = step.get("waits_for") {
        for (name, what) in [("signal", "for the signal"), ("token", "for the token"), ("until", "until")] {
            if !waits_for.get(name).is_none_or(Value::is_null) {
                line.push_str(&format!(" {what} {}", field(waits_for, name)));
            }
        }
    }
    // A step that its condition skips, or that waits for a key, has a reason.
    if let Some(why) = ["error", "reason"].into_iter().find(|name| step.get(name).is_some_and(Value::is_string)) {
        line.push_str(&format!(": {}", field(step, why).replace('\n', " ")));
    }
    line
}
