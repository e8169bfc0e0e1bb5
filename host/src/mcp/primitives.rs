//! The methods of resources, prompts and completions, for the protocol engine's handler.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use rmcp::model::{
    CompleteRequestParams, CompleteResult, ErrorData, GetPromptRequestParams, GetPromptResult, ListPromptsResult,
    ListResourceTemplatesResult, ListResourcesResult, ReadResourceResult, Reference, ServerCapabilities,
};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    convert,
    handler::{Endpoint, RefusalSignal},
    inputs,
    parked::{RequestBinding, RequestOutcome},
    running::{GuestQuestions, RunningRequest},
    tools::WayHere,
    wire,
};
use crate::{
    call::{
        CallError, Observer, Request, Session, TraceContext,
        asks::{CompletionCall, CompletionOf, PromptCall, ReadCall},
        authorize,
        inputs::{Abilities, Ability, ClientLine},
        place::PlaceNote,
    },
    capability::changed::MAX_URI_BYTES,
    memory::Reservation,
    registry::{Registry, changes::ResourceListener, primitives::SubscribeError},
    tenant::{Authorized, Denied, Principal},
};

/// Bytes of an answer beyond which no door's thread makes it.
const LARGE_ANSWER_BYTES: u64 = 256 << 10;

/// The kinds of things beside tools that a principal is served now.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ServedKinds {
    pub(super) resources: bool,
    pub(super) prompts: bool,
    pub(super) completions: bool,
}

impl ServedKinds {
    /// What a server that serves this says that it can.
    pub(super) fn capabilities(self) -> ServerCapabilities {
        let tools = ServerCapabilities::builder().enable_tools().enable_tool_list_changed().enable_logging();
        let mut capabilities = tools.build();
        if self.resources {
            let resources = ServerCapabilities::builder().enable_resources().enable_resources_list_changed();
            capabilities.resources = resources.enable_resources_subscribe().build().resources;
        }
        if self.prompts {
            let prompts = ServerCapabilities::builder().enable_prompts().enable_prompts_list_changed();
            capabilities.prompts = prompts.build().prompts;
        }
        if self.completions {
            capabilities.completions = ServerCapabilities::builder().enable_completions().build().completions;
        }
        capabilities
    }

    /// Whether a method is served.
    pub(super) fn has(self, method: &str, modern: bool) -> bool {
        match method {
            "resources/list" | "resources/templates/list" | "resources/read" => self.resources,
            "resources/subscribe" | "resources/unsubscribe" => self.resources && !modern,
            "prompts/list" | "prompts/get" => self.prompts,
            "completion/complete" => self.completions,
            _ => false,
        }
    }
}

/// What a request of any of these methods has with it.
#[derive(Debug)]
pub(super) struct Asking<'a> {
    pub(super) principal: &'a Principal,
    pub(super) trace: TraceContext,
    pub(super) session: Option<Session>,
    pub(super) way: WayHere,
    /// What the client may be asked.
    pub(super) abilities: Abilities,
    /// Fires when the client gives up.
    pub(super) ct: &'a CancellationToken,
    pub(super) signal: Option<&'a RefusalSignal>,
}

impl Asking<'_> {
    fn request(&self, cancel: CancellationToken) -> Request {
        Request {
            principal: self.principal.clone(),
            deadline: self.way.patience.and_then(|patience| Instant::now().checked_add(patience)),
            cancel,
            trace: self.trace.clone(),
            observer: Observer::default(),
            depth: 0,
            chain: self.way.chain,
            hops: self.way.hops,
            session: self.session.clone(),
            effect: self.way.effect.map(|effect| effect.of_caller(self.principal)),
            client: ClientLine::default(),
            place: PlaceNote::default(),
        }
    }

    /// Runs what `ask` makes of the request, and stops it when the client gives up.
    async fn run<A: AsRef<Request>, T, E: From<CallError>, R: Future<Output = Result<T, E>>>(
        &self,
        make: impl FnOnce(Request) -> A,
        ask: impl FnOnce(Authorized<A>) -> R,
    ) -> Result<Result<T, E>, ErrorData> {
        let cancel = CancellationToken::new();
        let _stop_guest = cancel.clone().drop_guard();
        let asked = authorize(make(self.request(cancel.clone()))).map_err(denied)?;
        let mut run = std::pin::pin!(ask(asked));
        Ok(tokio::select! {
            biased;
            done = &mut run => done,
            () = self.ct.cancelled() => {
                cancel.cancel();
                run.await
            }
        })
    }

    /// Begins what `ask` makes of the request: its guest may ask the client, and may so outlive the request.
    fn begin<A: AsRef<Request>, T, R>(
        &self,
        registry: &Registry,
        binding: impl FnOnce() -> RequestBinding,
        make: impl FnOnce(Request) -> A,
        ask: impl FnOnce(Registry, Authorized<A>) -> R,
    ) -> Result<RunningRequest<Result<T, CallError>>, ErrorData>
    where
        Result<T, CallError>: RequestOutcome,
        R: Future<Output = Result<T, CallError>> + Send + 'static,
    {
        let (client, rounds) = ClientLine::new(self.abilities);
        let binding = rounds.is_some().then(binding);
        let cancel = CancellationToken::new();
        let request = Request { client: client.clone(), ..self.request(cancel.clone()) };
        let asked = authorize(make(request)).map_err(denied)?;
        let outcome = Box::pin(ask(registry.clone(), asked));
        Ok(RunningRequest::unheard(outcome, cancel, GuestQuestions::new(client, rounds, binding)))
    }

    /// The error in MCP's words. Tells the door of a refusal. One that failed because its client had not declared an ability is that error.
    pub(super) fn refuse(&self, error: CallError, undeclared: Option<Ability>) -> ErrorData {
        if let (CallError::Failed(_), Some(ability)) = (&error, undeclared) {
            return inputs::undeclared(ability);
        }
        let retry = error.retry_after().map(|after| (after, matches!(error, CallError::TooMany { .. })));
        if let Some(signal) = self.signal {
            signal.raise(retry);
        }
        match error {
            CallError::UnknownResource(uri) => unknown_resource(&uri),
            CallError::UnknownPrompt(_) | CallError::InvalidArguments { .. } => {
                ErrorData::invalid_params(error.to_string(), None)
            }
            other => {
                let reason = other.to_string();
                convert::error(other).err().unwrap_or_else(|| ErrorData::internal_error(reason, None))
            }
        }
    }
}

/// The engine gives the error the code of the request's era.
fn unknown_resource(uri: &str) -> ErrorData {
    let shown: String = uri.chars().take(MAX_URI_BYTES).collect();
    ErrorData::resource_not_found(format!("there is no resource `{shown}`"), Some(json!({ "uri": shown })))
}

impl Endpoint {
    /// What `principal` is served. While not everything is loaded, anything may still come.
    pub(super) fn served_kinds(&self, principal: &Principal) -> ServedKinds {
        if !principal.may_read() {
            return ServedKinds::default();
        }
        let registry = self.registry();
        if !registry.is_opened(&principal.tenant) {
            return ServedKinds { resources: true, prompts: true, completions: true };
        }
        let catalog = registry.catalog(&principal.tenant);
        let lists = catalog.lists();
        ServedKinds {
            resources: lists.has_resources(),
            prompts: lists.has_prompts(),
            completions: lists.services().any(|service| service.completes()),
        }
    }

    /// One page of the resources.
    pub(super) async fn list_resources(
        &self,
        principal: &Principal,
        cursor: Option<&str>,
    ) -> Result<ListResourcesResult, ErrorData> {
        let after = read_cursor('r', cursor)?;
        let catalog = self.settled_catalog(&principal.tenant).await;
        let listed = catalog.lists().resources_after(after.as_deref()).filter(|_| principal.may_read());
        let (page, next) = page(listed, self.page_size(), |one| ('r', &one.info.uri));
        let mut result =
            ListResourcesResult::with_all_items(page.iter().map(|one| wire::resource(&one.info)).collect());
        result.next_cursor = next;
        Ok(result)
    }

    /// One page of the templates.
    pub(super) async fn list_templates(
        &self,
        principal: &Principal,
        cursor: Option<&str>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        let after = read_cursor('t', cursor)?;
        let catalog = self.settled_catalog(&principal.tenant).await;
        let listed = catalog.lists().templates_after(after.as_deref()).filter(|_| principal.may_read());
        let (page, next) = page(listed, self.page_size(), |one| ('t', &one.listed.info.uri_template));
        let templates = page.iter().map(|one| wire::template(&one.listed.info)).collect();
        let mut result = ListResourceTemplatesResult::with_all_items(templates);
        result.next_cursor = next;
        Ok(result)
    }

    /// One page of the prompts.
    pub(super) async fn list_prompts(
        &self,
        principal: &Principal,
        cursor: Option<&str>,
    ) -> Result<ListPromptsResult, ErrorData> {
        let after = read_cursor('p', cursor)?;
        let catalog = self.settled_catalog(&principal.tenant).await;
        let listed = catalog.lists().prompts_after(after.as_deref()).filter(|_| principal.may_read());
        let (page, next) = page(listed, self.page_size(), |one| ('p', &one.info.name));
        let mut result = ListPromptsResult::with_all_items(page.iter().map(|one| wire::prompt(&one.info)).collect());
        result.next_cursor = next;
        Ok(result)
    }

    /// Begins to read a resource.
    pub(super) fn begin_read(
        &self,
        asking: &Asking<'_>,
        uri: &str,
    ) -> Result<RunningRequest<Result<ReadResourceResult, CallError>>, ErrorData> {
        if uri.len() > MAX_URI_BYTES {
            return Err(unknown_resource(uri));
        }
        let binding = || read_binding(asking.principal, uri);
        let make = |request| ReadCall { request, uri: uri.to_owned() };
        asking.begin(self.registry(), binding, make, |registry, asked| async move {
            let (contents, held) = registry.read(asked).await?;
            let wire = beside(&registry, &held, move || contents.into_iter().map(wire::contents).collect()).await?;
            Ok(ReadResourceResult::new(wire))
        })
    }

    /// Begins to fill a prompt.
    pub(super) fn begin_prompt(
        &self,
        asking: &Asking<'_>,
        params: &GetPromptRequestParams,
    ) -> Result<RunningRequest<Result<GetPromptResult, CallError>>, ErrorData> {
        let binding = || prompt_binding(asking.principal, params);
        let text = |(name, value)| match value {
            Value::String(text) => Ok((name, text)),
            _ => Err(ErrorData::invalid_params(format!("the argument `{name}` of a prompt is text"), None)),
        };
        let arguments = params.arguments.clone().unwrap_or_default().into_iter().map(text);
        let arguments = arguments.collect::<Result<_, _>>()?;
        let make = |request| PromptCall { request, prompt: params.name.clone(), arguments };
        asking.begin(self.registry(), binding, make, |registry, asked| async move {
            let (filled, held) = registry.get_prompt(asked).await?;
            beside(&registry, &held, move || wire::filled(filled)).await
        })
    }

    /// Proposes values of an argument.
    pub(super) async fn complete_argument(
        &self,
        asking: &Asking<'_>,
        params: CompleteRequestParams,
    ) -> Result<CompleteResult, ErrorData> {
        let of = match params.r#ref {
            Reference::Prompt(prompt) => CompletionOf::Prompt(prompt.name),
            Reference::Resource(template) => CompletionOf::Template(template.uri),
            _ => return Err(ErrorData::invalid_params("the reference is of an unknown kind", None)),
        };
        let known = params.context.and_then(|context| context.arguments).unwrap_or_default().into_iter().collect();
        let (argument, value) = (params.argument.name, params.argument.value);
        let make = |request| CompletionCall { request, of, argument, value, known };
        let completion = asking.run(make, |asked| self.registry().complete(asked)).await?;
        // What is completed is named by the client: that it is not there is a wrong parameter in either era.
        let refuse = |error| match error {
            CallError::UnknownResource(_) => ErrorData::invalid_params(error.to_string(), None),
            other => asking.refuse(other, None),
        };
        Ok(CompleteResult::new(wire::completion(completion.map_err(refuse)?)))
    }

    /// Tells a legacy client of a resource from now on.
    pub(super) async fn subscribe(
        &self,
        asking: &Asking<'_>,
        uri: String,
        listener: &std::sync::Arc<ResourceListener>,
    ) -> Result<(), ErrorData> {
        if uri.len() > MAX_URI_BYTES {
            return Err(unknown_resource(&uri));
        }
        self.registry().settle(&asking.principal.tenant).await;
        let make = |request| ReadCall { request, uri };
        match asking.run(make, |asked| self.registry().subscribe(asked, listener)).await? {
            Ok(()) => Ok(()),
            Err(SubscribeError::Call(error)) => Err(asking.refuse(error, None)),
            Err(SubscribeError::NoSubscription(full)) => Err(ErrorData::new(convert::BUSY, full.to_string(), None)),
        }
    }

    /// Tells the component of a resource that somebody listens to it now.
    pub(super) async fn tell_subscribed(&self, asking: &Asking<'_>, uri: String) {
        let make = |request| ReadCall { request, uri };
        match asking.run(make, |asked| self.registry().tell_subscribed(asked)).await {
            Ok(Err(error)) => tracing::debug!(%error, "a component was not told of a subscription"),
            Err(error) => tracing::debug!(?error, "a component was not told of a subscription"),
            Ok(Ok(())) => {}
        }
    }
}

fn denied(denied: Denied) -> ErrorData {
    ErrorData::invalid_request(denied.to_string(), None)
}

/// What a read whose guest asks the client is bound to.
pub(super) fn read_binding(principal: &Principal, uri: &str) -> RequestBinding {
    RequestBinding::new(principal, "resources/read", uri, &Value::Null)
}

/// What a request for a prompt whose guest asks the client is bound to.
pub(super) fn prompt_binding(principal: &Principal, params: &GetPromptRequestParams) -> RequestBinding {
    let arguments = Value::Object(params.arguments.clone().unwrap_or_default());
    RequestBinding::new(principal, "prompts/get", &params.name, &arguments)
}

/// Does work on an answer that holds this memory: where it is large, on another thread than the door's.
async fn beside<T: Send + 'static>(
    registry: &Registry,
    held: &Reservation,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, CallError> {
    if held.bytes() <= LARGE_ANSWER_BYTES {
        return Ok(work());
    }
    registry.engine().spawn_blocking(work).await.map_err(|_| CallError::Failed("the answer was lost".to_owned()))
}

/// The first `size` of `listed`, and the cursor of the next page, if there is one.
fn page<T>(
    listed: impl Iterator<Item = T>,
    size: usize,
    key: impl Fn(&T) -> (char, &String),
) -> (Vec<T>, Option<String>) {
    let mut page: Vec<T> = listed.take(size.saturating_add(1)).collect();
    let more = page.len() > size;
    page.truncate(size);
    let next = page.last().filter(|_| more).map(|last| {
        let (kind, key) = key(last);
        BASE64_URL_SAFE_NO_PAD.encode(format!("{kind}{key}"))
    });
    (page, next)
}

/// The key after which a page begins. A cursor of another list is none.
fn read_cursor(kind: char, cursor: Option<&str>) -> Result<Option<String>, ErrorData> {
    let Some(cursor) = cursor else { return Ok(None) };
    let decoded = BASE64_URL_SAFE_NO_PAD.decode(cursor).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let key = decoded.as_deref().and_then(|text| text.strip_prefix(kind)).filter(|key| key.len() <= MAX_URI_BYTES);
    match key.filter(|key| !key.is_empty()) {
        Some(key) => Ok(Some(key.to_owned())),
        None => Err(ErrorData::invalid_params("the cursor is not one that this server gave", None)),
    }
}
