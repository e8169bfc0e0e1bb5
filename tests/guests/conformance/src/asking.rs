//! Tools that ask their client.

use mcpp_tool::{
    Error, Output,
    client::{self, Answer, Round, Sample},
    prompt, resource, tool,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[derive(Deserialize, JsonSchema)]
struct Name {
    name: String,
}

#[derive(Deserialize, JsonSchema)]
struct Color {
    color: String,
}

#[derive(Deserialize, JsonSchema)]
struct Confirmation {
    ok: bool,
}

#[derive(Deserialize, JsonSchema)]
struct Context {
    context: String,
}

#[derive(Debug, Deserialize, Serialize, JsonSchema)]
struct User {
    /// User's response
    username: String,
    /// User's email address
    email: String,
}

/// An answer, as the suite reads it.
fn said<T: Serialize>(answer: &Answer<T>) -> String {
    match answer {
        Answer::Accepted(content) => format!("action=accept, content={}", json!(content)),
        Answer::Declined => "action=decline".into(),
        Answer::Cancelled => "action=cancel".into(),
    }
}

/// Has the client's model answer.
#[tool]
pub(crate) fn test_sampling(
    /// The prompt.
    prompt: String,
) -> Result<Output, Error> {
    let sampled = client::sample(Sample::of(prompt, 100))?;
    Ok(Output::text(format!("LLM response: {}", sampled.text())))
}

/// Asks the user for a name and an address.
#[tool]
pub(crate) fn test_elicitation(
    /// The message to show.
    message: String,
) -> Result<Output, Error> {
    let answer = client::elicit::<User>(message)?;
    Ok(Output::text(format!("User response: {}", said(&answer))))
}

fn form(name: &str, message: &str, schema: Value) -> Result<Answer<Value>, Error> {
    let mut round = Round::new();
    let form = round.form_of(name, message, schema);
    Ok(round.ask()?.take(form)?)
}

/// Asks with a default for each kind of value.
#[tool]
pub(crate) fn test_elicitation_sep1034_defaults() -> Result<Output, Error> {
    let schema = json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "default": "John Doe" },
            "age": { "type": "integer", "default": 30 },
            "score": { "type": "number", "default": 95.5 },
            "status": { "type": "string", "enum": ["active", "inactive", "pending"], "default": "active" },
            "verified": { "type": "boolean", "default": true }
        }
    });
    let answer = form("defaults", "Please review these values", schema)?;
    Ok(Output::text(format!("Elicitation completed: {}", said(&answer))))
}

/// Asks with each kind of choice.
#[tool]
pub(crate) fn test_elicitation_sep1330_enums() -> Result<Output, Error> {
    let titled = |titles: [&str; 3]| -> Value {
        let choice = |(at, title): (usize, &&str)| json!({ "const": format!("value{}", at + 1), "title": title });
        titles.iter().enumerate().map(choice).collect()
    };
    let schema = json!({
        "type": "object",
        "properties": {
            "untitledSingle": { "type": "string", "enum": ["option1", "option2", "option3"] },
            "titledSingle": { "type": "string", "oneOf": titled(["First Option", "Second Option", "Third Option"]) },
            "legacyEnum": {
                "type": "string",
                "enum": ["opt1", "opt2", "opt3"],
                "enumNames": ["Option One", "Option Two", "Option Three"]
            },
            "untitledMulti": {
                "type": "array",
                "items": { "type": "string", "enum": ["option1", "option2", "option3"] }
            },
            "titledMulti": {
                "type": "array",
                "items": { "anyOf": titled(["First Choice", "Second Choice", "Third Choice"]) }
            }
        }
    });
    let answer = form("choices", "Please choose", schema)?;
    Ok(Output::text(format!("Elicitation completed: {}", said(&answer))))
}

fn name(round_name: &str, message: &str) -> Result<String, Error> {
    let mut round = Round::new();
    let name = round.form::<Name>(round_name, message);
    match round.ask()?.take(name)? {
        Answer::Accepted(Name { name }) => Ok(name),
        Answer::Declined | Answer::Cancelled => Ok("stranger".into()),
    }
}

/// Asks for a name.
#[tool]
pub(crate) fn test_input_required_result_elicitation() -> Result<Output, Error> {
    Ok(Output::text(format!("Hello, {}!", name("user_name", "What is your name?")?)))
}

/// Has the client's model answer.
#[tool]
pub(crate) fn test_input_required_result_sampling() -> Result<Output, Error> {
    let mut round = Round::new();
    let sampled = round.sample("capital_question", Sample::of("What is the capital of France?", 100));
    Ok(Output::text(round.ask()?.take(sampled)?.text()))
}

/// Asks for the client's roots.
#[tool]
pub(crate) fn test_input_required_result_list_roots() -> Result<Output, Error> {
    let mut round = Round::new();
    let roots = round.roots("client_roots");
    let roots = round.ask()?.take(roots)?;
    Ok(Output::text(roots.into_iter().map(|root| root.uri).collect::<Vec<_>>().join(", ")))
}

fn confirmed() -> Result<bool, Error> {
    let mut round = Round::new();
    let confirmation = round.form::<Confirmation>("confirm", "Please confirm");
    Ok(matches!(round.ask()?.take(confirmation)?, Answer::Accepted(Confirmation { ok: true })))
}

/// Asks for a confirmation.
#[tool]
pub(crate) fn test_input_required_result_request_state() -> Result<Output, Error> {
    Ok(Output::text(format!("state-ok: {}", confirmed()?)))
}

/// Asks for a confirmation, whose state the suite changes.
#[tool]
pub(crate) fn test_input_required_result_tampered_state() -> Result<Output, Error> {
    Ok(Output::text(format!("confirmed: {}", confirmed()?)))
}

/// Asks three things at once.
#[tool]
pub(crate) fn test_input_required_result_multiple_inputs() -> Result<Output, Error> {
    let mut round = Round::new();
    let name = round.form::<Name>("user_name", "What is your name?");
    let greeting = round.sample("greeting", Sample::of("Generate a greeting", 50));
    let roots = round.roots("client_roots");
    let mut replies = round.ask()?;
    let Answer::Accepted(Name { name }) = replies.take(name)? else { return Ok(Output::text("no name")) };
    let (greeting, roots) = (replies.take(greeting)?.text(), replies.take(roots)?.len());
    Ok(Output::text(format!("{greeting}, {name}, with {roots} roots")))
}

/// Asks twice.
#[tool]
pub(crate) fn test_input_required_result_multi_round() -> Result<Output, Error> {
    let name = name("step1", "Step 1: What is your name?")?;
    let mut round = Round::new();
    let color = round.form::<Color>("step2", "Step 2: What is your favorite color?");
    let color = match round.ask()?.take(color)? {
        Answer::Accepted(Color { color }) => color,
        Answer::Declined | Answer::Cancelled => "none".into(),
    };
    Ok(Output::text(format!("{name} likes {color}")))
}

/// Asks whatever the client can be asked.
#[tool]
pub(crate) fn test_input_required_result_capabilities() -> Result<Output, Error> {
    let declared = client::declared();
    let mut round = Round::new();
    if declared.form {
        let _answer = round.form::<Name>("user_name", "What is your name?");
    }
    if declared.sampling {
        let _message = round.sample("greeting", Sample::of("Generate a greeting", 50));
    }
    if declared.roots {
        let _roots = round.roots("client_roots");
    }
    let _replies = round.ask()?;
    Ok(Output::text("asked"))
}

/// Needs the client's model.
#[tool]
pub(crate) fn test_missing_capability() -> Result<Output, Error> {
    Ok(Output::text(client::sample(Sample::of("Hello", 10))?.text()))
}

/// Asks the user, on a request whose answer may be a stream.
#[tool]
pub(crate) fn test_streaming_elicitation() -> Result<Output, Error> {
    Ok(Output::text(format!("Hello, {}!", name("user_name", "What is your name?")?)))
}

/// A prompt that asks the user what it is for.
#[prompt]
pub(crate) fn test_input_required_result_prompt() -> Result<String, Error> {
    let mut round = Round::new();
    let context = round.form::<Context>("user_context", "What context should the prompt use?");
    Ok(match round.ask()?.take(context)? {
        Answer::Accepted(Context { context }) => format!("Use this context: {context}"),
        Answer::Declined | Answer::Cancelled => "Use no context.".into(),
    })
}

/// A prompt that needs the client's model.
#[prompt]
pub(crate) fn test_sampling_prompt(
    /// What the model is asked.
    topic: String,
) -> Result<String, Error> {
    Ok(client::sample(Sample::of(topic, 10))?.text())
}

/// A resource that asks the user who reads it.
#[resource("test://asks/{what}", mime_type = "text/plain")]
pub(crate) fn asks_first(what: String) -> Result<String, Error> {
    Ok(format!("{what} for {}", name("user_name", "What is your name?")?))
}
