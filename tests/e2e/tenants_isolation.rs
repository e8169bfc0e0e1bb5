//! One tenant's view does not depend on another: random acts of one, alone and beside those of another, give the same answers.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use mcpp::tenant::{SCOPE_METRICS, home::Homes};
use proptest::{prelude::*, test_runner::TestRunner};
use serde_json::{Value, json};

use crate::{
    support::{PATIENCE, TestHost, binary, folder},
    tenants::{User, team, tenant, token},
};

/// An act of a tenant.
#[derive(Debug, Clone)]
enum Op {
    List,
    Add(i32),
    Fail,
    Unknown,
    Submit(u8),
    Claim,
    Complete(u8),
    Tasks,
    Stats,
    Pause(bool),
    CacheSet(u8, u8),
    CacheGet(u8),
    Session,
    ForeignSession,
    Health,
    Metrics,
    Swap(bool),
    WrongToken,
}

fn op() -> impl Strategy<Value = Op> {
    let small = 0_u8..4;
    prop_oneof![
        Just(Op::List),
        any::<i32>().prop_map(Op::Add),
        Just(Op::Fail),
        Just(Op::Unknown),
        small.clone().prop_map(Op::Submit),
        Just(Op::Claim),
        small.clone().prop_map(Op::Complete),
        Just(Op::Tasks),
        Just(Op::Stats),
        any::<bool>().prop_map(Op::Pause),
        (small.clone(), small.clone()).prop_map(|(key, value)| Op::CacheSet(key, value)),
        small.prop_map(Op::CacheGet),
        Just(Op::Session),
        Just(Op::ForeignSession),
        Just(Op::Health),
        Just(Op::Metrics),
        any::<bool>().prop_map(Op::Swap),
        Just(Op::WrongToken),
    ]
}

/// A tenant's user on one of the hosts, and what belongs to the other tenant there.
struct Player {
    user: User,
    tools: std::path::PathBuf,
    foreign_session: String,
}

impl Player {
    /// Does something; what it sees, without what is never the same twice.
    async fn play(&self, op: &Op) -> String {
        let user = &self.user;
        let rpc = |request: Value| user.call("task_queue.rpc", request);
        let seen = match op {
            Op::List => json!(user.tools().await),
            Op::Add(n) => user.call("mine", json!({ "a": n, "b": 1 })).await,
            Op::Fail => user.call("mine", json!({ "a": "x" })).await,
            Op::Unknown => user.call("theirs", json!({ "a": 1, "b": 1 })).await,
            Op::Submit(id) => rpc(
                json!({ "op": "submit", "task_type": "t", "payload": { "task_id": format!("task-{id}"), "n": id } }),
            )
            .await,
            Op::Claim => rpc(json!({ "op": "claim", "worker_id": "w" })).await,
            Op::Complete(id) => rpc(json!({ "op": "complete", "task_id": format!("task-{id}") })).await,
            Op::Tasks => user.call("task_list", json!({})).await,
            Op::Stats => user.call("queue_stats", json!({ "include_worker_stats": true })).await,
            Op::Pause(true) => user.call("queue_pause", json!({})).await,
            Op::Pause(false) => user.call("queue_resume", json!({})).await,
            Op::CacheSet(key, value) => {
                rpc(json!({ "op": "cache.set", "key": format!("k{key}"), "value": value })).await
            }
            Op::CacheGet(key) => rpc(json!({ "op": "cache.get", "key": format!("k{key}") })).await,
            Op::Session => {
                let session = user.initialize().await;
                let (status, _) = user.ask_in(&session, "tools/list").await;
                json!(status.as_u16())
            }
            Op::ForeignSession => {
                let (status, text) = user.ask_in(&self.foreign_session, "tools/list").await;
                json!([status.as_u16(), text])
            }
            Op::Health => json!(user.status("/health").await.1),
            Op::Metrics => json!(user.status("/metrics").await.1),
            Op::Swap(there) => {
                let file = self.tools.join("other.wasm");
                if *there {
                    std::fs::write(&file, binary("other", "local.get 0")).expect("written");
                } else {
                    let _it_may_not_be_there = std::fs::remove_file(&file);
                }
                let until = std::time::Instant::now() + PATIENCE;
                while user.tools().await.contains(&"other".to_owned()) != *there {
                    assert!(std::time::Instant::now() < until, "the swap is not seen");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Value::Null
            }
            Op::WrongToken => {
                let wrong = User { token: format!("{}x", user.token), ..user.clone() };
                json!(wrong.status("/mcp").await.0.as_u16())
            }
        };
        normal(seen).to_string()
    }
}

/// Times, durations and random ids are never the same twice.
fn normal(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields
                .into_iter()
                .map(|(name, value)| {
                    let varies = name.ends_with("_at")
                        || name.ends_with("_time")
                        || name.starts_with("average")
                        || name == "throughput"
                        // The two hosts have identities of their own.
                        || name == "peer_id"
                        || name == "lease_until";
                    (name, if varies && !value.is_null() { json!("varies") } else { normal(value) })
                })
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(normal).collect()),
        Value::String(text) => match serde_json::from_str::<Value>(&text) {
            Ok(inner) if inner.is_object() => json!(normal(inner).to_string()),
            _ => Value::String(text),
        },
        other => other,
    }
}

/// Two hosts with the same second tenant; on one of them there is a first one, which is busy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_tenant_sees_does_not_depend_on_another() {
    let start = async || {
        let files = folder(&[]);
        std::fs::create_dir_all(files.path().join("data")).expect("made");
        token(&files.path().join("data"), "local", &[SCOPE_METRICS], &[]);
        TestHost::start_with(files, |config| config.tools.builtin = true).await
    };
    let (busy, quiet) = (start().await, start().await);
    let case = AtomicUsize::new(0);
    let player = async |host: &TestHost, name: &str, foreign_session: String| {
        let data = host.folder.path().join("data");
        let token = team(&data, name, &[]);
        let tools = Homes::new(data.clone()).of(&tenant(name)).tools();
        std::fs::write(tools.join("mine.wasm"), binary("mine", "local.get 0 local.get 1 i32.add")).expect("written");
        host.host.tenants().refresh(std::sync::Arc::new(|| {})).await.expect("refreshed");
        tokio::time::sleep(Duration::from_millis(250)).await;
        Player { user: User::new(host, &token), tools, foreign_session }
    };
    let mut runner = TestRunner::new(ProptestConfig { cases: 6, max_shrink_iters: 0, ..ProptestConfig::default() });
    let ops = proptest::collection::vec((any::<bool>(), op()), 8..30);
    runner
        .run(&ops, |ops| {
            let number = case.fetch_add(1, Ordering::Relaxed);
            tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(async {
                    let first = player(&busy, &format!("a{number}"), String::new()).await;
                    let their_session = first.user.initialize().await;
                    let no_session = "1f0c4c1e-0000-4000-8000-000000000000".to_owned();
                    let beside = player(&busy, &format!("b{number}"), their_session).await;
                    let alone = player(&quiet, &format!("b{number}"), no_session).await;
                    let (mut with, mut without) = (Vec::new(), Vec::new());
                    for (is_first, op) in &ops {
                        if *is_first {
                            first.play(op).await;
                        } else {
                            with.push(format!("{op:?}: {}", beside.play(op).await));
                            without.push(format!("{op:?}: {}", alone.play(op).await));
                        }
                    }
                    prop_assert_eq!(with, without);
                    Ok(())
                })
            })
        })
        .expect("no difference");
}
