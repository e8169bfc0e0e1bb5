use std::cell::Cell;

use serde::{Deserialize, Deserializer};

use super::{super::Index, *};
use crate::store::{memory, remove_collection, snapshot, transact};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Note {
    #[serde(deserialize_with = "counted")]
    author: String,
    tags: Vec<String>,
}

thread_local! {
    /// How many notes were decoded.
    static DECODED: Cell<u32> = const { Cell::new(0) };
}

fn counted<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    DECODED.set(DECODED.get() + 1);
    String::deserialize(deserializer)
}

const BY_TAG: Index<String, u64> = Index::new("by-tag");
const AUTHORS: Counts<(String,)> = Counts::new("authors");
const ALL: Counts<()> = Counts::new("all").sharded(4);
const TITLES: Map<String, u64> = Map::new("titles");
const NOTES: Table<u64, Note> = Table::new("notes", |number, note, places| {
    note.tags.iter().for_each(|tag| places.index(&BY_TAG, tag, number));
    places.count(&AUTHORS, &(&note.author,));
    places.count(&ALL, &());
    places.name(&TITLES, &format!("note {number}"), number);
});

fn note(author: &str, tags: &[&str]) -> Note {
    Note { author: author.into(), tags: tags.iter().map(|tag| (*tag).to_owned()).collect() }
}

#[test]
fn indexes_names_and_counts_follow_the_rows() {
    memory::clear();
    transact::<_, StoreError>(|t| {
        NOTES.put(t, &1, &note("ada", &["a", "b"]))?;
        NOTES.put(t, &2, &note("bob", &["b"]))?;
        assert_eq!(AUTHORS.get(t, &("ada",))?, 1, "a transaction sees its own counts");
        NOTES.put(t, &2, &note("ada", &["c"]))?;
        NOTES.change(t, &1, |note| drop(note.tags.remove(0)))?;
        assert_eq!(AUTHORS.under(t, &(), 9)?, [(("ada".to_owned(),), 2)]);
        assert_eq!(AUTHORS.from(t, &("ad",), 9)?, [(("ada".to_owned(),), 2)]);
        assert_eq!(AUTHORS.from(t, &("adb",), 9)?, []);
        Ok(())
    })
    .expect("committed");
    let t = &snapshot().expect("a snapshot");
    let tags = |tag: &str| BY_TAG.of(tag).collect::<Vec<u64>>(t).expect("read");
    assert_eq!((tags("a"), tags("b"), tags("c")), (vec![], vec![1], vec![2]));
    assert_eq!((AUTHORS.get(t, &("bob",)), ALL.get(t, &())), (Ok(0), Ok(2)));
    assert_eq!(TITLES.get(t, "note 2"), Ok(Some(2)));
    transact::<_, StoreError>(|t| {
        assert_eq!(NOTES.remove(t, &1)?, Some(note("ada", &["b"])));
        NOTES.remove(t, &2).map(drop)
    })
    .expect("committed");
    let left = memory::entries();
    let sum = ALL.get(&snapshot().expect("a snapshot"), &());
    assert_eq!(sum, Ok(0));
    assert!(left.iter().all(|(key, _)| key.starts_with(b"all")), "only parts of a sharded zero: {left:?}");
}

#[test]
fn a_row_is_decoded_once_in_a_transaction_and_is_as_it_was_written_last() {
    memory::clear();
    transact(|t| NOTES.put(t, &1, &note("ada", &["a"]))).expect("committed");
    transact::<_, StoreError>(|t| {
        DECODED.set(0);
        let first = NOTES.get(t, &1)?;
        assert_eq!((NOTES.get(t, &1)?, DECODED.get()), (first.clone(), 1));
        NOTES.put(t, &1, &note("bob", &["b"]))?;
        assert_eq!((first, NOTES.get(t, &1)?), (Some(note("ada", &["a"])), Some(note("bob", &["b"]))));
        NOTES.change(t, &1, |note| note.author = "fay".into())?;
        assert_eq!(NOTES.get(t, &1)?, Some(note("fay", &["b"])));
        let calls = t.spent().calls;
        NOTES.put(t, &1, &note("gus", &["c"]))?;
        assert_eq!(t.spent().calls, calls, "the host is not asked again");
        assert_eq!(DECODED.get(), 1, "what was read or written is known");
        assert_eq!((NOTES.remove(t, &1)?, NOTES.get(t, &1)?), (Some(note("gus", &["c"])), None));
        Ok(())
    })
    .expect("committed");
    assert_eq!(BY_TAG.of("c").collect::<Vec<u64>>(&snapshot().expect("a snapshot")), Ok(vec![]));
}

#[test]
fn a_row_whose_entry_is_written_otherwise_is_read_again() {
    memory::clear();
    let row = NOTES.prepare(&1, &note("eve", &["b"])).expect("prepared");
    transact::<_, StoreError>(|t| {
        let anew = || NOTES.put(t, &1, &note("ada", &["a"])).and_then(|_| NOTES.get(t, &1));
        anew()?;
        t.set(&NOTES.key(&1), &encode_value(&note("eve", &["a"]))?)?;
        assert_eq!(NOTES.get(t, &1)?, Some(note("eve", &["a"])));
        anew()?;
        t.delete(&NOTES.key(&1))?;
        assert_eq!(NOTES.get(t, &1)?, None, "deleted");
        anew()?;
        assert!(remove_collection(t, "notes", 9)?);
        assert_eq!(NOTES.get(t, &1)?, None, "removed with all others");
        NOTES.insert(t, &row)?;
        assert_eq!(NOTES.get(t, &1)?, Some(note("eve", &["b"])), "inserted as prepared");
        Ok(())
    })
    .expect("committed");
    let transaction = transact::<(), StoreError>(|t| {
        NOTES.put(t, &1, &note("lost", &[]))?;
        Err(StoreError::Unreadable)
    });
    assert!(transaction.is_err());
    let read = transact(|t| NOTES.get(t, &1));
    assert_eq!(read, Ok(Some(note("eve", &["b"]))), "rows of a failed transaction are forgotten with it");
}

#[test]
fn a_row_that_was_prepared_is_written_like_any_other() {
    memory::clear();
    transact(|t| NOTES.put(t, &1, &note("ada", &["a"]))).expect("committed");
    let written = memory::entries();
    memory::clear();
    let row = NOTES.prepare(&1, &note("ada", &["a"])).expect("prepared");
    transact(|t| NOTES.insert(t, &row)).expect("committed");
    let without_parts = |entries: Vec<(Vec<u8>, Vec<u8>)>| -> Vec<_> {
        entries.into_iter().filter(|(key, _)| !key.starts_with(b"all")).collect()
    };
    assert_eq!(without_parts(memory::entries()), without_parts(written));
}

#[test]
fn a_count_is_written_once_a_transaction_and_not_for_a_failed_one() {
    memory::clear();
    memory::spent();
    transact::<_, StoreError>(|t| {
        (0..50).try_for_each(|number| NOTES.replace(t, &number, None, Some(&note("ada", &[]))))
    })
    .expect("committed");
    let spent = memory::spent();
    assert!(spent.writes <= 50 * 2 + 1 + 4, "{spent:?}");
    transact(|t| {
        NOTES.put(t, &99, &note("ada", &[]))?;
        Err::<(), _>(StoreError::Conflict)
    })
    .expect_err("failed");
    assert_eq!(AUTHORS.get(&snapshot().expect("a snapshot"), &("ada",)), Ok(50));
}
