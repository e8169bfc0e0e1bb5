//! Calls that have put off their answers: the host asks the component again and again, as the caller, until there is the answer. No instance waits in between.

use std::time::Duration;

use futures::future::BoxFuture;
use tokio::{sync::oneshot, time::Instant};

use crate::{
    call::{
        CallError, CallEvent, Request, ToolResult,
        asks::DeferredCall,
        authorize,
        inputs::{AskError, Reply},
    },
    guest::deferred::{Deferred, DeferredWork, FormAnswer},
    names::ToolName,
    registry::Registry,
    tasks::MAX_WORK_MS,
    tenant::Authorized,
};

/// The least time between two looks at one answer.
const LEAST_PAUSE: Duration = Duration::from_millis(100);
/// The most.
const MOST_PAUSE: Duration = Duration::from_secs(60);
/// After a look that did not succeed the next one waits for so long; after each further one twice as long, up to [`MOST_PAUSE`].
const AGAIN: Duration = Duration::from_secs(1);
/// So many looks in a row may not succeed: a quarter of an hour.
const MAX_FAILURES: u32 = 20;
/// How often the host says that nobody wants an answer, if the component does not take it.
const CANCELS: u32 = 8;

/// Waits for the answer of a call that has put it off.
pub(in crate::mcp) struct Follower {
    registry: Registry,
    /// The call's request.
    request: Request,
    tool: ToolName,
    component: String,
    /// Is told by what the component knows the answer.
    told: Option<oneshot::Sender<String>>,
    /// The last progress: it only rises.
    done: f64,
}

/// What the client is asked, and its replies.
struct OpenForms {
    names: Vec<String>,
    /// None once there are replies, or none will come.
    replies: Option<BoxFuture<'static, Result<Vec<Reply>, AskError>>>,
}

/// Says that nobody wants an answer any more, unless somebody got it.
struct Abandoned {
    registry: Registry,
    asked: Option<DeferredCall>,
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        // A host that stops leaves the work to those who ask for it later.
        let (Some(asked), false) = (self.asked.take(), self.registry.stopping().is_cancelled()) else { return };
        let (registry, Ok(runtime)) = (self.registry.clone(), tokio::runtime::Handle::try_current()) else { return };
        runtime.spawn(async move {
            let mut pause = AGAIN;
            for _ in 0..CANCELS {
                let cancelled = match authorized(&asked) {
                    Ok(asked) => registry.cancel_deferred(asked).await,
                    Err(denied) => Err(denied),
                };
                match cancelled {
                    Ok(()) => return,
                    Err(error) => tracing::warn!(%error, "a component does not take that nobody wants an answer"),
                }
                tokio::time::sleep(pause).await;
                pause = MOST_PAUSE.min(pause.saturating_mul(2));
            }
        });
    }
}

/// A request of a caller that may ask anything of components at all.
fn authorized(asked: &DeferredCall) -> Result<Authorized<DeferredCall>, CallError> {
    authorize(asked.clone()).map_err(|denied| CallError::Failed(denied.to_string()))
}

impl Follower {
    /// One for a call of `tool` by this request.
    pub(in crate::mcp) fn new(registry: &Registry, request: &Request, tool: &ToolName) -> Self {
        let component = registry.catalog(&request.principal.tenant).tool(tool);
        let component = component.map(|tool| tool.component.to_string()).unwrap_or_default();
        let (registry, request, tool) = (registry.clone(), request.clone(), tool.clone());
        Self { registry, request, tool, component, told: None, done: 0.0 }
    }

    /// The same, and the receiver of what the component knows the answer by.
    pub(in crate::mcp) fn telling(self) -> (Self, oneshot::Receiver<String>) {
        let (told, handle) = oneshot::channel();
        (Self { told: Some(told), ..self }, handle)
    }

    /// Waits for the answer.
    pub(in crate::mcp) async fn follow(mut self, handle: String) -> Result<ToolResult, CallError> {
        if let Some(told) = self.told.take() {
            let _nobody_may_keep_it = told.send(handle.clone());
        }
        let asked = self.asked(handle);
        let mut abandoned = Abandoned { registry: self.registry.clone(), asked: Some(asked.clone()) };
        let (cancel, stopping) = (self.request.cancel.clone(), self.registry.stopping().clone());
        let ended = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(CallError::Cancelled),
            () = stopping.cancelled() => {
                Err(CallError::Interrupted { reason: "the host stops; the work goes on when it is back".to_owned() })
            }
            () = tokio::time::sleep(Duration::from_millis(MAX_WORK_MS)) => {
                Err(CallError::Failed("the answer did not come within 31 days".to_owned()))
            }
            ended = self.until_it_ends(&asked) => {
                abandoned.asked = None;
                ended
            }
        };
        drop(abandoned);
        ended
    }

    /// A request about the answer. Its guest says nothing beside it, and asks nobody.
    fn asked(&self, handle: String) -> DeferredCall {
        let Request { principal, trace, hops, .. } = self.request.clone();
        DeferredCall { request: Request { trace, hops, ..Request::of(principal) }, tool: self.tool.clone(), handle }
    }

    async fn until_it_ends(&mut self, asked: &DeferredCall) -> Result<ToolResult, CallError> {
        let (mut failures, mut pause) = (0_u32, AGAIN);
        let mut forms: Option<OpenForms> = None;
        loop {
            let earliest = Instant::now() + LEAST_PAUSE;
            let work = match self.registry.look_at_deferred(authorized(asked)?).await {
                Ok(Deferred::Running(work)) => work,
                Ok(Deferred::Ended(result)) => return Ok(result),
                Ok(Deferred::Cancelled) => return Err(CallError::Cancelled),
                Ok(Deferred::Unknown) => {
                    return Err(CallError::Failed(format!("`{}` does not know of this work any more", self.component)));
                }
                Err(error) if failures >= MAX_FAILURES => return Err(error),
                Err(error) => {
                    tracing::debug!(tool = %self.tool, %error, "an answer that was put off cannot be asked for");
                    failures = failures.saturating_add(1);
                    tokio::time::sleep(pause).await;
                    pause = MOST_PAUSE.min(pause.saturating_mul(2));
                    continue;
                }
            };
            (failures, pause) = (0, AGAIN);
            let DeferredWork { progress, asks, changes } = work;
            if let Some(progress) = progress.filter(|progress| progress.done.is_finite() && progress.done > self.done) {
                self.done = progress.done;
                let total = progress.total.filter(|total| total.is_finite());
                let message = progress.message;
                self.request.observer.notify(CallEvent::Progress { done: progress.done, total, message });
            }
            let names = |forms: &OpenForms| forms.names.clone();
            let wanted: Vec<String> =
                asks.iter().flat_map(|(questions, _)| questions).map(|(name, _)| name.clone()).collect();
            if forms.as_ref().map(names).unwrap_or_default() != wanted {
                forms = asks.filter(|_| self.request.client.abilities().form).map(|(questions, memory)| {
                    let client = self.request.client.clone();
                    // The client itself has no end of its patience: the work goes on without its reply if it can.
                    let until = Instant::now() + Duration::from_millis(MAX_WORK_MS);
                    let replies = async move { client.ask(questions, memory, until).await };
                    OpenForms { names: wanted, replies: Some(Box::pin(replies)) }
                });
            }
            let replied = async {
                match forms.as_mut().and_then(|forms| forms.replies.as_mut()) {
                    Some(replies) => replies.await,
                    None => std::future::pending().await,
                }
            };
            let changed = async {
                match &changes {
                    Some(entry) => {
                        let entry = (&*entry.key, entry.version);
                        let principal = &self.request.principal;
                        if self.registry.deferred_changes(principal, &self.component, entry).await.is_err() {
                            std::future::pending().await
                        }
                    }
                    None => std::future::pending().await,
                }
            };
            let replies = tokio::select! {
                replies = replied => Some(replies),
                () = changed => None,
                () = tokio::time::sleep(MOST_PAUSE) => None,
            };
            if let (Some(replies), Some(open)) = (replies, &mut forms) {
                open.replies = None;
                self.hand_over(asked, &open.names, replies).await?;
            }
            tokio::time::sleep_until(earliest).await;
        }
    }

    /// Gives the component what the client replied. A form that was closed, or could not be asked, stays open there.
    async fn hand_over(
        &self,
        asked: &DeferredCall,
        names: &[String],
        replies: Result<Vec<Reply>, AskError>,
    ) -> Result<(), CallError> {
        let replies = match replies {
            Ok(replies) => replies,
            Err(error) => {
                tracing::debug!(tool = %self.tool, ?error, "a user gets no form of an answer that was put off");
                return Ok(());
            }
        };
        for (name, reply) in names.iter().zip(replies) {
            let answer = match reply {
                Reply::Accepted(values) => FormAnswer::Accepted(values.unwrap_or_default().to_string()),
                Reply::Declined => FormAnswer::Declined,
                _ => continue,
            };
            let mut pause = AGAIN;
            let mut left = MAX_FAILURES;
            while let Err(error) =
                self.registry.reply_to_deferred(authorized(asked)?, (name.clone(), answer.clone())).await
            {
                left = left.checked_sub(1).ok_or(error)?;
                tokio::time::sleep(pause).await;
                pause = MOST_PAUSE.min(pause.saturating_mul(2));
            }
        }
        Ok(())
    }
}
