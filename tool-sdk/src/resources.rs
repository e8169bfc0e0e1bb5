//! Resources: what a client may read by its URI. `#[resource("…")]` makes one of a function, or all those whose URIs fit a template.
//!
//! ```
//! use mcpp_tool::{Error, resource, resources::{Contents, Resource}, store::{Map, snapshot}};
//!
//! const NOTES: Map<String, String> = Map::new("notes");
//!
//! /// One note.
//! #[resource("notes://{id}", mime_type = "text/plain", list = all_notes)]
//! fn note(id: String) -> Result<Option<String>, Error> {
//!     Ok(NOTES.get(&snapshot()?, &id)?)
//! }
//!
//! /// The notes that clients see in the list.
//! fn all_notes() -> Result<Vec<Resource>, Error> {
//!     let notes: Vec<(String, String)> = NOTES.all().collect(&snapshot()?)?;
//!     Ok(notes.into_iter().map(|(id, _)| Resource::new(format!("notes://{id}"), id)).collect())
//! }
//!
//! /// How this works.
//! #[resource("notes://help")]
//! fn help() -> &'static str {
//!     "Write a note with the tool `write`."
//! }
//!
//! mcpp_tool::export! { tools: [], resources: [note, help] }
//! # fn main() {
//! #     assert_eq!(note("x".into()), Ok(None));
//! #     let read = mcpp_tool::resources::read(&[&MCPP_RESOURCE_NOTE, &MCPP_RESOURCE_HELP], "notes://help");
//! #     assert_eq!(read, Some(Ok(vec![Contents::text("notes://help", "Write a note with the tool `write`.")])));
//! # }
//! ```
//!
//! `Ok(None)` says that there is no such resource. After a change, [`changed::updated`](crate::changed::updated) tells the clients that subscribed.

use std::collections::BTreeMap;

use crate::Error;

/// What a resource, or a part of it, holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Contents {
    /// Its URI.
    pub uri: String,
    /// The media type, if known.
    pub mime_type: Option<String>,
    /// Text or bytes.
    pub body: Body,
    /// MCP's `_meta`: an object.
    pub meta: Option<serde_json::Value>,
}

/// Text or bytes.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// Text.
    Text(String),
    /// Bytes, not base64.
    Binary(Vec<u8>),
}

impl Contents {
    /// Text.
    pub fn text(uri: impl Into<String>, text: impl Into<String>) -> Self {
        Self { uri: uri.into(), mime_type: None, body: Body::Text(text.into()), meta: None }
    }

    /// Bytes.
    pub fn binary(uri: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Self { uri: uri.into(), mime_type: None, body: Body::Binary(bytes.into()), meta: None }
    }

    /// The same with a media type.
    #[must_use]
    pub fn with_mime_type(self, mime_type: impl Into<String>) -> Self {
        Self { mime_type: Some(mime_type.into()), ..self }
    }
}

/// Who speaks, or for whom something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The person, or what speaks for them.
    User,
    /// The model.
    Assistant,
}

/// Hints to the client.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Annotations {
    /// For whom it is; empty says nothing.
    pub audience: Vec<Role>,
    /// How important it is, from 0 to 1.
    pub priority: Option<f32>,
    /// When it last changed (RFC 3339).
    pub last_modified: Option<String>,
}

/// A picture for lists.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Icon {
    /// An `https:` or `data:` URI.
    pub src: String,
    /// The media type, if known.
    pub mime_type: Option<String>,
    /// Sizes such as `48x48`.
    pub sizes: Vec<String>,
    /// Whether it is made for a dark background; for any if there is none.
    pub dark: Option<bool>,
}

/// A resource as the list shows it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Resource {
    /// Its URI.
    pub uri: String,
    /// A short name.
    pub name: String,
    /// A name for people.
    pub title: Option<String>,
    /// A description.
    pub description: Option<String>,
    /// The media type, if known.
    pub mime_type: Option<String>,
    /// Bytes of its contents, if known.
    pub size: Option<u64>,
    /// Pictures.
    pub icons: Vec<Icon>,
    /// Hints.
    pub annotations: Option<Annotations>,
    /// MCP's `_meta`: an object.
    pub meta: Option<serde_json::Value>,
}

impl Resource {
    /// A resource with a URI and a short name.
    pub fn new(uri: impl Into<String>, name: impl Into<String>) -> Self {
        Self { uri: uri.into(), name: name.into(), ..Self::default() }
    }
}

/// A type that a resource may return besides errors.
#[doc(hidden)]
pub trait IntoContents {
    /// What it holds; none if there is no such resource.
    fn into_contents(self, uri: &str, mime_type: Option<&str>) -> Option<Vec<Contents>>;
}

fn one(body: Body, uri: &str, mime_type: Option<&str>) -> Option<Vec<Contents>> {
    Some(vec![Contents { uri: uri.to_owned(), mime_type: mime_type.map(str::to_owned), body, meta: None }])
}

impl IntoContents for String {
    fn into_contents(self, uri: &str, mime_type: Option<&str>) -> Option<Vec<Contents>> {
        one(Body::Text(self), uri, mime_type)
    }
}

impl IntoContents for &str {
    fn into_contents(self, uri: &str, mime_type: Option<&str>) -> Option<Vec<Contents>> {
        self.to_owned().into_contents(uri, mime_type)
    }
}

impl IntoContents for Vec<u8> {
    fn into_contents(self, uri: &str, mime_type: Option<&str>) -> Option<Vec<Contents>> {
        one(Body::Binary(self), uri, mime_type)
    }
}

impl IntoContents for serde_json::Value {
    fn into_contents(self, uri: &str, mime_type: Option<&str>) -> Option<Vec<Contents>> {
        one(Body::Text(self.to_string()), uri, mime_type.or(Some("application/json")))
    }
}

impl IntoContents for Contents {
    fn into_contents(self, _: &str, mime_type: Option<&str>) -> Option<Vec<Contents>> {
        let mime_type = self.mime_type.clone().or_else(|| mime_type.map(str::to_owned));
        Some(vec![Self { mime_type, ..self }])
    }
}

impl IntoContents for Vec<Contents> {
    fn into_contents(self, _: &str, _: Option<&str>) -> Option<Vec<Contents>> {
        Some(self)
    }
}

impl<T: IntoContents> IntoContents for Option<T> {
    fn into_contents(self, uri: &str, mime_type: Option<&str>) -> Option<Vec<Contents>> {
        self?.into_contents(uri, mime_type)
    }
}

/// Values of an argument, for what was typed of it.
pub type Complete = fn(&str) -> Vec<String>;

/// Lists the resources of a template.
type ListResources = fn() -> Result<Vec<Resource>, Error>;
/// Is told that somebody wants to know of a URI.
type SubscribeTo = fn(&str) -> Result<(), Error>;
/// Reads a URI, with the values of its variables.
type ReadResource = fn(&str, &BTreeMap<&str, String>) -> Result<Option<Vec<Contents>>, Error>;

/// What the macro makes of a function.
#[doc(hidden)]
#[derive(Debug)]
pub struct ResourceDefinition {
    pub uri: &'static str,
    pub name: &'static str,
    pub title: Option<&'static str>,
    pub description: &'static str,
    pub mime_type: Option<&'static str>,
    pub list: Option<ListResources>,
    pub is_listed: Option<fn() -> bool>,
    pub subscribe: Option<SubscribeTo>,
    pub completions: &'static [(&'static str, Complete)],
    pub read: ReadResource,
}

impl ResourceDefinition {
    /// Whether its URI has variables.
    pub fn is_template(&self) -> bool {
        self.uri.contains('{')
    }
}

/// The resources of a component.
#[doc(hidden)]
pub trait Resources {
    const RESOURCES: &'static [&'static ResourceDefinition];
}

/// Reads a resource as the host would: what the first function that has it gives; none if no function has it.
///
/// For tests: `#[resource]` on `fn note` makes the constant `MCPP_RESOURCE_NOTE`.
pub fn read(definitions: &[&ResourceDefinition], uri: &str) -> Option<Result<Vec<Contents>, Error>> {
    let exact = definitions.iter().filter(|definition| !definition.is_template() && definition.uri == uri);
    let mut templates: Vec<_> = definitions.iter().filter(|definition| definition.is_template()).collect();
    templates.sort_by_key(|definition| std::cmp::Reverse(definition.uri.find('{')));
    exact.chain(templates).find_map(|definition| {
        let variables = variables(definition.uri, uri)?;
        (definition.read)(uri, &variables).transpose()
    })
}

/// The values of a template's variables in a URI; none if the URI is of another form. A value is decoded; it has no `/` unless the template says `{+name}`.
pub fn variables<'a>(template: &'a str, uri: &str) -> Option<BTreeMap<&'a str, String>> {
    let mut found = BTreeMap::new();
    matches(template, uri, &mut found).then_some(found)
}

fn matches<'a>(template: &'a str, uri: &str, found: &mut BTreeMap<&'a str, String>) -> bool {
    let Some((literal, rest)) = template.split_once('{') else { return template == uri };
    let (Some(uri), Some((name, rest))) = (uri.strip_prefix(literal), rest.split_once('}')) else { return false };
    let (name, reserved) = match name.strip_prefix('+') {
        Some(name) => (name, true),
        None => (name, false),
    };
    let legal = |c: char| reserved || !matches!(c, '/' | '?' | '#');
    let longest = uri.find(|c| !legal(c)).unwrap_or(uri.len());
    // The shortest value with which the rest fits, as its next literal begins there.
    let next = rest.split('{').next().unwrap_or_default();
    let ends = (1..=longest).filter(|end| uri.is_char_boundary(*end));
    for end in ends {
        let (Some(value), Some(after)) = (uri.get(..end), uri.get(end..)) else { continue };
        if after.starts_with(next) && (!rest.is_empty() || after.is_empty()) && matches(rest, after, found) {
            found.insert(name, decoded(value));
            return true;
        }
    }
    false
}

/// Percent-encoding undone where that gives text.
fn decoded(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match hex.filter(|_| *first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_what_fits_between_the_literals() {
        let found = |template, uri| {
            let found = variables(template, uri)?;
            Some(found.into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(","))
        };
        for (template, uri, expected) in [
            ("notes://{id}", "notes://1", Some("id=1")),
            ("notes://{id}", "notes://", None),
            ("notes://{id}", "notes://1/2", None),
            ("notes://{+path}", "notes://1/2", Some("path=1/2")),
            ("test://template/{id}/data", "test://template/123/data", Some("id=123")),
            ("a:{x}-{y}", "a:1-2-3", Some("x=1,y=2-3")),
            ("a:{x}", "a:b%20c%2Fd", Some("x=b c/d")),
            ("a:{x}", "a:%zz%ff", Some("x=%zz%ff")),
            ("a:b", "a:b", Some("")),
        ] {
            assert_eq!(found(template, uri).as_deref(), expected, "{template} {uri}");
        }
    }
}
