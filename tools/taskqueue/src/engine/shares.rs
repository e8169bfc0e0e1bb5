//! The share of a peer that submits: so many tasks that have not ended, and so many bytes of records. All peers together have four shares, so that they leave most of the store's quota to
//! this host's callers, and room for the ends of tasks.

use mcpp_tool::store::Transaction;

use super::{QueueError, is_waited_for, save};
use crate::{
    queue::{ENDED_OF_PEER, KIB, OF_PEER, TASKS, UNENDED, kib, settings},
    record::Task,
};

/// Shares that all peers have together.
const SHARES: u64 = 4;
/// How long a task that has just ended is kept for its submitter, in milliseconds.
const KEEP_MS: u64 = 60_000;
/// Ended tasks of the peer that make room for a new one: as many as fit into its transaction.
const MOST_FORGOTTEN: usize = 16;

/// Makes room for a new task of a peer: its oldest ended tasks give way. Refuses it where that is not enough.
pub(super) fn make_room(t: &Transaction<'_>, task: &Task, now_ms: u64) -> Result<(), QueueError> {
    let Some(peer) = task.spec.peer.as_deref() else { return Ok(()) };
    let settings = settings(t)?;
    let most = |share: u64, shares: u64| i64::try_from(share.saturating_mul(shares)).unwrap_or(i64::MAX);
    let most_kib = |shares| most(settings.peer_mib.saturating_mul(1_024), shares);
    let (needed, owners) = (kib(task), [(peer, 1, "this peer has"), ("", SHARES, "all peers together have")]);
    for (whose, shares, has) in owners {
        let tasks = OF_PEER.get(t, &(whose, UNENDED))?;
        if tasks >= most(settings.peer_tasks, shares) {
            return Err(QueueError::Share(format!(
                "{has} {tasks} tasks here that have not ended; {} are allowed",
                most(settings.peer_tasks, shares)
            )));
        }
        let fits = || Ok::<_, QueueError>(OF_PEER.get(t, &(whose, KIB))?.saturating_add(needed) <= most_kib(shares));
        if fits()? {
            continue;
        }
        let ended_before = (now_ms.saturating_sub(KEEP_MS).saturating_add(1),);
        let oldest: Vec<_> = ENDED_OF_PEER.of(peer).below(&ended_before).most(MOST_FORGOTTEN).collect(t)?;
        for (_, created_ms, id) in oldest {
            if let Some(ended) = TASKS.get(t, &(created_ms, id))?.filter(|ended| ended.status().is_final())
                && !is_waited_for(t, &ended.id)?
            {
                save(t, Some(&ended), None, now_ms)?;
            }
            if fits()? {
                break;
            }
        }
        if !fits()? {
            return Err(QueueError::Share(format!(
                "{has} tasks of {} KiB here; {} KiB are allowed, and ended tasks count until they are forgotten",
                OF_PEER.get(t, &(whose, KIB))?,
                most_kib(shares)
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use mcpp_tool::store::{memory, transact};
    use serde_json::json;

    use super::*;
    use crate::{
        engine::{Draft, Submission, finish, submit},
        origin::memory::as_peer,
        queue::set_settings,
        record::Spec,
        rules::{Claim, Outcome},
    };

    const NOW: u64 = 1_800_000_000_000;

    fn put(peer: &str, id: String, bytes: usize, now_ms: u64) -> Result<Task, QueueError> {
        let spec = Spec::new("kind", &json!({ "fill": "x".repeat(bytes) }));
        let submission = Submission { id: Some(id), not_before_ms: 0, spec };
        let draft = match peer {
            "" => Draft::new(submission, "", now_ms),
            peer => as_peer(peer, || Draft::new(submission, "", now_ms)),
        };
        transact(|t| submit(t, &draft, now_ms))
    }

    fn start(tasks: u64, mib: u64) {
        memory::clear();
        transact(|t| {
            let mut settings = settings(t)?;
            (settings.peer_tasks, settings.peer_mib) = (tasks, mib);
            set_settings(t, &settings)
        })
        .expect("set");
    }

    fn end(id: &str, now_ms: u64) {
        let done = Outcome::Completed(Some(json!({ "r": "x".repeat(300_000) })));
        transact(|t| finish(t, id, Claim::default(), done.clone(), now_ms, 0.5)).expect("ended");
    }

    #[test]
    fn a_peer_has_a_share_of_tasks_and_all_peers_have_four() {
        start(5, 100);
        for peer in ["a", "b", "c", "d"] {
            (0..5).for_each(|n| drop(put(peer, format!("{peer}{n}"), 10, NOW).expect("within its share")));
        }
        let error = put("a", "a9".into(), 10, NOW).expect_err("beyond its share").to_string();
        assert!(error.contains("this peer has 5 tasks") && error.contains("5 are allowed"), "{error}");
        let error = put("e", "e0".into(), 10, NOW).expect_err("beyond all shares").to_string();
        assert!(error.contains("all peers together have 20 tasks"), "{error}");
        put("a", "a0".into(), 10, NOW).expect("the same work is the same task");
        (0..30).for_each(|n| drop(put("", format!("own-{n}"), 10, NOW).expect("this host's callers have no share")));
        end("a0", NOW);
        put("a", "a9".into(), 10, NOW).expect("one has ended");
    }

    #[test]
    fn a_peer_has_a_share_of_bytes_in_which_its_oldest_ended_tasks_give_way() {
        start(1_000, 2);
        for n in 0..4 {
            put("a", format!("a{n}"), 500_000, NOW).expect("within its share");
        }
        let error = put("a", "a4".into(), 500_000, NOW).expect_err("beyond its share").to_string();
        assert!(error.contains("KiB"), "{error}");
        put("b", "b0".into(), 500_000, NOW).expect("another peer has its own");
        // A result counts, and is stored however full the share is.
        end("a0", NOW);
        assert!(put("a", "a4".into(), 500_000, NOW + 1).is_err(), "it has only just ended");
        put("a", "a4".into(), 500_000, NOW + KEEP_MS).expect("the ended one gives way");
        assert!(super::super::find(&mcpp_tool::store::snapshot().expect("a snapshot"), "a0").is_err());
        assert!(put("a", "a5".into(), 500_000, NOW + KEEP_MS).is_err());
    }
}
