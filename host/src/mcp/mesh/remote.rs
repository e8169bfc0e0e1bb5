//! Calling out: tools of other hosts, over lines that stay open.
//!
//! A call carries its deadline, its trace and the hosts behind it; its progress, log records and cost come back. It is made once: where a line breaks under it, it may have run, and the caller
//! is told so. Only what cannot have run says so ([`CallError::has_not_run`]). A peer that cannot be reached is left alone for a while, twice as long each time.

mod health;
pub mod list;
mod message;
mod old;
pub mod pulse;
mod tally;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use rmcp::model::{ListToolsResult, Tool as WireTool};
use serde_json::{Value, json};
use tokio::{sync::watch, time::Instant};

pub use self::health::Health;
use self::{
    health::FIRST_BACK_OFF,
    message::{meta, not_read, params, read_answer, read_result},
    old::{OldDialect, SpokenDialect},
    tally::Tallies,
};
use super::{
    PROTOCOL,
    line::{Broken, InLine, PeerAnswer, PeerLine},
};
use crate::{
    call::{
        Budget, Call, CallError, MAX_HOPS, Observer, ReachPeer, Receipt, Request, ToolResult,
        interface::InterfaceDigest,
    },
    capability::mesh::handle::CallTally,
    config::MeshDoorConfig,
    limits::millis,
    mcp::apart::read_apart,
    memory::MemoryUse,
    mesh::{PeerId, Unreachable, dial::Dial},
    names::ToolName,
    peers::known::KnownPeers,
    permits::TenantPermits,
    registry::Registry,
    tenant::{Authorized, Principal},
};

/// Time to open a line.
const DIAL_TIME: Duration = Duration::from_secs(8);
/// Requests of this host's to one peer at the same time; further ones wait in their tenant's line, within their deadline.
const MAX_IN_FLIGHT: usize = 64;
/// Peers that are remembered; those without a line are forgotten first.
const MAX_REMOTES: usize = 4_096;
/// A call without a deadline of its caller's ends after this time.
const LONGEST_CALL: Duration = Duration::from_secs(600);
/// Pages of a peer's list of tools that are read, and tools on them together.
const MAX_PAGES: usize = 64;
const MAX_TOOLS: usize = 1_000;

/// All peers that this host calls. Clones share them.
#[derive(Debug, Clone)]
pub struct Remotes(Arc<RemotesState>);

#[derive(Debug)]
struct RemotesState {
    dial: Arc<dyn Dial>,
    config: MeshDoorConfig,
    peers: Arc<KnownPeers>,
    registry: Registry,
    remotes: Mutex<HashMap<PeerId, Arc<Remote>>>,
}

/// One peer.
#[derive(Debug)]
struct Remote {
    line: tokio::sync::Mutex<Option<PeerLine>>,
    in_flight: TenantPermits,
    health: Mutex<Health>,
    tallies: Tallies,
    /// Counts what comes from it.
    heard: Arc<AtomicU64>,
    /// How it is spoken to, if it is a task-queue service of before MCP++'s bindings.
    old: SpokenDialect,
    /// Held by the call that listens for a sign of life.
    pulse: tokio::sync::Mutex<()>,
}

/// Counts a request in flight.
struct InFlightCount<'a>(&'a Remote);

impl<'a> InFlightCount<'a> {
    fn new(remote: &'a Remote) -> Self {
        let mut health = remote.health();
        health.in_flight = health.in_flight.saturating_add(1);
        drop(health);
        Self(remote)
    }
}

impl Drop for InFlightCount<'_> {
    fn drop(&mut self) {
        let mut health = self.0.health();
        health.in_flight = health.in_flight.saturating_sub(1);
    }
}

impl Remote {
    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Remotes {
    /// Calls peers by `dial`, as far as `peers` knows that they let this host.
    pub fn new(dial: Arc<dyn Dial>, config: MeshDoorConfig, peers: Arc<KnownPeers>, registry: Registry) -> Self {
        Self(Arc::new(RemotesState { dial, config, peers, registry, remotes: Mutex::default() }))
    }

    /// How a peer does.
    pub fn health(&self, peer: &PeerId) -> Health {
        let remotes = self.0.remotes.lock().unwrap_or_else(PoisonError::into_inner);
        remotes.get(peer).map(|remote| remote.health_now()).unwrap_or_default()
    }

    /// A tenant's calls of a peer; none if it made none.
    pub fn tally(&self, of: &Principal, peer: &PeerId) -> Option<CallTally> {
        let remotes = self.0.remotes.lock().unwrap_or_else(PoisonError::into_inner);
        remotes.get(peer).and_then(|remote| remote.tallies.of(of))
    }

    /// Counts something of a tenant's calls of a peer.
    fn count(&self, remote: &Remote, of: &Principal, count: impl FnOnce(&mut CallTally)) {
        remote.tallies.count(of, |tenant, incarnation| self.0.registry.is_open(tenant, incarnation), count);
    }

    /// Ends the line to a peer, with what waits on it.
    pub async fn hang_up(&self, peer: &PeerId) {
        let remote = self.0.remotes.lock().unwrap_or_else(PoisonError::into_inner).get(peer).cloned();
        if let Some(remote) = remote
            && let Some(line) = remote.line.lock().await.take()
        {
            line.close();
        }
    }

    fn remote(&self, peer: &PeerId) -> Arc<Remote> {
        let mut remotes = self.0.remotes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(remote) = remotes.get(peer) {
            return Arc::clone(remote);
        }
        if remotes.len() >= MAX_REMOTES {
            let in_use = |remote: &Arc<Remote>| {
                Arc::strong_count(remote) > 1
                    || remote.line.try_lock().is_ok_and(|line| line.as_ref().is_some_and(|line| !line.is_closed()))
            };
            remotes.retain(|_, remote| in_use(remote));
        }
        let remote = Arc::new(Remote {
            line: tokio::sync::Mutex::default(),
            in_flight: TenantPermits::new(MAX_IN_FLIGHT),
            health: Mutex::default(),
            tallies: Tallies::default(),
            heard: Arc::default(),
            old: SpokenDialect::default(),
            pulse: tokio::sync::Mutex::default(),
        });
        // Beyond the bound a peer is not remembered, and its line ends with its call.
        if remotes.len() < MAX_REMOTES {
            remotes.insert(peer.clone(), Arc::clone(&remote));
        }
        remote
    }

    /// The line to a peer: the one that is open, or another.
    async fn line(&self, peer: &PeerId, remote: &Remote) -> Result<PeerLine, CallError> {
        let mut line = remote.line.lock().await;
        if let Some(open) = line.as_ref().filter(|line| !line.is_closed()) {
            return Ok(open.clone());
        }
        let unreachable = |reason: String| CallError::Unreachable { peer: peer.to_string(), reason };
        if let Some(until) = remote.health().rests_until
            && let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
        {
            let reason = format!("it could not be reached, and is left alone for another {} ms", left.as_millis());
            return Err(unreachable(reason));
        }
        let opened = match self.0.dial.dial(peer, PROTOCOL, DIAL_TIME).await {
            Ok(stream) => PeerLine::open(stream, &self.0.config, self.0.registry.engine(), Arc::clone(&remote.heard)),
            Err(error) => {
                if matches!(error, Unreachable::Unsupported { .. }) {
                    remote.old.note(OldDialect::Lines);
                }
                remote.health().missed();
                return Err(unreachable(error.to_string()));
            }
        };
        remote.health().reached(None);
        *line = Some(opened.clone());
        Ok(opened)
    }

    /// Sends a request, on another line if the one there was closed before anything was sent.
    async fn ask(
        &self,
        peer: &PeerId,
        remote: &Remote,
        method: &str,
        params: impl Fn(u64) -> String,
        observer: &Observer,
    ) -> Result<(PeerLine, InLine), CallError> {
        for _ in 0..2 {
            let line = self.line(peer, remote).await?;
            if let Some(asked) = line.ask(method, &params, observer.clone()).await {
                return Ok((line, asked));
            }
        }
        Err(CallError::Unreachable { peer: peer.to_string(), reason: "its streams close at once".to_owned() })
    }

    async fn call(&self, peer: &PeerId, call: Call) -> (Result<ToolResult, CallError>, Receipt) {
        let started = Instant::now();
        let Call { request, tool, arguments, interface, .. } = call;
        let (result, receipt) = match self.may_begin(peer, &request, &tool) {
            Err(error) => (Err(error), Receipt::default()),
            Ok(()) => {
                let remote = self.remote(peer);
                self.count(&remote, &request.principal, |tally| tally.requests = tally.requests.saturating_add(1));
                let calling = self.try_call(peer, &remote, &request, &tool, (arguments, interface));
                let called = self.watched(peer, &remote, calling).await;
                let (result, receipt) = called.unwrap_or_else(|error| (Err(error), Receipt::default()));
                if result.is_err() {
                    self.count(&remote, &request.principal, |tally| tally.failures = tally.failures.saturating_add(1));
                }
                (result, receipt)
            }
        };
        metrics::counter!("mcpp_mesh_calls_out_total", "outcome" => result.as_ref().err().map_or("ok", CallError::kind)).increment(1);
        (result, Receipt { duration: started.elapsed(), ..receipt })
    }

    /// Whether a call may be made at all. Nothing is remembered of one that may not.
    fn may_begin(&self, peer: &PeerId, request: &Request, tool: &ToolName) -> Result<(), CallError> {
        if !self.0.peers.may_call(&request.principal, peer, tool) {
            return Err(CallError::UnknownTool(tool.clone()));
        }
        if request.hops >= MAX_HOPS { Err(CallError::TooDeep) } else { Ok(()) }
    }

    async fn try_call(
        &self,
        peer: &PeerId,
        remote: &Remote,
        request: &Request,
        tool: &ToolName,
        (arguments, interface): (Value, Option<InterfaceDigest>),
    ) -> Result<(Result<ToolResult, CallError>, Receipt), CallError> {
        let started = Instant::now();
        let longest = started + LONGEST_CALL;
        let deadline = request.deadline.map_or(longest, |deadline| deadline.min(longest));
        let over = CallError::BudgetExceeded {
            budget: Budget::Deadline,
            limit: millis(deadline.saturating_duration_since(started)),
        };
        let within = async |deadline: Instant| {
            tokio::select! {
                () = request.cancel.cancelled() => CallError::Cancelled,
                () = tokio::time::sleep_until(deadline) => over.clone(),
            }
        };
        let (params, bytes) = params(request, tool, (&arguments, interface), deadline);
        let account = self.0.registry.share(&request.principal.tenant).map(|share| Arc::clone(&share.memory));
        let reserve =
            |bytes: u64| account.as_ref().map(|account| account.reserve(MemoryUse::Messages, bytes)).transpose();
        let busy = |_| CallError::PeerBusy {
            reason: "this tenant has no memory left for messages".into(),
            retry_after: FIRST_BACK_OFF,
        };
        let _asked_memory = reserve(bytes).map_err(busy)?;
        let _counted = InFlightCount::new(remote);
        let sent = AtomicU64::new(0);
        let params = |id| {
            let params = params(id);
            sent.store(u64::try_from(params.len()).unwrap_or(u64::MAX), Ordering::Relaxed);
            params
        };
        let asking = async {
            remote.in_flight.set_shared(self.0.registry.is_shared());
            let permit = remote.in_flight.take(&request.principal.tenant).await;
            let asked = self.ask(peer, remote, "tools/call", &params, &request.observer).await?;
            Ok::<_, CallError>((permit, asked))
        };
        let old = async |dialect: OldDialect| {
            remote.old.note(dialect);
            tokio::select! {
                result = old::call((&*self.0.dial, self.0.registry.engine()), peer, dialect, &arguments) => Ok((result, Receipt::default())),
                error = within(deadline) => Err(error),
            }
        };
        if let Some(dialect) = remote.old.of(tool) {
            return old(dialect).await;
        }
        let asked = tokio::select! {
            asked = asking => asked,
            error = within(deadline) => return Err(error),
        };
        let (_permit, (line, mut asked)) = match (asked, remote.old.of(tool)) {
            (Err(_), Some(dialect)) => return old(dialect).await,
            (asked, _) => asked?,
        };
        self.count(remote, &request.principal, |tally| {
            tally.sent_bytes = tally.sent_bytes.saturating_add(sent.load(Ordering::Relaxed));
        });
        let answer = tokio::select! {
            biased;
            answer = asked.answer() => answer,
            // The request is cancelled at the peer when it is dropped here.
            error = within(deadline) => return Err(error),
        };
        let PeerAnswer { json: answer, value_bytes } = answer.map_err(|Broken(reason)| {
            remote.health().missed();
            CallError::Interrupted { reason: format!("the peer {peer} went away: {reason}") }
        })?;
        if old::wants_greeting(tool, &answer) {
            return old(OldDialect::Frames).await;
        }
        let bytes = u64::try_from(answer.len()).unwrap_or(u64::MAX);
        self.count(remote, &request.principal, |tally| {
            tally.received_bytes = tally.received_bytes.saturating_add(bytes);
        });
        let held = reserve(value_bytes)
            .map_err(|_| CallError::Interrupted { reason: "this tenant has no memory left for the result".into() })?;
        let (mut result, receipt) = read_answer(self.0.registry.engine(), peer, tool, answer).await?;
        if matches!(result, Err(CallError::OtherInterface)) {
            line.note_change();
        }
        remote.health().reached(Some(started.elapsed().saturating_sub(receipt.duration)));
        if let (Ok(result), Some(held)) = (&mut result, held) {
            result.memory.keep(held);
        }
        Ok((result, receipt))
    }

    /// All tools of a peer that it lets this host see, and what tells of changes of that list.
    pub async fn tools(&self, peer: &PeerId) -> Result<Vec<WireTool>, CallError> {
        let remote = self.remote(peer);
        let mut tools = Vec::new();
        let mut cursor: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let params = |_| {
                let mut params = json!({ "_meta": meta() });
                if let (Some(cursor), Some(params)) = (&cursor, params.as_object_mut()) {
                    params.insert("cursor".into(), cursor.clone().into());
                }
                params.to_string()
            };
            let asking = async {
                let (_line, mut asked) = self.ask(peer, &remote, "tools/list", params, &Observer::default()).await?;
                let broken = |Broken(reason)| CallError::Unreachable { peer: peer.to_string(), reason };
                asked.answer().await.map_err(broken)
            };
            let late = |_| CallError::Unreachable { peer: peer.to_string(), reason: "it does not answer".to_owned() };
            let answer = tokio::time::timeout(DIAL_TIME, asking).await.map_err(late)??;
            let (of, bytes) = (peer.clone(), answer.json.len());
            let read = move || read_result::<ListToolsResult>(&of, &answer.json);
            let page = read_apart(self.0.registry.engine(), bytes, read).await.ok_or_else(not_read)??;
            tools.extend(page.tools);
            cursor = page.next_cursor;
            if cursor.is_none() || tools.len() > MAX_TOOLS {
                break;
            }
        }
        tools.truncate(MAX_TOOLS);
        Ok(tools)
    }

    /// Subscribes to changes of a peer's list of tools. The subscription ends with the value, or with the line.
    pub async fn listen(&self, peer: &PeerId) -> Result<Subscription, CallError> {
        let remote = self.remote(peer);
        let params = |_| json!({ "_meta": meta(), "notifications": { "toolsListChanged": true } }).to_string();
        let (line, asked) = self.ask(peer, &remote, "subscriptions/listen", params, &Observer::default()).await?;
        Ok(Subscription { changes: line.changes(), line, _asked: asked })
    }
}

/// News of a peer's list of tools.
#[derive(Debug)]
pub struct Subscription {
    changes: watch::Receiver<u64>,
    line: PeerLine,
    _asked: InLine,
}

impl Subscription {
    /// Resolves when the list has changed; `false` if there is no more news to come.
    pub async fn changed(&mut self) -> bool {
        tokio::select! {
            changed = self.changes.changed() => changed.is_ok(),
            () = self.line.closed() => false,
        }
    }
}

impl ReachPeer for Remotes {
    fn reach<'a>(
        &'a self,
        peer: &'a PeerId,
        call: Authorized<Call>,
    ) -> BoxFuture<'a, (Result<ToolResult, CallError>, Receipt)> {
        Box::pin(self.call(peer, *call.into_inner()))
    }
}
