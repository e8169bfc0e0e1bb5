use std::{
    any::Any,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures::future::BoxFuture;
use tokio::task::JoinHandle;

use super::*;
use crate::{
    events::record::{Kind, MAX_PAYLOAD_BYTES, delivery_key, group},
    store::{
        Page,
        embedded::{EmbeddedConfig, EmbeddedStore, disk::FileSystem},
    },
};

/// A space's entries. It counts the bytes that are read.
#[derive(Default)]
struct CountedSpace {
    entries: Mutex<BTreeMap<Bytes, Bytes>>,
    read: AtomicUsize,
}

impl Snapshot for CountedSpace {
    fn get<'a>(&'a self, _: &'a [u8]) -> BoxFuture<'a, Result<Option<Entry>, StoreError>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    fn scan<'a>(&'a self, range: &'a KeyRange, scan: Scan) -> BoxFuture<'a, Result<Page, StoreError>> {
        let mut page = Page::default();
        if !range.is_empty() {
            let entries = self.entries.lock().expect("no panic");
            let found = entries.range(range.start.clone()..range.end.clone()).take(scan.limit);
            let entry = |(key, value): (&Bytes, &Bytes)| Entry { key: key.clone(), value: value.clone(), version: 1 };
            page.entries = found.map(entry).collect();
        }
        self.read.fetch_add(page.entries.iter().map(Entry::bytes).sum(), Ordering::Relaxed);
        Box::pin(std::future::ready(Ok(page)))
    }

    fn used_bytes(&self) -> BoxFuture<'_, Result<u64, StoreError>> {
        let bytes = |(key, value): (&Bytes, &Bytes)| (key.len() + value.len()) as u64;
        let used_bytes = self.entries.lock().expect("no panic").iter().map(bytes).sum();
        Box::pin(std::future::ready(Ok(used_bytes)))
    }
}

/// Has every handler, and none is asked. The host's own work begins while nobody holds the line.
#[derive(Debug, Default)]
pub(super) struct IdleHandlers {
    pub(super) line: tokio::sync::Mutex<()>,
    pub(super) used: Mutex<Duration>,
}

impl Deliver for IdleHandlers {
    fn spawn(&self, work: BoxFuture<'static, ()>) -> JoinHandle<()> {
        tokio::spawn(work)
    }

    fn turn<'a>(&'a self, _: &'a TenantId) -> BoxFuture<'a, Box<dyn Any + Send>> {
        Box::pin(async {
            drop(self.line.lock().await);
            Box::new(()) as Box<dyn Any + Send>
        })
    }

    fn note_used(&self, _: &TenantId, time: Duration) {
        *self.used.lock().expect("no panic") += time;
    }

    fn has_handler(&self, _: &TenantId, _: &ComponentName) -> bool {
        true
    }

    fn deliver<'a>(
        &'a self,
        _: &'a TenantId,
        _: &'a ComponentName,
        _: &'a Delivery,
    ) -> BoxFuture<'a, Result<(), DeliveryError>> {
        Box::pin(std::future::pending())
    }
}

fn event(key: &str, sequence: u64, next_ms: u64) -> (Bytes, Bytes) {
    let to = ComponentName::new("b").expect("legal");
    let delivery = Delivery {
        id: format!("{key}-{sequence}"),
        kind: Kind::Event { topic: "a/t".into() },
        key: key.into(),
        payload: vec![7; MAX_PAYLOAD_BYTES].into(),
        time_ms: 1,
        cause: "c".into(),
        traceparent: "t".into(),
        chain: 0,
        attempts: 1,
        next_ms,
    };
    (delivery_key(&group(&to, "a/t", key), sequence, 0), encode(&delivery))
}

#[tokio::test]
async fn a_look_reads_no_head_in_back_off_twice_and_only_so_many_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = EmbeddedStore::new(folder.path().join("store"), EmbeddedConfig::default(), Arc::new(FileSystem));
    let (tenant, component) = (TenantId::local(), ComponentName::new("a").expect("legal"));
    let handlers = Arc::new(IdleHandlers::default());
    let signals = (Arc::default(), TenantLooks::new(tenant.clone(), Arc::clone(&handlers) as _));
    let space = Space { tenant, component };
    let store = Arc::new(store.expect("a store"));
    let mut worker = Worker::new(space, store, handlers, signals, CancellationToken::new());
    let (counted, later) = (CountedSpace::default(), now_ms() + 3_600_000);
    let put = |key: &str, sequence, next_ms| {
        let (key, value) = event(key, sequence, next_ms);
        counted.entries.lock().expect("no panic").insert(key, value);
    };
    for number in 0..600 {
        put(&format!("k{number:03}"), 5, later);
    }
    let mut look = async || {
        let mut found = DueDeliveries::default();
        worker.find_events(&counted, &mut found).await.expect("it looks");
        let ready: Vec<String> = found.ready.iter().map(|(_, job)| job.delivery.id.clone()).collect();
        (ready, counted.read.swap(0, Ordering::Relaxed), found.next)
    };
    let one = MAX_PAYLOAD_BYTES * 2;
    let (mut looks, mut bytes) = (0, 0);
    loop {
        let (ready, read, next) = look().await;
        assert!(ready.is_empty() && read <= MAX_LOOK_BYTES + one, "{ready:?}, {read} bytes");
        looks += 1;
        bytes += read;
        assert!(looks < 200, "it does not come to an end");
        if next.is_some_and(|next| next > NEXT_LOOK) {
            break;
        }
    }
    // Each was read once. From now on a look reads nothing, and there is nothing to do soon.
    assert!(bytes <= 600 * one, "{bytes} bytes");
    for _ in 0..5 {
        let (ready, read, _) = look().await;
        assert_eq!((ready.len(), read), (0, 0));
    }
    // Another group is found among them, and so is an event before the one that rests.
    put("k300-new", 6, 0);
    put("k400", 4, 0);
    let mut ready = BTreeSet::new();
    for _ in 0..5 {
        ready.extend(look().await.0);
    }
    assert_eq!(ready, BTreeSet::from(["k300-new-6".to_owned(), "k400-4".to_owned()]));
}
