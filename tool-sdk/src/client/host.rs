//! The words of the host's interface.

use super::{Answer, InputError, Message, Question, Reply, Root, Sampled};
use crate::{bindings::mcpp::client::inputs as host, output::Content};

impl From<Question> for host::Question {
    fn from(question: Question) -> Self {
        match question {
            Question::Form(message, schema) => Self::Form(host::Form { message, schema: schema.to_string() }),
            Question::Page(message, url) => Self::Url(host::Page { message, url }),
            Question::Sample(sample) => {
                let hints = sample.hints;
                Self::Sample(host::Sample {
                    messages: sample.messages.into_iter().map(host::Message::from).collect(),
                    system_prompt: sample.system_prompt,
                    max_tokens: sample.max_tokens,
                    temperature: sample.temperature,
                    stop_sequences: sample.stop_sequences,
                    preferences: (!hints.is_empty()).then(|| host::Preferences {
                        hints,
                        cost: None,
                        speed: None,
                        intelligence: None,
                    }),
                })
            }
            Question::Roots => Self::Roots,
        }
    }
}

impl From<Message> for host::Message {
    fn from(message: Message) -> Self {
        let role = if message.is_of_model { host::Role::Assistant } else { host::Role::User };
        Self { role, content: message.content.into_iter().map(Into::into).collect() }
    }
}

impl From<host::Reply> for Reply {
    fn from(reply: host::Reply) -> Self {
        match reply {
            host::Reply::Accepted(values) => {
                // The host has parsed it before.
                Self::Answer(Answer::Accepted(values.and_then(|values| serde_json::from_str(&values).ok())))
            }
            host::Reply::Declined => Self::Answer(Answer::Declined),
            host::Reply::Cancelled => Self::Answer(Answer::Cancelled),
            host::Reply::Sampled(host::Sampled { message, model, stop_reason }) => {
                let is_of_model = matches!(message.role, host::Role::Assistant);
                let content = message.content.into_iter().map(Content::from).collect();
                Self::Sampled(Sampled { message: Message { is_of_model, content }, model, stop_reason })
            }
            host::Reply::Roots(roots) => {
                Self::Roots(roots.into_iter().map(|host::Root { uri, name }| Root { uri, name }).collect())
            }
        }
    }
}

impl From<host::InputError> for InputError {
    fn from(error: host::InputError) -> Self {
        match error {
            host::InputError::Undeclared(ability) => Self::Undeclared(ability),
            host::InputError::TransactionOpen => Self::TransactionOpen,
            host::InputError::NoClient => Self::NoClient,
            host::InputError::Invalid(reason) => Self::Invalid(reason),
            host::InputError::Busy => Self::Busy,
            host::InputError::Expired => Self::Expired,
            host::InputError::Refused(reason) => Self::Refused(reason),
        }
    }
}
