//! Answers that were put off and that nobody waits for any more: the host says so to their components, for each tenant one after the other.
//!
//! A component may not take it, or take long. So the line of a tenant is bounded in number and in memory, an answer has a bound of attempts and of time, and after each attempt the
//! tenant's line rests. An answer whose caller has lost its right has one attempt, and soon.

mod line;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use self::line::{AbandonedAnswer, AbandonedLine, NextAnswer};
use super::deferred::authorized;
use crate::{
    call::{CallError, Request, asks::DeferredCall},
    memory::MemoryUse,
    names::TenantId,
    registry::Registry,
    tasks::EntryRight,
    telemetry::known::may_log,
    tenant::Principal,
};

/// Memory of an answer in the line, in bytes.
const ANSWER_BYTES: u64 = 4 << 10;
/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(5);
/// After an attempt the tenant's line rests so many times as long as that took.
const REST: u32 = 4;
/// The longest rest.
const MAX_REST: Duration = Duration::from_secs(5);
/// Bytes of a reason in the log.
const MAX_REASON_BYTES: usize = 1 << 10;

/// The lines of a host's tenants. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct AbandonedAnswers(Arc<Mutex<HashMap<TenantId, AbandonedLine>>>);

impl AbandonedAnswers {
    fn lines(&self) -> MutexGuard<'_, HashMap<TenantId, AbandonedLine>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that nobody waits for an answer. Where there is no room, its component is not told.
    pub(super) fn add(&self, registry: &Registry, asked: DeferredCall) {
        let tenant = asked.request.principal.tenant.clone();
        let Some(share) = registry.share(&tenant) else { return };
        let held = match share.memory.reserve(MemoryUse::Messages, ANSWER_BYTES) {
            Ok(held) => held,
            Err(full) => return note_untold(registry, &asked, 0, &full.to_string()),
        };
        let answer = AbandonedAnswer::new(asked, held, Instant::now());
        let (begins, refused) = {
            let mut lines = self.lines();
            let begins = !lines.contains_key(&tenant);
            (begins, lines.entry(tenant.clone()).or_default().add(answer))
        };
        if let Some(refused) = refused {
            note_untold(registry, &refused.asked, 0, "too many answers of the tenant were given up at once");
        }
        if begins {
            let (answers, registry) = (self.clone(), registry.clone());
            // A component's guest computes for nobody: it takes no time from doors.
            let engine = registry.engine().clone();
            drop(engine.spawn(async move { answers.work_off(&registry, &tenant).await }));
        }
    }

    /// Hurries the answers of callers that came in by such a right and may not come in any more.
    pub(super) fn hurry_unless(&self, right: EntryRight, comes_in: impl Fn(&Principal) -> bool) {
        let now = Instant::now();
        for line in self.lines().values_mut() {
            line.hurry(now, |caller| right_of(caller) == right && !comes_in(caller));
        }
    }

    async fn work_off(&self, registry: &Registry, tenant: &TenantId) {
        loop {
            let next = {
                let mut lines = self.lines();
                let next = lines.get_mut(tenant).map_or(NextAnswer::None, |line| line.next(Instant::now()));
                if matches!(next, NextAnswer::None) || registry.stopping().is_cancelled() {
                    lines.remove(tenant);
                    return;
                }
                next
            };
            let rest = match next {
                NextAnswer::None => return,
                NextAnswer::In(time) => time,
                NextAnswer::Late(late) => {
                    note_untold(registry, &late.asked, late.attempts, "it took too long");
                    Duration::ZERO
                }
                NextAnswer::Now(answer) => {
                    let began = Instant::now();
                    self.attempt(registry, answer).await;
                    began.elapsed().saturating_mul(REST).min(MAX_REST)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(rest) => {}
                () = registry.stopping().cancelled() => {}
            }
        }
    }

    async fn attempt(&self, registry: &Registry, answer: AbandonedAnswer) {
        let caller = &answer.asked.request.principal;
        // A tenant that was removed or suspended.
        if !registry.is_open(&caller.tenant, &caller.incarnation) {
            return;
        }
        let request = Request {
            cancel: registry.stopping().child_token(),
            deadline: Instant::now().checked_add(ATTEMPT),
            ..answer.asked.request.clone()
        };
        let told = match authorized(&DeferredCall { request, ..answer.asked.clone() }) {
            Ok(asked) => registry.cancel_deferred(asked).await,
            Err(denied) => Err(denied),
        };
        let Err(error) = told else { return };
        let mut reason = error.to_string();
        reason.truncate(reason.floor_char_boundary(MAX_REASON_BYTES));
        let again = !matches!(error, CallError::UnknownTool(_));
        let tenant = caller.tenant.clone();
        let given_up = match self.lines().get_mut(&tenant) {
            Some(line) if again => line.try_again(answer, Instant::now()),
            _ => Some(answer),
        };
        if let Some(given_up) = given_up {
            note_untold(registry, &given_up.asked, given_up.attempts, &reason);
        }
    }
}

/// By what right a caller came in, as far as its name says. One that is taken for another is given up too early at the worst.
fn right_of(caller: &Principal) -> EntryRight {
    if caller.subject.starts_with("peer:") {
        EntryRight::PeerGrant
    } else if *caller == Principal::local_user() {
        EntryRight::Owner
    } else {
        EntryRight::Token
    }
}

/// Says that a component was not told. The record takes of what the tenant's guests may write.
fn note_untold(registry: &Registry, asked: &DeferredCall, attempts: u32, reason: &str) {
    let tenant = &asked.request.principal.tenant;
    if !may_log(Some(tenant), reason.len()) {
        return;
    }
    let tool = registry.catalog(tenant).tool(&asked.tool);
    let component = tool.as_ref().map(|tool| &*tool.component);
    tracing::warn!(%tenant, component, tool = %asked.tool, attempts, reason, "a component was not told that nobody wants an answer");
}
