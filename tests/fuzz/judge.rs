//! The rules that answers must keep, whatever the message was.

use serde_json::Value;

use super::{
    messages::{Case, Expected},
    wire::Answer,
};

/// The outcome of a case.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// A result.
    Answered(Value),
    /// An error, by its code.
    Refused(i64),
    /// No message.
    Silent,
}

/// The rule that was broken, and by which case of a batch if that is known.
#[derive(Debug)]
pub struct Broken {
    pub case: Option<usize>,
    pub why: String,
}

pub type Checked<T> = Result<T, Broken>;

pub fn broken<T>(case: Option<usize>, why: impl Into<String>) -> Checked<T> {
    Err(Broken { case, why: why.into() })
}

/// Whether an HTTP answer keeps the rules, and what it says.
pub fn judged(case: &Case, answer: &Answer) -> Result<Outcome, String> {
    let text = std::str::from_utf8(&answer.body).map_err(|_| "an answer that is not UTF-8")?;
    let is_stream = answer.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream"));
    let mut messages = Vec::new();
    let events =
        text.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim).filter(|data| !data.is_empty());
    let texts: Vec<&str> =
        if is_stream { events.collect() } else { [text].into_iter().filter(|text| !text.is_empty()).collect() };
    for text in texts {
        messages.push(serde_json::from_str(text).map_err(|error| format!("an answer that is not JSON ({error})"))?);
    }
    let mut answers = Vec::new();
    for message in &messages {
        if let Some(answer) = answer_in(message)? {
            answers.push(answer);
        }
    }
    let is_refusal = (400..500).contains(&answer.status);
    if answer.status == 503 && answer.header("retry-after").is_some() {
        return Ok(Outcome::Silent);
    }
    if !is_refusal && !matches!(answer.status, 200 | 202) {
        return Err("a status that says the host is broken".to_owned());
    }
    let expected = case.expected();
    match (answers.as_slice(), &expected) {
        ([], Expected::Nothing) if answer.status == 202 => Ok(Outcome::Silent),
        ([], Expected::AnswerOrNone(_)) if answer.status == 200 => Ok(Outcome::Silent),
        // The outside of the request was refused before the message was read, or it is none to answer.
        ([(None, Outcome::Refused(code))], _) if is_refusal => match &expected {
            _ if is_outside(case, answer) => Ok(Outcome::Refused(*code)),
            Expected::Answer(_) | Expected::AnswerOrNone(_) => Err("an answer without the request's id".to_owned()),
            Expected::ErrorWithoutId | Expected::Nothing => Ok(Outcome::Refused(*code)),
        },
        ([(Some(id), outcome)], Expected::Answer(asked) | Expected::AnswerOrNone(asked)) if id == asked => {
            Ok(outcome.clone())
        }
        _ => Err(format!("{expected:?} was expected")),
    }
}

/// Whether a request is refused for what is around the message.
fn is_outside(case: &Case, answer: &Answer) -> bool {
    !case.headers.is_empty() && matches!(answer.status, 403 | 404 | 406 | 415)
}

/// The answer in a message, and to which id; none if the message is a request or a notification of the host's.
pub fn answer_in(message: &Value) -> Result<Option<(Option<Value>, Outcome)>, String> {
    let members = message.as_object().ok_or("a message that is no object")?;
    if message["jsonrpc"] != "2.0" {
        return Err("a message without its version".to_owned());
    }
    if members.contains_key("method") {
        return Ok(None);
    }
    let id = members.get("id").cloned();
    match (members.get("result"), members.get("error")) {
        (Some(result), None) if result.is_object() => Ok(Some((id, Outcome::Answered(result.clone())))),
        (None, Some(error)) => match (error["code"].as_i64(), error["message"].as_str()) {
            (Some(-32603), _) => Err("an error that says the host is broken".to_owned()),
            (Some(code), Some(_)) => Ok(Some((id, Outcome::Refused(code)))),
            _ => Err("an error without code and message".to_owned()),
        },
        _ => Err("neither a result nor an error".to_owned()),
    }
}

/// Compares the answers of two doors to the same message. They differ in the call's cost.
pub fn same(
    cases: &[Case],
    era: &str,
    http: &[(Outcome, u16)],
    piped: &[Option<Outcome>],
    is_legal_for_both: impl Fn(&Case) -> bool,
) -> Checked<()> {
    let bare = |outcome: &Outcome| match outcome {
        Outcome::Answered(result) => {
            let mut result = result.clone();
            result.as_object_mut().map(|result| result.remove("_meta"));
            Outcome::Answered(result)
        }
        other => other.clone(),
    };
    for (n, ((case, (http, status)), piped)) in cases.iter().zip(http).zip(piped).enumerate() {
        let Some(piped) = piped.as_ref().filter(|_| is_legal_for_both(case) && *status != 503) else { continue };
        if bare(http) != bare(piped) {
            return broken(Some(n), format!("in the {era} era HTTP says {http:?}, and standard output {piped:?}"));
        }
    }
    Ok(())
}
