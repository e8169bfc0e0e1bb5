//! `mcpp:client/inputs`: questions of a guest to the client of its call.
//!
//! The host checks each question before anybody sees it. Only a client that declared what all of a round needs is asked.

use std::{collections::HashSet, time::Duration};

use tokio::time::Instant;
use wasmtime::component::Linker;

use super::endpoint::EndpointView;
use crate::{
    call::{
        Content,
        inputs::{Ability, AskError, InputQuestion, ModelChoice, ModelMessage, Reply, Sample},
    },
    capability::{
        bindings::mcpp::client::inputs::{self, InputError},
        state::State,
    },
    memory::{MemoryUse, Reservation, json_bytes},
    schema::Schema,
};

/// Most questions of one round.
const MAX_QUESTIONS: usize = 16;
/// Longest name of a question, in bytes.
const MAX_NAME_BYTES: usize = 64;
/// Longest text for the user, in bytes.
const MAX_MESSAGE_BYTES: usize = 16 << 10;
/// Longest schema of a form, in bytes.
const MAX_SCHEMA_BYTES: usize = 16 << 10;
/// Most memory that the compiled schemas of one round take. They wait as long as a person thinks.
const MAX_FORMS_BYTES: u64 = 8 << 20;
/// Longest address of a page, in bytes.
const MAX_URL_BYTES: usize = 8 << 10;
/// Most hints at a model, and most stop sequences.
const MAX_HINTS: usize = 16;
/// Memory of one question beside its text: it is written as JSON, and parts of it are kept.
const QUESTION_BYTES: u64 = 1 << 10;

/// Links the questions.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    inputs::add_to_linker::<State, EndpointView<'static>>(linker, State::endpoint)
}

impl inputs::Host for EndpointView<'_> {
    fn declared(&mut self) -> wasmtime::Result<inputs::Abilities> {
        let declared = self.running.map(|running| running.client.abilities()).unwrap_or_default();
        let mut abilities = inputs::Abilities::empty();
        for (ability, flag) in [
            (Ability::Form, inputs::Abilities::FORM),
            (Ability::Url, inputs::Abilities::URL),
            (Ability::Sampling, inputs::Abilities::SAMPLING),
            (Ability::Roots, inputs::Abilities::ROOTS),
        ] {
            if declared.has(ability) {
                abilities |= flag;
            }
        }
        Ok(abilities)
    }

    async fn ask(
        &mut self,
        questions: Vec<inputs::NamedQuestion>,
    ) -> wasmtime::Result<Result<Vec<inputs::Reply>, InputError>> {
        let Some(running) = self.running else { return Ok(Err(InputError::NoClient)) };
        if self.transaction_open {
            return Ok(Err(InputError::TransactionOpen));
        }
        let bytes = questions.iter().map(bytes_of).fold(0, u64::saturating_add);
        // The questions wait as long as a person thinks, as values and as JSON.
        let Ok(mut memory) = self.control.memory().reserve_for_long(MemoryUse::Messages, bytes) else {
            return Ok(Err(InputError::Busy));
        };
        // What goes to the client may hold no secret, as with a log record.
        let hidden = |text: String| self.control.redactor().text(text);
        let questions = match checked(questions, hidden, &mut memory) {
            Ok(questions) => questions,
            Err(refused) => return Ok(Err(refused.into())),
        };
        if let Err(refused) = running.client.check(&questions) {
            return Ok(Err(refused.into()));
        }
        let patience = Duration::from_millis(self.control.limits().input_ms);
        let now = Instant::now();
        let until = now.checked_add(patience).unwrap_or(now);
        let asking = tokio::time::timeout_at(until, running.client.ask(questions, memory, until));
        let replied = match self.control.wait_for_client(asking).await? {
            None => Err(AskError::Busy),
            Some(Err(_)) => Err(AskError::Expired),
            Some(Ok(replied)) => replied,
        };
        Ok(match replied {
            Ok(replies) => Ok(replies.into_iter().map(inputs::Reply::from).collect()),
            Err(error) => Err(error.into()),
        })
    }
}

/// Memory of a question while it waits.
pub(crate) fn bytes_of(question: &inputs::NamedQuestion) -> u64 {
    let of_text = |text: &str| u64::try_from(text.len()).unwrap_or(u64::MAX);
    let more = match &question.question {
        inputs::Question::Form(form) => of_text(&form.message).saturating_add(json_bytes(&form.schema)),
        inputs::Question::Url(page) => of_text(&page.message).saturating_add(of_text(&page.url)),
        inputs::Question::Sample(sample) => {
            let system = sample.system_prompt.as_deref().map_or(0, of_text);
            let blocks = sample.messages.iter().flat_map(|message| &message.content);
            blocks.map(block_bytes).fold(system, u64::saturating_add)
        }
        inputs::Question::Roots => 0,
    };
    // Once as it is, once as JSON, where a byte of data takes more.
    QUESTION_BYTES.saturating_add(of_text(&question.name)).saturating_add(more.saturating_mul(3))
}

fn block_bytes(block: &crate::capability::bindings::mcpp::tool::types::Content) -> u64 {
    use crate::capability::bindings::mcpp::tool::types::Content as Wit;
    let bytes = match block {
        Wit::Text(text) => text.len(),
        Wit::Image(blob) | Wit::Audio(blob) => blob.data.len(),
        // Refused in any case.
        Wit::ResourceLink(_) | Wit::EmbeddedResource(_) => 0,
    };
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// The questions in our words, if they are ones that MCP knows. `hidden` takes the secrets out of a text. The guest that asks compiles the schemas of its forms itself, in its own
/// processor time; `memory` grows by what they take.
pub(crate) fn checked(
    questions: Vec<inputs::NamedQuestion>,
    hidden: impl Fn(String) -> String,
    memory: &mut Reservation,
) -> Result<Vec<(String, InputQuestion)>, AskError> {
    if questions.is_empty() || questions.len() > MAX_QUESTIONS {
        return Err(AskError::Invalid(format!("{} questions; 1 to {MAX_QUESTIONS} are allowed", questions.len())));
    }
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let mut names = HashSet::new();
    let (mut found, mut forms_bytes) = (Vec::with_capacity(questions.len()), 0_u64);
    for inputs::NamedQuestion { name, question } in questions {
        if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.chars().all(legal) {
            let reason = format!("a question's name is 1 to {MAX_NAME_BYTES} of `A-Z a-z 0-9 _ . -`");
            return Err(AskError::Invalid(reason));
        }
        if !names.insert(name.clone()) {
            return Err(AskError::Invalid(format!("two questions have the name `{name}`")));
        }
        let invalid = |reason: String| AskError::Invalid(format!("`{name}`: {reason}"));
        let question = read(question, &hidden).map_err(&invalid)?;
        if let InputQuestion::Form { schema, .. } = &question {
            forms_bytes = forms_bytes.saturating_add(schema.memory_bytes());
            if forms_bytes > MAX_FORMS_BYTES {
                return Err(invalid(format!(
                    "the schemas up to this one take more than {MAX_FORMS_BYTES} bytes, compiled"
                )));
            }
            memory.grow(schema.memory_bytes()).map_err(|_| AskError::Busy)?;
        }
        found.push((name, question));
    }
    Ok(found)
}

fn read(question: inputs::Question, hidden: &impl Fn(String) -> String) -> Result<InputQuestion, String> {
    Ok(match question {
        inputs::Question::Form(inputs::Form { message, schema }) => {
            check_message(&message)?;
            let schema = hidden(schema);
            if schema.len() > MAX_SCHEMA_BYTES {
                return Err(format!("its schema has more than {MAX_SCHEMA_BYTES} bytes"));
            }
            let schema = Schema::parse(&schema).map_err(|error| format!("its schema: {error}"))?;
            InputQuestion::Form { message: hidden(message), schema }
        }
        inputs::Question::Url(inputs::Page { message, url }) => {
            check_message(&message)?;
            let url = hidden(url);
            check_url(&url)?;
            InputQuestion::Url { message: hidden(message), url }
        }
        inputs::Question::Sample(sample) => InputQuestion::Sample(read_sample(sample, hidden)?),
        inputs::Question::Roots => InputQuestion::Roots,
    })
}

fn check_message(message: &str) -> Result<(), String> {
    if message.trim().is_empty() || message.len() > MAX_MESSAGE_BYTES {
        return Err(format!("its message has {} bytes; 1 to {MAX_MESSAGE_BYTES} are allowed", message.len()));
    }
    Ok(())
}

/// A page that a user's browser may be sent to: over TLS, or on the user's own machine.
fn check_url(url: &str) -> Result<(), String> {
    if url.len() > MAX_URL_BYTES {
        return Err(format!("its address has more than {MAX_URL_BYTES} bytes"));
    }
    let parsed = url::Url::parse(url).map_err(|error| format!("its address is no URL: {error}"))?;
    let is_local = match parsed.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    let names_a_user = !parsed.username().is_empty() || parsed.password().is_some();
    match parsed.scheme() {
        _ if names_a_user => Err("its address has a user name or a password".into()),
        "https" => Ok(()),
        "http" if is_local => Ok(()),
        _ => Err("its address is neither `https` nor `http` on this machine".into()),
    }
}

fn read_sample(sample: inputs::Sample, hidden: &impl Fn(String) -> String) -> Result<Sample, String> {
    let inputs::Sample { messages, system_prompt, max_tokens, temperature, stop_sequences, preferences } = sample;
    if messages.is_empty() || max_tokens == 0 {
        return Err("it has no message, or no token for the answer".into());
    }
    if stop_sequences.len() > MAX_HINTS || preferences.as_ref().is_some_and(|wanted| wanted.hints.len() > MAX_HINTS) {
        return Err(format!("it has more than {MAX_HINTS} stop sequences or hints"));
    }
    let wanted = preferences.as_ref();
    let weights =
        [temperature, wanted.and_then(|w| w.cost), wanted.and_then(|w| w.speed), wanted.and_then(|w| w.intelligence)];
    if weights.into_iter().flatten().any(|weight| !weight.is_finite() || weight < 0.0) {
        return Err("a number of it is negative or not finite".into());
    }
    let messages = messages.into_iter().map(|message| read_message(message, hidden)).collect::<Result<_, _>>()?;
    Ok(Sample {
        messages,
        system_prompt: system_prompt.map(hidden),
        max_tokens,
        temperature,
        stop_sequences: stop_sequences.into_iter().map(hidden).collect(),
        preferences: preferences.map(|inputs::Preferences { hints, cost, speed, intelligence }| ModelChoice {
            hints: hints.into_iter().map(hidden).collect(),
            cost,
            speed,
            intelligence,
        }),
    })
}

fn read_message(message: inputs::Message, hidden: &impl Fn(String) -> String) -> Result<ModelMessage, String> {
    let content = message.content.into_iter().map(|block| match Content::from(block) {
        Content::Text(text) => Ok(Content::Text(hidden(text))),
        block @ (Content::Image(_) | Content::Audio(_)) => Ok(block),
        Content::ResourceLink { .. } | Content::EmbeddedResource { .. } => {
            Err("a message has a block that is no text, picture or sound".to_owned())
        }
    });
    let is_of_model = matches!(message.role, inputs::Role::Assistant);
    Ok(ModelMessage { is_of_model, content: content.collect::<Result<_, _>>()? })
}

impl From<Reply> for inputs::Reply {
    fn from(reply: Reply) -> Self {
        match reply {
            Reply::Accepted(content) => Self::Accepted(content.map(|content| content.to_string())),
            Reply::Declined => Self::Declined,
            Reply::Cancelled => Self::Cancelled,
            Reply::Sampled { message, model, stop_reason } => {
                let role = if message.is_of_model { inputs::Role::Assistant } else { inputs::Role::User };
                let content = message.content.into_iter().map(Into::into).collect();
                Self::Sampled(inputs::Sampled { message: inputs::Message { role, content }, model, stop_reason })
            }
            Reply::Roots(roots) => {
                Self::Roots(roots.into_iter().map(|(uri, name)| inputs::Root { uri, name }).collect())
            }
        }
    }
}

impl From<AskError> for InputError {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Undeclared(ability) => Self::Undeclared(ability.as_str().to_owned()),
            AskError::NoClient => Self::NoClient,
            AskError::Busy => Self::Busy,
            AskError::Expired => Self::Expired,
            AskError::Invalid(reason) => Self::Invalid(reason),
            AskError::Refused(reason) => Self::Refused(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{AccountLimits, HostMemory, MemoryConfig};

    #[test]
    fn a_page_is_over_tls_or_on_the_users_machine() {
        for legal in ["https://example.com/a?b", "http://localhost:9/x", "http://127.0.0.1/", "http://[::1]:8/"] {
            assert_eq!(check_url(legal), Ok(()), "{legal}");
        }
        let long = format!("https://example.com/{}", "x".repeat(MAX_URL_BYTES));
        for wrong in
            ["http://example.com/", "javascript:alert(1)", "file:///etc/passwd", "https://u:p@example.com/", "x", &long]
        {
            assert!(check_url(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_schema_of_a_form_is_compiled_as_it_is_asked_and_takes_memory_of_its_tenant() {
        let host = HostMemory::new(&MemoryConfig::default());
        let account = |bytes| host.account(AccountLimits { message_bytes: Some(bytes), ..AccountLimits::default() });
        let form = |schema: &str| {
            let form = inputs::Form { message: "Who?".into(), schema: schema.into() };
            vec![inputs::NamedQuestion { name: "form".into(), question: inputs::Question::Form(form) }]
        };
        let asked = |schema: &str, bytes| {
            let mut memory = account(bytes).reserve(MemoryUse::Messages, 0).expect("nothing");
            let asked = checked(form(schema), |text| text, &mut memory);
            (asked, memory.bytes())
        };
        let schema = r#"{"type":"object","properties":{"name":{"type":"string"}}}"#;
        let (questions, bytes) = asked(schema, 1 << 20);
        let Ok([(_, InputQuestion::Form { schema: compiled, .. })]) = questions.as_deref() else { panic!("a form") };
        assert!(bytes > 0 && bytes == compiled.memory_bytes(), "{bytes}");
        assert!(matches!(asked(schema, bytes - 1), (Err(AskError::Busy), 0)), "it has no room for it");
        assert!(matches!(asked(r#"{"type":"string"}"#, 1 << 20), (Err(AskError::Invalid(_)), 0)), "no object");
        let large = |number: u32| {
            let fields: String = (0..400).map(|field| format!(r#","{number}-{field}":{{"type":"string"}}"#)).collect();
            let schema = format!(r#"{{"type":"object","properties":{{{}}}}}"#, &fields[1..]);
            inputs::NamedQuestion { name: format!("f{number}"), ..form(&schema).remove(0) }
        };
        let mut memory = account(1 << 30).reserve(MemoryUse::Messages, 0).expect("nothing");
        let many = checked((0..16).map(large).collect(), |text| text, &mut memory);
        assert!(matches!(many, Err(AskError::Invalid(_))) && memory.bytes() <= MAX_FORMS_BYTES, "{}", memory.bytes());
    }

    #[test]
    fn questions_have_bounds_and_distinct_names() {
        let named = |name: &str| inputs::NamedQuestion { name: name.into(), question: inputs::Question::Roots };
        let account = HostMemory::new(&MemoryConfig::default()).account(AccountLimits::default());
        let mut memory = account.reserve(MemoryUse::Messages, 0).expect("nothing");
        let mut all =
            |names: &[&str]| checked(names.iter().map(|name| named(name)).collect(), |text| text, &mut memory);
        assert!(all(&["a", "b.c-d_9"]).is_ok());
        for wrong in [&[][..], &["a", "a"], &[""], &["a b"], &["x"; 17], &["x".repeat(65).as_str()]] {
            assert!(all(wrong).is_err(), "{wrong:?}");
        }
    }
}
