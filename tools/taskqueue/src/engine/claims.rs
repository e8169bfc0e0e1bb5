//! Claiming: the next task that this worker may have.

use std::collections::BTreeMap;

use mcpp_tool::store::{Map, Order, Read, StoreError, Write};
use scheduling::{clock::VectorClock, placement};

use super::{QueueError, alarm, ids::check_name, store};
use crate::{
    queue::{ANY_TYPE, OPEN_LANE, Place, READY, TASKS, WORKERS, canonical_type, lane, settings},
    record::Task,
    rules,
};

/// Most types that one claim may name.
const MAX_TYPES: usize = 64;
/// Tasks that deterministic placement looks at.
const MAX_CANDIDATES: u32 = 200;
/// Bytes of their records: what can be read within a transaction's time. The first one's owner finds it whatever comes behind it.
const MAX_CANDIDATE_BYTES: usize = 4 << 20;
/// After this long without a word a peer is not alive any more, in milliseconds.
pub const PEER_TIMEOUT_MS: u64 = 300_000;
/// Peers that are remembered.
const MAX_PEERS: u32 = 1_000;

/// The service's clock.
const CLOCK: Map<(), VectorClock> = Map::new("clock");
/// When each peer was last heard of, in the order in which they became known.
const PEERS: Map<(u64, String), Peer> = Map::new("peer");
/// Which number a peer has.
const PEER_NUMBERS: Map<String, u64> = Map::new("peer-number");

/// The queue's record of a peer.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
struct Peer {
    /// When it was last heard of, in milliseconds since 1970-01-01 UTC.
    seen_ms: u64,
}

/// The claimer, and the tasks that it wants.
#[derive(Debug, Clone, Default)]
pub struct ClaimRequest<'a> {
    /// The worker.
    pub worker: &'a str,
    /// The types that it can do; none for any.
    pub types: Vec<String>,
    /// Its session.
    pub session: Option<&'a str>,
    /// The peer that it is, for placement; the worker itself if it says nothing.
    pub peer: Option<&'a str>,
}

/// Gives the worker the next task that it may have, if there is one. A due task has become ready before: see [`look_after`](super::look_after).
pub fn claim(
    t: &mut (impl Write + ?Sized),
    request: &ClaimRequest<'_>,
    now_ms: u64,
) -> Result<Option<Task>, QueueError> {
    check_name("worker_id", request.worker)?;
    request.session.map_or(Ok(()), |session| check_name("session_id", session))?;
    request.peer.map_or(Ok(()), |peer| check_name("peer_id", peer))?;
    if request.types.len() > MAX_TYPES {
        return Err(QueueError::Invalid(format!("supported_task_types has more than {MAX_TYPES} types")));
    }
    for (number, name) in request.types.iter().enumerate() {
        check_name(&format!("supported_task_types/{number}"), name)?;
    }
    alarm::revive(t, now_ms)?;
    let settings = settings(t)?;
    if settings.paused.is_some() || !has_room(t, request.worker)? {
        return Ok(None);
    }
    let found =
        if settings.deterministic { find_owned(t, request, now_ms)? } else { find_next(t, request)?.map(|(_, id)| id) };
    let Some(id) = found else { return Ok(None) };
    let Some(before) = TASKS.get(t, &id)? else { return Ok(None) };
    let mut after = before.clone();
    after.fit();
    rules::claim(&mut after, request.worker, now_ms)?;
    store(t, &before, &after, now_ms)?;
    Ok(Some(after))
}

/// A registered worker has so much room; one that is leaving has none. An unregistered worker has no bound.
fn has_room(t: &mut (impl Read + ?Sized), worker: &str) -> Result<bool, StoreError> {
    let worker = WORKERS.get(t, &worker.to_owned())?;
    Ok(worker.is_none_or(|worker| worker.leaves_ms.is_none() && worker.running < worker.max_concurrent_tasks))
}

/// The lanes from which a claimer may take.
fn lanes(request: &ClaimRequest<'_>) -> Vec<String> {
    let mut lanes = vec![OPEN_LANE.to_owned(), lane(None, Some(request.worker))];
    if let Some(session) = request.session {
        lanes.push(lane(Some(session), None));
        lanes.push(lane(Some(session), Some(request.worker)));
    }
    lanes
}

fn types(request: &ClaimRequest<'_>) -> Vec<String> {
    if request.types.is_empty() {
        return vec![ANY_TYPE.to_owned()];
    }
    let mut types: Vec<String> = request.types.iter().map(|name| canonical_type(name).to_owned()).collect();
    types.sort();
    types.dedup();
    types
}

/// The first of all heads that nobody else has taken.
fn find_next(t: &mut (impl Write + ?Sized), request: &ClaimRequest<'_>) -> Result<Option<(Place, String)>, StoreError> {
    let mut best: Option<Place> = None;
    for lane in lanes(request) {
        for task_type in types(request) {
            let head = READY.take(t, &(lane.clone(), task_type), 1)?.pop();
            best = match (best, head) {
                (Some(best), Some(head)) => Some(best.min(head)),
                (best, head) => best.or(head),
            };
        }
    }
    Ok(best.map(|place| (place.clone(), place.2)))
}

/// The parts of a task that placement looks at; it passes over the rest of the record.
#[derive(serde::Deserialize)]
struct Candidate {
    id: String,
    spec: CandidateSpec,
}

#[derive(serde::Deserialize)]
struct CandidateSpec {
    task_type: String,
    model_name: String,
}

/// The first of the next tasks that deterministic placement gives to this peer. A task for this worker only is not placed.
fn find_owned(
    t: &mut (impl Write + ?Sized),
    request: &ClaimRequest<'_>,
    now_ms: u64,
) -> Result<Option<String>, QueueError> {
    let me = request.peer.unwrap_or(request.worker).to_owned();
    let alive: Vec<String> = heard_of(t, &me, now_ms)?;
    let root = clock(t)?.root();
    let mut candidates: BTreeMap<Place, bool> = BTreeMap::new();
    for lane in lanes(request) {
        let is_sticky = lane.ends_with(&format!("w={}", request.worker));
        for task_type in types(request) {
            let places = READY.of(t, &(lane.clone(), task_type), None, MAX_CANDIDATES)?;
            candidates.extend(places.into_iter().map(|place| (place, is_sticky)));
        }
    }
    let mut read_bytes = 0_usize;
    for (place, is_sticky) in candidates.into_iter().take(MAX_CANDIDATES as usize) {
        if is_sticky {
            return Ok(Some(place.2));
        }
        let Some(entry) = t.get(&TASKS.key(&place.2))? else { continue };
        read_bytes = read_bytes.saturating_add(entry.value.len());
        if read_bytes > MAX_CANDIDATE_BYTES {
            break;
        }
        let Ok(Candidate { id, spec }) = serde_json::from_slice(&entry.value) else { continue };
        let hash = placement::task_hash(&id, &spec.task_type, &spec.model_name);
        let combined = placement::combined(&root, &hash);
        if placement::owner(&combined, alive.iter().map(String::as_str)) == Some(&*me) {
            return Ok(Some(place.2));
        }
    }
    Ok(None)
}

/// The service's clock.
pub fn clock(t: &mut (impl Read + ?Sized)) -> Result<VectorClock, StoreError> {
    Ok(CLOCK.get(t, &())?.unwrap_or_else(|| VectorClock::new("taskqueue-service")))
}

/// Notes a sign of life of a peer, and takes in its clock; the peers that are alive, in the order in which they became known.
fn heard_of(t: &mut (impl Write + ?Sized), peer: &str, now_ms: u64) -> Result<Vec<String>, QueueError> {
    heartbeat(t, peer, None, now_ms)?;
    let alive = peers(t)?.into_iter().filter(|(_, seen)| seen.saturating_add(PEER_TIMEOUT_MS) > now_ms);
    Ok(alive.map(|(peer, _)| peer).collect())
}

/// A peer is alive, and this is its clock.
pub fn heartbeat(
    t: &mut (impl Write + ?Sized),
    peer: &str,
    theirs: Option<&VectorClock>,
    now_ms: u64,
) -> Result<(), QueueError> {
    check_name("peer_id", peer)?;
    let number = match PEER_NUMBERS.get(t, &peer.to_owned())? {
        Some(number) => number,
        None => {
            let last = PEERS.page(t, None, 1, Order::Descending)?.pop().map_or(0, |((number, _), _)| number);
            let number = last.saturating_add(1);
            PEER_NUMBERS.set(t, &peer.to_owned(), &number)?;
            number
        }
    };
    PEERS.set(t, &(number, peer.to_owned()), &Peer { seen_ms: now_ms })?;
    if let Some(theirs) = theirs {
        let mut clock = clock(t)?;
        clock.merge(theirs);
        CLOCK.set(t, &(), &clock)?;
    }
    forget_peers(t, now_ms)
}

/// Forgets peers that have been silent for a day, a few at a time.
fn forget_peers(t: &mut (impl Write + ?Sized), now_ms: u64) -> Result<(), QueueError> {
    const DAY_MS: u64 = 24 * 3_600 * 1_000;
    for ((number, peer), known) in PEERS.page(t, None, 4, Order::Ascending)? {
        if known.seen_ms.saturating_add(DAY_MS) < now_ms {
            PEERS.remove(t, &(number, peer.clone()))?;
            PEER_NUMBERS.remove(t, &peer)?;
        }
    }
    Ok(())
}

/// The known peers and when they were last heard of, in the order in which they became known.
pub fn peers(t: &mut (impl Read + ?Sized)) -> Result<Vec<(String, u64)>, StoreError> {
    let known = PEERS.page(t, None, MAX_PEERS, Order::Ascending)?;
    Ok(known.into_iter().map(|((_, peer), known)| (peer, known.seen_ms)).collect())
}
