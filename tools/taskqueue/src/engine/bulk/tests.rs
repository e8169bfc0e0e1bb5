use mcpp_tool::store::memory;

use super::*;

const NOW: u64 = 1_700_000_000_000;

/// The numbers of those that are known.
fn known() -> Vec<u64> {
    let t = &snapshot().expect("a snapshot");
    BULKS.all().walk(t).map(|bulk| bulk.expect("readable").0).collect()
}

#[test]
fn so_many_changes_are_known_and_the_oldest_that_have_ended_make_room() {
    memory::clear();
    let filter = Filter { task_types: vec!["t".into()], ..Filter::default() };
    for number in 1..=500 {
        assert_eq!(bulk(&Action::Retry, &filter, NOW).expect("there is room").number, number);
        assert!(known().len() <= MOST_KNOWN, "{}", known().len());
    }
    assert_eq!(known().last(), Some(&500), "the newest is known");
}

#[test]
fn a_queue_with_more_of_them_comes_to_the_bound_call_by_call() {
    memory::clear();
    let filter = Filter::default();
    let ended = Bulk {
        number: 0,
        action: Action::Retry,
        filter: filter.clone(),
        asked_ms: NOW,
        changed: 0,
        ended_ms: Some(NOW),
        at: 0,
        cursor: None,
    };
    for number in 1..=200_u64 {
        transact(|t| BULKS.set(t, &number, &Bulk { number, ..ended.clone() })).expect("stored");
    }
    for _ in 0..20 {
        bulk(&Action::Retry, &filter, NOW).expect("there is room");
    }
    assert!(known().len() <= MOST_KNOWN, "{}", known().len());
}

#[test]
fn where_all_are_under_way_one_more_is_refused_and_nothing_is_lost() {
    memory::clear();
    let filter = Filter::default();
    for number in 1..=MOST_KNOWN as u64 {
        under_way(number, &Action::Delete, &filter);
    }
    let refused = bulk(&Action::Retry, &filter, NOW).expect_err("no room");
    assert!(refused.to_string().contains("under way"), "{refused}");
    assert_eq!(known().len(), MOST_KNOWN);
    assert!(stop(99, NOW).is_err(), "there is none");
    let stopped = stop(7, NOW).expect("it is known");
    assert_eq!((stopped.number, stopped.ended_ms), (7, Some(NOW)));
    assert_eq!(stop(7, NOW + 1).expect("once more"), stopped);
    assert!(bulk(&Action::Retry, &filter, NOW).is_ok(), "there is room");
}

fn under_way(number: u64, action: &Action, filter: &Filter) {
    let (action, filter) = (action.clone(), filter.clone());
    let bulk = Bulk { number, action, filter, asked_ms: NOW, changed: 9, ended_ms: None, at: 1, cursor: None };
    transact(|t| BULKS.set(t, &number, &bulk)).expect("stored");
}

#[test]
fn the_same_change_once_more_is_the_one_under_way_from_the_beginning() {
    memory::clear();
    let filter = Filter { statuses: vec![Status::Queued, Status::Running], ..Filter::default() };
    let action = Action::Priority { priority: 4.0, requeue: true };
    under_way(1, &action, &filter);
    let again = bulk(&action, &Filter::default(), NOW + 5).expect("known");
    assert_eq!((again.number, again.asked_ms, again.changed), (1, NOW + 5, 9));
    let other = Action::Priority { priority: 5.0, requeue: true };
    assert_eq!(bulk(&other, &Filter::default(), NOW).expect("another").number, 2);
}

#[test]
fn a_filter_is_bounded() {
    memory::clear();
    let names = |count: usize, bytes: usize| vec!["n".repeat(bytes); count];
    for (filter, field) in [
        (Filter { task_types: names(MAX_NAMES + 1, 1), ..Filter::default() }, "task_types"),
        (Filter { tags: names(MAX_NAMES + 1, 1), ..Filter::default() }, "tags"),
        (Filter { tags: names(1, 1 << 20), ..Filter::default() }, "tags/0"),
        (Filter { worker: Some("w".repeat(1 << 20)), ..Filter::default() }, "worker_id"),
    ] {
        let refused = bulk(&Action::Retry, &filter, NOW).expect_err("too much");
        assert!(refused.to_string().contains(field), "{refused}");
    }
    let all = Filter { task_types: names(MAX_NAMES, 200), tags: names(MAX_NAMES, 200), ..Filter::default() };
    assert!(bulk(&Action::Retry, &all, NOW).is_err(), "each fits, and together they do not");
    let action = Action::Cancel { reason: "r".repeat(MAX_REASON_BYTES + 1), force: false };
    assert!(bulk(&action, &Filter::default(), NOW).is_err());
    assert!(known().is_empty(), "nothing of them is kept");
}

#[test]
fn a_filter_finds_what_no_new_name_may_be() {
    memory::clear();
    for name in [" ends with a space ".to_owned(), "n".repeat(1_000), String::new(), "line\nbreak".to_owned()] {
        let filter = Filter {
            task_types: vec![name.clone()],
            tags: vec![name.clone()],
            worker: Some(name),
            ..Filter::default()
        };
        bulk(&Action::Retry, &filter, NOW).expect("a task may have it");
    }
}
