//! Peers and clocks that mean harm: names without end, junk in clocks, counters of others.

use mcpp_tool::store::{memory, snapshot, transact};
use scheduling::clock::MAX_COUNT;
use serde_json::json;

use super::*;
use crate::{
    engine::{ClaimRequest, Draft, Submission, claim, submit},
    origin::memory::as_peer,
    queue::{set_settings, settings},
    record::Spec,
};

const NOW: u64 = 1_800_000_000_000;

fn beat(name: &str, now_ms: u64) -> Result<Option<String>, QueueError> {
    transact(|t| heartbeat(t, name, None, now_ms))
}

fn count() -> usize {
    known(&snapshot().expect("a snapshot")).expect("read").len()
}

fn clock_of(nodes: &[(String, u64)]) -> VectorClock {
    let vector: std::collections::BTreeMap<_, _> = nodes.iter().cloned().collect();
    let pairs: Vec<String> = vector.iter().map(|(node, count)| format!("[\"{node}\", {count}]")).collect();
    let root = scheduling::hash::Hash::of(&format!("[{}]", pairs.join(", ")));
    serde_json::from_value(json!({ "node_id": "x", "vector": vector, "merkle_root": root })).expect("a clock")
}

fn own() -> VectorClock {
    clock(&snapshot().expect("a snapshot")).expect("read")
}

fn merged(theirs: &VectorClock, now_ms: u64) -> Option<String> {
    transact(|t| heartbeat(t, "p", Some(theirs), now_ms)).expect("a sign of life")
}

#[test]
fn names_are_bounded_for_a_source_and_in_all_and_silent_ones_go_first() {
    memory::clear();
    for n in 0..MAX_OF_SOURCE {
        as_peer("evil", || beat(&format!("e{n}"), NOW)).expect("within its share");
    }
    let refused = as_peer("evil", || beat("one-more", NOW)).expect_err("beyond its share");
    assert!(matches!(&refused, QueueError::Share(why) if why.contains("16 peers")), "{refused}");
    assert_eq!(as_peer("evil", || beat("e0", NOW + 5)), Ok(None), "a known one is heard of all the same");
    as_peer("evil", || beat("one-more", NOW + PEER_TIMEOUT_MS)).expect("one was silent");
    assert_eq!(count(), MAX_OF_SOURCE);
    let now = NOW + PEER_TIMEOUT_MS;
    // Two of that source's are alive still.
    for n in 0..MAX_PEERS - 2 {
        beat(&format!("local-{n}"), now + 1).map(drop).expect("silent ones give way");
        assert!(count() <= MAX_PEERS);
    }
    assert!(matches!(beat("later", now + 2), Err(QueueError::Share(_))), "all are alive");
    assert_eq!(count(), MAX_PEERS);
    let (told, known) = transact(|t| peers(t)).expect("read");
    assert_eq!((told.len(), known), (MAX_TOLD, MAX_PEERS));
}

#[test]
fn a_claimer_gets_its_task_behind_a_thousand_names() {
    memory::clear();
    // A store that an earlier version filled.
    transact(|t| {
        for n in 1..=1_500_u64 {
            let name = format!("name-{n}");
            PEER_NUMBERS.set(t, &name, &n)?;
            PEERS.set(t, &(n, name), &Peer { seen_ms: NOW, source: None })?;
        }
        let mut settings = settings(t)?;
        settings.deterministic = true;
        set_settings(t, &settings)?;
        let spec = Spec::new("kind", &json!({}));
        let draft = Draft::new(Submission { id: Some("t".into()), not_before_ms: 0, spec }, "", NOW);
        submit(t, &draft, NOW).map(drop)
    })
    .expect("filled");
    let request = ClaimRequest { worker: "w", ..ClaimRequest::default() };
    let claimed = transact(|t| claim(t, &request, NOW + PEER_TIMEOUT_MS + 1)).expect("claimed");
    assert_eq!(claimed.map(|task| task.id).as_deref(), Some("t"));
    transact(|t| claim(t, &request, NOW + PEER_TIMEOUT_MS + 2)).expect("nothing");
    assert!(count() <= MAX_PEERS, "{} are left", count());
}

#[test]
fn a_task_waits_for_a_live_and_idle_owner_no_longer_than_that_may_be_silent() {
    memory::clear();
    transact(|t| {
        let mut settings = settings(t)?;
        settings.deterministic = true;
        set_settings(t, &settings)?;
        for n in 0..20 {
            let spec = Spec::new("kind", &json!({}));
            let draft = Draft::new(Submission { id: Some(format!("t{n}")), not_before_ms: 0, spec }, "", NOW);
            submit(t, &draft, NOW)?;
        }
        Ok::<_, QueueError>(())
    })
    .expect("submitted");
    let request = ClaimRequest { worker: "w", ..ClaimRequest::default() };
    let claim_all = |now_ms: u64| {
        as_peer("idle", || (0..16).for_each(|n| drop(beat(&format!("idle-{n}"), now_ms))));
        std::iter::from_fn(|| transact(|t| claim(t, &request, now_ms)).expect("claimed")).count()
    };
    let at_once = claim_all(NOW + 1);
    assert!(at_once < 15, "{at_once} of 20 were the worker's");
    assert_eq!(at_once + claim_all(NOW + PEER_TIMEOUT_MS), 20);
}

#[test]
fn a_clock_of_junk_is_not_merged() {
    memory::clear();
    assert_eq!(merged(&clock_of(&[("a".into(), 7)]), NOW), None);
    assert_eq!(own().vector().get("taskqueue-service"), Some(&1));
    let before = own();
    let junk = |count: usize| (0..count).map(|n| (format!("junk-{n}"), 1)).collect::<Vec<_>>();
    let why = merged(&clock_of(&junk(3_900)), NOW).expect("refused");
    assert!(why.contains("3900 nodes") && why.contains("256"), "{why}");
    let wide: Vec<(String, u64)> = (0..100).map(|n| (format!("{n:0>200}"), 1)).collect();
    assert!(merged(&clock_of(&wide), NOW).is_some(), "its names are too long together");
    for ahead in [2, MAX_COUNT] {
        let why = merged(&clock_of(&[("taskqueue-service".into(), ahead), ("b".into(), 1)]), NOW).expect("refused");
        assert!(why.contains("taskqueue-service"), "{why}");
    }
    assert_eq!(own(), before, "nothing of them");
    let why = merged(&clock_of(&[("p".into(), 1 << 41)]), NOW).expect("refused");
    assert!(why.contains("at most 1099511627776"), "{why}");
    assert_eq!(own(), before, "a peer cannot have its node stand still here");
    assert_eq!(merged(&clock_of(&[("taskqueue-service".into(), 1), ("b".into(), 1)]), NOW), None);
    // A peer brings only so many, however many requests it makes.
    as_peer("evil", || {
        assert_eq!(merged(&clock_of(&junk(128)), NOW), None);
        assert_eq!(merged(&clock_of(&junk(128)), NOW), None, "they are there already");
        assert!(merged(&clock_of(&junk(129)), NOW).is_some());
    });
    assert_eq!(own().vector().len(), 128 + 3);
    assert!(serde_json::to_vec(&own()).expect("JSON").len() < 64 << 10);
}

#[test]
fn a_clock_that_cannot_rise_begins_anew() {
    memory::clear();
    let full = json!({ "taskqueue-service": MAX_COUNT });
    let root = scheduling::hash::Hash::of(&format!("[[\"taskqueue-service\", {MAX_COUNT}]]"));
    let stored = json!({ "node_id": "taskqueue-service", "vector": full, "merkle_root": root });
    let stored: VectorClock = serde_json::from_value(stored).expect("a clock");
    transact(|t| CLOCK.set(t, &(), &stored)).expect("set");
    assert_eq!(merged(&clock_of(&[("a".into(), 1)]), NOW), None);
    assert_eq!(own().vector().get("taskqueue-service"), Some(&1));
}
