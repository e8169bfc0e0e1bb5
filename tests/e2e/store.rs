//! The `store` capability, through a real SDK component: what it keeps, and what becomes of a guest that misuses a transaction.

use std::time::Duration;

use mcpp::{
    names::{ComponentName, TenantId},
    store::Space,
};
use serde_json::{Value, json};

use crate::support::{TestHost, add, folder, grant, guest, text_of};

/// A host with the component `store`, granted this beside its store.
pub async fn store_host(grants: &str) -> TestHost {
    let files = folder(&[("store", &guest("store"))]);
    grant(&files, &format!("[components.store]\ncall = ['store_get']\nsubscribe = ['other/*']\n{grants}"));
    let host = TestHost::start_with(files, |_| {}).await;
    assert_eq!(host.problems(), "");
    host
}

/// The structured result of a tool.
pub async fn result(host: &TestHost, tool: &str, arguments: Value) -> Value {
    let answer = host.call(tool, arguments).await;
    let result = &answer["result"]["structuredContent"]["result"];
    assert!(!result.is_null(), "{tool}: {answer}");
    result.clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_is_read_and_survives_the_host() {
    let host = store_host("store = {}").await;
    host.call("store_set", json!({ "key": "a", "value": "one" })).await;
    let first = result(&host, "store_get", json!({ "key": "a" })).await;
    assert_eq!(first[0], "one");
    assert_eq!(result(&host, "store_get", json!({ "key": "b" })).await, json!([null, 0]));
    host.call("store_set", json!({ "key": "a", "value": "two" })).await;
    let second = result(&host, "store_get", json!({ "key": "a" })).await;
    assert_eq!(second[0], "two");
    assert_ne!(first[1], second[1], "every write has another version");
    let folder = host.stop().await;
    let host = TestHost::start_with(folder, |_| {}).await;
    assert_eq!(result(&host, "store_get", json!({ "key": "a" })).await, second);
    assert_eq!(result(&host, "store_remove", json!({ "key": "a" })).await, true);
    assert_eq!(result(&host, "store_keys", json!({})).await, json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_grant_there_is_no_store() {
    let files = folder(&[("store", &guest("store"))]);
    grant(&files, "[components.store]\ncall = ['store_get']\n");
    let host = TestHost::start_with(files, |_| {}).await;
    assert!(host.problems().contains("add `store = {}` to `grants/store.toml`"), "{}", host.problems());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_are_serializable() {
    let host = store_host("store = {}").await;
    let adds = (0..60).map(|_| host.call("store_add", json!({ "counter": "c", "delta": 1 })));
    let mut numbers: Vec<i64> = futures::future::join_all(adds)
        .await
        .iter()
        .map(|answer| answer["result"]["structuredContent"]["result"].as_i64().unwrap_or_else(|| panic!("{answer}")))
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=60).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_holds_and_what_fits_is_kept() {
    let host = store_host("store = { quota_bytes = 100000 }").await;
    let filled = result(&host, "store_fill", json!({ "bytes": 9_850 })).await;
    assert_eq!(filled, json!([10, "the store's quota is used up"]));
    assert_eq!(result(&host, "store_keys", json!({})).await.as_array().map(Vec::len), Some(10));
    assert_eq!(result(&host, "store_remove", json!({ "key": "fill-3" })).await, true);
    // Each is a transaction of its own.
    assert_eq!(result(&host, "store_fill", json!({ "bytes": 100 })).await[1], "the store's quota is used up");
}

/// The numbers are those of the quota: what they leave free fits to the byte, and one byte more does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_is_told_how_large_its_store_is_and_may_be() {
    const QUOTA: u64 = 10_000;
    let host = store_host("store = { quota_bytes = 10000 }").await;
    let told: [u64; 4] =
        serde_json::from_value(result(&host, "store_usage", json!({ "bytes": 1_000 })).await).expect("numbers");
    let [before, begun, written, quota] = told;
    assert_eq!((before, quota), (begun, QUOTA), "the host's own notes of the space count too");
    assert!((1_000..1_100).contains(&(written - begun)), "{begun} and {written}");
    let space = Space { tenant: TenantId::local(), component: ComponentName::new("store").expect("legal") };
    assert_eq!(host.host.registry().store().used_bytes(&space).await.expect("known"), written);
    let most = 1_000 + QUOTA - written;
    let told = result(&host, "store_usage", json!({ "bytes": most })).await;
    assert_eq!(told, json!([written, written, QUOTA, QUOTA]));
    assert_eq!(host.text("store_usage", json!({ "bytes": most + 1 })).await, "error: the store's quota is used up");
}

/// Each misuse harms only the call that does it: another transaction of the same space goes through meanwhile, and nothing of the misused one is there.
async fn misuse(how: &str, limits: &str, says: &str) {
    let host = store_host(&format!("store = {{}}\n{limits}")).await;
    let misusing = host.call("store_misuse", json!({ "how": how }));
    let other = async {
        // While the other has its transaction open, or had it: either way this one must get its turn.
        tokio::time::sleep(Duration::from_millis(50)).await;
        result(&host, "store_add", json!({ "counter": "c", "delta": 1 })).await
    };
    let (answer, number) = tokio::join!(misusing, other);
    assert_eq!(number, 1, "{how}");
    let text = text_of(&answer);
    assert!(says.split('|').any(|says| text.contains(says)), "{how}: {text}");
    assert_eq!(result(&host, "store_keys", json!({})).await, json!([]), "{how}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_misuses_a_transaction_harms_only_itself() {
    for (how, says) in [
        ("spin", "budget `deadline_ms` exceeded"),
        ("sleep", "budget `deadline_ms` exceeded"),
        ("overrun", "the transaction was open for too long"),
        ("trap", "the tool crashed"),
        ("call", "transaction-open"),
        ("wait", "a transaction is open"),
        ("begin", "a transaction is open"),
        ("abort", "aborted"),
        // On a busy machine writing that much may take too long as well.
        ("many-bytes", "the transaction writes too much|the transaction was open for too long"),
        ("large-value", "a value is larger than 1 MiB"),
        ("long-key", "a key is empty or too long"),
        ("no-key", "a key is empty or too long"),
    ] {
        misuse(how, "limits = { deadline_ms = 1500 }", says).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_goes_away_takes_its_transaction_with_it() {
    let host = store_host("store = {}").await;
    let misusing = host.modern("tools/call", json!({ "name": "store_misuse", "arguments": { "how": "spin" } }));
    let gone = tokio::time::timeout(Duration::from_millis(100), misusing.send()).await;
    assert!(gone.is_err(), "it spins");
    assert_eq!(result(&host, "store_add", json!({ "counter": "c", "delta": 1 })).await, 1);
    host.until("the guest is gone", async |host| host.host.registry().admission().running() == 0).await;
    assert_eq!(result(&host, "store_keys", json!({})).await, json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swap_does_not_harm_a_transaction_nor_the_next_build() {
    let host = store_host("store = {}\nlimits = { deadline_ms = 1500 }").await;
    let misusing = host.call("store_misuse", json!({ "how": "spin" }));
    let swap = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        // The same component with another custom section: another build.
        let mut next = guest("store");
        next.extend_from_slice(&[0, 2, 1, b'x']);
        host.write("store", &next);
        host.until("the next build serves", async |host| {
            host.metric("mcpp_swaps_total").await.iter().any(|line| line.contains("loaded") && line.ends_with(" 2"))
                || host.host.reload().await.is_ok_and(|report| report.unchanged.contains("store"))
        })
        .await;
        result(&host, "store_add", json!({ "counter": "c", "delta": 1 })).await
    };
    let (answer, number) = tokio::join!(misusing, swap);
    assert_eq!(number, 1);
    assert!(text_of(&answer).contains("deadline_ms"), "{}", text_of(&answer));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wait_ends_when_the_entry_changes_or_the_time_is_over() {
    let host = store_host("store = {}").await;
    let waiting = result(&host, "store_wait", json!({ "key": "a", "since": 0, "timeout_ms": 20_000 }));
    let writing = async {
        host.until("it waits", async |host| host.host.registry().admission().waiting() == 1).await;
        host.call("store_set", json!({ "key": "b", "value": "another" })).await;
        host.call("store_set", json!({ "key": "a", "value": "this one" })).await;
    };
    let (version, ()) = tokio::join!(waiting, writing);
    assert_eq!(result(&host, "store_get", json!({ "key": "a" })).await, json!(["this one", version]));
    // The wait ends at once for a value that has changed already, and a time that is over is no error.
    assert_eq!(result(&host, "store_wait", json!({ "key": "a", "since": 0, "timeout_ms": 20_000 })).await, version);
    let same = json!({ "key": "a", "since": version, "timeout_ms": 20 });
    assert_eq!(result(&host, "store_wait", same).await, version);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_have_a_bound() {
    let host = store_host("store = {}").await;
    assert_eq!(host.text("store_snapshots", json!({})).await, "error: too many snapshots are open");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_store_is_said_and_left_and_tools_without_one_work() {
    let host = store_host("store = {}").await;
    host.call("store_set", json!({ "key": "a", "value": "one" })).await;
    let folder = host.stop().await;
    let file = folder.path().join("data/store/local.redb");
    let good = std::fs::read(&file).expect("a file");
    std::fs::write(&file, b"no store at all").expect("written");
    std::fs::write(folder.path().join("tools/add.wasm"), add()).expect("written");
    let host = TestHost::start_with(folder, |_| {}).await;
    assert!(
        host.problems().contains("is not a store of mcpp, or is damaged; it is left as it is"),
        "{}",
        host.problems()
    );
    assert_eq!(host.text("add", json!({ "a": 1, "b": 2 })).await, r#"{"result":3}"#);
    assert_eq!(std::fs::read(&file).expect("a file"), b"no store at all");
    // Put right, it is taken up without a restart.
    std::fs::write(&file, good).expect("written");
    host.host.reload().await.expect("reloaded");
    assert_eq!(result(&host, "store_get", json!({ "key": "a" })).await[0], "one");
}
