//! Questions to the client of the running call: forms and pages for its user, a message of its model, its roots. No grant is needed.
//!
//! A type is a whole form: its fields are the questions, its doc comments what the user reads beside them.
//!
//! ```
//! use mcpp_tool::{Error, client::{self, Answer}, tool};
//!
//! /// How to deploy.
//! #[derive(serde::Deserialize, schemars::JsonSchema)]
//! struct Deployment {
//!     /// Where to.
//!     target: Target,
//!     /// Anything to note?
//!     note: Option<String>,
//! }
//!
//! #[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
//! enum Target { Staging, Production }
//!
//! /// Deploys, where its user says.
//! #[tool]
//! fn deploy() -> Result<String, Error> {
//!     match client::elicit::<Deployment>("Where shall this go?")? {
//!         Answer::Accepted(to) => Ok(format!("deployed to {:?}", to.target)),
//!         Answer::Declined | Answer::Cancelled => Ok("nothing was deployed".into()),
//!     }
//! }
//! # mcpp_tool::export!(deploy);
//! # fn main() {}
//! ```
//!
//! The function waits where it asks, for as long as the user thinks: the call's deadline stands still meanwhile. Several questions at once are a [`Round`].
//! A client that did not declare what a question needs is not asked; the error is [`InputError::Undeclared`] at once, and the tool may go on without.

mod form;

use std::marker::PhantomData;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub use self::form::schema;
use crate::Content;

/// The user's answer to a form or a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<T> {
    /// The user sent the form; its values.
    Accepted(T),
    /// The user said no.
    Declined,
    /// The user closed the question without an answer.
    Cancelled,
}

/// A message of a conversation with a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Whether the model says it; else the user does.
    pub is_of_model: bool,
    /// Texts, pictures and sounds.
    pub content: Vec<Content>,
}

/// A message that the client's model shall write.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sample {
    /// The conversation so far.
    pub messages: Vec<Message>,
    /// Instructions for the model.
    pub system_prompt: Option<String>,
    /// The most that the model may write, in tokens.
    pub max_tokens: u32,
    /// Randomness, from 0 to 1 with most models.
    pub temperature: Option<f64>,
    /// Texts at which the model stops.
    pub stop_sequences: Vec<String>,
    /// Names of models or families, the best first.
    pub hints: Vec<String>,
}

impl Sample {
    /// The answer to one text of the user.
    pub fn of(text: impl Into<String>, max_tokens: u32) -> Self {
        let message = Message { is_of_model: false, content: vec![Content::Text(text.into())] };
        Self { messages: vec![message], max_tokens, ..Self::default() }
    }
}

/// A model's message.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    /// The message.
    pub message: Message,
    /// The model, by the client's name for it.
    pub model: String,
    /// Why it stopped, such as `endTurn`.
    pub stop_reason: Option<String>,
}

impl Sampled {
    /// The texts of the message, one after the other.
    pub fn text(&self) -> String {
        let text = |block: &Content| if let Content::Text(text) = block { Some(text.clone()) } else { None };
        self.message.content.iter().filter_map(text).collect::<Vec<_>>().join("\n")
    }
}

/// A place that the client's user works in. It is a name, and gives no right to any file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// Its URI.
    pub uri: String,
    /// A name for people.
    pub name: Option<String>,
}

/// What a client may be asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Abilities {
    /// Its user fills in forms.
    pub form: bool,
    /// Its user opens pages.
    pub url: bool,
    /// Its model writes messages.
    pub sampling: bool,
    /// It has a list of roots.
    pub roots: bool,
}

/// Why there are no replies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InputError {
    /// The client did not declare what this needs; which ability.
    Undeclared(String),
    /// A transaction is open; commit or drop it first.
    TransactionOpen,
    /// There is no client to ask: in an event's handler, in a native test, or because it is gone.
    NoClient,
    /// A question is not one that MCP knows; what is wrong.
    Invalid(String),
    /// The host keeps as many waiting calls as it may. May be repeated later.
    Busy,
    /// The client did not reply in time.
    Expired,
    /// The client replied with an error, or with no reply to the question; what.
    Refused(String),
}

impl std::fmt::Display for InputError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Undeclared(ability) => write!(f, "the client does not offer `{ability}`, which this tool needs"),
            Self::TransactionOpen => f.write_str("the client cannot be asked while a transaction is open"),
            Self::NoClient => f.write_str("there is no client to ask"),
            Self::Invalid(reason) => write!(f, "the client cannot be asked this: {reason}"),
            Self::Busy => f.write_str("too many calls wait for their clients now; try again later"),
            Self::Expired => f.write_str("the client did not reply in time"),
            Self::Refused(reason) => write!(f, "the client did not reply to the question: {reason}"),
        }
    }
}

impl std::error::Error for InputError {}

/// What the client of this call may be asked; nothing in a native test.
pub fn declared() -> Abilities {
    #[cfg(target_arch = "wasm32")]
    {
        use crate::bindings::mcpp::client::inputs::{self as host, Abilities as Flags};
        let declared = host::declared();
        Abilities {
            form: declared.contains(Flags::FORM),
            url: declared.contains(Flags::URL),
            sampling: declared.contains(Flags::SAMPLING),
            roots: declared.contains(Flags::ROOTS),
        }
    }
    #[cfg(not(target_arch = "wasm32"))]
    Abilities::default()
}

/// Asks the user to fill in a form, which is `T`: a struct of strings, numbers, booleans, enums without data, lists of such enums, and options of these.
///
/// # Errors
/// See [`InputError`].
pub fn elicit<T: JsonSchema + DeserializeOwned>(message: impl Into<String>) -> Result<Answer<T>, InputError> {
    let mut round = Round::new();
    let form = round.form::<T>("form", message);
    round.ask()?.take(form)
}

/// Asks the user to open a page, for what must not pass through the client, such as a password. [`Answer::Accepted`] means that the user agreed, not that
/// the page is done.
///
/// # Errors
/// See [`InputError`].
pub fn open_page(message: impl Into<String>, url: impl Into<String>) -> Result<Answer<()>, InputError> {
    let mut round = Round::new();
    let page = round.page("page", message, url);
    round.ask()?.take(page)
}

/// Asks the client's model to write a message.
///
/// # Errors
/// See [`InputError`].
pub fn sample(sample: Sample) -> Result<Sampled, InputError> {
    let mut round = Round::new();
    let sampled = round.sample("message", sample);
    round.ask()?.take(sampled)
}

/// Asks for the client's roots.
///
/// # Errors
/// See [`InputError`].
pub fn roots() -> Result<Vec<Root>, InputError> {
    let mut round = Round::new();
    let roots = round.roots("roots");
    round.ask()?.take(roots)
}

/// Several questions that the client is asked at once.
///
/// ```
/// use mcpp_tool::{Error, client::{Answer, Round, Sample}};
///
/// #[derive(serde::Deserialize, schemars::JsonSchema)]
/// struct Name { name: String }
///
/// fn greet() -> Result<String, Error> {
///     let mut round = Round::new();
///     let name = round.form::<Name>("name", "Who are you?");
///     let poem = round.sample("poem", Sample::of("Two lines about the sea.", 60));
///     let mut replies = round.ask()?;
///     let Answer::Accepted(name) = replies.take(name)? else { return Ok("As you like.".into()) };
///     Ok(format!("{}, {}", replies.take(poem)?.text(), name.name))
/// }
/// ```
#[derive(Debug, Default)]
pub struct Round {
    questions: Vec<(String, Question)>,
}

#[derive(Debug)]
#[cfg_attr(not(target_arch = "wasm32"), expect(dead_code, reason = "there is no client in a native test"))]
enum Question {
    Form(String, Value),
    Page(String, String),
    Sample(Sample),
    Roots,
}

/// A question of a [`Round`]; its reply is a `T`.
#[derive(Debug)]
pub struct Asked<T> {
    at: usize,
    read: fn(Reply) -> Option<T>,
    of: PhantomData<T>,
}

#[derive(Debug)]
#[cfg_attr(not(target_arch = "wasm32"), expect(dead_code, reason = "there is no client in a native test"))]
enum Reply {
    Answer(Answer<Option<Value>>),
    Sampled(Sampled),
    Roots(Vec<Root>),
}

impl Round {
    /// No questions yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn add<T>(&mut self, name: impl Into<String>, question: Question, read: fn(Reply) -> Option<T>) -> Asked<T> {
        self.questions.push((name.into(), question));
        Asked { at: self.questions.len() - 1, read, of: PhantomData }
    }

    /// A form, which is `T`: see [`elicit`]. The client sees the name.
    pub fn form<T: JsonSchema + DeserializeOwned>(
        &mut self,
        name: impl Into<String>,
        message: impl Into<String>,
    ) -> Asked<Answer<T>> {
        self.add(name, Question::Form(message.into(), schema::<T>()), |reply| {
            values(reply, |values| serde_json::from_value(values).ok())
        })
    }

    /// A form with a schema of your own.
    pub fn form_of(
        &mut self,
        name: impl Into<String>,
        message: impl Into<String>,
        schema: Value,
    ) -> Asked<Answer<Value>> {
        self.add(name, Question::Form(message.into(), schema), |reply| values(reply, Some))
    }

    /// A page: see [`open_page`].
    pub fn page(
        &mut self,
        name: impl Into<String>,
        message: impl Into<String>,
        url: impl Into<String>,
    ) -> Asked<Answer<()>> {
        self.add(name, Question::Page(message.into(), url.into()), |reply| match reply {
            Reply::Answer(Answer::Accepted(_)) => Some(Answer::Accepted(())),
            Reply::Answer(Answer::Declined) => Some(Answer::Declined),
            Reply::Answer(Answer::Cancelled) => Some(Answer::Cancelled),
            Reply::Sampled(_) | Reply::Roots(_) => None,
        })
    }

    /// A message of the client's model.
    pub fn sample(&mut self, name: impl Into<String>, sample: Sample) -> Asked<Sampled> {
        let read = |reply| if let Reply::Sampled(sampled) = reply { Some(sampled) } else { None };
        self.add(name, Question::Sample(sample), read)
    }

    /// The client's roots.
    pub fn roots(&mut self, name: impl Into<String>) -> Asked<Vec<Root>> {
        let read = |reply| if let Reply::Roots(roots) = reply { Some(roots) } else { None };
        self.add(name, Question::Roots, read)
    }

    /// Asks, and waits for all replies.
    ///
    /// # Errors
    /// See [`InputError`]; in a native test [`InputError::NoClient`].
    pub fn ask(self) -> Result<Replies, InputError> {
        #[cfg(target_arch = "wasm32")]
        {
            use crate::bindings::mcpp::client::inputs as host;
            let questions = self
                .questions
                .into_iter()
                .map(|(name, question)| host::NamedQuestion { name, question: question.into() });
            let replies = host::ask(&questions.collect::<Vec<_>>())?;
            Ok(Replies(replies.into_iter().map(|reply| Some(reply.into())).collect()))
        }
        #[cfg(not(target_arch = "wasm32"))]
        Err(InputError::NoClient)
    }
}

fn values<T>(reply: Reply, read: impl FnOnce(Value) -> Option<T>) -> Option<Answer<T>> {
    match reply {
        Reply::Answer(Answer::Accepted(values)) => read(values?).map(Answer::Accepted),
        Reply::Answer(Answer::Declined) => Some(Answer::Declined),
        Reply::Answer(Answer::Cancelled) => Some(Answer::Cancelled),
        Reply::Sampled(_) | Reply::Roots(_) => None,
    }
}

/// The replies to a [`Round`].
#[derive(Debug)]
pub struct Replies(Vec<Option<Reply>>);

impl Replies {
    /// The reply to one question of the round.
    ///
    /// # Errors
    /// [`InputError::Refused`] if the values of a form are no `T`, or the reply was taken before.
    #[expect(clippy::needless_pass_by_value, reason = "a reply is taken once")]
    pub fn take<T>(&mut self, asked: Asked<T>) -> Result<T, InputError> {
        let reply = self.0.get_mut(asked.at).and_then(Option::take);
        let read = reply.and_then(asked.read);
        read.ok_or_else(|| InputError::Refused("the reply is not what the tool expects".into()))
    }
}

#[cfg(target_arch = "wasm32")]
mod host;
