//! Steps that wait: for a time, a signal, a token, a person, or an event.

use mcpp_tool::{
    deferred::FormAnswer,
    environment::{now_ms as clock_ms, parse_rfc3339, rfc3339},
    store::{StoreError, Transaction, View},
};
use serde_json::{Map, Value};

use super::{
    Origin, WorkflowError,
    event::refusal,
    job::failed,
    rehearsal::{self, Script},
    upkeep::change,
};
use crate::{
    definition::{Form, Wait, ms},
    run::{Number, Run, State},
    scheduler::{self, Outcome},
    store::{ASKED, NODES, node},
};

/// Most forms of a run that its user is asked at once.
const MAX_FORMS: usize = 16;

/// What a step that waits does in a rehearsal.
pub(super) fn at_once(script: &Script, path: &str, arguments: Map<String, Value>) -> Outcome {
    match filled(arguments, clock_ms()) {
        Ok(wait) => Outcome::Completed(rehearsal::given(script, path, &wait)),
        Err(error) => failed(error),
    }
}

/// What a step waits for, now that it is known.
fn filled(arguments: Map<String, Value>, now_ms: u64) -> Result<Wait, String> {
    let wait: Wait = serde_json::from_value(Value::Object(arguments)).map_err(|error| error.to_string())?;
    match wait.fault(now_ms) {
        Some((field, fault)) => Err(format!("{field}: {fault}")),
        None if wait.count() != 1 => Err("exactly one of seconds, until, signal, webhook and event".into()),
        None => Ok(wait),
    }
}

/// What a step that waits does.
pub(super) fn wait(arguments: Map<String, Value>, timeout_s: Option<f64>, now_ms: u64) -> Outcome {
    let wait = match filled(arguments, now_ms) {
        Ok(wait) => wait,
        Err(error) => return failed(error),
    };
    let after = |seconds: f64| now_ms.saturating_add(ms(seconds));
    let until_ms = timeout_s.map(after);
    let for_time = |at_ms: u64| match until_ms {
        Some(until_ms) if at_ms > until_ms => {
            failed(format!("it would wait until {}, which is beyond its timeout_s", rfc3339(at_ms)))
        }
        _ => Outcome::Waits { signal: None, token: None, until_ms: Some(at_ms), form: None },
    };
    match wait {
        Wait { seconds: Some(seconds), .. } => for_time(after(seconds.max(0.0))),
        Wait { until: Some(time), .. } => for_time(parse_rfc3339(&time).unwrap_or_default()),
        Wait { signal: Some(signal), form, .. } => Outcome::Waits { signal: Some(signal), token: None, until_ms, form },
        Wait { event: Some(event), .. } => match refusal(&event) {
            Some(reason) => failed(reason),
            None => Outcome::Listens { event, until_ms },
        },
        Wait { .. } => {
            // The host knows a token of its own, and lets those in who have it. Where hooks are closed any text will do.
            let id = mcpp_tool::environment::id();
            let token = mcpp_tool::hooks::token("workflow_signal", &id).unwrap_or(id);
            Outcome::Waits { signal: None, token: Some(token), until_ms, form: None }
        }
    }
}

/// The forms that a run asks now, by the numbers of their nodes.
pub fn forms(t: &View<'_>, run: &Run) -> Result<Vec<(Number, Form)>, StoreError> {
    let numbers: Vec<Number> = ASKED.of(&run.id).most(MAX_FORMS).collect(t)?;
    let mut forms = Vec::with_capacity(numbers.len());
    for number in numbers {
        if let State::Waiting { form: Some(form), .. } = node(t, &run.id, number)?.state {
            forms.push((number, form));
        }
    }
    Ok(forms)
}

/// The user of a run answers a form of it: the values are what the node waited for. Whether the node still waited.
///
/// # Errors
/// See [`WorkflowError`].
pub fn answer(
    t: &Transaction<'_>,
    (id, number): (&str, Number),
    answer: &FormAnswer,
    origin: Origin,
    now_ms: u64,
) -> Result<bool, WorkflowError> {
    let answered = change(t, id, origin, now_ms, |run, nodes| {
        // A run with this id may be another one by now, of fewer nodes, or with another kind of node in its place.
        let asked = NODES.get(t, &(id, number))?.map(|node| node.state);
        if run.phase.is_final() || !matches!(asked, Some(State::Waiting { form: Some(_), .. })) {
            return Ok(false);
        }
        Ok(match answer {
            FormAnswer::Accepted(values) => scheduler::signal(run, nodes, number, values, now_ms)?,
            FormAnswer::Declined => scheduler::refuse(run, nodes, number, now_ms)?,
        })
    });
    Ok(answered?.unwrap_or_default())
}
