//! The power goes at every point of a recorded run: what was acknowledged is there, and nothing is there by half.

use std::{collections::BTreeMap, sync::Arc};

use mcpp::store::embedded::{EmbeddedConfig, EmbeddedStore};

use super::{
    disk::{Fate, FaultyDisk, Logged},
    suite::{Shared, begin, durable, key, space},
};

const TRANSACTIONS: usize = 12;

fn open(disk: &FaultyDisk, wal_bytes: usize) -> EmbeddedStore {
    let config = EmbeddedConfig { wal_bytes, ..EmbeddedConfig::default() };
    EmbeddedStore::new(std::env::temp_dir(), config, Arc::new(disk.clone())).expect("a directory")
}

/// Entries that every second transaction changes in one batch: one more each time, and the first of the time before goes.
const BATCH: usize = 40;

/// Each transaction writes two entries that must go together, and enough bytes to grow the file now and then. Every second one also writes a batch.
async fn transact(store: &Shared, number: usize) {
    let mut t = begin(store, &space("a")).await;
    if number.is_multiple_of(2) {
        let write = |entry: usize| (key(&format!("batch-{entry:03}")), Some(number.to_string().into()));
        let mut changes: Vec<_> = (number..number + BATCH).map(write).collect();
        changes.extend((0..number).map(|entry| (key(&format!("batch-{entry:03}")), None)));
        t.write_many(changes).await.expect("written");
    }
    t.set(key("left"), number.to_string().into()).await.expect("set");
    t.set(key(&format!("bulk-{}", number % 3)), vec![b'x'; 20_000 * (number % 4)].into()).await.expect("set");
    t.set(key("right"), number.to_string().into()).await.expect("set");
    t.commit().await.expect("committed");
}

/// Through a log that has room for all, through one whose halves are filled again and again, and past one that is too small for most.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_there_and_nothing_is_there_by_half() {
    for wal_bytes in [1 << 20, 160 << 10, 16 << 10] {
        lose_power_everywhere(wal_bytes).await;
    }
}

async fn lose_power_everywhere(wal_bytes: usize) {
    let disk = FaultyDisk::default();
    disk.record();
    let store: Shared = Arc::new(open(&disk, wal_bytes));
    // The length of the log when each transaction was acknowledged.
    let mut acknowledged = vec![0];
    for number in 1..=TRANSACTIONS {
        transact(&store, number).await;
        acknowledged.push(disk.log().len());
    }
    let log = disk.log();
    let syncs = log.iter().filter(|logged| matches!(logged, Logged::Sync(_))).count();
    assert!(syncs >= TRANSACTIONS, "a commit that is not synced is not durable");
    let (mut opened, mut seed) = (0_usize, 1_u64);
    for position in 0..=log.len() {
        let stopped = FaultyDisk::replay(&log[..position]);
        let at_least = acknowledged.iter().rposition(|length| *length <= position).unwrap_or(0);
        let last = stopped.unsynced().saturating_sub(1);
        for variant in 0..4 {
            let mut index = 0;
            let after = stopped.after_power_loss(|| {
                index += 1;
                match variant {
                    0 => Fate::Lost,
                    1 if index - 1 == last => Fate::Torn,
                    1 | 2 => Fate::Arrived,
                    // Anything may arrive, in any order: writes are reordered until they are synced.
                    _ => {
                        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        [Fate::Lost, Fate::Torn, Fate::Arrived][(seed >> 33) as usize % 3]
                    }
                }
            });
            let crashed = open(&after, wal_bytes);
            let found = durable(&(Arc::new(crashed) as Shared), &space("a")).await;
            check(
                &found,
                at_least,
                &format!("log of {wal_bytes}, power lost at {position} of {}, variant {variant}", log.len()),
            );
            opened += 1;
        }
    }
    assert!(opened > 4 * TRANSACTIONS);
}

fn check(found: &BTreeMap<String, String>, at_least: usize, when: &str) {
    let number = |name: &str| found.get(name).map_or(0, |value| value.parse::<usize>().expect("a number"));
    assert_eq!(number("left"), number("right"), "half a transaction: {when}");
    assert!(number("left") >= at_least, "transaction {at_least} was acknowledged and is lost: {when}");
    let batch: Vec<(&str, &str)> =
        found.iter().filter_map(|(name, value)| Some((name.strip_prefix("batch-")?, value.as_str()))).collect();
    let last = number("left") / 2 * 2;
    let expected: Vec<(String, String)> = match last {
        0 => Vec::new(),
        _ => (last..last + BATCH).map(|entry| (format!("{entry:03}"), last.to_string())).collect(),
    };
    assert!(batch.into_iter().eq(expected.iter().map(|(name, value)| (&**name, &**value))), "half a batch: {when}");
    let bulk = found.get(&format!("bulk-{}", number("left") % 3)).map_or(0, String::len);
    assert_eq!(bulk, 20_000 * (number("left") % 4), "{when}");
}
