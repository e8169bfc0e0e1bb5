//! The standard draft interfaces, through a real component: `wasi:keyvalue`, `wasi:config` and `wasi:logging`; and the budgets of the store.

use mcpp::store::{Scan, Section, Space};
use serde_json::{Value, json};

use crate::support::{TestHost, folder, grant, guest};

/// A host with the component `kv`, granted this.
async fn kv_host(grants: &str) -> TestHost {
    let files = folder(&[("kv", &guest("standard")), ("other", &crate::support::add())]);
    grant(&files, &format!("[components.kv]\n{grants}"));
    let host = TestHost::start_with(files, |_| {}).await;
    assert_eq!(host.problems(), "");
    host
}

async fn value(host: &TestHost, tool: &str, arguments: Value) -> Value {
    let answer = host.call(tool, arguments).await;
    assert_eq!(answer["result"]["isError"], json!(false), "{tool}: {answer}");
    answer["result"]["structuredContent"]["result"].clone()
}

fn at(name: &str, key: &str) -> Value {
    json!({ "name": name, "key": key })
}

async fn set(host: &TestHost, name: &str, key: &str, text: &str) -> String {
    host.text("kv_set", json!({ "name": name, "key": key, "value": text })).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_set_is_got_and_survives_the_host() {
    let host = kv_host("store = {}").await;
    assert_eq!(value(&host, "kv_get", at("", "a")).await, Value::Null);
    set(&host, "", "a", "one").await;
    set(&host, "", "a", "two").await;
    assert_eq!(value(&host, "kv_get", at("", "a")).await, "two");
    assert_eq!(value(&host, "kv_get", at("default", "a")).await, "two", "the empty name is the default bucket");
    assert_eq!(value(&host, "kv_exists", at("", "a")).await, true);
    let folder = host.stop().await;
    let host = TestHost::start_with(folder, |_| {}).await;
    assert_eq!(value(&host, "kv_get", at("", "a")).await, "two");
    value(&host, "kv_delete", at("", "a")).await;
    value(&host, "kv_delete", at("", "a")).await;
    assert_eq!(value(&host, "kv_exists", at("", "a")).await, false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn buckets_are_apart_from_each_other_and_from_the_store() {
    let host = kv_host("store = {}").await;
    for (bucket, text) in [("", "in default"), ("b", "in b"), ("bb", "in bb"), ("b.c-d_E", "in another")] {
        set(&host, bucket, "same", text).await;
    }
    value(&host, "own_set", json!({ "key": "same", "value": "in the store" })).await;
    assert_eq!(value(&host, "kv_get", at("b", "same")).await, "in b");
    assert_eq!(value(&host, "kv_get", at("bb", "same")).await, "in bb");
    assert_eq!(value(&host, "kv_keys", json!({ "name": "b" })).await, json!([["same"], 1]));
    assert_eq!(value(&host, "own_read", json!({ "key": "same", "times": 1 })).await, "in the store");
    value(&host, "kv_delete", at("b", "same")).await;
    assert_eq!(value(&host, "kv_get", at("bb", "same")).await, "in bb");
    // Key and bucket cannot be confused: what ends one name does not begin the other.
    set(&host, "x", "yz", "1").await;
    assert_eq!(value(&host, "kv_get", at("xy", "z")).await, Value::Null);
    let space = Space {
        tenant: mcpp::names::TenantId::local(),
        component: mcpp::names::ComponentName::new("kv").expect("legal"),
    };
    let snapshot = host.host.registry().store().snapshot(&space).await.expect("open");
    let own = snapshot.scan(&Section::Data.prefix(b""), Scan::first(10)).await.expect("read");
    assert_eq!(own.entries.len(), 1, "what mcpp:store sees");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_with_a_wild_name_does_not_exist() {
    let host = kv_host("store = {}").await;
    for name in ["a/b", "a b", "\0", "ä", &"n".repeat(65)] {
        assert_eq!(set(&host, name, "k", "v").await, "error: no-such-store", "{name:?}");
    }
    assert_eq!(set(&host, &"n".repeat(64), "k", "v").await, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_and_values_are_bounded() {
    let host = kv_host("store = {}").await;
    assert_eq!(set(&host, "", &"k".repeat(1_024), "v").await, "");
    assert_eq!(set(&host, "", &"k".repeat(1_025), "v").await, "error: other: a key has more than 1024 bytes");
    let large = |bytes: usize| json!({ "name": "", "key": "large", "bytes": bytes });
    value(&host, "kv_set_large", large(1 << 20)).await;
    let said = host.text("kv_set_large", large((1 << 20) + 1)).await;
    assert_eq!(said, "error: other: a value has more than 1048576 bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn increments_at_the_same_time_are_all_counted() {
    let host = kv_host("store = {}").await;
    let add = |delta: u64| host.call("kv_increment", json!({ "name": "", "key": "n", "delta": delta }));
    let answers = futures::future::join_all((0..60).map(|_| add(1))).await;
    let mut numbers: Vec<u64> = answers
        .iter()
        .map(|answer| answer["result"]["structuredContent"]["result"].as_u64().unwrap_or_else(|| panic!("{answer}")))
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=60).collect::<Vec<_>>());
    assert_eq!(value(&host, "kv_get", at("", "n")).await, "60", "a number is kept in decimal digits");
    let over = crate::support::text_of(&add(u64::MAX).await);
    assert_eq!(over, "error: other: the sum is larger than a u64");
    set(&host, "", "n", "many").await;
    let wrong = crate::support::text_of(&add(1).await);
    assert_eq!(wrong, "error: other: the value is not a number in decimal digits");
    assert_eq!(value(&host, "kv_get", at("", "n")).await, "many");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_listed_page_by_page_and_each_once() {
    let host = kv_host("store = {}").await;
    value(&host, "kv_fill", json!({ "name": "b", "count": 2_500, "bytes": 1 })).await;
    value(&host, "kv_fill", json!({ "name": "bb", "count": 10, "bytes": 1 })).await;
    let mut expected: Vec<String> = (0..2_500).map(|number| format!("key-{number}")).collect();
    expected.sort();
    assert_eq!(value(&host, "kv_keys", json!({ "name": "b" })).await, json!([expected, 3]));
    // A cursor is good in another call, and after changes on both sides of it.
    let first = value(&host, "kv_page", json!({ "name": "b", "cursor": null })).await;
    assert_eq!(first[0].as_array().map(Vec::len), Some(1_000));
    value(&host, "kv_delete_many", json!({ "name": "b", "keys": first[0] })).await;
    let second = value(&host, "kv_page", json!({ "name": "b", "cursor": first[1] })).await;
    let third = value(&host, "kv_page", json!({ "name": "b", "cursor": second[1] })).await;
    assert_eq!((second[0].as_array().map(Vec::len), third[0].as_array().map(Vec::len)), (Some(1_000), Some(500)));
    assert_eq!(third[1], Value::Null);
    for cursor in [u64::MAX, u64::MAX - 1] {
        assert_eq!(value(&host, "kv_page", json!({ "name": "b", "cursor": cursor })).await, json!([[], null]));
    }
    assert_eq!(value(&host, "kv_page", json!({ "name": "none", "cursor": null })).await, json!([[], null]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_are_one_transaction() {
    let host = kv_host("store = { quota_bytes = 100000 }").await;
    value(&host, "kv_fill", json!({ "name": "", "count": 3, "bytes": 10 })).await;
    let found = value(&host, "kv_get_many", json!({ "name": "", "keys": ["key-2", "no", "key-0"] })).await;
    assert_eq!(found, json!([["key-2", 10], null, ["key-0", 10]]));
    value(&host, "kv_delete_many", json!({ "name": "", "keys": ["key-1", "no"] })).await;
    assert_eq!(value(&host, "kv_keys", json!({ "name": "" })).await, json!([["key-0", "key-2"], 1]));
    // Too much for the quota, and too much for a transaction: nothing of it is there.
    let filled = host.text("kv_fill", json!({ "name": "much", "count": 100, "bytes": 10_000 })).await;
    assert_eq!(filled, "error: other: the space would outgrow its quota of 100000 bytes");
    assert_eq!(value(&host, "kv_keys", json!({ "name": "much" })).await, json!([[], 1]));
    let host = kv_host("store = {}").await;
    let filled = host.text("kv_fill", json!({ "name": "much", "count": 10_001, "bytes": 1 })).await;
    assert!(filled.starts_with("error: other: the transaction has more than"), "{filled}");
    assert_eq!(value(&host, "kv_keys", json!({ "name": "much" })).await, json!([[], 1]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_transaction_is_not_waited_for() {
    let host = kv_host("store = {}").await;
    let said = host.text("kv_within_transaction", json!({ "key": "k" })).await;
    assert_eq!(said, "error: other: a transaction of mcpp:store is open");
    assert_eq!(value(&host, "kv_get", at("", "k")).await, Value::Null);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_grant_there_is_no_keyvalue() {
    let files = folder(&[("kv", &guest("standard"))]);
    let host = TestHost::start_with(files, |_| {}).await;
    assert!(host.problems().contains("add `store = {}` to `grants/kv.toml`"), "{}", host.problems());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_one_large_value_many_times_at_once_ends_at_a_bound() {
    let host = kv_host("store = {}").await;
    // A key in the store is 22 bytes long here, so that four entries are 4 MiB to the byte.
    let of = (1 << 20) - 22;
    for (bytes, times, says) in [
        (of, 4, r#"{"result":4}"#),
        (of + 1, 4, "error: other: the values have more than 4194304 bytes: ask for fewer at once"),
        (1, 10_000, r#"{"result":10000}"#),
    ] {
        value(&host, "kv_set_large", json!({ "name": "", "key": "large", "bytes": bytes })).await;
        let said = host.text("kv_amplify", json!({ "name": "", "key": "large", "times": times })).await;
        assert_eq!(said, says, "{times} of {bytes}");
    }
    let said = host.text("kv_amplify", json!({ "name": "", "key": "none", "times": 10_001 })).await;
    assert_eq!(said, "error: other: more than 10000 keys");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations_and_bytes_of_the_store_are_budgets() {
    let host = kv_host("store = {}\n[components.kv.limits]\nstore_ops = 20\nstore_bytes = 10000\n").await;
    let ops = "error: budget `store_ops` exceeded: the tool was stopped at 20";
    // More than a transaction could have is refused before anything of it is made or counted.
    let refused = host.text("kv_fill", json!({ "name": "", "count": 10_001, "bytes": 1 })).await;
    assert!(refused.contains("the transaction has more than 10000 writes"), "{refused}");
    let bytes = "error: budget `store_bytes` exceeded: the tool was stopped at 10000";
    value(&host, "own_set", json!({ "key": "k", "value": "v".repeat(3_000) })).await;
    // By mcpp:store, by events, and by wasi:keyvalue.
    assert_eq!(host.text("own_read", json!({ "key": "k", "times": 3 })).await.len(), 3_000);
    assert_eq!(host.text("own_read", json!({ "key": "k", "times": 4 })).await, bytes);
    assert_eq!(host.text("own_read", json!({ "key": "none", "times": 11 })).await, ops);
    assert_eq!(host.text("own_set", json!({ "key": "k", "value": "v".repeat(10_000) })).await, bytes);
    assert_eq!(host.text("own_emit", json!({ "times": 19 })).await, ops);
    assert_eq!(host.text("kv_fill", json!({ "name": "", "count": 21, "bytes": 1 })).await, ops);
    assert_eq!(host.text("kv_fill", json!({ "name": "", "count": 3, "bytes": 4_000 })).await, bytes);
    assert_eq!(
        value(&host, "kv_keys", json!({ "name": "" })).await,
        json!([[], 1]),
        "what was stopped has not happened"
    );
    let counted = host.metric("mcpp_guest_store_ops_total").await;
    assert!(counted.iter().any(|line| line.contains("own_read")), "{counted:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_are_what_the_grant_says() {
    let host = kv_host("store = {}\nconfig = { region = 'eu', 'log.level' = 'info' }\n").await;
    let all = json!([["log.level", "info"], ["region", "eu"]]);
    assert_eq!(value(&host, "settings", json!({ "key": "region" })).await, json!(["eu", all]));
    assert_eq!(value(&host, "settings", json!({ "key": "none" })).await, json!([null, all]));
    let bare = kv_host("store = {}\n").await;
    assert_eq!(value(&bare, "settings", json!({ "key": "region" })).await, json!([null, []]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_record_has_its_level_and_comes_out_of_the_budget() {
    let host = kv_host("store = {}\n[components.kv.limits]\nlog_bytes = 10000\n").await;
    let params = json!({
        "name": "speak", "arguments": { "context": "billing", "message": "paid" },
        "_meta": { "io.modelcontextprotocol/logLevel": "debug" },
    });
    let response = host.modern("tools/call", params).send().await.expect("an answer");
    let messages = crate::support::messages(response).await;
    let records: Vec<_> = messages
        .iter()
        .filter(|message| message["method"] == "notifications/message")
        .map(|message| (message["params"]["level"].as_str().unwrap_or_default(), message["params"]["data"].to_string()))
        .collect();
    let levels: Vec<_> = records.iter().map(|(level, _)| *level).collect();
    assert_eq!(levels, ["debug", "debug", "info", "warning", "error", "critical"]);
    assert!(records.iter().all(|(_, data)| data.contains("billing: paid")), "{records:?}");
    let said = host.text("shout", json!({ "bytes": 100 })).await;
    assert_eq!(said, "error: budget `log_bytes` exceeded: the tool was stopped at 10000");
}

/// A plain component with these imports, which it does not use.
fn importing(imports: &str) -> Vec<u8> {
    crate::support::wat(&format!(
        r#"(component {imports}
            (core module $m (func (export "f") (result i32) i32.const 1))
            (core instance $i (instantiate $m))
            (func (export "run") (result u32) (canon lift (core func $i "f"))))"#
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_gives_no_power_needs_no_grant() {
    let component = importing(
        r#"(import "wasi:logging/logging@0.1.0-draft" (instance
                (type $named (enum "trace" "debug" "info" "warn" "error" "critical"))
                (export "level" (type $level (eq $named)))
                (export "log" (func (param "level" $level) (param "context" string) (param "message" string)))))
            (import "wasi:config/store@0.2.0-rc.1" (instance
                (type $named (variant (case "upstream" string) (case "io" string)))
                (export "error" (type $error (eq $named)))
                (export "get" (func (param "key" string) (result (result (option string) (error $error)))))))
            (import "wasi:sockets/tcp@0.2.0" (instance (export "tcp-socket" (type (sub resource)))))"#,
    );
    let host = TestHost::start(&[("plain", &component)]).await;
    assert_eq!(host.problems(), "");
    assert_eq!(host.text("plain_run", json!({})).await, r#"{"result":1}"#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_version_is_refused_and_ours_is_named() {
    for (import, says) in [
        ("wasi:keyvalue/store@0.2.0-draft2", "speaks version 0.2.0-draft of `wasi:keyvalue`"),
        ("wasi:config/runtime@0.2.0-draft", "which this host does not know"),
        ("wasi:config/store@0.2.0-draft", "speaks version 0.2.0-rc.1 of `wasi:config`"),
        ("wasi:logging/logging@0.1.0", "speaks version 0.1.0-draft and none of `wasi:logging`"),
        ("wasi:cli/stdout@0.4.0", "speaks version 0.2.x and 0.3.x of `wasi:cli`"),
        ("wasi:sockets/tcp@0.3.0", "speaks version 0.2.x of `wasi:sockets`"),
        ("wasi:http/types@0.3.0", "speaks version 0.2.x of `wasi:http`"),
    ] {
        let component = importing(&format!(r#"(import "{import}" (instance (export "go" (func))))"#));
        let files = folder(&[("c", &component)]);
        grant(&files, "[components.c]\nstore = {}\n");
        let host = TestHost::start_with(files, |_| {}).await;
        assert!(host.problems().contains(says), "{import}: {}", host.problems());
    }
}
