//! Clients that are told of changes: of lists, and of the resources that they want to know of. A client that does not read gets one notification for all that changed meanwhile.

use std::sync::Arc;

use rmcp::{
    RoleServer,
    model::{ErrorData, ResourceUpdatedNotificationParam, SubscriptionFilter},
    service::{Peer, SubscriptionContext},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{handler::Endpoint, primitives::Asking, session::Sessions};
use crate::{
    capability::changed::MAX_URI_BYTES,
    registry::{
        Generations,
        changes::{MAX_SUBSCRIPTIONS, ResourceListener},
    },
    tenant::Principal,
};

/// What a subscription of the modern era listens to, from before it is acknowledged.
#[derive(Debug)]
pub(super) struct Listening {
    lists: watch::Receiver<Generations>,
    resources: Option<Arc<ResourceListener>>,
    /// The resources to which nobody listened before.
    first: Vec<String>,
}

impl Endpoint {
    /// Begins to listen, and says to what of `requested`.
    pub(super) fn begin_listening(
        &self,
        principal: &Principal,
        requested: &SubscriptionFilter,
    ) -> (SubscriptionFilter, Listening) {
        let registry = self.registry();
        let mut lists = registry.watch(&principal.tenant);
        lists.mark_unchanged();
        let mut listening = Listening { lists, resources: None, first: Vec::new() };
        let mut accepted = SubscriptionFilter::default();
        accepted.tools_list_changed = requested.tools_list_changed;
        let served = self.served_kinds(principal);
        accepted.prompts_list_changed = requested.prompts_list_changed.filter(|_| served.prompts);
        accepted.resources_list_changed = requested.resources_list_changed.filter(|_| served.resources);
        let wanted = requested.resource_subscriptions.iter().flatten().take(MAX_SUBSCRIPTIONS);
        let (share, listener) = (registry.share(&principal.tenant), registry.listener(&principal.tenant));
        if let (true, Some(share), Some(listener)) = (served.resources, share, listener) {
            let catalog = registry.catalog(&principal.tenant);
            let mut uris = Vec::new();
            for uri in wanted.filter(|uri| uri.len() <= MAX_URI_BYTES && catalog.lists().owner(uri).is_some()) {
                match listener.subscribe(uri, &share.memory) {
                    Ok(is_first) => {
                        uris.push(uri.clone());
                        listening.first.extend(is_first.then(|| uri.clone()));
                    }
                    Err(full) => {
                        tracing::debug!(error = %full, "a subscription was left out");
                        break;
                    }
                }
            }
            if !uris.is_empty() {
                accepted.resource_subscriptions = Some(uris);
                listening.resources = Some(listener);
            }
        }
        (accepted, listening)
    }

    /// Tells the client of changes until it leaves.
    pub(super) async fn listen(
        &self,
        listening: Listening,
        subscription: &SubscriptionContext,
        asking: &Asking<'_>,
    ) -> Result<(), ErrorData> {
        let Listening { mut lists, resources, first } = listening;
        let (wanted, sink) = (subscription.accepted(), subscription.sink());
        let telling = async {
            for uri in first {
                self.tell_subscribed(asking, uri).await;
            }
            std::future::pending::<()>().await;
        };
        let mut telling = std::pin::pin!(telling);
        let mut told = *lists.borrow();
        loop {
            tokio::select! {
                () = subscription.cancelled() => return Ok(()),
                () = &mut telling => {}
                changed = lists.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let now = *lists.borrow_and_update();
                    let is = |wanted: Option<bool>, differs: bool| differs && wanted == Some(true);
                    let gone = (is(wanted.tools_list_changed, now.tools != told.tools)
                        && sink.notify_tool_list_changed().await.is_err())
                        || (is(wanted.resources_list_changed, now.resources != told.resources)
                            && sink.notify_resource_list_changed().await.is_err())
                        || (is(wanted.prompts_list_changed, now.prompts != told.prompts)
                            && sink.notify_prompt_list_changed().await.is_err());
                    if gone {
                        return Ok(());
                    }
                    told = now;
                }
                uris = next_updates(resources.as_deref()) => {
                    for uri in uris {
                        if sink.notify_resource_updated(&*uri).await.is_err() {
                            return Ok(());
                        }
                    }
                }
            }
        }
    }
}

async fn next_updates(listener: Option<&ResourceListener>) -> Vec<Arc<str>> {
    match listener {
        Some(listener) => listener.changed().await,
        None => std::future::pending().await,
    }
}

/// A legacy client that is told of changes until its session ends.
pub(super) struct LegacyListening {
    pub(super) peer: Peer<RoleServer>,
    pub(super) lists: watch::Receiver<Generations>,
    /// Whether resources and prompts are there for it.
    pub(super) may_read: bool,
    pub(super) listener: Option<Arc<ResourceListener>>,
    /// Its session's record, if it has one.
    pub(super) record: Option<(Arc<Sessions>, String)>,
    /// What it was told of before its session was parked.
    pub(super) known: Option<Generations>,
    pub(super) alive: CancellationToken,
}

impl LegacyListening {
    pub(super) async fn run(mut self) {
        let mut told = self.known.unwrap_or(*self.lists.borrow_and_update());
        loop {
            let now = *self.lists.borrow_and_update();
            if self.tell_lists(told, now).await.is_none() {
                return;
            }
            told = now;
            if let Some((sessions, session)) = &self.record {
                sessions.set_generations(session, told);
            }
            tokio::select! {
                changed = self.lists.changed() => if changed.is_err() { return },
                uris = next_updates(self.listener.as_deref()) => {
                    if self.tell_updates(&uris).await.is_none() {
                        return;
                    }
                }
                () = self.alive.cancelled() => return,
            }
        }
    }

    /// `None` if the session was parked or ended: its client is told when it comes back.
    async fn tell_updates(&self, uris: &[Arc<str>]) -> Option<()> {
        for (at, uri) in uris.iter().enumerate() {
            let updated = ResourceUpdatedNotificationParam::new(&**uri);
            if self.peer.notify_resource_updated(updated).await.is_err() {
                let untold = uris.iter().skip(at);
                untold.for_each(|uri| self.listener.iter().for_each(|listener| listener.mark(uri)));
                return None;
            }
        }
        Some(())
    }

    /// `None` if the client is gone.
    async fn tell_lists(&self, told: Generations, now: Generations) -> Option<()> {
        if now.tools != told.tools {
            self.peer.notify_tool_list_changed().await.ok()?;
        }
        if self.may_read && now.resources != told.resources {
            self.peer.notify_resource_list_changed().await.ok()?;
        }
        if self.may_read && now.prompts != told.prompts {
            self.peer.notify_prompt_list_changed().await.ok()?;
        }
        Some(())
    }
}
