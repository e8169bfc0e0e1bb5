//! Calls that have put off their answers: the host asks the component again and again, as the caller, until there is the answer. No instance waits in between.

use std::time::Duration;

use futures::future::BoxFuture;
use tokio::{sync::oneshot, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{McpTasks, abandoned::AbandonedAnswers};
use crate::{
    call::{
        Budget, CallError, CallEvent, Request, ToolResult,
        asks::DeferredCall,
        authorize,
        inputs::{AskError, ClientLine, Reply},
    },
    guest::deferred::{AskedForms, Deferred, DeferredWork, FormAnswer, Progress},
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

/// Waits for the answer of a call that has put it off.
pub(in crate::mcp) struct Follower {
    registry: Registry,
    abandoned: AbandonedAnswers,
    /// The call's request.
    request: Request,
    tool: ToolName,
    /// For how long the client's user is asked; none if that has no end.
    user_waits_for: Option<Duration>,
    /// Is told by what the component knows the answer.
    told: Option<oneshot::Sender<String>>,
    /// The last progress: it only rises.
    done: f64,
}

/// The replies to a round of questions, once they come.
type Replies = BoxFuture<'static, Result<Vec<Reply>, AskError>>;

/// The forms that a client's user is asked, one at a time.
#[derive(Default)]
struct Forms {
    /// The name of the open one, and its reply.
    open: Option<(String, Replies)>,
    /// Those that the user has closed, or that cannot be asked, as long as the work asks them.
    closed: Vec<String>,
}

/// Failures in a row, and the growing pauses after them.
#[derive(Default)]
struct Retry {
    failures: u32,
}

impl Retry {
    /// Waits after one more failure.
    async fn pause(&mut self) {
        let pause = AGAIN.saturating_mul(2_u32.saturating_pow(self.failures));
        self.failures = self.failures.saturating_add(1);
        tokio::time::sleep(pause.min(MOST_PAUSE)).await;
    }
}

/// Says that nobody wants an answer any more, unless somebody got it.
struct Abandoned {
    registry: Registry,
    answers: AbandonedAnswers,
    asked: Option<DeferredCall>,
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        // A host that stops leaves the work to those who ask for it later.
        if let (Some(asked), false) = (self.asked.take(), self.registry.stopping().is_cancelled()) {
            self.answers.add(&self.registry, asked);
        }
    }
}

/// A request of a caller that may ask anything of components at all.
pub(super) fn authorized(asked: &DeferredCall) -> Result<Authorized<DeferredCall>, CallError> {
    authorize(asked.clone()).map_err(|denied| CallError::Failed(denied.to_string()))
}

impl Follower {
    /// One for a call of `tool` by this request, whose user is asked for so long.
    pub(in crate::mcp) fn new(
        (registry, tasks): (&Registry, &McpTasks),
        request: &Request,
        tool: &ToolName,
        user_waits_for: Option<Duration>,
    ) -> Self {
        let (registry, request, tool) = (registry.clone(), request.clone(), tool.clone());
        let abandoned = tasks.abandoned.clone();
        Self { registry, abandoned, request, tool, user_waits_for, told: None, done: 0.0 }
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
        let looks = CancellationToken::new();
        let asked = self.asked(handle, looks.clone());
        let unwanted = DeferredCall {
            request: Request { cancel: CancellationToken::new(), ..asked.request.clone() },
            ..asked.clone()
        };
        let (registry, answers) = (self.registry.clone(), self.abandoned.clone());
        let mut abandoned = Abandoned { registry, answers, asked: Some(unwanted) };
        // A look that runs ends with this.
        let _stop_looks = looks.drop_guard();
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
            ended = self.until_it_ends(&asked) => ended.and_then(|known| {
                // The component knows of the end.
                abandoned.asked = None;
                known
            }),
        };
        drop(abandoned);
        ended
    }

    /// A request about the answer. Its guest says nothing beside it, and asks nobody.
    fn asked(&self, handle: String, cancel: CancellationToken) -> DeferredCall {
        let Request { principal, trace, hops, .. } = self.request.clone();
        let request = Request { trace, hops, cancel, ..Request::of(principal) };
        DeferredCall { request, tool: self.tool.clone(), handle }
    }

    /// The end that the component knows of; an error is one that it does not know of.
    async fn until_it_ends(&mut self, asked: &DeferredCall) -> Result<Result<ToolResult, CallError>, CallError> {
        let mut retry = Retry::default();
        let mut forms = Forms::default();
        loop {
            let earliest = Instant::now() + LEAST_PAUSE;
            let (work, component) = match self.registry.look_at_deferred(authorized(asked)?).await {
                Ok((Deferred::Running(work), component)) => (work, component),
                Ok((Deferred::Ended(result), _)) => return Ok(Ok(result)),
                Ok((Deferred::Cancelled, _)) => return Ok(Err(CallError::Cancelled)),
                Ok((Deferred::Unknown, component)) => {
                    let reason = format!("`{component}` does not know of this work any more");
                    return Ok(Err(CallError::Failed(reason)));
                }
                // It would say the same again.
                Err(error @ CallError::InvalidResult { .. }) => return Err(error),
                Err(error @ CallError::BudgetExceeded { budget: Budget::Output, .. }) => return Err(error),
                Err(error) if retry.failures >= MAX_FAILURES => return Err(error),
                Err(error) => {
                    tracing::debug!(tool = %self.tool, %error, "an answer that was put off cannot be asked for");
                    retry.pause().await;
                    continue;
                }
            };
            retry = Retry::default();
            let DeferredWork { progress, asks, changes } = work;
            self.report(progress);
            forms.follow(asks, &self.request.client, self.user_waits_for);
            let changed = async {
                match &changes {
                    Some(entry) => {
                        let (principal, entry) = (&self.request.principal, (&*entry.key, entry.version));
                        if self.registry.deferred_changes(principal, &component, entry).await.is_err() {
                            std::future::pending().await
                        }
                    }
                    None => std::future::pending().await,
                }
            };
            let replied = tokio::select! {
                replied = forms.reply() => Some(replied),
                () = changed => None,
                () = tokio::time::sleep(MOST_PAUSE) => None,
            };
            if let Some((name, reply)) = replied {
                match reply {
                    Ok(Reply::Accepted(values)) => {
                        let values = values.unwrap_or_default().to_string();
                        self.hand_over(asked, name, FormAnswer::Accepted(values)).await?;
                    }
                    Ok(Reply::Declined) => self.hand_over(asked, name, FormAnswer::Declined).await?,
                    // A client that was asked, and does not come back, has gone away.
                    Err(AskError::Expired) => {
                        return Err(CallError::Failed("the client did not answer in time".to_owned()));
                    }
                    // There may be room for it later.
                    Err(AskError::Busy) => tokio::time::sleep(AGAIN).await,
                    closed => {
                        tracing::debug!(tool = %self.tool, form = name, ?closed, "a form of an answer that was put off is closed");
                        forms.closed.push(name);
                    }
                }
            }
            tokio::time::sleep_until(earliest).await;
        }
    }

    /// Tells the client how far the work is.
    fn report(&mut self, progress: Option<Progress>) {
        if let Some(Progress { done, total, message }) = progress
            && done.is_finite()
            && done > self.done
        {
            self.done = done;
            let total = total.filter(|total| total.is_finite());
            self.request.observer.notify(CallEvent::Progress { done, total, message });
        }
    }

    /// Gives the component the answer to a form.
    async fn hand_over(&self, asked: &DeferredCall, form: String, answer: FormAnswer) -> Result<(), CallError> {
        let mut retry = Retry::default();
        while let Err(error) = self.registry.reply_to_deferred(authorized(asked)?, (form.clone(), answer.clone())).await
        {
            if retry.failures >= MAX_FAILURES {
                return Err(error);
            }
            retry.pause().await;
        }
        Ok(())
    }
}

impl Forms {
    /// Keeps to what the work asks now: the open form as long as that is asked, else the first that is not closed.
    fn follow(&mut self, asks: Option<AskedForms>, client: &ClientLine, patience: Option<Duration>) {
        let (asked, memory) = asks.map_or((Vec::new(), None), |(asked, memory)| (asked, Some(memory)));
        let is_asked = |name: &String| asked.iter().any(|(asked, _)| asked == name);
        self.closed.retain(is_asked);
        if self.open.as_ref().is_some_and(|(name, _)| !is_asked(name)) {
            self.open = None;
        }
        let next = asked.into_iter().find(|(name, _)| !self.closed.contains(name));
        if let (None, Some((name, question)), Some(memory), true) = (&self.open, next, memory, client.abilities().form)
        {
            let (client, now) = (client.clone(), Instant::now());
            let until = now + patience.unwrap_or(Duration::from_millis(MAX_WORK_MS));
            let questions = vec![(name.clone(), question)];
            let reply = async move {
                let asking = tokio::time::timeout_at(until, client.ask(questions, memory, until));
                asking.await.unwrap_or(Err(AskError::Expired))
            };
            self.open = Some((name, Box::pin(reply)));
        }
    }

    /// The reply to the open form. Never, if none is open.
    async fn reply(&mut self) -> (String, Result<Reply, AskError>) {
        let Some((_, reply)) = &mut self.open else { return std::future::pending().await };
        let replies = reply.await;
        let name = self.open.take().map(|(name, _)| name).unwrap_or_default();
        (name, replies.and_then(|replies| replies.into_iter().next().ok_or(AskError::NoClient)))
    }
}
