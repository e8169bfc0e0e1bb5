//! The remote half of the task-queue protocol: a request goes to another host's queue by its one tool, `task_queue.rpc`, as the same caller.
//!
//! The host dials, keeps its lines open, and leaves a peer alone for a while that it cannot reach. Here are the choice of a peer, the words for failures, and the rule for repeating: a request is made
//! again if it cannot have run, or if running twice is the same as running once.

use std::time::{Duration, Instant};

use mcpp_tool::{
    caller, config,
    environment::{chance, pause},
    mesh::{self, Peer, PeerCallError},
};
use scheduling::backoff::Backoff;
use serde_json::{Value, json};

use crate::{origin, rpc};

/// The tool of a peer's queue.
const TOOL: &str = "task_queue.rpc";
/// A peer id that stands for any peer of the tenant that lets it.
const ANY: &str = "*";
/// Peers that are tried for a request to any of them.
const MAX_TRIED: usize = 8;
/// Attempts beyond the first.
const RETRIES: u32 = 2;
/// The time of a request that does not say how long it may take.
const DEFAULT_TIME: Duration = Duration::from_secs(10);
/// What a call of a tool takes at least and beyond its own time, and what a wait does.
const CALL_TIME: (Duration, Duration) = (Duration::from_secs(8), Duration::from_secs(5));
const WAIT_TIME: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(15));
/// Longest time of a request.
const LONGEST: Duration = Duration::from_secs(86_400);
/// Times that a request waits for the end of a peer's rest.
const MAX_RESTS: u32 = 8;
/// Time that a request waits beyond such a rest, which the host tells in whole milliseconds.
const AFTER_REST: Duration = Duration::from_millis(2);
/// Time that must be left of the call for another attempt.
const RESERVE: Duration = Duration::from_millis(100);

/// This service's name: that of this host in the mesh, or `local` where there is none.
pub fn own_name() -> String {
    mesh::identify().map_or_else(|_| rpc::PEER_ID.to_owned(), |host| host.id)
}

/// Answers a request: by this host's queue, or by the remote one that is meant. `remote` is a multiaddress and a peer id, either of which may be empty.
pub fn ask(remote: [&str; 2], request: Value) -> Value {
    if let Err(detail) = check_time(&request) {
        return failure("invalid_message", &detail);
    }
    match target(remote) {
        Ok(Target::Here) => rpc::handle(&request),
        Ok(Target::Peer(peer)) => ask_peer(&peer, &request).unwrap_or_else(|failed| failed.reply),
        Ok(Target::Any) => ask_any(&request),
        Err(detail) => failure("invalid_message", &detail),
    }
}

fn failure(error: &str, detail: &str) -> Value {
    json!({ "ok": false, "error": error, "detail": detail })
}

#[derive(Debug, PartialEq, Eq)]
enum Target {
    Here,
    Peer(String),
    Any,
}

/// Whose queue is meant.
fn target([address, peer]: [&str; 2]) -> Result<Target, String> {
    let (address, peer) = (address.trim(), peer.trim());
    let named = match address {
        "" => None,
        address => {
            let end = address.rsplit_once("/p2p/").or_else(|| address.rsplit_once("/ipfs/"));
            let legal = end.filter(|(_, peer)| address.starts_with('/') && !peer.is_empty() && !peer.contains('/'));
            Some(legal.ok_or("`remote_multiaddr` must be an address that ends in /p2p/ and a peer's id")?.1)
        }
    };
    let meant = match (named, peer) {
        (None, "") => return Ok(Target::Here),
        (None, ANY) => return Ok(Target::Any),
        (Some(named), peer) if !peer.is_empty() && peer != named => {
            return Err(format!(
                "`remote_multiaddr` is an address of {named}, not of the peer that is named beside it"
            ));
        }
        (Some(named), _) => named,
        (None, peer) => peer,
    };
    match mesh::identify() {
        Ok(host) if host.id == meant => Ok(Target::Here),
        _ => Ok(Target::Peer(meant.to_owned())),
    }
}

/// Why a peer did not answer, and whether another one may be asked.
struct Failed {
    reply: Value,
    has_not_run: bool,
}

/// Asks one peer, again where that is safe.
fn ask_peer(peer: &str, request: &Value) -> Result<Value, Failed> {
    let op = request.get("op").and_then(Value::as_str).unwrap_or_default();
    let backoff = Backoff { base_ms: if op == "wait" { 100 } else { 50 }, factor: 2.0, max_ms: 5_000 };
    let deadline = Instant::now().checked_add(time_of(op, request));
    let (mut failed, mut rests) = (0, 0);
    loop {
        let left = deadline.map_or(LONGEST, |deadline| deadline.saturating_duration_since(Instant::now()));
        let error = match mesh::call_within(peer, TOOL, request, left) {
            Ok(answer) => {
                let reply = answer.structured.filter(Value::is_object);
                return Ok(reply.unwrap_or_else(|| json!({ "ok": false, "error": "invalid_response" })));
            }
            Err(error) => error,
        };
        let rest = rest_of(&error);
        // The host did not try to reach a peer that it leaves alone, so that is no attempt.
        match rest {
            Some(_) if rests < MAX_RESTS => rests += 1,
            _ => failed += 1,
        }
        let wait = match (&error, rest) {
            (PeerCallError::Busy(wait), _) => *wait,
            (_, Some(rest)) => rest.saturating_add(AFTER_REST),
            _ => Duration::from_millis(backoff.wait_ms(failed, chance())),
        };
        let has_time = left.min(caller::remaining()) > wait.saturating_add(RESERVE);
        if failed > RETRIES || !has_time || !is_passing(&error) || !(error.has_not_run() || is_repeatable(op, request))
        {
            return Err(Failed { has_not_run: error.has_not_run(), reply: explain(op, peer, error) });
        }
        pause(wait);
    }
}

/// Asks peers of the tenant until one answers: the connected ones first, then by round trip.
fn ask_any(request: &Value) -> Value {
    let known = match mesh::peers() {
        Ok(known) => known,
        Err(error) => return failure("mesh_disabled", &error.to_string()),
    };
    let mut open: Vec<(bool, Option<Duration>, Peer)> = known
        .into_iter()
        .filter(|peer| peer.may_call(TOOL))
        .map(|peer| {
            let trip = mesh::metrics(&peer.id).ok().and_then(|measures| measures.round_trip);
            (peer.connection.is_none(), trip, peer)
        })
        .collect();
    open.sort_by_key(|(is_away, trip, _)| (*is_away, trip.unwrap_or(Duration::MAX)));
    let mut last = failure("unreachable", "no peer lets this tenant call `task_queue.rpc`: `mcpp join`");
    for (_, _, peer) in open.into_iter().take(MAX_TRIED) {
        match ask_peer(&peer.id, request) {
            Ok(reply) => return reply,
            Err(failed) if failed.has_not_run || is_repeatable(op_of(request), request) => last = failed.reply,
            Err(failed) => return failed.reply,
        }
    }
    last
}

fn op_of(request: &Value) -> &str {
    request.get("op").and_then(Value::as_str).unwrap_or_default()
}

/// Checks the time that a request is given: no peer is asked, and blamed, for one that cannot be answered in time. Only a wait may have none, and then looks once.
fn check_time(request: &Value) -> Result<(), String> {
    let Some(asked) = request.get("timeout_s") else { return Ok(()) };
    let may_be_none = op_of(request) == "wait";
    let is_legal =
        |seconds: &f64| (*seconds > 0.0 || (may_be_none && *seconds == 0.0)) && *seconds <= LONGEST.as_secs_f64();
    match asked.as_f64().filter(is_legal) {
        Some(_) => Ok(()),
        None => {
            let least = if may_be_none { "0" } else { "more than 0" };
            Err(format!("`timeout_s` is {asked}; {least} to {} seconds are allowed", LONGEST.as_secs()))
        }
    }
}

/// How long a request may take, answer and connection included.
fn time_of(op: &str, request: &Value) -> Duration {
    let asked = request.get("timeout_s").and_then(Value::as_f64).filter(|seconds| seconds.is_finite());
    let asked = asked.map(|seconds| Duration::from_secs_f64(seconds.clamp(0.0, LONGEST.as_secs_f64())));
    let (least, more) = match op {
        "call_tool" => CALL_TIME,
        "wait" => WAIT_TIME,
        _ => return asked.unwrap_or(DEFAULT_TIME),
    };
    asked.map_or(least, |asked| asked.saturating_add(more).max(least))
}

/// Whether an error may be gone at the next attempt.
fn is_passing(error: &PeerCallError) -> bool {
    matches!(error, PeerCallError::Busy(_) | PeerCallError::Unreachable(_) | PeerCallError::Interrupted(_))
}

/// How long the host goes on leaving the peer alone, if that is the error. The host says so in words only.
fn rest_of(error: &PeerCallError) -> Option<Duration> {
    let PeerCallError::Unreachable(reason) = error else { return None };
    let (_, rest) = reason.split_once("left alone for another ")?;
    let (ms, _) = rest.split_once(" ms")?;
    ms.parse().ok().map(Duration::from_millis)
}

/// Whether a request may run twice: it changes nothing, or the queue knows it again.
fn is_repeatable(op: &str, request: &Value) -> bool {
    let has = |field: &str| request.pointer(&format!("/payload/{field}")).is_some_and(|value| !value.is_null());
    match op {
        "status" | "list" | "get" | "wait" | "heartbeat" => true,
        "submit" => has("idempotency_key") || has("task_id"),
        op => op.starts_with("cache."),
    }
}

/// A failure in the words of the protocol.
fn explain(op: &str, peer: &str, error: PeerCallError) -> Value {
    let detail = error.to_string();
    match error {
        // As the protocol has it: no task that has ended by then.
        PeerCallError::TimedOut if op == "wait" => json!({ "ok": true, "task": null }),
        PeerCallError::Off => failure("mesh_disabled", &detail),
        PeerCallError::NotFound => failure(
            "unauthorized",
            &format!(
                "this tenant may not call `task_queue.rpc` of {peer}: `mcpp join` with a ticket of that host gives the right"
            ),
        ),
        PeerCallError::Busy(_) => failure("busy", &detail),
        PeerCallError::Unreachable(_) => failure("unreachable", &detail),
        PeerCallError::TimedOut => failure("timeout", &detail),
        PeerCallError::Interrupted(_) => failure("interrupted", &detail),
        PeerCallError::InvalidArguments(_) => failure("invalid_message", &detail),
        PeerCallError::TooDeep => failure("too_deep", &detail),
        _ => failure("internal_error", &detail),
    }
}

/// Replication of the cache: off unless the operator sets it.
const REPLICATE: &str = "IPFS_ACCELERATE_PY_TASK_P2P_CACHE_REPLICATE";
/// Peers that a value is sent to.
const REPLICATE_PEERS: &str = "IPFS_ACCELERATE_PY_TASK_P2P_CACHE_REPLICATE_MAX_PEERS";
const DEFAULT_COPIES: usize = 6;
const MAX_COPIES: usize = 16;
/// Largest request that is sent on, in bytes.
const MAX_COPY_BYTES: usize = 64 << 10;
/// Time of one copy.
const COPY_TIME: Duration = Duration::from_secs(1);

/// Sends a value that was written into the cache to peers; how many have it. Nothing is sent on that a peer sent, nor what says that it is not for others.
pub fn replicate(request: &Value) -> usize {
    let is_on = config::get(REPLICATE).is_some_and(|value| matches!(value.as_str(), "1" | "true" | "yes" | "on"));
    let stays = request.get("replicate") == Some(&json!(false)) || request.get("origin_peer_id").is_some();
    if !is_on || stays || origin::peer().is_some() {
        return 0;
    }
    let mut copy = request.clone();
    if let Some(fields) = copy.as_object_mut() {
        fields.insert("replicate".into(), json!(false));
        fields.insert("origin_peer_id".into(), json!(own_name()));
    }
    if copy.to_string().len() > MAX_COPY_BYTES {
        return 0;
    }
    let copies = config::get(REPLICATE_PEERS).and_then(|text| text.parse().ok()).unwrap_or(DEFAULT_COPIES);
    let peers = mesh::peers().unwrap_or_default().into_iter();
    let open = peers.filter(|peer| peer.connection.is_some() && peer.may_call(TOOL));
    let mut copied = 0;
    for peer in open.take(copies.min(MAX_COPIES)) {
        if caller::remaining() < COPY_TIME * 2 {
            break;
        }
        // A copy that does not arrive is a miss there, which is no error of a cache.
        copied += usize::from(mesh::call_within(&peer.id, TOOL, &copy, COPY_TIME).is_ok());
    }
    copied
}

#[cfg(test)]
mod tests;
