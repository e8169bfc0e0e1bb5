//! The round: once a minute, while there is something to do, this host tells its peers its clock, sends each task to its owner, tells where a task came from that it has ended, and takes back what
//! a failed peer has.
//!
//! A call that may have run is made again to the same peer, which knows the task then; so a task is nowhere dropped, and is at two hosts only after its owner has failed.

use std::{cell::Cell, collections::BTreeSet, time::Duration};

use mcpp_tool::{
    caller,
    mesh::{self, Peer, PeerCallError},
    store::{Alarm, Budget, StoreError, Transaction, bites, snapshot, transact},
};
use scheduling::clock::VectorClock;
use serde_json::{Value, json};

use crate::{
    owners::{For, look},
    peers,
    tasks::{AWAY, SENDING, SchedulerError, State, TASKS, Task, UNTOLD, tally},
};

/// Rings for the next round.
pub const ROUND: Alarm = Alarm::new("round");
/// The time between two rounds, in milliseconds: a fifth of the silence after which a peer has failed.
pub const ROUND_MS: u64 = 60_000;
/// The time until a round that has something to do, in milliseconds.
pub const SOON_MS: u64 = 1_000;
/// A task that is on its way for so long is sent again, in milliseconds.
const SEND_AGAIN_MS: u64 = 60_000;
/// A peer is told of an end for so long, in milliseconds.
const TELL_MS: u64 = 24 * 3_600 * 1_000;
/// Calls of each kind in a round.
const MAX_CALLS: usize = 16;
/// Longest call.
const CALL: Duration = Duration::from_secs(5);
/// With less time than this no further call is begun.
const RESERVE: Duration = Duration::from_secs(7);

const SUBMIT: &str = "p2p_submit_task";
const COMPLETE: &str = "p2p_mark_task_complete";
const STATE: &str = "p2p_update_peer_state";

/// One round.
///
/// # Errors
/// See [`SchedulerError`].
pub fn round(now_ms: u64) -> Result<(), SchedulerError> {
    let is_soon = Cell::new(false);
    let work = || {
        is_soon.set(work(now_ms)?);
        Ok(())
    };
    ROUND.ring(now_ms, work, |t| {
        if is_soon.get() {
            return Ok(Some(now_ms.saturating_add(SOON_MS)));
        }
        let is_busy = tally(t)?.open() > 0 || !UNTOLD.of(&()).is_empty(t)? || peers::is_any_alive(t, now_ms)?;
        Ok(is_busy.then(|| now_ms.saturating_add(ROUND_MS)))
    })
}

/// Whether the next round should come soon.
fn work(now_ms: u64) -> Result<bool, SchedulerError> {
    let name = peers::mesh_name();
    let others = mesh::peers().unwrap_or_default();
    transact(|t| {
        let mut connected = others.iter().filter(|peer| peer.connection.is_some());
        connected.try_for_each(|peer| peers::connected(t, &peer.id, now_ms))
    })?;
    take_back(now_ms)?;
    if name.is_none() {
        return Ok(false);
    }
    let mut round = Round { name, others, now_ms, unreached: BTreeSet::new() };
    round.tell_state()?;
    let sent = round.send()?;
    let told = round.tell_ends()?;
    Ok(sent == MAX_CALLS || told == MAX_CALLS)
}

/// Takes back what failed peers have. It stays here: another peer may fail too.
fn take_back(now_ms: u64) -> Result<(), SchedulerError> {
    let mut budget = Budget { entries: 2_000, ..Budget::UNBOUNDED };
    for failed in peers::failed(&snapshot()?, now_ms)? {
        let back = |t: &Transaction<'_>, id: String| {
            let back = |task: &mut Task| (task.state, task.stays) = (State::Pending, true);
            TASKS.change(t, &id, back).map(|task| task.is_some())
        };
        bites(&mut budget, &AWAY.of(&failed), back)?;
    }
    Ok(())
}

struct Round {
    name: Option<String>,
    others: Vec<Peer>,
    now_ms: u64,
    /// Peers that did not answer in this round.
    unreached: BTreeSet<String>,
}

impl Round {
    fn may_call(&self, peer: &str, tool: &str) -> bool {
        !self.unreached.contains(peer) && self.others.iter().any(|other| other.id == peer && other.may_call(tool))
    }

    /// Calls a tool of a peer that may be called. None if there is no time for it.
    fn call(&mut self, peer: &str, tool: &str, arguments: &Value) -> Option<Result<Value, PeerCallError>> {
        if caller::remaining() < RESERVE {
            return None;
        }
        let answer = mesh::call_within(peer, tool, arguments, CALL);
        if matches!(
            answer,
            Err(PeerCallError::Unreachable(_) | PeerCallError::TimedOut | PeerCallError::Interrupted(_))
        ) {
            self.unreached.insert(peer.to_owned());
        }
        Some(answer.map(|output| output.structured.unwrap_or_default()))
    }

    /// Tells the peers that listen this host's clock: each round some of them, so that every one is told in its turn.
    fn tell_state(&mut self) -> Result<(), SchedulerError> {
        let clock = transact(|t| peers::clock(t, self.name.as_deref()))?;
        let listen: Vec<String> =
            self.others.iter().filter(|peer| peer.may_call(STATE)).map(|peer| peer.id.clone()).collect();
        let turn = usize::try_from(self.now_ms / ROUND_MS).unwrap_or_default().wrapping_mul(MAX_CALLS);
        let first = turn.checked_rem(listen.len()).unwrap_or_default();
        let arguments = json!({ "peer_id": clock.node_id(), "clock_data": clock });
        for peer in listen.iter().cycle().skip(first).take(listen.len().min(MAX_CALLS)) {
            let Some(answer) = self.call(peer, STATE, &arguments) else { break };
            if answer.is_ok_and(|answer| answer.get("success") == Some(&json!(true))) {
                transact(|t| peers::heard(t, self.name.as_deref(), peer, None, self.now_ms))?;
            }
        }
        Ok(())
    }

    /// Sends tasks to their owners; how many.
    fn send(&mut self) -> Result<usize, SchedulerError> {
        let plan = transact(|t| self.plan(t))?;
        let count = plan.len();
        for (id, task, to) in plan {
            let arguments = json!({
                "task_id": id, "workflow_id": task.workflow_id, "name": task.name, "priority": task.priority,
                "tags": task.tags,
            });
            let answer = match self.may_call(&to, SUBMIT) {
                true => self.call(&to, SUBMIT, &arguments),
                false => None,
            };
            let (state, stays) = match answer {
                Some(Ok(answer)) => match answer.get("success").and_then(Value::as_bool) {
                    Some(true) => (State::Sent { to: to.clone() }, false),
                    // It has another task of this id, which will not change soon.
                    Some(false) => (State::Pending, true),
                    None => (State::Pending, false),
                },
                // It may have it: it is sent again later.
                Some(Err(error)) if !error.has_not_run() && !matches!(error, PeerCallError::Failed(_)) => continue,
                Some(Err(_)) | None => (State::Pending, false),
            };
            transact(|t| settle(t, &id, &to, &state, stays))?;
        }
        Ok(count)
    }

    /// The tasks that are sent in this round. From here on they are on their way.
    fn plan(&self, t: &Transaction<'_>) -> Result<Vec<(String, Task, String)>, StoreError> {
        let mut plan = Vec::new();
        let late = self.now_ms.saturating_sub(SEND_AGAIN_MS);
        for again in SENDING.of(&()).below(&(late,)).most(MAX_CALLS).collect::<Vec<_>>(t)? {
            if let Some(task) = TASKS.get(t, &again.1)?
                && let State::Sending { to, .. } = &task.state
            {
                plan.push((again.1, task.clone(), to.clone()));
            }
        }
        let clock: VectorClock = peers::clock(t, self.name.as_deref())?;
        let candidates = peers::candidates(t, clock.node_id(), self.now_ms)?;
        look(t, &clock, &candidates, self.now_ms, |id, task, whose| {
            if let For::Peer(owner) = whose
                && self.may_call(&owner.id, SUBMIT)
                && plan.len() < MAX_CALLS
            {
                plan.push((id, task, owner.id.clone()));
            }
            plan.len() >= MAX_CALLS
        })?;
        for (id, task, to) in &mut plan {
            task.state = State::Sending { to: to.clone(), since_ms: self.now_ms };
            task.sent_to = Some(to.clone());
            TASKS.put(t, id, task)?;
        }
        Ok(plan)
    }

    /// Tells where tasks came from that they have ended; how many.
    fn tell_ends(&mut self) -> Result<usize, SchedulerError> {
        let untold: Vec<(u64, String, String)> = UNTOLD.of(&()).collect(&snapshot()?)?;
        let mut told = 0;
        for (at_ms, id, origin) in untold {
            let is_late = at_ms.saturating_add(TELL_MS) < self.now_ms;
            let listens = self.others.iter().any(|peer| peer.id == origin && peer.may_call(COMPLETE));
            if !is_late && listens {
                if self.unreached.contains(&origin) {
                    continue;
                }
                if told == MAX_CALLS {
                    break;
                }
                told += 1;
                match self.call(&origin, COMPLETE, &json!({ "task_id": id })) {
                    Some(Ok(_)) => {}
                    Some(Err(_)) => continue,
                    None => break,
                }
            }
            let tell = |task: &mut Task| {
                if let State::Completed { untold, .. } = &mut task.state {
                    *untold = false;
                }
            };
            transact(|t| TASKS.change(t, &id, tell))?;
        }
        Ok(told)
    }
}

/// What came of sending a task: nothing, if it has gone on meanwhile.
fn settle(t: &Transaction<'_>, id: &str, to: &str, state: &State, stays: bool) -> Result<(), StoreError> {
    let Some(mut task) = TASKS.get(t, id)? else { return Ok(()) };
    if matches!(&task.state, State::Sending { to: peer, .. } if peer == to) {
        task.state = state.clone();
        task.stays = task.stays || stays;
        TASKS.put(t, &id.to_owned(), &task)?;
    }
    Ok(())
}
