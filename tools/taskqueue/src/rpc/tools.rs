//! The operation `call_tool`: a call of one of this host's tools by way of the queue, within the time that its caller gives it.

use std::time::{Duration, Instant};

use mcpp_tool::{Output, call::CallError, rights::Rights, store::snapshot};
use serde_json::json;

use super::{Failure, MAX_WAIT_S, Reply, fields::Request};
use crate::queue::settings;

/// How long a called tool may take where its caller does not say, in seconds.
const DEFAULT_S: f64 = 30.0;

/// Calls a tool as the same caller. A call that is not done in time is cancelled.
pub(super) fn call(request: &Request<'_>) -> Reply {
    let tool = request.needs(&["tool", "tool_name", "name"], "missing_tool_name")?;
    let patience = patience(request)?;
    if !settings(&snapshot()?)?.tools_enabled {
        return Err(Failure::of("tools_disabled"));
    }
    let arguments = ["args", "arguments", "params"].into_iter().find_map(|name| request.any(name)).cloned();
    let arguments = arguments.unwrap_or_else(|| json!({}));
    let begun = Instant::now();
    // No bound of tools beyond those of the running call.
    let called = Rights(None).call(tool, &arguments, Some(patience));
    answer(tool, called, begun.elapsed() >= patience)
}

fn patience(request: &Request<'_>) -> Result<Duration, Failure> {
    let asked = request.number(&["timeout_s"])?.unwrap_or(DEFAULT_S);
    let legal = Some(asked).filter(|asked| *asked > 0.0 && *asked <= MAX_WAIT_S);
    legal.map(Duration::from_secs_f64).ok_or_else(|| Failure {
        error: "invalid_message",
        detail: Some(format!("`timeout_s` is {asked}; more than 0 and up to {MAX_WAIT_S} seconds are allowed")),
    })
}

/// The reply to a call. One that was stopped when its time was over has not failed, but was too slow.
fn answer(tool: &str, called: Result<Output, CallError>, is_late: bool) -> Reply {
    let failure = |error, detail: String| Err(Failure { error, detail: Some(detail) });
    match called {
        Ok(output) => Ok(json!({ "tool": tool, "result": output.into_value() })),
        Err(CallError::NotFound) => Err(Failure::of("tool_not_found")),
        Err(CallError::Failed(output)) => {
            Ok(json!({ "tool": tool, "result": { "ok": false, "error": output.into_value() } }))
        }
        Err(CallError::Aborted(_)) if is_late => {
            failure("timeout", format!("`{tool}` was not done within `timeout_s`, and was cancelled"))
        }
        Err(CallError::InvalidArguments(reason)) => {
            failure("invalid_message", format!("arguments of `{tool}`: {reason}"))
        }
        Err(error @ CallError::Busy) => failure("busy", error.to_string()),
        Err(error @ CallError::TooDeep) => failure("too_deep", error.to_string()),
        Err(error @ CallError::Aborted(_)) => failure("internal_error", error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_was_stopped_in_its_time_was_too_slow_and_wrong_arguments_are_the_callers() {
        let error = |called: CallError, is_late| answer("t", Err(called), is_late).expect_err("refused").error;
        let stopped = || CallError::Aborted("its time was over".into());
        assert_eq!((error(stopped(), true), error(stopped(), false)), ("timeout", "internal_error"));
        assert_eq!(error(CallError::InvalidArguments("`/x` is missing".into()), false), "invalid_message");
        assert_eq!((error(CallError::Busy, true), error(CallError::TooDeep, true)), ("busy", "too_deep"));
        assert_eq!(error(CallError::NotFound, true), "tool_not_found");
        let failed = answer("t", Err(CallError::Failed(Output::text("no"))), true).expect("a reply");
        assert_eq!(failed["result"]["ok"], false, "the tool's own failure is its result: {failed}");
    }

    #[test]
    fn a_time_that_is_none_is_refused() {
        for (asked, legal) in [
            (json!(null), true),
            (json!(0.5), true),
            (json!(86_400), true),
            (json!(0), false),
            (json!(-5), false),
            (json!(86_401), false),
            (json!(1e300), false),
        ] {
            let request = json!({ "timeout_s": asked });
            assert_eq!(patience(&Request::new(request.as_object().unwrap())).is_ok(), legal, "{asked}");
        }
    }
}
