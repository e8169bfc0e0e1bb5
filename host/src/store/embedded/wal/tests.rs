use super::*;
use crate::store::embedded::disk::FileSystem;

const HALF: usize = 8 << 10;

fn written(version: u64) -> Written {
    let component = match version % 3 {
        0 => ComponentName::of_host(),
        1 => ComponentName::of_tasks(),
        _ => ComponentName::new("a").expect("legal"),
    };
    let last = (!version.is_multiple_of(3)).then(Bytes::new);
    let writes = [(Bytes::from(format!("{version:03}")), Some(vec![7; 300].into())), (Bytes::from("k"), last)].into();
    Written { component, version, used_bytes: version * 10, writes }
}

/// A log with the groups 1 to `last`, each half full of them before the other one begins.
fn log(file: &Path, last: u64) -> Wal {
    let mut wal = Wal::begin(file, &FileSystem, 2 * HALF).expect("begun");
    for number in 1..=last {
        let (one, two) = (written(number), written(number + 100));
        let record = wal.record(number, &[&one, &two]).expect("it fits");
        if !wal.has_room(&record) {
            wal.turn_over();
        }
        wal.append(&record).expect("appended");
    }
    wal
}

fn read_versions(file: &Path, id: u64, last: u64) -> Result<(Vec<u64>, u64), StoreError> {
    let (written, newest) = read(file, &FileSystem, id, last)?;
    Ok((written.iter().map(|written| written.version).collect(), newest))
}

#[test]
fn what_was_appended_is_read_in_order_from_both_halves() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("a.redb");
    // Eight records fill a half.
    let wal = log(&file, 11);
    let (groups, newest) = read(&file, &FileSystem, wal.id(), 0).expect("read");
    assert_eq!(newest, 11);
    let expected: Vec<Written> = (1..=11).flat_map(|number| [written(number), written(number + 100)]).collect();
    assert_eq!(groups, expected);
    assert_eq!(read_versions(&file, wal.id(), 9).expect("read"), (vec![10, 110, 11, 111], 11));
    assert_eq!(read_versions(&file, wal.id(), 11).expect("read"), (Vec::new(), 11));
}

#[test]
fn a_half_that_is_written_again_has_nothing_of_before() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("a.redb");
    let wal = log(&file, 18);
    // The first half has 17 and 18 now, and behind them what it had before.
    assert_eq!(read_versions(&file, wal.id(), 16).expect("read"), (vec![17, 117, 18, 118], 18));
    // The next log in the same file reads nothing of this one.
    let next = Wal::begin(&file, &FileSystem, 2 * HALF).expect("begun");
    assert_eq!(read_versions(&file, next.id(), 0).expect("read"), (Vec::new(), 0));
    assert!(matches!(read(&file, &FileSystem, wal.id(), 16), Err(StoreError::Unavailable(_))), "it has another name");
}

#[test]
fn a_torn_record_does_not_count_and_one_that_is_missing_before_others_is_damage() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("a.redb");
    let wal = log(&file, 11);
    let path = path_of(&file);
    let whole = std::fs::read(&path).expect("a log");
    let record = |number: usize| SECTOR + if number > 8 { HALF + (number - 9) * 1024 } else { (number - 1) * 1024 };
    for torn_at in [0, 5, 22, 40, 700] {
        let mut torn = whole.clone();
        torn[record(11) + torn_at] ^= 1;
        std::fs::write(&path, torn).expect("written");
        assert_eq!(read_versions(&file, wal.id(), 8).expect("read").1, 10, "torn at {torn_at}");
    }
    let mut damaged = whole.clone();
    damaged[record(7) + 40] ^= 1;
    std::fs::write(&path, damaged).expect("written");
    assert!(read_versions(&file, wal.id(), 0).is_err(), "7 and 8 are gone, and 9 is there");
    assert_eq!(read_versions(&file, wal.id(), 8).expect("read").1, 11, "the database has them");
    std::fs::remove_file(&path).expect("removed");
    assert!(read_versions(&file, wal.id(), 0).is_err(), "the log is missing");
}
