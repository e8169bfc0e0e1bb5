//! Prompts: messages that a person chooses, filled with arguments. `#[prompt]` makes one of a function.
//!
//! ```
//! use mcpp_tool::{prompt, prompts::{Filled, Message}};
//!
//! /// Asks for a review of code.
//! #[prompt(title = "Review code")]
//! fn review(
//!     /// The code.
//!     code: String,
//!     /// The language that it is written in.
//!     #[arg(complete = languages)]
//!     language: Option<String>,
//! ) -> Filled {
//!     let language = language.unwrap_or_else(|| "any language".into());
//!     [Message::user(format!("Review this {language} code:\n{code}"))].into()
//! }
//!
//! fn languages(typed: &str) -> Vec<String> {
//!     ["rust", "ruby", "python"].into_iter().filter(|name| name.starts_with(typed)).map(String::from).collect()
//! }
//!
//! mcpp_tool::export! { tools: [], prompts: [review] }
//! # fn main() {
//! #     assert_eq!(review("x = 1".into(), Some("ruby".into())).messages.len(), 1);
//! #     assert_eq!(mcpp_tool::prompts::complete(&MCPP_PROMPT_REVIEW, "language", "ru"), ["rust", "ruby"]);
//! # }
//! ```
//!
//! An argument is a `String`, or an `Option<String>` that may be absent. A prompt that returns text is one message of the user.

use std::collections::BTreeMap;

use crate::{
    Error,
    resources::{Annotations, Complete, Contents, Icon, Resource, Role},
};

/// One block of a message.
#[derive(Debug, Clone, PartialEq)]
pub enum Block {
    /// Text.
    Text(String),
    /// A picture: its bytes and media type.
    Image {
        /// The bytes, not base64.
        data: Vec<u8>,
        /// The media type.
        mime_type: String,
    },
    /// A sound: its bytes and media type.
    Audio {
        /// The bytes, not base64.
        data: Vec<u8>,
        /// The media type.
        mime_type: String,
    },
    /// A resource named but not included.
    ResourceLink(Resource),
    /// A resource included.
    Resource(Contents),
}

/// One message.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What is said.
    pub block: Block,
    /// Hints to the client.
    pub annotations: Option<Annotations>,
}

impl Message {
    /// Text of the user.
    pub fn user(text: impl Into<String>) -> Self {
        Self::new(Role::User, Block::Text(text.into()))
    }

    /// Text of the model.
    pub fn assistant(text: impl Into<String>) -> Self {
        Self::new(Role::Assistant, Block::Text(text.into()))
    }

    /// A message of one block.
    pub fn new(role: Role, block: Block) -> Self {
        Self { role, block, annotations: None }
    }
}

/// A prompt that is filled.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Filled {
    /// What it does with these arguments, if that is more than the list says.
    pub description: Option<String>,
    /// Its messages, in order.
    pub messages: Vec<Message>,
}

impl<M: IntoIterator<Item = Message>> From<M> for Filled {
    fn from(messages: M) -> Self {
        Self { description: None, messages: messages.into_iter().collect() }
    }
}

/// A type that a prompt may return besides errors.
#[doc(hidden)]
pub trait IntoFilled {
    fn into_filled(self) -> Filled;
}

impl IntoFilled for Filled {
    fn into_filled(self) -> Filled {
        self
    }
}

impl IntoFilled for Message {
    fn into_filled(self) -> Filled {
        [self].into()
    }
}

impl IntoFilled for Vec<Message> {
    fn into_filled(self) -> Filled {
        self.into()
    }
}

impl IntoFilled for String {
    fn into_filled(self) -> Filled {
        [Message::user(self)].into()
    }
}

impl IntoFilled for &str {
    fn into_filled(self) -> Filled {
        [Message::user(self)].into()
    }
}

/// One argument, as the macro reads it.
#[doc(hidden)]
#[derive(Debug)]
pub struct ArgumentDefinition {
    pub name: &'static str,
    pub description: &'static str,
    pub required: bool,
    pub complete: Option<Complete>,
}

/// What the macro makes of a function.
#[doc(hidden)]
#[derive(Debug)]
pub struct PromptDefinition {
    pub name: &'static str,
    pub title: Option<&'static str>,
    pub description: &'static str,
    pub icons: Option<fn() -> Vec<Icon>>,
    pub is_listed: Option<fn() -> bool>,
    pub arguments: &'static [ArgumentDefinition],
    pub get: fn(BTreeMap<String, String>) -> Result<Filled, Error>,
}

/// The prompts of a component.
#[doc(hidden)]
pub trait Prompts {
    const PROMPTS: &'static [&'static PromptDefinition];
}

/// The values that a prompt proposes for what was typed of an argument, as the host would ask for them. For tests: `#[prompt]` on `fn review` makes the constant
/// `MCPP_PROMPT_REVIEW`.
pub fn complete(prompt: &PromptDefinition, argument: &str, typed: &str) -> Vec<String> {
    let argument = prompt.arguments.iter().find(|known| known.name == argument);
    argument.and_then(|known| known.complete).map(|complete| complete(typed)).unwrap_or_default()
}

/// A type that an argument of a prompt, or a variable of a resource's template, may have.
#[doc(hidden)]
pub trait FromArgument: Sized {
    const REQUIRED: bool;
    fn from_argument(name: &str, value: Option<String>) -> Result<Self, Error>;
}

impl FromArgument for String {
    const REQUIRED: bool = true;

    fn from_argument(name: &str, value: Option<String>) -> Result<Self, Error> {
        value.ok_or_else(|| Error::invalid_argument(format!("/{name}"), "is required"))
    }
}

impl FromArgument for Option<String> {
    const REQUIRED: bool = false;

    fn from_argument(_: &str, value: Option<String>) -> Result<Self, Error> {
        Ok(value)
    }
}
