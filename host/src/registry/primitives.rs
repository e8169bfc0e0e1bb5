//! Requests to what components serve beside tools: reading resources, filling prompts, completing arguments. Other kinds of [`Request`], which go the way of every request.
//!
//! A principal that may use some tools alone sees none of it: nothing that its token or its grant says names a resource or a prompt.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{
    Registry,
    catalog::Catalog,
    changes::{NoSubscription, ResourceListener},
    relist::Relisting,
    request::{Service, Ticket},
    tool::Powers,
};
use crate::{
    call::{
        CallError, Request,
        asks::{CompletionCall, CompletionOf, PromptCall, ReadCall},
    },
    capability::{
        bindings::{
            completions::exports::mcpp::primitives::completions::Completion,
            mcpp::primitives::types::Contents,
            prompts::exports::mcpp::primitives::prompts::{Filled, PromptInfo},
        },
        state::Running,
    },
    control::Control,
    engine::Engine,
    guest::{
        component::LoadedPrimitives,
        primitives::{Charged, CompletionExport, PromptExport, ResourceExport},
    },
    limits::Limits,
    tenant::Authorized,
};

/// Most values of one completion, as MCP says.
pub const MAX_COMPLETIONS: usize = 100;

/// How one revision's resources, prompts and completions are asked.
#[derive(Debug)]
pub struct PrimitiveService {
    service: Service,
    /// Its resources.
    pub(super) resources: Option<ResourceExport>,
    /// Its prompts.
    pub(super) prompts: Option<PromptExport>,
    completions: Option<CompletionExport>,
    /// Whether it says when its lists change.
    pub(super) tells_changes: bool,
    /// Whether clients see the lists of its load for as long as it serves: an operator accepted them.
    lists_are_fixed: AtomicBool,
    pub(super) relisting: Relisting,
}

impl AsRef<Service> for PrimitiveService {
    fn as_ref(&self) -> &Service {
        &self.service
    }
}

impl PrimitiveService {
    pub(super) fn new(powers: &Arc<Powers>, limits: Limits, loaded: &LoadedPrimitives) -> Self {
        Self {
            service: Service::new("component", Arc::clone(powers), limits),
            resources: loaded.resources.as_ref().map(|(export, _)| export.clone()),
            prompts: loaded.prompts.as_ref().map(|(export, _)| export.clone()),
            completions: loaded.completions.clone(),
            tells_changes: loaded.tells_changes,
            lists_are_fixed: AtomicBool::new(false),
            relisting: Relisting::default(),
        }
    }

    /// The component.
    pub fn component(&self) -> &str {
        self.service.powers.component.as_str()
    }

    /// The powers of its revision.
    pub(super) fn powers(&self) -> &Arc<Powers> {
        &self.service.powers
    }

    /// The limits of a request.
    pub(super) fn limits(&self) -> Limits {
        self.service.limits
    }

    /// How its lists change in a way that the host has to work around; none if they do not.
    pub fn listing_problem(&self) -> Option<String> {
        self.relisting.problem()
    }

    /// Whether its arguments can be completed.
    pub fn completes(&self) -> bool {
        self.completions.is_some()
    }

    /// Clients see the lists of its load from now on, whatever it says later.
    pub fn fix_lists(&self) {
        self.lists_are_fixed.store(true, Ordering::Relaxed);
    }

    pub(super) fn lists_are_fixed(&self) -> bool {
        self.lists_are_fixed.load(Ordering::Relaxed)
    }
}

impl Registry {
    /// Reads a resource.
    pub async fn read(&self, asked: Authorized<ReadCall>) -> Result<Charged<Vec<Contents>>, CallError> {
        let ReadCall { request, uri } = *asked.into_inner();
        let unknown = || CallError::UnknownResource(uri.clone());
        let ticket = self.enter_for_resource(&request, &uri, unknown).await?;
        let Some(export) = ticket.served.resources.clone() else { return Err(unknown()) };
        let read = |engine: Engine, running, control| async move { export.read(&engine, uri, running, control).await };
        self.serve(&ticket, request, "resource", read).await
    }

    /// Notes that `listener` wants to know when a resource changes. The component is told, where nobody wanted to know before.
    pub async fn subscribe(
        &self,
        asked: Authorized<ReadCall>,
        listener: &Arc<ResourceListener>,
    ) -> Result<(), SubscribeError> {
        let ReadCall { request, uri } = *asked.into_inner();
        let unknown = || CallError::UnknownResource(uri.clone());
        let ticket = self.enter_for_resource(&request, &uri, unknown).await?;
        if !listener.subscribe(&uri, &ticket.share().memory)? {
            return Ok(());
        }
        let told = self.tell_of_listener(&ticket, request, uri.clone()).await;
        if told.is_err() {
            listener.unsubscribe(&uri);
        }
        Ok(told?)
    }

    /// Tells a component that somebody wants to know of a resource, and nobody did before.
    pub async fn tell_subscribed(&self, asked: Authorized<ReadCall>) -> Result<(), CallError> {
        let ReadCall { request, uri } = *asked.into_inner();
        let ticket = self.enter_for_resource(&request, &uri, || CallError::UnknownResource(uri.clone())).await?;
        self.tell_of_listener(&ticket, request, uri).await
    }

    async fn tell_of_listener(
        &self,
        ticket: &Ticket<PrimitiveService>,
        request: Request,
        uri: String,
    ) -> Result<(), CallError> {
        let Some(export) = ticket.served.resources.clone() else { return Err(CallError::UnknownResource(uri)) };
        let tell =
            |engine: Engine, running, control| async move { export.subscribe(&engine, uri, running, control).await };
        self.serve(ticket, request, "resource", tell).await
    }

    async fn enter_for_resource(
        &self,
        request: &Request,
        uri: &str,
        unknown: impl Fn() -> CallError,
    ) -> Result<Ticket<PrimitiveService>, CallError> {
        let find = |catalog: &Catalog| catalog.lists().owner(uri).cloned();
        self.enter(request, request.principal.may_read(), find, unknown).await
    }

    /// Fills a prompt.
    pub async fn get_prompt(&self, asked: Authorized<PromptCall>) -> Result<Charged<Filled>, CallError> {
        let PromptCall { request, prompt, arguments } = *asked.into_inner();
        let unknown = || CallError::UnknownPrompt(prompt.clone());
        let find = |catalog: &Catalog| catalog.lists().prompt(&prompt).map(|listed| Arc::clone(&listed.service));
        let ticket = self.enter(&request, request.principal.may_read(), find, unknown).await?;
        let catalog = self.catalog(&request.principal.tenant);
        let listed = catalog.lists().prompt(&prompt).ok_or_else(unknown)?;
        check_arguments(&listed.info, &arguments)?;
        let Some(export) = ticket.served.prompts.clone() else { return Err(unknown()) };
        let get = |engine: Engine, running, control| async move {
            export.get(&engine, (prompt, arguments), running, control).await
        };
        self.serve(&ticket, request, "prompt", get).await
    }

    /// Proposes values of an argument.
    pub async fn complete(&self, asked: Authorized<CompletionCall>) -> Result<Completion, CallError> {
        let asked = *asked.into_inner();
        let request = asked.request.clone();
        let of = asked.of.clone();
        let unknown = || match &of {
            CompletionOf::Prompt(name) => CallError::UnknownPrompt(name.clone()),
            CompletionOf::Template(template) => CallError::UnknownResource(template.clone()),
        };
        let find = |catalog: &Catalog| match &of {
            CompletionOf::Prompt(name) => catalog.lists().prompt(name).map(|listed| Arc::clone(&listed.service)),
            CompletionOf::Template(text) => match catalog.lists().template(text) {
                Some(template) => Some(Arc::clone(&template.listed.service)),
                None => catalog.lists().owner(text).cloned(),
            },
        };
        let ticket = self.enter(&request, request.principal.may_read(), find, unknown).await?;
        if let CompletionOf::Prompt(name) = &of {
            let catalog = self.catalog(&request.principal.tenant);
            let listed = catalog.lists().prompt(name).ok_or_else(unknown)?;
            if !listed.info.arguments.iter().any(|argument| argument.name == asked.argument) {
                return Err(no_argument(&asked.argument));
            }
        }
        let Some(export) = ticket.served.completions.clone() else {
            return Ok(Completion { values: Vec::new(), total: None, has_more: false });
        };
        let complete =
            |engine: Engine, running, control| async move { export.complete(&engine, asked, running, control).await };
        let mut completion = self.serve(&ticket, request, "completion", complete).await?;
        if completion.values.len() > MAX_COMPLETIONS {
            completion.values.truncate(MAX_COMPLETIONS);
            completion.has_more = true;
        }
        Ok(completion)
    }

    /// Runs a request in a guest, once it has a place.
    pub(super) async fn serve<S: AsRef<Service>, T, R>(
        &self,
        ticket: &Ticket<S>,
        request: Request,
        kind: &'static str,
        guest: impl FnOnce(Engine, Box<Running>, Arc<Control>) -> R,
    ) -> Result<T, CallError>
    where
        R: Future<Output = Result<T, CallError>>,
    {
        let _counted = self.0.calls.token();
        let service: &Service = S::as_ref(&ticket.served);
        let (cancel, weight) = (request.cancel.clone(), &service.weight);
        let run = async {
            ticket.count()?;
            let control = self.admit(ticket, &request, ticket.deadline(&request)).await?;
            if weight.is_heavy() || control.is_crowded() {
                control.note_slice();
            }
            let cause = format!("{kind} of {} by {}", service.powers.component, request.principal.subject);
            let running = self.running(&service.powers, request, kind.into(), Some(cause.into()));
            let pace = Arc::clone(control.pace());
            let done = guest(self.engine().clone(), running, control).await;
            weight.note(pace.processor_time());
            done
        };
        let result = ticket.while_tenant_is_there(&cancel, std::pin::pin!(run)).await;
        let outcome = result.as_ref().err().map_or("ok", CallError::kind);
        let tenant = ticket.tenant().to_string();
        metrics::counter!("mcpp_primitives_total", "tenant" => tenant, "kind" => kind, "outcome" => outcome)
            .increment(1);
        result
    }
}

/// Why a client is not told of a resource.
#[derive(Debug, thiserror::Error)]
pub enum SubscribeError {
    /// The resource is not there, or its component refuses.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The client or its tenant has too many subscriptions.
    #[error(transparent)]
    NoSubscription(#[from] NoSubscription),
}

/// Holds arguments to what a prompt lists.
fn check_arguments(info: &PromptInfo, given: &[(String, String)]) -> Result<(), CallError> {
    let known: BTreeSet<&str> = info.arguments.iter().map(|argument| argument.name.as_str()).collect();
    if let Some((name, _)) = given.iter().find(|(name, _)| !known.contains(name.as_str())) {
        return Err(no_argument(name));
    }
    let missing = info
        .arguments
        .iter()
        .find(|argument| argument.required && !given.iter().any(|(name, _)| *name == argument.name));
    match missing {
        None => Ok(()),
        Some(argument) => {
            let path = format!("/{}", argument.name);
            Err(CallError::InvalidArguments { path, reason: "the prompt needs this argument".to_owned() })
        }
    }
}

fn no_argument(name: &str) -> CallError {
    let path = format!("/{}", name.chars().take(160).collect::<String>());
    CallError::InvalidArguments { path, reason: "there is no such argument".to_owned() }
}
