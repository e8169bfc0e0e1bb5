//! A transaction keeps writes and reads to itself, and nobody can tell by its answers.
#![allow(clippy::expect_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeMap;

use mcpp_tool::store::{Index, Map, Order, Range, Span, Spent, StoreError, Transaction, memory, transact};
use proptest::prelude::*;

const NUMBERS: Map<u64, String> = Map::new("numbers");
const ODD: Index<(), u64> = Index::new("odd");
const OTHER: Map<u64, u8> = Map::new("other");
const ALL: Range = Range { start: Vec::new(), end: None };

fn calls() -> u64 {
    memory::spent().calls
}

#[test]
fn many_writes_and_events_are_few_calls() {
    memory::clear();
    transact::<_, StoreError>(|t| {
        for number in 0..500 {
            NUMBERS.set(t, &number, &"x".repeat(100))?;
            t.tell("topic", "key", b"payload".to_vec())?;
        }
        Ok(())
    })
    .expect("committed");
    let Spent { calls, writes, .. } = memory::spent();
    assert!(calls < 6 && writes == 1_000, "{calls} calls, {writes} writes");
    assert_eq!((memory::entries().len(), memory::emitted().len()), (500, 500));
}

#[test]
fn a_transaction_sees_its_own_writes_however_it_looks() {
    memory::clear();
    transact(|t| (0..10).try_for_each(|number| NUMBERS.set(t, &number, &"old".to_owned()))).expect("committed");
    transact::<_, StoreError>(|t| {
        NUMBERS.set(t, &3, &"new".to_owned())?;
        assert!(NUMBERS.remove(t, &4)? && !NUMBERS.remove(t, &4)? && !NUMBERS.remove(t, &99)?);
        t.discard(&NUMBERS.key(&5))?;
        assert_eq!((NUMBERS.get(t, &3)?, NUMBERS.get(t, &4)?), (Some("new".into()), None));
        let keys = |keys: &[(u64, String)]| keys.iter().map(|(key, _)| *key).collect::<Vec<u64>>();
        let all: Vec<(u64, String)> = NUMBERS.all().collect(t)?;
        assert_eq!(keys(&all), [0, 1, 2, 3, 6, 7, 8, 9]);
        let (value, version) = NUMBERS.get_versioned(t, &3)?;
        assert!(value.as_deref() == Some("new") && version > 0);
        NUMBERS.set(t, &6, &"newer".to_owned())?;
        assert_eq!(NUMBERS.all().from(&6).first(t)?.map(|(_, value)| value), Some("newer".into()));
        Ok(())
    })
    .expect("committed");
}

#[test]
fn an_empty_range_is_looked_at_once_until_it_is_written_to() {
    memory::clear();
    transact::<_, StoreError>(|t| {
        assert!(ODD.all().is_empty(t)?);
        calls();
        assert!(ODD.all().is_empty(t)? && ODD.of(&()).from(&3).is_empty(t)? && ODD.of(&()).first(t)?.is_none());
        OTHER.set(t, &1, &1)?;
        assert!(ODD.all().is_empty(t)? && ODD.of(&()).take(t, 9)?.is_empty());
        assert_eq!(calls(), 0);
        ODD.insert(t, &(), &7)?;
        assert_eq!(ODD.of(&()).first(t)?, Some(7));
        // Its own write did not have to go to the host for that.
        assert_eq!(calls(), 0);
        // Now it has, and the range is asked for again.
        assert_eq!(t.scan(&ALL, 9, Order::Ascending)?.entries.len(), 2);
        assert_eq!((ODD.of(&()).first(t)?, calls()), (Some(7), 3));
        Ok(())
    })
    .expect("committed");
}

#[test]
fn reading_ahead_saves_calls_and_changes_no_answer() {
    memory::clear();
    transact(|t| (0..50).try_for_each(|number| NUMBERS.set(t, &(2 * number), &"x".to_owned()))).expect("committed");
    transact::<_, StoreError>(|t| {
        NUMBERS.set(t, &0, &"mine".to_owned())?;
        calls();
        let keys: Vec<u64> = (0..100).collect();
        NUMBERS.read_ahead(t, &keys)?;
        for key in 0..100 {
            let expected = (key % 2 == 0).then_some(if key == 0 { "mine" } else { "x" });
            assert_eq!(NUMBERS.get(t, &key)?.as_deref(), expected, "{key}");
        }
        assert_eq!(calls(), 1);
        NUMBERS.remove(t, &2)?;
        assert_eq!(NUMBERS.get(t, &2)?, None);
        Ok(())
    })
    .expect("committed");
}

#[test]
fn what_the_store_would_refuse_is_refused_at_once() {
    memory::clear();
    let large = transact::<_, StoreError>(|t| t.set(b"key", &vec![0; (1 << 20) + 1]));
    assert_eq!(large, Err(StoreError::ValueTooLarge));
    assert_eq!(transact::<_, StoreError>(|t| t.set(b"", b"")), Err(StoreError::InvalidKey));
    let payload = transact::<_, StoreError>(|t| t.tell("topic", "key", vec![0; (64 << 10) + 1]));
    assert_eq!(payload, Err(StoreError::PayloadTooLarge));
    let much =
        transact::<_, StoreError>(|t| (0..5).try_for_each(|number| NUMBERS.set(t, &number, &"x".repeat(1_000_000))));
    assert_eq!(much, Err(StoreError::TransactionTooLarge));
    assert!(memory::entries().is_empty());
}

/// What a transaction does to numbers, or how it looks at them.
#[derive(Debug, Clone)]
enum Step {
    Set(u64, usize),
    Remove(u64),
    /// Asks for a version, which only the host knows.
    HandOver(u64),
    Look {
        from: u64,
        below: u64,
        most: usize,
        descending: bool,
    },
}

/// Some values are so large that a page has room for two of them.
fn length() -> impl Strategy<Value = usize> {
    prop_oneof![0..100_usize, Just(400_000)]
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..16_u64;
    prop_oneof![
        3 => (key.clone(), length()).prop_map(|(key, length)| Step::Set(key, length)),
        5 => key.clone().prop_map(Step::Remove),
        1 => key.clone().prop_map(Step::HandOver),
        5 => (key.clone(), key, 1..30_usize, any::<bool>())
            .prop_map(|(from, below, most, descending)| Step::Look { from, below, most, descending }),
    ]
}

fn look(t: &Transaction<'_>, span: Span<u64, (u64, String)>) -> Vec<(u64, usize)> {
    span.walk(t).map(|row| row.map(|(key, text)| (key, text.len())).expect("read")).collect()
}

fn take(t: &Transaction<'_>, model: &mut BTreeMap<u64, usize>, step: &Step) -> Result<(), StoreError> {
    match *step {
        Step::Set(key, length) => {
            model.insert(key, length);
            NUMBERS.set(t, &key, &"x".repeat(length))?;
        }
        Step::Remove(key) => assert_eq!(NUMBERS.remove(t, &key)?, model.remove(&key).is_some()),
        Step::HandOver(key) => assert_eq!(NUMBERS.get_versioned(t, &key)?.1 > 0, model.contains_key(&key)),
        Step::Look { from, below, most, descending } => {
            let expected =
                model.iter().filter(|(key, _)| (from..below).contains(key)).map(|(key, length)| (*key, *length));
            let span = NUMBERS.all().from(&from).below(&below).most(most);
            match descending {
                false => assert_eq!(look(t, span), expected.take(most).collect::<Vec<_>>()),
                true => {
                    let mut expected: Vec<(u64, usize)> = expected.collect();
                    expected.reverse();
                    expected.truncate(most);
                    assert_eq!(look(t, span.descending()), expected);
                }
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_walk_shows_what_is_there_whether_the_host_has_it_or_not(
        before in prop::collection::vec((0..16_u64, length()), 0..20),
        steps in prop::collection::vec(step(), 1..60),
    ) {
        memory::clear();
        let mut model = BTreeMap::new();
        for (key, length) in &before {
            model.insert(*key, *length);
            transact(|t| NUMBERS.set(t, key, &"x".repeat(*length))).expect("committed");
        }
        // As many as one transaction has room for.
        let steps = steps.iter().scan(0, |bytes, step| {
            *bytes += if let Step::Set(_, length) = step { *length + 10 } else { 10 };
            (*bytes < 3_000_000).then_some(step)
        });
        let steps: Vec<&Step> = steps.collect();
        transact::<_, StoreError>(|t| steps.iter().try_for_each(|step| take(t, &mut model, step))).expect("committed");
        prop_assert_eq!(memory::entries().len(), model.len());
    }
}
