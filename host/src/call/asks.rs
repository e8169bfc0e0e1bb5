//! Requests to what a component serves beside tools: reading a resource, filling a prompt, completing an argument, and asking for an answer that a call has put off.

use super::Request;
use crate::names::ToolName;

/// A request to read a resource.
#[derive(Debug, Clone)]
pub struct ReadCall {
    /// The request.
    pub request: Request,
    /// The resource.
    pub uri: String,
}

/// A request to fill a prompt.
#[derive(Debug, Clone)]
pub struct PromptCall {
    /// The request.
    pub request: Request,
    /// The prompt.
    pub prompt: String,
    /// The arguments by name.
    pub arguments: Vec<(String, String)>,
}

/// Owner of an argument that is completed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CompletionOf {
    /// The prompt with this name.
    Prompt(String),
    /// The resources with this URI template, or the one with this URI.
    Template(String),
}

/// A request for values of an argument.
#[derive(Debug, Clone)]
pub struct CompletionCall {
    /// The request.
    pub request: Request,
    /// Owner of the argument.
    pub of: CompletionOf,
    /// The argument.
    pub argument: String,
    /// The beginning of its value.
    pub value: String,
    /// The arguments that have values already.
    pub known: Vec<(String, String)>,
}

/// A request about an answer that a call has put off.
#[derive(Debug, Clone)]
pub struct DeferredCall {
    /// The request.
    pub request: Request,
    /// The tool that was called.
    pub tool: ToolName,
    /// By what its component knows the answer.
    pub handle: String,
}

impl AsRef<Request> for DeferredCall {
    fn as_ref(&self) -> &Request {
        &self.request
    }
}

impl AsRef<Request> for ReadCall {
    fn as_ref(&self) -> &Request {
        &self.request
    }
}

impl AsRef<Request> for PromptCall {
    fn as_ref(&self) -> &Request {
        &self.request
    }
}

impl AsRef<Request> for CompletionCall {
    fn as_ref(&self) -> &Request {
        &self.request
    }
}
