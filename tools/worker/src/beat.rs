//! The beat: every ten seconds, while there are services, this worker renews the leases of its tasks, tells queues what they have not heard, and looks whether its handlers are alive.

use std::{collections::BTreeSet, time::Duration};

use mcpp_tool::{
    caller,
    store::{Alarm, StoreError, snapshot, transact},
};
use serde_json::json;

use crate::{
    claimer::{LEASE_S, give_back},
    held::{HELD, Held, Stage, drop_task},
    runner::{Ending, Report, Telling, end, tell},
    service::{SERVICES, Service, TALLIES, WorkerError, note, services},
    source::{SHORT, Unanswered, ask},
};

/// Rings for the beat.
pub const BEAT: Alarm = Alarm::new("beat");
/// The time between two beats, in milliseconds: a third of a lease.
pub const BEAT_MS: u64 = LEASE_S * 1_000 / 3;
/// A claimer that has not looked for so long is called for, in milliseconds.
const SILENT_MS: u64 = 120_000;
/// A task for which no handler came is given back after so long, in milliseconds.
const UNTOUCHED_MS: u64 = 60_000;
/// With less time than this no further queue is asked.
const RESERVE: Duration = Duration::from_secs(10);

/// One beat.
///
/// # Errors
/// Those of the store.
pub fn beat(now_ms: u64) -> Result<(), WorkerError> {
    BEAT.ring(now_ms, || work(now_ms), |t| Ok((!services(t)?.is_empty()).then(|| now_ms.saturating_add(BEAT_MS))))
}

/// All tasks, without keeping the store open.
///
/// # Errors
/// See [`StoreError`].
pub fn all() -> Result<Vec<(String, Held)>, StoreError> {
    HELD.all().walk(&snapshot()?).collect()
}

fn work(now_ms: u64) -> Result<(), WorkerError> {
    // Queues that did not answer in this beat.
    let mut away = BTreeSet::new();
    for (id, held) in all()? {
        let Some(service) = SERVICES.get(&snapshot()?, &held.service)? else {
            transact(|t| drop_task(t, &id, now_ms))?;
            continue;
        };
        if away.contains(&service.peer) || caller::remaining() < RESERVE {
            continue;
        }
        if look_after(&id, &held, &service, now_ms)? {
            away.insert(service.peer);
        }
    }
    for (name, service) in services(&snapshot()?)? {
        let looked_ms = TALLIES.get(&snapshot()?, &name)?.unwrap_or_default().looked_ms;
        if !service.is_draining && looked_ms.saturating_add(SILENT_MS) < now_ms {
            transact(|t| t.wake_at(&format!("c:{name}"), now_ms, b""))?;
        }
    }
    Ok(())
}

/// Does for a task what it needs; whether its queue did not answer.
fn look_after(id: &str, held: &Held, service: &Service, now_ms: u64) -> Result<bool, WorkerError> {
    match &held.stage {
        Stage::Lost => Ok(false),
        Stage::Ended { report, until_ms } => {
            let report = Report { request: report, until_ms: *until_ms, telling: Telling::Again };
            tell(id, held, service, &report, now_ms)?;
            Ok(HELD.get(&snapshot()?, id)?.is_some())
        }
        Stage::Running { until_ms } if *until_ms <= now_ms => {
            // Its handler is gone without a word.
            end(id, held, service, Ending::broken_off())?;
            Ok(HELD.get(&snapshot()?, id)?.is_some())
        }
        Stage::Claimed if held.since_ms.saturating_add(UNTOUCHED_MS) <= now_ms => {
            give_back(&held.service, service, held, "the worker did not begin")?;
            transact(|t| drop_task(t, id, now_ms))?;
            Ok(false)
        }
        Stage::Claimed | Stage::Running { .. } => match ask(service, &held.request("task.heartbeat", json!({})), SHORT)
        {
            // A queue of before has no such operation: its leases last long.
            Ok(_) => Ok(false),
            Err(Unanswered::Refused(word)) if word == "unknown_op" => Ok(false),
            Err(Unanswered::Refused(word)) => {
                // It was cancelled, or is another worker's.
                transact(|t| {
                    HELD.change(t, &id.to_owned(), |held| match held.stage {
                        Stage::Claimed | Stage::Running { .. } => held.stage = Stage::Lost,
                        Stage::Ended { .. } | Stage::Lost => {}
                    })?;
                    note(t, &held.service, |tally| tally.last_error = Some(format!("lease: {word}")))
                })?;
                Ok(false)
            }
            Err(Unanswered::Away(_)) => Ok(true),
        },
    }
}
