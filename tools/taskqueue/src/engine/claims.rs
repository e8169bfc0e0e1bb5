//! Claiming: the next tasks that this worker may have.

use std::collections::BTreeMap;

use mcpp_tool::store::{StoreError, Transaction, View};
use scheduling::placement;

use super::{
    QueueError,
    ids::check_name,
    peers::{PEER_TIMEOUT_MS, clock, heard_of},
    reserve::{Part, within},
    save, turns, upkeep,
};
use crate::{
    queue::{self, ANY_TYPE, OPEN_LANE, Place, READY, RUNNING, TASKS, WORK, WORKERS, canonical_type, lane, settings},
    record::Task,
    rules,
};

/// Most types that one claim may name.
const MAX_TYPES: usize = 64;
/// Most tasks that one claim may give.
pub const MAX_CLAIMED: usize = 128;
/// Bytes of records with which a claim of many is full: a worker that gets too large a reply would have the tasks and not know it.
const FULL_BYTES: u64 = 1 << 20;
/// Bytes written after which a claim of many stops: half of what a transaction may write. A task whose turn comes by a claim is written too.
const FULL_WRITTEN_BYTES: u64 = 2 << 20;
/// Tasks that deterministic placement looks at.
const MAX_CANDIDATES: usize = 200;
/// Bytes of their records: what can be read within a transaction's time. The first one's owner finds it whatever comes behind it.
const MAX_CANDIDATE_BYTES: usize = 4 << 20;

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
    /// Whether all tasks of one claim have the type of the first.
    pub same_type: bool,
    /// How long a lease is to last from each sign of life; as long as usual if it says nothing.
    pub lease_ms: Option<u64>,
}

impl ClaimRequest<'_> {
    /// Checks the names in it.
    pub fn check(&self) -> Result<(), QueueError> {
        check_name("worker_id", self.worker)?;
        self.session.map_or(Ok(()), |session| check_name("session_id", session))?;
        self.peer.map_or(Ok(()), |peer| check_name("peer_id", peer))?;
        if self.types.len() > MAX_TYPES {
            return Err(QueueError::Invalid(format!("supported_task_types has more than {MAX_TYPES} types")));
        }
        let mut named = self.types.iter().enumerate();
        named.try_for_each(|(number, name)| check_name(&format!("supported_task_types/{number}"), name))
    }

    /// The groups of ready tasks from which it may take: its lanes, each with its types.
    pub(super) fn groups(&self) -> Vec<(String, String)> {
        let mut lanes = vec![OPEN_LANE.to_owned(), lane(None, Some(self.worker))];
        if let Some(session) = self.session {
            lanes.push(lane(Some(session), None));
            lanes.push(lane(Some(session), Some(self.worker)));
        }
        let mut types: Vec<&str> = self.types.iter().map(|name| canonical_type(name)).collect();
        types.sort_unstable();
        types.dedup();
        if types.is_empty() {
            types.push(ANY_TYPE);
        }
        let of_lane = |lane: &String| types.iter().map(|name| (lane.clone(), (*name).to_owned())).collect::<Vec<_>>();
        lanes.iter().flat_map(of_lane).collect()
    }

    fn is_sticky(&self, lane: &str) -> bool {
        lane.ends_with(&format!("w={}", self.worker))
    }
}

/// Gives the worker the next task that it may have, if there is one. A due task has become ready before: see [`look_after`](super::look_after).
pub fn claim(t: &Transaction<'_>, request: &ClaimRequest<'_>, now_ms: u64) -> Result<Option<Task>, QueueError> {
    Ok(claim_many(t, request, 1, now_ms)?.pop())
}

/// Gives the worker the next tasks that it may have: at most `most`, as many as it has room for, and about 1 MiB of them. Placement gives one at a time.
pub fn claim_many(
    t: &Transaction<'_>,
    request: &ClaimRequest<'_>,
    most: usize,
    now_ms: u64,
) -> Result<Vec<Task>, QueueError> {
    request.check()?;
    within(t, Part::Results, || give(t, request, most, now_ms))
}

fn give(t: &Transaction<'_>, request: &ClaimRequest<'_>, most: usize, now_ms: u64) -> Result<Vec<Task>, QueueError> {
    queue::read_ahead_of_claim(t, request.worker, upkeep::UPKEEP.key())?;
    upkeep::plan(t, &[], now_ms)?;
    let settings = settings(t)?;
    let most = most.min(MAX_CLAIMED).min(room(t, request.worker)?);
    let mut claimed: Vec<Task> = Vec::new();
    if settings.paused.is_some() || most == 0 {
        return Ok(claimed);
    }
    if settings.deterministic {
        if let Some(place) = find_owned(t, request, now_ms)? {
            claimed.extend(take(t, &place, request, now_ms)?.map(|(task, _)| task));
        }
    } else {
        take_next(t, request.clone(), most, now_ms, &mut claimed)?;
    }
    upkeep::plan(t, &claimed, now_ms)?;
    Ok(claimed)
}

/// Takes the next tasks, until there are as many as wanted or as fit.
fn take_next(
    t: &Transaction<'_>,
    mut request: ClaimRequest<'_>,
    most: usize,
    now_ms: u64,
    claimed: &mut Vec<Task>,
) -> Result<(), QueueError> {
    let mut bytes = 0_u64;
    while claimed.len() < most {
        // Where the first one's type is that of the others, it is not known before.
        let wanted = if claimed.is_empty() && request.same_type { 1 } else { most.saturating_sub(claimed.len()) };
        let next = find_next(t, &request, wanted)?;
        if next.is_empty() {
            break;
        }
        TASKS.read_ahead(t, &next.iter().map(|(.., id, created_ms)| (*created_ms, id)).collect::<Vec<_>>())?;
        for place in next {
            if bytes >= FULL_BYTES || t.spent().written_bytes >= FULL_WRITTEN_BYTES {
                return Ok(());
            }
            if let Some((task, record_bytes)) = take(t, &place, &request, now_ms)? {
                bytes = bytes.saturating_add(record_bytes);
                claimed.push(task);
            }
        }
        if let (true, Some(first)) = (request.same_type, claimed.first()) {
            request.types = vec![first.spec.task_type.clone()];
        }
    }
    Ok(())
}

/// Gives the task at a place to the claimer, unless a key of it says that it must wait; and the bytes of its record.
fn take(
    t: &Transaction<'_>,
    (_, _, id, created_ms): &Place,
    request: &ClaimRequest<'_>,
    now_ms: u64,
) -> Result<Option<(Task, u64)>, QueueError> {
    let begun = t.spent().bytes;
    let before = TASKS.get_to_change(t, &(*created_ms, id))?.ok_or_else(|| QueueError::NoTask(id.clone()))?;
    let (mut after, record_bytes) = (before.clone(), t.spent().bytes.saturating_sub(begun));
    if !turns::may_begin(t, &before, now_ms)? {
        rules::hold(&mut after, now_ms);
        save(t, Some(&before), Some(&after), now_ms)?;
        return Ok(None);
    }
    rules::claim(&mut after, request.worker, now_ms)?;
    if let Some(lease_ms) = request.lease_ms {
        rules::shorten(&mut after, lease_ms, now_ms);
    }
    turns::begins(t, &after, now_ms)?;
    save(t, Some(&before), Some(&after), now_ms)?;
    Ok(Some((after, record_bytes)))
}

/// How many more tasks a worker may have: a registered one as many as it said, one that is leaving none. An unregistered worker has no bound.
fn room(t: &View<'_>, worker: &str) -> Result<usize, StoreError> {
    let Some(known) = WORKERS.get(t, worker)? else { return Ok(usize::MAX) };
    if known.leaves_ms.is_some() {
        return Ok(0);
    }
    let room = i64::from(known.max_concurrent_tasks).saturating_sub(WORK.get(t, &(worker, RUNNING))?);
    Ok(usize::try_from(room).unwrap_or_default())
}

/// The first of all heads that nobody else has taken, the next one first.
fn find_next(t: &Transaction<'_>, request: &ClaimRequest<'_>, most: usize) -> Result<Vec<Place>, StoreError> {
    let limit = u32::try_from(most).unwrap_or(u32::MAX);
    let mut heads: Vec<Place> = Vec::new();
    for group in request.groups() {
        heads.extend(READY.of(&group).take(t, limit)?);
    }
    heads.sort_unstable();
    heads.truncate(most);
    Ok(heads)
}

/// The parts of a task that placement looks at; it passes over the rest of the record.
#[derive(serde::Deserialize)]
struct Candidate {
    spec: CandidateSpec,
    ready_ms: u64,
}

#[derive(serde::Deserialize)]
struct CandidateSpec {
    task_type: String,
    #[serde(default)]
    model_name: String,
}

/// The first of the next tasks that deterministic placement gives to this peer. A task for this worker only is not placed.
fn find_owned(t: &Transaction<'_>, request: &ClaimRequest<'_>, now_ms: u64) -> Result<Option<Place>, QueueError> {
    let me = request.peer.unwrap_or(request.worker);
    let alive: Vec<String> = heard_of(t, me, now_ms)?;
    let root = clock(t)?.root();
    let mut candidates: BTreeMap<Place, bool> = BTreeMap::new();
    for group in request.groups() {
        let is_sticky = request.is_sticky(&group.0);
        for place in READY.of(&group).most(MAX_CANDIDATES).walk(t) {
            candidates.insert(place?, is_sticky);
        }
    }
    let mut read_bytes = 0_usize;
    for (place, is_sticky) in candidates.into_iter().take(MAX_CANDIDATES) {
        if is_sticky {
            return Ok(Some(place));
        }
        let Some(entry) = t.get(&TASKS.key(&(place.3, &place.2)))? else { continue };
        read_bytes = read_bytes.saturating_add(entry.value.len());
        if read_bytes > MAX_CANDIDATE_BYTES {
            break;
        }
        let Ok(Candidate { spec, ready_ms }) = serde_json::from_slice(&entry.value) else { continue };
        // An owner that is alive and idle has had its time.
        if ready_ms.saturating_add(PEER_TIMEOUT_MS) <= now_ms {
            return Ok(Some(place));
        }
        let hash = placement::task_hash(&place.2, &spec.task_type, &spec.model_name);
        let combined = placement::combined(&root, &hash);
        if placement::owner(&combined, alive.iter().map(String::as_str)) == Some(me) {
            return Ok(Some(place));
        }
    }
    Ok(None)
}
