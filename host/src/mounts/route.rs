//! The way of one mounted tool's calls: to the less loaded of two peers that offer it, and on to another only if the call cannot have run.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use serde_json::Value;
use tokio::{sync::watch, time::Instant};

use crate::{
    call::{
        Call, CallError, ReachPeer as _, Receipt, Request, ToolResult, authorize, interface::InterfaceDigest,
        place::CallPlace,
    },
    mcp::mesh::remote::{Health, Remotes},
    mesh::PeerId,
    names::ToolName,
    registry::remote::CallRemote,
};

/// How long a call waits for a peer that tells what it offers: as long as a connection takes.
const OFFER_TIME: Duration = Duration::from_secs(5);
/// Latency of a peer that was never measured.
const UNMEASURED: Duration = Duration::from_millis(1);
/// Peers that one call is made to, if it has run on none of them.
const MAX_ATTEMPTS: usize = 4;

/// The peers that serve a tool now.
type ReadyPeers = Arc<[PeerId]>;

/// The way to one tool of peers.
#[derive(Debug)]
pub(super) struct ToolRoute {
    remotes: Remotes,
    /// Its name there.
    tool: ToolName,
    ready: watch::Sender<ReadyPeers>,
}

impl ToolRoute {
    /// The way to a tool that no peer serves yet.
    pub(super) fn new(remotes: Remotes, tool: ToolName) -> Self {
        Self { remotes, tool, ready: watch::Sender::new(Arc::default()) }
    }

    /// Says which peers serve it from now on.
    pub(super) fn set_ready(&self, peers: &[PeerId]) {
        self.ready.send_if_modified(|ready| {
            let changed = **ready != *peers;
            if changed {
                *ready = peers.into();
            }
            changed
        });
    }

    /// A peer for a call that was made to those in `tried`; waits for one if there never was any.
    async fn next_peer(
        &self,
        tried: &[PeerId],
        request: &Request,
        until: Instant,
    ) -> Result<Option<PeerId>, CallError> {
        let mut ready = self.ready.subscribe();
        loop {
            let peers = Arc::clone(&ready.borrow_and_update());
            let left: Vec<(PeerId, Health)> = peers
                .iter()
                .filter(|peer| !tried.contains(peer))
                .map(|peer| (peer.clone(), self.remotes.health(peer)))
                .collect();
            if let Some(peer) = choose(&left, chance()) {
                return Ok(Some(peer.clone()));
            }
            if !tried.is_empty() {
                return Ok(None);
            }
            tokio::select! {
                _ = ready.changed() => {}
                () = request.cancel.cancelled() => return Err(CallError::Cancelled),
                () = tokio::time::sleep_until(until) => {
                    let reason = "none of the hosts that have the tool can be reached now".to_owned();
                    return Err(CallError::Unreachable { peer: format!("of `{}`", self.tool), reason });
                }
            }
        }
    }

    async fn go(
        &self,
        request: Request,
        arguments: Value,
        interface: InterfaceDigest,
    ) -> (Result<ToolResult, CallError>, Receipt) {
        let nothing = |error| (Err(error), Receipt::default());
        let wait = Instant::now() + OFFER_TIME;
        let until = request.deadline.map_or(wait, |deadline| deadline.min(wait));
        let mut tried: Vec<PeerId> = Vec::new();
        let mut refused = None;
        while tried.len() < MAX_ATTEMPTS {
            let peer = match self.next_peer(&tried, &request, until).await {
                Ok(Some(peer)) => peer,
                Ok(None) => break,
                Err(error) => return nothing(error),
            };
            let (tool, arguments) = (self.tool.clone(), arguments.clone());
            let call = Call { interface: Some(interface), ..Call::new(request.clone(), tool, arguments) };
            let Ok(call) = authorize(call) else { return nothing(CallError::UnknownTool(self.tool.clone())) };
            request.place.write(Some(CallPlace::Peer(peer.clone())));
            let (result, receipt) = self.remotes.reach(&peer, call).await;
            let error = match result {
                Err(error) if may_go_elsewhere(&error) => error,
                result => return (result, receipt),
            };
            request.place.write(None);
            if let CallError::PeerBusy { retry_after, .. } = error {
                self.remotes.note_busy(&peer, retry_after);
            }
            metrics::counter!("mcpp_mount_calls_elsewhere_total", "reason" => error.kind()).increment(1);
            refused = Some(named(error, &peer));
            tried.push(peer);
        }
        nothing(refused.unwrap_or(CallError::Cancelled))
    }
}

impl CallRemote for ToolRoute {
    fn call(
        &self,
        request: Request,
        arguments: Value,
        interface: InterfaceDigest,
    ) -> BoxFuture<'_, (Result<ToolResult, CallError>, Receipt)> {
        Box::pin(self.go(request, arguments, interface))
    }
}

/// Whether the call cannot have run, for a reason that is the peer's.
fn may_go_elsewhere(error: &CallError) -> bool {
    error.has_not_run() || matches!(error, CallError::UnknownTool(_))
}

/// The refusal as the caller knows the tool: by another name than the peer does.
fn named(error: CallError, peer: &PeerId) -> CallError {
    match error {
        CallError::UnknownTool(tool) => {
            CallError::Unreachable { peer: peer.to_string(), reason: format!("it has no tool `{tool}` for this host") }
        }
        CallError::OtherInterface => {
            let reason = "its tool has another interface than the one that was accepted here".to_owned();
            CallError::Unreachable { peer: peer.to_string(), reason }
        }
        other => other,
    }
}

/// The less loaded of two peers that chance names; of those to avoid only if there are no others.
fn choose(peers: &[(PeerId, Health)], chance: u64) -> Option<&PeerId> {
    let good: Vec<&(PeerId, Health)> = peers.iter().filter(|(_, health)| !health.is_avoided()).collect();
    let of = if good.is_empty() { peers.iter().collect() } else { good };
    let count = u64::try_from(of.len()).unwrap_or(u64::MAX);
    let first = chance.checked_rem(count)?;
    // Another one than the first, if there are two.
    let second = chance
        .checked_div(count)?
        .checked_rem(count.saturating_sub(1))
        .map_or(first, |step| first.saturating_add(1).saturating_add(step).checked_rem(count).unwrap_or(first));
    let at = |place: u64| usize::try_from(place).ok().and_then(|place| of.get(place));
    [at(first), at(second)].into_iter().flatten().min_by_key(|(_, health)| load(health)).map(|(peer, _)| peer)
}

/// How long a call would take beyond its own time, if those in flight took it one after the other.
fn load(health: &Health) -> Duration {
    let waiting = u32::try_from(health.in_flight).unwrap_or(u32::MAX).saturating_add(1);
    health.latency.unwrap_or(UNMEASURED).max(Duration::from_micros(1)).saturating_mul(waiting)
}

fn chance() -> u64 {
    let mut bytes = [0; 8];
    let _the_first_if_it_fails = getrandom::fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn peer(letter: char) -> PeerId {
        format!("12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2{letter}o").parse().expect("a peer")
    }

    fn health(latency_ms: u64, in_flight: usize) -> Health {
        Health { latency: Some(Duration::from_millis(latency_ms)), in_flight, ..Health::default() }
    }

    /// How often each is chosen, of 600 calls.
    fn chosen(peers: &[(PeerId, Health)]) -> BTreeMap<PeerId, usize> {
        let mut counts = BTreeMap::new();
        for chance in 0..600 {
            *counts.entry(choose(peers, chance).expect("one").clone()).or_default() += 1;
        }
        counts
    }

    #[test]
    fn the_less_loaded_of_two_is_chosen() {
        let (a, b, c) = (peer('A'), peer('B'), peer('C'));
        assert_eq!(choose(&[], 7), None);
        assert_eq!(chosen(&[(a.clone(), health(9, 9))]), [(a.clone(), 600)].into());
        assert_eq!(chosen(&[(a.clone(), health(10, 0)), (b.clone(), health(1, 5))]), [(b.clone(), 600)].into());
        assert_eq!(chosen(&[(a.clone(), health(10, 0)), (b.clone(), health(1, 15))]), [(a.clone(), 600)].into());
        let equal = chosen(&[(a.clone(), health(1, 0)), (b.clone(), health(1, 0)), (c.clone(), health(1, 0))]);
        assert_eq!(equal, [(a.clone(), 200), (b.clone(), 200), (c.clone(), 200)].into());
        // The worst of three is never the better of two.
        let three = chosen(&[(a.clone(), health(1, 0)), (b.clone(), health(2, 0)), (c, health(3, 0))]);
        assert_eq!(three, [(a, 400), (b, 200)].into());
    }

    #[test]
    fn a_peer_to_avoid_is_chosen_only_where_there_is_no_other() {
        let (a, b) = (peer('A'), peer('B'));
        let later = Instant::now().checked_add(Duration::from_secs(60));
        let avoided = [
            Health { busy_until: later, ..health(1, 0) },
            Health { rests_until: later, ..health(1, 0) },
            Health { silent_until: later.map(|until| (until, 0)), ..health(1, 0) },
        ];
        for health_of_a in avoided {
            let peers = [(a.clone(), health_of_a), (b.clone(), health(99, 99))];
            assert_eq!(chosen(&peers), [(b.clone(), 600)].into(), "{health_of_a:?}");
            assert_eq!(chosen(&peers[..1]), [(a.clone(), 600)].into());
        }
    }
}
