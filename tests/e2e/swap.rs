//! Hot swap: what is written goes live, what is broken does not, and no call is lost or mixed up.

use std::{
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};

use crate::support::{TestHost, add, binary, folder, number, wat};

/// A component `v` whose tool gives `version`.
pub(crate) fn version(version: u32) -> Vec<u8> {
    number("v", &format!("i32.const {version}"))
}

pub(crate) async fn serves(host: &TestHost, version: u32) {
    host.until(&format!("version {version} serves"), async |host| {
        host.text("v", json!({})).await == format!(r#"{{"result":{version}}}"#)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_comes_changes_and_goes() {
    let host = TestHost::start(&[]).await;
    assert_eq!(host.tools().await, Vec::<String>::new());
    host.write("v", &version(1));
    serves(&host, 1).await;
    host.write("v", &version(2));
    serves(&host, 2).await;
    std::fs::remove_file(host.tools_folder().join("v.wasm")).expect("removed");
    host.until("it is gone", async |host| host.tools().await.is_empty()).await;
    assert_eq!(host.text("v", json!({})).await, "JSON-RPC error -32602: unknown tool `v`");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_build_leaves_the_old_one_serving_and_says_why() {
    let host = TestHost::start(&[("v", &version(1))]).await;
    for (broken, says) in [
        (b"not wasm at all".to_vec(), "v: the file is not WebAssembly: it does not start with `\\0asm`"),
        (Vec::new(), "v: the file is empty"),
        (wat("(component)"), "v: it exports no function, so it has no tools"),
    ] {
        host.write("v", &broken);
        host.until("the problem is known", async |host| host.problems() == says).await;
        assert_eq!(host.text("v", json!({})).await, r#"{"result":1}"#);
    }
    host.write("v", &version(2));
    serves(&host, 2).await;
    assert_eq!(host.problems(), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_still_being_written_is_waited_for() {
    let host = TestHost::start(&[("v", &version(1))]).await;
    let build = version(2);
    let mut file = std::fs::File::create(host.tools_folder().join("v.wasm")).expect("opened");
    for part in build.chunks(build.len() / 4) {
        file.write_all(part).expect("written");
        file.sync_all().expect("synced");
        tokio::time::sleep(Duration::from_millis(120)).await;
        assert_eq!(host.text("v", json!({})).await, r#"{"result":1}"#);
    }
    drop(file);
    serves(&host, 2).await;
    assert_eq!(host.problems(), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_files_are_left_alone() {
    let host = TestHost::start(&[]).await;
    for name in ["README.md", ".hidden.wasm", "v.wasm.tmp", "v.wat"] {
        std::fs::write(host.tools_folder().join(name), b"x").expect("written");
    }
    host.write("v", &version(1));
    serves(&host, 1).await;
    assert_eq!(host.problems(), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_ends_on_the_revision_it_began_on() {
    let slow = number(
        "v",
        "(local $n i32) (loop $l (local.set $n (i32.add (local.get $n) (i32.const 1))) (br_if $l (i32.lt_u (local.get $n) (i32.const 400000000)))) i32.const 1",
    );
    let host = TestHost::start(&[("v", &slow)]).await;
    let call = tokio::spawn(host.modern("tools/call", json!({ "name": "v" })).send());
    host.until("it runs", async |host| host.host.registry().admission().running() == 1).await;
    std::fs::write(host.tools_folder().join("v.wasm"), version(2)).expect("written");
    host.host.reload().await.expect("reloaded");
    let answer = crate::support::answer(call.await.expect("joined").expect("an answer")).await;
    assert_eq!(answer["result"]["structuredContent"]["result"], 1);
    assert_eq!(host.text("v", json!({})).await, r#"{"result":2}"#);
}

/// A component `v` that gives its version twice, once from its memory's image and once from its code, and has another tool that only even or only odd versions have.
fn two_sided(version: u32) -> Vec<u8> {
    let image: String = version.to_le_bytes().iter().map(|byte| format!("\\{byte:02x}")).collect();
    let other = if version.is_multiple_of(2) { "even" } else { "odd" };
    wat(&format!(
        r#"(component
            (core module $m
                (memory (export "memory") 1)
                (data (i32.const 0) "{image}")
                (func (export "both") (result i32) (i32.store (i32.const 4) (i32.const {version})) i32.const 0)
                (func (export "other") (result i32) i32.const {version}))
            (core instance $i (instantiate $m))
            (alias core export $i "memory" (core memory $memory))
            (func (export "v") (result (tuple u32 u32)) (canon lift (core func $i "both") (memory $memory)))
            (func (export "{other}") (result s32) (canon lift (core func $i "other"))))"#
    ))
}

/// Memory mappings of this process, each loaded build's code among them; and its resident memory in bytes.
fn memory() -> (usize, u64) {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("readable").lines().count();
    let status = std::fs::read_to_string("/proc/self/status").expect("readable");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    (maps, resident.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10)
}

/// 32 clients call without pause while 100 good builds and 100 broken ones are written; 4 clients of each era listen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swaps_under_load_lose_no_call() {
    let host = TestHost::start(&[("v", &two_sided(0))]).await;
    let latest = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..32)
        .map(|_| {
            let (latest, stop) = (Arc::clone(&latest), Arc::clone(&stop));
            let request = host.modern("tools/call", json!({ "name": "v" }));
            tokio::spawn(async move {
                let (mut calls, mut last) = (0_u64, 0);
                while !stop.load(Ordering::Relaxed) {
                    let request = request.try_clone().expect("a body that can be sent again");
                    let answer = crate::support::answer(request.send().await.expect("an answer")).await;
                    let given = &answer["result"]["structuredContent"]["result"];
                    assert_eq!(given[0], given[1], "two revisions in one result: {answer}");
                    let given = given[0].as_u64().expect("a number");
                    assert!(given >= last && given <= latest.load(Ordering::SeqCst), "{answer} after {last}");
                    (calls, last) = (calls + 1, given);
                }
                calls
            })
        })
        .collect();
    let mut listeners = Vec::new();
    for _ in 0..4 {
        let listen = host.modern("subscriptions/listen", json!({ "notifications": { "toolsListChanged": true } }));
        let mut modern = listen.send().await.expect("a stream");
        modern.chunk().await.expect("read").expect("the acknowledgement");
        let legacy = host.stream(&host.initialize().await).send().await.expect("a stream");
        listeners.extend([modern, legacy]);
    }
    let mut before = None;
    for n in 1..=100_u32 {
        latest.store(u64::from(n), Ordering::SeqCst);
        host.write("v", b"broken");
        host.until("the problem is known", async |host| !host.problems().is_empty()).await;
        host.write("v", &two_sided(n));
        host.until("the new one serves", async |host| {
            host.text("v", json!({})).await == format!(r#"{{"result":[{n},{n}]}}"#)
        })
        .await;
        futures::future::join_all(listeners.iter_mut().map(told)).await;
        // By then the pool has all the stacks that it needs.
        if n == 60 {
            before = Some(memory());
        }
    }
    stop.store(true, Ordering::Relaxed);
    let mut calls = 0;
    for caller in callers {
        calls += caller.await.expect("no call failed");
    }
    assert!(calls > 100, "only {calls} calls");
    assert_eq!(host.problems(), "");
    let ((maps_before, resident_before), (maps, resident)) = (before.expect("measured"), memory());
    assert!(maps <= maps_before + 20, "{maps_before} mappings became {maps}");
    assert!(resident <= resident_before + (48 << 20), "{resident_before} bytes became {resident}");
}

/// Reads events until one says that the tools have changed.
async fn told(response: &mut reqwest::Response) -> Value {
    let mut text = String::new();
    let waiting = async {
        loop {
            let chunk = response.chunk().await.expect("read").expect("the stream goes on");
            text.push_str(&String::from_utf8_lossy(&chunk));
            let lines = text.lines().filter_map(|line| line.strip_prefix("data:"));
            let message = lines
                .filter_map(|data| serde_json::from_str::<Value>(data).ok())
                .find(|m| m["method"] == "notifications/tools/list_changed");
            if let Some(message) = message {
                return message;
            }
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, waiting).await.expect("told in time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_both_eras_are_told() {
    let host = TestHost::start(&[("add", &add())]).await;
    let listen = host.modern("subscriptions/listen", json!({ "notifications": { "toolsListChanged": true } }));
    let mut modern = listen.send().await.expect("a stream");
    let acknowledged = modern.chunk().await.expect("read").expect("an event");
    assert!(String::from_utf8_lossy(&acknowledged).contains("notifications/subscriptions/acknowledged"));
    let session = host.initialize().await;
    let get = host.stream(&session);
    let mut legacy = get.send().await.expect("a stream");
    host.write("v", &version(1));
    let to_modern = told(&mut modern).await;
    assert_eq!(to_modern["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], 1, "{to_modern}");
    told(&mut legacy).await;
    // A new build that lists the same is nobody's news; one with another schema is.
    host.write("v", &version(2));
    serves(&host, 2).await;
    host.write("add", &binary("add", "local.get 1"));
    host.write("v", &binary("v", "local.get 0"));
    told(&mut modern).await;
    told(&mut legacy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parked_client_is_told_when_it_comes_back() {
    let host = TestHost::start_with(folder(&[("add", &add())]), |config| config.sessions.park_ms = 20).await;
    let session = host.initialize().await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    host.write("v", &version(1));
    serves(&host, 1).await;
    let get = host.stream(&session);
    told(&mut get.send().await.expect("a stream")).await;
}
