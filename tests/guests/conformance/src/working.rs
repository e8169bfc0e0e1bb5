//! Tools that run as tasks.

use std::time::Duration;

use mcpp_tool::{
    Error, Output,
    client::{Answer, Round},
    log, progress, tool,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Deserialize, JsonSchema)]
struct Confirm {
    confirm: bool,
}

#[derive(Deserialize, JsonSchema)]
struct Name {
    name: String,
}

/// Greets, at once.
#[tool(task = "never")]
pub(crate) fn greet(
    /// Whom to greet.
    name: String,
) -> Output {
    Output::text(format!("Hello, {name}!"))
}

/// Takes its time, and tells how far it is.
#[tool(task = "may")]
pub(crate) fn slow_compute(
    /// How long.
    seconds: f64,
    /// A name for the computation.
    label: Option<String>,
) -> Output {
    let label = label.unwrap_or_else(|| "nothing".into());
    log::info(format!("computes {label}"));
    let steps = (seconds * 20.0).ceil() as u32;
    for step in 0..steps {
        progress::report(f64::from(step), Some(f64::from(steps)), Some(&label));
        std::thread::sleep(Duration::from_millis(50));
    }
    Output::text(format!("computed {label}"))
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Computed {
    /// How long it took.
    seconds: f64,
}

/// Takes its time for structured content.
#[tool]
pub(crate) fn slow_structured(
    /// How long.
    seconds: f64,
) -> Computed {
    std::thread::sleep(Duration::from_secs_f64(seconds));
    Computed { seconds }
}

/// Fails, after a while.
#[tool(task = "must")]
pub(crate) fn failing_job() -> Result<Output, Error> {
    std::thread::sleep(Duration::from_millis(300));
    Err(Error::failed("This job always fails"))
}

/// Crashes.
#[tool(task = "must")]
#[allow(clippy::panic, reason = "it is what the tool is for")]
pub(crate) fn protocol_error_job() -> Output {
    panic!("this job always crashes")
}

/// Makes a text of a size.
#[tool(task = "must")]
pub(crate) fn large_job(
    /// How many bytes.
    bytes: usize,
) -> Output {
    Output::text("x".repeat(bytes))
}

/// Asks before it deletes.
#[tool(task = "must")]
pub(crate) fn confirm_delete(
    /// What to delete.
    filename: String,
) -> Result<Output, Error> {
    let mut round = Round::new();
    let confirm = round.form::<Confirm>("confirm", format!("Delete {filename}?"));
    Ok(Output::text(match round.ask()?.take(confirm)? {
        Answer::Accepted(Confirm { confirm: true }) => format!("deleted {filename}"),
        _ => format!("kept {filename}"),
    }))
}

/// Asks two things at once, and then one of them again.
#[tool(task = "must")]
pub(crate) fn multi_input(
    /// Whether to ask again.
    again: Option<bool>,
) -> Result<Output, Error> {
    let mut round = Round::new();
    let (name, confirm) = (round.form::<Name>("name", "Your name?"), round.form::<Confirm>("confirm", "Sure?"));
    let mut replies = round.ask()?;
    let Answer::Accepted(Name { name }) = replies.take(name)? else { return Ok(Output::text("no name")) };
    let Answer::Accepted(Confirm { confirm }) = replies.take(confirm)? else { return Ok(Output::text("not sure")) };
    let mut text = format!("{name}: {confirm}");
    if again == Some(true) {
        let mut round = Round::new();
        let asked = round.form::<Name>("name", "Your other name?");
        if let Answer::Accepted(Name { name }) = round.ask()?.take(asked)? {
            text = format!("{text}, {name}");
        }
    }
    Ok(Output::text(text))
}

/// Asks for a name, and then takes its time.
#[tool(task = "may")]
pub(crate) fn test_tool_with_task() -> Result<Output, Error> {
    let mut round = Round::new();
    let name = round.form::<Name>("user_name", "What is your name?");
    let name = match round.ask()?.take(name)? {
        Answer::Accepted(Name { name }) => name,
        Answer::Declined | Answer::Cancelled => "stranger".into(),
    };
    std::thread::sleep(Duration::from_secs(1));
    Ok(Output::text(format!("Hello, {name}!")))
}
