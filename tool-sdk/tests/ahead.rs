//! A transaction keeps writes and reads to itself, and nobody can tell by its answers.
#![allow(clippy::expect_used, reason = "a test stops at the first surprise")]

use mcpp_tool::store::{Index, Map, Spent, StoreError, memory, transact};

const NUMBERS: Map<u64, String> = Map::new("numbers");
const ODD: Index<(), u64> = Index::new("odd");
const OTHER: Map<u64, u8> = Map::new("other");

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
