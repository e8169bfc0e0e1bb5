//! The duties of every backend: each case takes a way to open another store on the same data, as another host would.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use mcpp::{
    names::{ComponentName, TenantId},
    store::{
        Bounds, ENTRY_COST, Entry, KeyRange, MAX_PAGE_BYTES, MAX_TRANSACTION_BYTES, MAX_TRANSACTION_WRITES, Order,
        Scan, Section, Space, SpaceUsage, Store, StoreError, Transaction,
    },
};
use tokio::time::Instant;

pub type Shared = Arc<dyn Store>;

pub fn space(component: &str) -> Space {
    Space { tenant: TenantId::local(), component: ComponentName::new(component).expect("legal") }
}

pub fn key(key: &str) -> Bytes {
    Section::Data.key(key.as_bytes())
}

pub fn all() -> KeyRange {
    Section::Data.prefix(b"")
}

pub async fn begin(store: &Shared, space: &Space) -> Box<dyn Transaction> {
    store.begin(space, Bounds::host()).await.expect("a transaction")
}

/// Writes entries in a transaction of their own.
pub async fn put(store: &Shared, space: &Space, entries: &[(&str, &str)]) {
    let mut t = begin(store, space).await;
    for (name, value) in entries {
        t.set(key(name), Bytes::copy_from_slice(value.as_bytes())).await.expect("set");
    }
    t.commit().await.expect("committed");
}

/// The durable entries, as text.
pub async fn durable(store: &Shared, space: &Space) -> BTreeMap<String, String> {
    let snapshot = store.snapshot(space).await.expect("a snapshot");
    let page = snapshot.scan(&all(), Scan::first(1_000)).await.expect("a page");
    assert!(!page.more);
    page.entries.iter().map(|entry| (text(&entry.key[1..]), text(&entry.value))).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn names(entries: &[Entry]) -> Vec<String> {
    entries.iter().map(|entry| text(&entry.key[1..])).collect()
}

pub async fn reads_outside_a_transaction_see_durable_state_only(store: Shared, _: Shared) {
    let space = space("a");
    put(&store, &space, &[("k", "old")]).await;
    let mut t = begin(&store, &space).await;
    t.set(key("k"), "new".into()).await.expect("set");
    assert_eq!(t.get(&key("k")).await.expect("get").expect("there").value, "new");
    let before = store.snapshot(&space).await.expect("a snapshot");
    assert_eq!(before.get(&key("k")).await.expect("get").expect("there").value, "old");
    t.commit().await.expect("committed");
    assert_eq!(before.get(&key("k")).await.expect("get").expect("there").value, "old", "a snapshot does not move");
    assert_eq!(durable(&store, &space).await["k"], "new");
}

pub async fn an_aborted_transaction_has_not_happened(store: Shared, _: Shared) {
    let space = space("a");
    put(&store, &space, &[("k", "1"), ("l", "1")]).await;
    let mut t = begin(&store, &space).await;
    t.set(key("k"), "2".into()).await.expect("set");
    assert!(t.delete(&key("l")).await.expect("delete"));
    drop(t);
    assert_eq!(durable(&store, &space).await, BTreeMap::from([("k".into(), "1".into()), ("l".into(), "1".into())]));
    let mut t = begin(&store, &space).await;
    assert_eq!(t.get(&key("k")).await.expect("get").expect("there").value, "1");
}

pub async fn scans_merge_own_writes_and_keep_to_their_bounds(store: Shared, _: Shared) {
    let space = space("a");
    put(&store, &space, &[("a", "1"), ("b", "1"), ("c", "1"), ("d", "1"), ("e", "1")]).await;
    let mut t = begin(&store, &space).await;
    t.delete(&key("b")).await.expect("delete");
    t.set(key("c"), "2".into()).await.expect("set");
    t.set(key("cc"), "2".into()).await.expect("set");
    assert!(!t.delete(&key("nothing")).await.expect("delete"));
    let range = |start: &str, end: &str| KeyRange { start: key(start), end: key(end) };
    for (range, limit, order, found, more) in [
        (all(), 9, Order::Ascending, "a c cc d e", false),
        (all(), 9, Order::Descending, "e d cc c a", false),
        (all(), 2, Order::Ascending, "a c", true),
        (all(), 5, Order::Ascending, "a c cc d e", false),
        (all(), 2, Order::Descending, "e d", true),
        (range("b", "d"), 9, Order::Ascending, "c cc", false),
        (range("b", "d"), 1, Order::Descending, "cc", true),
        (range("d", "b"), 9, Order::Ascending, "", false),
        (all(), 0, Order::Ascending, "", false),
    ] {
        let page = t.scan(&range, Scan { limit, order }).await.expect("a page");
        assert_eq!((names(&page.entries).join(" "), page.more), (found.into(), more), "{range:?} {limit} {order:?}");
    }
    t.commit().await.expect("committed");
    assert_eq!(durable(&store, &space).await.into_keys().collect::<Vec<_>>().join(" "), "a c cc d e");
    let large = Bytes::from(vec![7; MAX_PAGE_BYTES / 2]);
    let mut t = begin(&store, &space).await;
    for name in ["x1", "x2", "x3"] {
        t.set(key(name), large.clone()).await.expect("set");
    }
    let page = t.scan(&range("x", "y"), Scan::first(9)).await.expect("a page");
    assert_eq!((page.entries.len(), page.more), (1, true), "a page has bytes to keep to");
}

pub async fn many_are_written_and_read_with_one_call(store: Shared, _: Shared) {
    let space = space("a");
    put(&store, &space, &[("a", "1"), ("b", "1"), ("c", "1")]).await;
    let mut t = begin(&store, &space).await;
    let changes = [("b", None), ("d", Some("2")), ("a", Some("2")), ("nothing", None), ("d", Some("3"))];
    let change = |(name, value): (&str, Option<&'static str>)| (key(name), value.map(Bytes::from));
    t.write_many(changes.map(change).to_vec()).await.expect("written");
    let keys = ["d", "a", "b", "x", "c"].map(key);
    let found = t.get_many(&keys).await.expect("read");
    let values: Vec<Option<String>> = found.into_iter().map(|entry| entry.map(|entry| text(&entry.value))).collect();
    assert_eq!(values, [Some("3".to_owned()), Some("2".into()), None, None, Some("1".into())]);
    let large = Bytes::from(vec![7; MAX_PAGE_BYTES * 2 / 3]);
    t.write_many(["l1", "l2"].map(|name| (key(name), Some(large.clone()))).to_vec()).await.expect("written");
    assert_eq!(t.get_many(&["l1", "a", "l2"].map(key)).await.expect("read").len(), 2, "a page has bytes to keep to");
    assert_eq!(t.get_many(&["l1"].map(key)).await.expect("read").len(), 1);
    assert_eq!(t.get_many(&vec![key("x"); 1_500]).await.expect("read").len(), 1_000);
    t.write_many(["l1", "l2"].map(|name| (key(name), None)).to_vec()).await.expect("removed");
    t.commit().await.expect("committed");
    let committed = durable(&store, &space).await;
    assert_eq!(committed.into_keys().collect::<Vec<_>>().join(" "), "a c d");
    // The change that is refused ends the call.
    let mut t = begin(&store, &space).await;
    let filler = Bytes::from(vec![7; 1 << 20]);
    let much = (0..5).map(|number| (key(&format!("m{number}")), Some(filler.clone()))).collect();
    assert!(matches!(t.write_many(much).await, Err(StoreError::TransactionTooLarge)));
    drop(t);
    assert_eq!(durable(&store, &space).await.len(), 3);
}

/// Adds to a number, again where it conflicts.
async fn increment(store: &Shared, space: &Space, name: &str) {
    loop {
        let mut t = begin(store, space).await;
        let added = async {
            let number =
                t.get(&key(name)).await?.map_or(0, |entry| text(&entry.value).parse::<u64>().expect("a number"));
            tokio::task::yield_now().await;
            t.set(key(name), (number + 1).to_string().into()).await
        };
        let done = match added.await {
            Ok(()) => t.commit().await,
            Err(error) => Err(error),
        };
        match done {
            Ok(()) => return,
            Err(StoreError::Conflict) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
}

pub async fn concurrent_transactions_lose_no_update(store: Shared, other: Shared) {
    let space = space("a");
    let stores = [&store, &other];
    let work = (0..40_usize).map(|number| increment(stores[number % 2], &space, "n"));
    futures::future::join_all(work).await;
    assert_eq!(durable(&store, &space).await["n"], "40");
}

pub async fn there_is_no_write_skew(store: Shared, other: Shared) {
    let space = space("a");
    // Two doctors on call; each may leave if the other stays.
    put(&store, &space, &[("a", "on"), ("b", "on")]).await;
    let leave = async |store: &Shared, me: &str, colleague: &str| {
        let mut t = begin(store, &space).await;
        let left = async {
            let stays = t.get(&key(colleague)).await?.expect("there").value == "on";
            tokio::time::sleep(Duration::from_millis(20)).await;
            if stays { t.set(key(me), "off".into()).await } else { Ok(()) }
        };
        match left.await {
            Ok(()) => t.commit().await,
            Err(error) => Err(error),
        }
    };
    let outcomes = tokio::join!(leave(&store, "a", "b"), leave(&other, "b", "a"));
    let on_call = durable(&store, &space).await.into_values().filter(|state| state == "on").count();
    assert!(on_call >= 1, "{outcomes:?}");
}

pub async fn claimers_take_every_entry_once(store: Shared, other: Shared) {
    let space = space("a");
    let entries: Vec<String> = (0..60).map(|number| format!("{number:03}")).collect();
    put(&store, &space, &entries.iter().map(|name| (name.as_str(), "task")).collect::<Vec<_>>()).await;
    let stores = [&store, &other];
    let claim = async |store: &Shared| {
        let mut mine = Vec::new();
        loop {
            let mut t = begin(store, &space).await;
            let taken = match t.take(&all(), 1).await {
                Ok(taken) => taken,
                Err(StoreError::Conflict) => continue,
                Err(error) => panic!("{error:?}"),
            };
            let Some(first) = taken.entries.first() else {
                // Others may hold the last ones and yet fail.
                drop(t);
                if durable(store, &space).await.is_empty() {
                    return mine;
                }
                continue;
            };
            let deleted = t.delete(&first.key).await;
            match if deleted.is_ok() { t.commit().await } else { deleted.map(|_| ()) } {
                Ok(()) => mine.extend(names(&taken.entries)),
                Err(StoreError::Conflict) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
    };
    let claimed = futures::future::join_all((0..10_usize).map(|number| claim(stores[number % 2]))).await;
    let mut claimed: Vec<String> = claimed.into_iter().flatten().collect();
    claimed.sort();
    assert_eq!(claimed, entries);
}

pub async fn a_transaction_that_is_open_too_long_is_over(store: Shared, _: Shared) {
    let space = space("a");
    let short = Bounds { own: Duration::from_millis(50), ..Bounds::host() };
    let mut t = store.begin(&space, short.clone()).await.expect("a transaction");
    t.set(key("k"), "never".into()).await.expect("set");
    // The next one does not wait for the first to end itself.
    put(&store, &space, &[("k", "other")]).await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert!(matches!(t.get(&key("k")).await, Err(StoreError::TooLong)));
    assert!(matches!(t.set(key("k"), "never".into()).await, Err(StoreError::TooLong)));
    assert!(matches!(t.commit().await, Err(StoreError::TooLong)));
    let t = store.begin(&space, short).await.expect("a transaction");
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert!(matches!(t.commit().await, Err(StoreError::TooLong)), "without anybody waiting too");
    assert_eq!(durable(&store, &space).await["k"], "other");
}

pub async fn a_quota_holds(store: Shared, _: Shared) {
    let space = space("a");
    let bounds = Bounds { quota_bytes: 300, ..Bounds::host() };
    let mut t = store.begin(&space, bounds.clone()).await.expect("a transaction");
    t.set(key("a"), Bytes::from(vec![0; 190])).await.expect("it fits");
    assert!(matches!(t.set(key("b"), Bytes::from(vec![0; 9])).await, Err(StoreError::QuotaExceeded { limit: 300 })));
    t.set(key("a"), Bytes::from(vec![0; 50])).await.expect("smaller");
    t.set(key("b"), Bytes::from(vec![0; 9])).await.expect("it fits now");
    // What is left by these numbers fits to the byte.
    let SpaceUsage { used_bytes, quota_bytes } = t.usage().await.expect("known");
    let two = u64::try_from(2 + 50 + 2 + 9 + 2 * (ENTRY_COST + "a".len())).expect("small");
    assert_eq!((used_bytes, quota_bytes), (two, 300));
    let rest = usize::try_from(quota_bytes - used_bytes).expect("small") - 2 - ENTRY_COST - "a".len();
    let one_more = t.set(key("c"), Bytes::from(vec![0; rest + 1])).await;
    assert!(matches!(one_more, Err(StoreError::QuotaExceeded { limit: 300 })));
    t.set(key("c"), Bytes::from(vec![0; rest])).await.expect("it fits");
    assert_eq!(t.usage().await.expect("known").used_bytes, 300);
    t.delete(&key("c")).await.expect("deleted");
    let before = store.snapshot(&space).await.expect("a snapshot");
    t.commit().await.expect("committed");
    assert_eq!(store.used_bytes(&space).await.expect("known"), two);
    let after = store.snapshot(&space).await.expect("a snapshot");
    assert_eq!(before.used_bytes().await.expect("known"), 0, "as it was when the snapshot was opened");
    assert_eq!(after.used_bytes().await.expect("known"), two);
    let mut t = store.begin(&space, bounds).await.expect("a transaction");
    assert!(matches!(t.set(key("c"), Bytes::from(vec![0; 60])).await, Err(StoreError::QuotaExceeded { .. })));
    t.delete(&key("a")).await.expect("deleted");
    t.set(key("c"), Bytes::from(vec![0; 60])).await.expect("there is room again");
    t.commit().await.expect("committed");
    assert_eq!(store.used_bytes(&space).await.expect("known"), two + 10);
}

pub async fn a_transaction_has_bounds(store: Shared, _: Shared) {
    let space = space("a");
    // So many writes, one by one, take long on a busy machine.
    let patient = Duration::from_secs(100);
    let bounds = Bounds { own: patient, wall: patient, ..Bounds::host() };
    let mut t = store.begin(&space, bounds).await.expect("a transaction");
    for number in 0..MAX_TRANSACTION_WRITES {
        t.set(key(&number.to_string()), Bytes::new()).await.expect("set");
    }
    assert!(matches!(t.set(key("more"), Bytes::new()).await, Err(StoreError::TransactionTooLarge)));
    drop(t);
    let mut t = begin(&store, &space).await;
    let quarter = Bytes::from(vec![0; MAX_TRANSACTION_BYTES / 4]);
    for number in 0..3 {
        t.set(key(&number.to_string()), quarter.clone()).await.expect("set");
    }
    assert!(matches!(t.set(key("3"), quarter).await, Err(StoreError::TransactionTooLarge)));
}

pub async fn every_write_has_another_version(store: Shared, _: Shared) {
    let space = space("a");
    let mut seen = BTreeSet::from([0]);
    for _ in 0..3 {
        put(&store, &space, &[("k", "same")]).await;
        let entry =
            store.snapshot(&space).await.expect("a snapshot").get(&key("k")).await.expect("get").expect("there");
        assert!(seen.insert(entry.version), "{entry:?}");
        let mut t = begin(&store, &space).await;
        assert!(t.delete(&key("k")).await.expect("delete"));
        t.commit().await.expect("committed");
    }
    let mut last = 0;
    for _ in 0..3 {
        let mut t = begin(&store, &space).await;
        let order = t.order(b"group").await.expect("an order");
        assert!(order > last);
        last = order;
        t.set(key("k"), "x".into()).await.expect("set");
        t.commit().await.expect("committed");
    }
}

pub async fn wait_ends_when_its_entry_changes(store: Shared, other: Shared) {
    let space = space("a");
    let version = async || {
        let found = store.snapshot(&space).await.expect("a snapshot").get(&key("k")).await.expect("get");
        found.map_or(0, |entry| entry.version)
    };
    for value in ["created", "changed", "changed"] {
        let since = version().await;
        let wait_key = key("k");
        let waiting = store.wait(&space, &wait_key, since);
        let writing = async {
            put(&store, &space, &[("another", value)]).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            put(&other, &space, &[("k", value)]).await;
        };
        let began = Instant::now();
        let (woken, ()) = tokio::join!(waiting, writing);
        assert!(began.elapsed() >= Duration::from_millis(20), "another entry woke it");
        assert_eq!(woken.expect("woken"), version().await);
    }
    let since = version().await;
    let wait_key = key("k");
    let waiting = store.wait(&space, &wait_key, since);
    let deleting = async {
        let mut t = begin(&other, &space).await;
        t.delete(&key("k")).await.expect("delete");
        t.commit().await.expect("committed");
    };
    let (woken, ()) = tokio::join!(waiting, deleting);
    assert_eq!(woken.expect("woken"), 0);
    let never = tokio::time::timeout(Duration::from_millis(50), store.wait(&space, &wait_key, 0)).await;
    assert!(never.is_err(), "nothing changes");
}

pub async fn spaces_know_nothing_of_each_other(store: Shared, _: Shared) {
    let other_tenant =
        Space { tenant: TenantId::new("other").expect("legal"), component: ComponentName::new("a").expect("legal") };
    let spaces = [space("a"), space("ab"), space("b"), other_tenant];
    for (number, space) in spaces.iter().enumerate() {
        put(&store, space, &[("k", &number.to_string())]).await;
    }
    for (number, space) in spaces.iter().enumerate() {
        assert_eq!(durable(&store, space).await, BTreeMap::from([("k".into(), number.to_string())]));
    }
    assert_eq!(store.spaces(&TenantId::local()).await.expect("known"), spaces[..3]);
    // An open transaction in one is no hindrance in another.
    let _open = begin(&store, &spaces[0]).await;
    put(&store, &spaces[1], &[("l", "x")]).await;
}

pub async fn what_is_to_be_delivered_is_told(store: Shared, _: Shared) {
    let space = space("a");
    put(&store, &space, &[("k", "x")]).await;
    let none = tokio::time::timeout(Duration::from_millis(30), store.touched().next()).await;
    assert!(none.is_err(), "{none:?}");
    for section in [Section::Deliveries, Section::Due] {
        let mut t = begin(&store, &space).await;
        t.set(section.key(b"k"), Bytes::new()).await.expect("set");
        t.commit().await.expect("committed");
        let touched = tokio::time::timeout(Duration::from_secs(5), store.touched().next()).await.expect("told");
        assert_eq!(touched, BTreeSet::from([space.clone()]));
    }
}

pub async fn a_tenant_that_is_removed_has_no_data(store: Shared, _: Shared) {
    let mine = space("a");
    let other = Space { tenant: TenantId::new("team").expect("legal"), ..mine.clone() };
    for space in [&mine, &other] {
        put(&store, space, &[("k", "x")]).await;
    }
    let tenants = store.tenants().await.expect("listed");
    assert_eq!(tenants, [mine.tenant.clone(), other.tenant.clone()]);
    store.remove(&other.tenant).await.expect("removed");
    assert_eq!(store.tenants().await.expect("listed"), std::slice::from_ref(&mine.tenant));
    store.readmit(&other.tenant);
    assert!(durable(&store, &other).await.is_empty());
    assert_eq!(durable(&store, &mine).await["k"], "x");
}

/// The cases, as tests of one backend: `two_stores` gives two stores on the same new data, and what keeps that alive.
#[macro_export]
macro_rules! backend_suite {
    ($two_stores:path) => {
        $crate::backend_suite!($two_stores:
            reads_outside_a_transaction_see_durable_state_only, an_aborted_transaction_has_not_happened,
            scans_merge_own_writes_and_keep_to_their_bounds, many_are_written_and_read_with_one_call, concurrent_transactions_lose_no_update,
            there_is_no_write_skew, claimers_take_every_entry_once, a_transaction_that_is_open_too_long_is_over,
            a_quota_holds, a_transaction_has_bounds, every_write_has_another_version,
            wait_ends_when_its_entry_changes, spaces_know_nothing_of_each_other, what_is_to_be_delivered_is_told,
            a_tenant_that_is_removed_has_no_data);
    };
    ($two_stores:path: $($case:ident),*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $case() {
            let (store, other, _alive) = $two_stores().await;
            $crate::backend::suite::$case(store, other).await;
        }
    )*};
}
