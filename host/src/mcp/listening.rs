//! Clients that are told of changes: of lists, of the resources that they want to know of, and of their tasks. A client that does not read gets one notification for all that changed meanwhile.
//!
//! A subscription of the modern era is served here and not by the protocol engine, which knows no tasks in a subscription: the doors give the request another name.

mod legacy;

use std::sync::Arc;

use rmcp::{
    RoleServer,
    model::{
        ClientRequest, CustomNotification, ErrorData, GetExtensions as _, Implementation, JsonRpcRequest,
        NotificationMetaObject, PromptListChangedNotification, ResourceListChangedNotification,
        ResourceUpdatedNotification, ResourceUpdatedNotificationParam, ServerNotification, SubscriptionFilter,
        SubscriptionsListenResult, TaskStatusNotification, TaskStatusNotificationParams, ToolListChangedNotification,
    },
    service::RequestContext,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};
use tokio::sync::watch;

pub(super) use self::legacy::LegacyListening;
use super::{
    handler::{Endpoint, extension},
    primitives::Asking,
    tasks::{TaskListening, plan::TaskWish},
};
use crate::{
    capability::changed::MAX_URI_BYTES,
    control::admission::Share,
    registry::{
        Generations,
        changes::{MAX_SUBSCRIPTIONS, ResourceListener},
    },
    tenant::Principal,
};

/// The method, as clients name it.
pub(super) const LISTEN: &str = "subscriptions/listen";
/// The method, as the doors name it towards the engine.
const SERVED_AS: &str = "mcpp/subscriptions/listen";
const ACKNOWLEDGED: &str = "notifications/subscriptions/acknowledged";

/// Says that a request is a subscription that a door has let in. A client that uses the inner name has none.
#[derive(Debug, Clone)]
pub(super) struct ListenPass;

/// The name under which the engine gets a subscription, and its message.
pub(super) fn served_as(id: &Value, params: Option<&RawValue>) -> (&'static str, String) {
    let params = params.map_or("{}", RawValue::get);
    (SERVED_AS, format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{SERVED_AS}","params":{params}}}"#))
}

/// The same where no door takes the message apart before the engine does.
pub(super) fn request(id: &Value, params: Option<&RawValue>) -> Option<JsonRpcRequest<ClientRequest>> {
    let (_, message) = served_as(id, params);
    let mut request: JsonRpcRequest<ClientRequest> = serde_json::from_str(&message).ok()?;
    request.request.extensions_mut().insert(ListenPass);
    Some(request)
}

/// What a client wants to be told of, or will be.
#[derive(Debug, Serialize, Deserialize)]
struct Filter {
    #[serde(flatten)]
    filter: SubscriptionFilter,
    #[serde(rename = "taskIds", default, skip_serializing_if = "Option::is_none")]
    task_ids: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
struct ListenParams {
    notifications: Filter,
}

/// What a subscription of the modern era listens to, from before it is acknowledged.
struct Listening {
    accepted: Filter,
    lists: watch::Receiver<Generations>,
    resources: Option<Arc<ResourceListener>>,
    /// The resources to which nobody listened before.
    first: Vec<String>,
    tasks: TaskListening,
}

/// A client's stream, and the subscription that it belongs to.
struct Subscriber<'a> {
    context: &'a RequestContext<RoleServer>,
    /// None if the tenant is gone.
    share: Option<Arc<Share>>,
}

impl Subscriber<'_> {
    fn meta(&self) -> NotificationMetaObject {
        let mut meta = NotificationMetaObject::new();
        meta.set_subscription_id(self.context.id.clone());
        meta
    }

    /// `None` if the client is gone.
    async fn tell(&self, notification: ServerNotification) -> Option<()> {
        let share = self.share.as_ref()?;
        tokio::select! {
            () = self.context.ct.cancelled() => return None,
            () = share.notices.wait() => {}
        }
        self.context.peer.send_notification(notification).await.ok()
    }

    async fn acknowledge(&self, accepted: &Filter) -> Option<()> {
        let params = json!({ "_meta": self.meta(), "notifications": accepted });
        self.tell(ServerNotification::CustomNotification(CustomNotification::new(ACKNOWLEDGED, Some(params)))).await
    }

    async fn tell_lists(&self, wanted: &SubscriptionFilter, told: Generations, now: Generations) -> Option<()> {
        if wanted.tools_list_changed == Some(true) && now.tools != told.tools {
            let mut changed =
                ToolListChangedNotification { method: Default::default(), extensions: Default::default() };
            changed.extensions.insert(self.meta());
            self.tell(ServerNotification::ToolListChangedNotification(changed)).await?;
        }
        if wanted.resources_list_changed == Some(true) && now.resources != told.resources {
            let mut changed =
                ResourceListChangedNotification { method: Default::default(), extensions: Default::default() };
            changed.extensions.insert(self.meta());
            self.tell(ServerNotification::ResourceListChangedNotification(changed)).await?;
        }
        if wanted.prompts_list_changed == Some(true) && now.prompts != told.prompts {
            let mut changed =
                PromptListChangedNotification { method: Default::default(), extensions: Default::default() };
            changed.extensions.insert(self.meta());
            self.tell(ServerNotification::PromptListChangedNotification(changed)).await?;
        }
        Some(())
    }

    async fn tell_updates(&self, uris: Vec<Arc<str>>) -> Option<()> {
        for uri in uris {
            let mut updated = ResourceUpdatedNotification::new(ResourceUpdatedNotificationParam::new(&*uri));
            updated.extensions.insert(self.meta());
            self.tell(ServerNotification::ResourceUpdatedNotification(updated)).await?;
        }
        Some(())
    }

    async fn tell_task(&self, task: rmcp::model::DetailedTask) -> Option<()> {
        let params = TaskStatusNotificationParams::new(task).with_meta(self.meta());
        self.tell(ServerNotification::TaskStatusNotification(TaskStatusNotification::new(params))).await
    }
}

impl Endpoint {
    /// `subscriptions/listen`: tells the client of changes until it leaves. The answer is for a host that ends first.
    pub(super) async fn listen(
        &self,
        principal: &Principal,
        params: Option<Value>,
        context: &RequestContext<RoleServer>,
        asking: &Asking<'_>,
    ) -> Result<Value, ErrorData> {
        let params = serde_json::from_value::<ListenParams>(params.unwrap_or_default());
        let invalid =
            |error| ErrorData::invalid_params(format!("the params of `{LISTEN}` are not valid: {error}"), None);
        let wanted = params.map_err(invalid)?.notifications;
        let knows_tasks = context
            .meta
            .client_capabilities()
            .as_ref()
            .is_some_and(|declared| TaskWish::of(declared) == TaskWish::Declared);
        let task_ids = wanted.task_ids.filter(|_| knows_tasks);
        let listening = self.begin_listening(principal, &wanted.filter, task_ids).await;
        let subscriber = Subscriber { context, share: self.registry().share(&principal.tenant) };
        if subscriber.acknowledge(&listening.accepted).await.is_some() {
            self.tell_changes(principal, listening, &subscriber, asking).await;
        }
        let mut result = SubscriptionsListenResult::complete(context.id.clone());
        result.meta.set_server_info(Implementation::new(self.name().to_owned(), env!("CARGO_PKG_VERSION")));
        serde_json::to_value(&result).map_err(|error| ErrorData::internal_error(error.to_string(), None))
    }

    async fn begin_listening(
        &self,
        principal: &Principal,
        requested: &SubscriptionFilter,
        task_ids: Option<Vec<String>>,
    ) -> Listening {
        let registry = self.registry();
        let mut lists = registry.watch(&principal.tenant);
        lists.mark_unchanged();
        let mut accepted = SubscriptionFilter::default();
        accepted.tools_list_changed = requested.tools_list_changed;
        let served = self.served_kinds(principal);
        accepted.prompts_list_changed = requested.prompts_list_changed.filter(|_| served.prompts);
        accepted.resources_list_changed = requested.resources_list_changed.filter(|_| served.resources);
        let (mut resources, mut first) = (None, Vec::new());
        let wanted = requested.resource_subscriptions.iter().flatten().take(MAX_SUBSCRIPTIONS);
        let (share, listener) = (registry.share(&principal.tenant), registry.listener(&principal.tenant));
        if let (true, Some(share), Some(listener)) = (served.resources, share, listener) {
            let catalog = registry.catalog(&principal.tenant);
            let mut uris = Vec::new();
            for uri in wanted.filter(|uri| uri.len() <= MAX_URI_BYTES && catalog.lists().owner(uri).is_some()) {
                match listener.subscribe(uri, &share.memory) {
                    Ok(is_first) => {
                        uris.push(uri.clone());
                        first.extend(is_first.then(|| uri.clone()));
                    }
                    Err(full) => {
                        tracing::debug!(error = %full, "a subscription was left out");
                        break;
                    }
                }
            }
            if !uris.is_empty() {
                accepted.resource_subscriptions = Some(uris);
                resources = Some(listener);
            }
        }
        let wanted = task_ids.unwrap_or_default();
        let (tasks, ids) = self.listen_to_tasks(principal, wanted).await;
        let accepted = Filter { filter: accepted, task_ids: Some(ids).filter(|ids| !ids.is_empty()) };
        Listening { accepted, lists, resources, first, tasks }
    }

    async fn tell_changes(
        &self,
        principal: &Principal,
        listening: Listening,
        subscriber: &Subscriber<'_>,
        asking: &Asking<'_>,
    ) {
        let Listening { accepted, mut lists, resources, first, mut tasks } = listening;
        let telling = async {
            for uri in first {
                self.tell_subscribed(asking, uri).await;
            }
            std::future::pending::<()>().await;
        };
        let mut telling = std::pin::pin!(telling);
        let mut told = *lists.borrow();
        let writer = extension(&subscriber.context.extensions);
        loop {
            let is_told = tokio::select! {
                () = subscriber.context.ct.cancelled() => return,
                () = &mut telling => Some(()),
                changed = lists.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let now = *lists.borrow_and_update();
                    let before = std::mem::replace(&mut told, now);
                    subscriber.tell_lists(&accepted.filter, before, now).await
                }
                uris = next_updates(resources.as_deref()) => subscriber.tell_updates(uris).await,
                task = tasks.next(self, principal, writer) => subscriber.tell_task(task).await,
            };
            if is_told.is_none() {
                return;
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
