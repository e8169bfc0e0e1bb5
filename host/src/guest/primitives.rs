//! What a component exports beside tools: resources, prompts, and completions of their arguments. Each question runs in an instance of its own.

use std::sync::Arc;

use wasmtime::component::InstancePre;

use super::{
    instance::{Failure, reserve, run},
    new_store,
};
use crate::{
    call::{
        CallError,
        asks::{CompletionCall, CompletionOf},
    },
    capability::{
        bindings::{
            completions::{CompletingPre, exports::mcpp::primitives::completions as completions_wit},
            mcpp::primitives::types::{Block, Body, Content, Contents},
            prompts::{PromptingPre, exports::mcpp::primitives::prompts as prompts_wit},
            resources::{ReadingPre, exports::mcpp::primitives::resources as resources_wit},
        },
        state::{Running, State},
    },
    control::{Control, redactor::Redactor},
    engine::Engine,
    memory::Reservation,
};

/// The interfaces by which the host knows what a component exports, without their version.
pub(in crate::guest) const RESOURCES: &str = "mcpp:primitives/resources";
pub(in crate::guest) const PROMPTS: &str = "mcpp:primitives/prompts";
pub(in crate::guest) const COMPLETIONS: &str = "mcpp:primitives/completions";

/// Longest reason of a guest's error, in bytes.
const MAX_REASON_BYTES: usize = 8 << 10;

/// A linked component that has resources.
#[derive(Clone)]
pub struct ResourceExport(ReadingPre<State>);

/// A linked component that has prompts.
#[derive(Clone)]
pub struct PromptExport(PromptingPre<State>);

/// A linked component that completes arguments.
#[derive(Clone)]
pub struct CompletionExport(CompletingPre<State>);

macro_rules! opaque {
    ($($name:ident),*) => {$(
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    )*};
}
opaque!(ResourceExport, PromptExport, CompletionExport);

/// A component's lists of resources and of templates.
pub type ResourceLists = (Vec<resources_wit::ResourceInfo>, Vec<resources_wit::TemplateInfo>);

/// An answer, and the tenant's memory that it holds.
pub type Charged<T> = (T, Reservation);

impl ResourceExport {
    pub(in crate::guest) fn new(linked: InstancePre<State>) -> wasmtime::Result<Self> {
        ReadingPre::new(linked).map(Self)
    }

    /// Asks for its resources and templates; without `running` at its load.
    pub async fn list(
        &self,
        engine: &Engine,
        component: &Arc<str>,
        running: Option<Box<Running>>,
        control: Arc<Control>,
    ) -> Result<ResourceLists, CallError> {
        let mut store = new_store(self.0.engine(), component, &control, running);
        let export = self.0.clone();
        let guest = async move {
            let instance = export.instantiate_async(&mut store).await?;
            let resources = instance.mcpp_primitives_resources();
            let listed = resources.call_list(&mut store).await?;
            let templates = resources.call_templates(&mut store).await?;
            Ok::<_, Failure>((listed, templates))
        };
        run(engine, guest, control).await
    }

    /// Reads a resource.
    pub async fn read(
        &self,
        engine: &Engine,
        uri: String,
        running: Box<Running>,
        control: Arc<Control>,
    ) -> Result<Charged<Vec<Contents>>, CallError> {
        let component = Arc::clone(&running.component);
        let mut store = new_store(self.0.engine(), &component, &control, Some(running));
        let (export, shared) = (self.0.clone(), Arc::clone(&control));
        let guest = async move {
            let instance = export.instantiate_async(&mut store).await?;
            let answer = instance.mcpp_primitives_resources().call_read(&mut store, &uri).await?;
            let mut contents = answer.map_err(|error| Failure::Call(read_error(error, uri)))?;
            if contents.is_empty() {
                return Err(Failure::Call(invalid("the component read a resource and gave no contents")));
            }
            let redactor = shared.redactor();
            contents.iter_mut().for_each(|contents| redact(redactor, contents));
            let bytes = contents.iter().map(contents_bytes).fold(0, usize::saturating_add);
            let held = reserve(u64::try_from(bytes).unwrap_or(u64::MAX), &shared).map_err(Failure::Call)?;
            Ok((contents, held))
        };
        run(engine, guest, control).await
    }

    /// Tells the component that a client wants to know when a resource changes.
    pub async fn subscribe(
        &self,
        engine: &Engine,
        uri: String,
        running: Box<Running>,
        control: Arc<Control>,
    ) -> Result<(), CallError> {
        let component = Arc::clone(&running.component);
        let mut store = new_store(self.0.engine(), &component, &control, Some(running));
        let export = self.0.clone();
        let guest = async move {
            let instance = export.instantiate_async(&mut store).await?;
            let answer = instance.mcpp_primitives_resources().call_subscribe(&mut store, &uri).await?;
            answer.map_err(|error| Failure::Call(read_error(error, uri)))
        };
        run(engine, guest, control).await
    }
}

impl PromptExport {
    pub(in crate::guest) fn new(linked: InstancePre<State>) -> wasmtime::Result<Self> {
        PromptingPre::new(linked).map(Self)
    }

    /// Asks for its prompts; without `running` at its load.
    pub async fn list(
        &self,
        engine: &Engine,
        component: &Arc<str>,
        running: Option<Box<Running>>,
        control: Arc<Control>,
    ) -> Result<Vec<prompts_wit::PromptInfo>, CallError> {
        let mut store = new_store(self.0.engine(), component, &control, running);
        let export = self.0.clone();
        let guest = async move {
            let instance = export.instantiate_async(&mut store).await?;
            Ok::<_, Failure>(instance.mcpp_primitives_prompts().call_list(&mut store).await?)
        };
        run(engine, guest, control).await
    }

    /// Fills a prompt.
    pub async fn get(
        &self,
        engine: &Engine,
        (prompt, arguments): (String, Vec<(String, String)>),
        running: Box<Running>,
        control: Arc<Control>,
    ) -> Result<Charged<prompts_wit::Filled>, CallError> {
        let component = Arc::clone(&running.component);
        let mut store = new_store(self.0.engine(), &component, &control, Some(running));
        let (export, shared) = (self.0.clone(), Arc::clone(&control));
        let guest = async move {
            let instance = export.instantiate_async(&mut store).await?;
            let answer = instance.mcpp_primitives_prompts().call_get(&mut store, &prompt, &arguments).await?;
            let mut filled = answer.map_err(|error| Failure::Call(get_error(error, prompt)))?;
            let redactor = shared.redactor();
            filled.description = filled.description.map(|text| redactor.text(text));
            filled.messages.iter_mut().for_each(|message| redact_content(redactor, &mut message.content));
            let bytes = filled.messages.iter().map(|message| content_bytes(&message.content));
            let bytes = bytes.fold(filled.description.as_ref().map_or(0, String::len), usize::saturating_add);
            let held = reserve(u64::try_from(bytes).unwrap_or(u64::MAX), &shared).map_err(Failure::Call)?;
            Ok((filled, held))
        };
        run(engine, guest, control).await
    }
}

impl CompletionExport {
    pub(in crate::guest) fn new(linked: InstancePre<State>) -> wasmtime::Result<Self> {
        CompletingPre::new(linked).map(Self)
    }

    /// Asks for values of an argument.
    pub async fn complete(
        &self,
        engine: &Engine,
        asked: CompletionCall,
        running: Box<Running>,
        control: Arc<Control>,
    ) -> Result<completions_wit::Completion, CallError> {
        let component = Arc::clone(&running.component);
        let mut store = new_store(self.0.engine(), &component, &control, Some(running));
        let (export, shared) = (self.0.clone(), Arc::clone(&control));
        let reference = match asked.of {
            CompletionOf::Prompt(name) => completions_wit::Reference::Prompt(name),
            CompletionOf::Template(template) => completions_wit::Reference::Template(template),
        };
        let CompletionCall { argument, value, known, .. } = asked;
        let query = completions_wit::Query { reference, argument, value, known };
        let guest = async move {
            let instance = export.instantiate_async(&mut store).await?;
            let mut completion = instance.mcpp_primitives_completions().call_complete(&mut store, &query).await?;
            let redactor = shared.redactor();
            completion.values = completion.values.into_iter().map(|value| redactor.text(value)).collect();
            Ok::<_, Failure>(completion)
        };
        run(engine, guest, control).await
    }
}

fn invalid(reason: &str) -> CallError {
    CallError::InvalidResult { path: String::new(), reason: reason.to_owned() }
}

fn read_error(error: resources_wit::ReadError, uri: String) -> CallError {
    match error {
        resources_wit::ReadError::NotFound => CallError::UnknownResource(uri),
        resources_wit::ReadError::Failed(reason) => CallError::Failed(cut(reason)),
    }
}

fn get_error(error: prompts_wit::GetError, prompt: String) -> CallError {
    match error {
        prompts_wit::GetError::UnknownPrompt => CallError::UnknownPrompt(prompt),
        prompts_wit::GetError::InvalidArgument(wrong) => {
            CallError::InvalidArguments { path: format!("/{}", cut(wrong.name)), reason: cut(wrong.reason) }
        }
        prompts_wit::GetError::Failed(reason) => CallError::Failed(cut(reason)),
    }
}

fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_REASON_BYTES));
    text
}

/// Bytes of what a client gets of it; those that are not text count as base64.
fn contents_bytes(contents: &Contents) -> usize {
    let body = match &contents.body {
        Body::Text(text) => text.len(),
        Body::Binary(bytes) => bytes.len().saturating_mul(4) / 3,
    };
    let meta = contents.meta.as_ref().map_or(0, String::len);
    body.saturating_add(contents.uri.len()).saturating_add(meta)
}

fn content_bytes(content: &Content) -> usize {
    match &content.block {
        Block::Text(text) => text.len(),
        Block::Image(blob) | Block::Audio(blob) => blob.data.len().saturating_mul(4) / 3,
        Block::ResourceLink(link) => link.uri.len().saturating_add(link.description.as_ref().map_or(0, String::len)),
        Block::EmbeddedResource(contents) => contents_bytes(contents),
    }
}

/// A guest shows no secret of its tenant that it used in this request.
fn redact(redactor: &Redactor, contents: &mut Contents) {
    contents.uri = redactor.text(std::mem::take(&mut contents.uri));
    contents.meta = contents.meta.take().map(|meta| redactor.text(meta));
    match &mut contents.body {
        Body::Text(text) => *text = redactor.text(std::mem::take(text)),
        Body::Binary(bytes) => *bytes = redactor.bytes(std::mem::take(bytes)),
    }
}

fn redact_content(redactor: &Redactor, content: &mut Content) {
    content.meta = content.meta.take().map(|meta| redactor.text(meta));
    match &mut content.block {
        Block::Text(text) => *text = redactor.text(std::mem::take(text)),
        Block::Image(blob) | Block::Audio(blob) => blob.data = redactor.bytes(std::mem::take(&mut blob.data)),
        Block::ResourceLink(link) => {
            link.uri = redactor.text(std::mem::take(&mut link.uri));
            link.name = redactor.text(std::mem::take(&mut link.name));
            link.description = link.description.take().map(|text| redactor.text(text));
        }
        Block::EmbeddedResource(contents) => redact(redactor, contents),
    }
}
