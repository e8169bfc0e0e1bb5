//! Calls of one tool that its component serves together.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use mcpp::{config::Config, names::TenantId, tenant::home::Homes};
use serde_json::{Value, json};

use crate::{
    mcp_tasks::new_token,
    support::{TestHost, answer, folder, guest, text_of},
    tenants::User,
};

/// As long as the first calls of a caller run, the others wait.
const LONG_MS: u64 = 300;

/// A tenant with the component, and two of its users.
struct Team {
    host: TestHost,
    users: [User; 2],
}

impl Team {
    async fn start(limits: &str) -> Self {
        Self::start_with(limits, |_| {}).await
    }

    async fn start_with(limits: &str, change: impl FnOnce(&mut Config)) -> Self {
        let files = folder(&[]);
        let data = files.path().join("data");
        let tokens = ["ada", "bob"].map(|subject| new_token(&data, "team", subject, &[]).1);
        let home = Homes::new(data).of(&TenantId::new("team").expect("legal"));
        std::fs::write(home.tools().join("batch.wasm"), guest("batch")).expect("written");
        std::fs::create_dir_all(home.grants()).expect("made");
        let grant = format!("version = 1\nstore = {{ quota_bytes = 1048576 }}\n[limits]\n{limits}");
        std::fs::write(home.grants().join("batch.toml"), grant).expect("written");
        let host = TestHost::start_with(files, change).await;
        let users = tokens.map(|token| User::new(&host, &token));
        host.until("the component is live", async |_| users[0].tools().await.contains(&"batch_work".into())).await;
        Self { host, users }
    }

    /// Makes two long calls, and then, while these run, all of `calls`; the answers to those, by name.
    async fn beside_long_ones(&self, tool: &str, calls: Vec<Value>) -> BTreeMap<String, Value> {
        let [user, _] = &self.users;
        let long = ["long-0", "long-1"].map(|name| user.call(tool, json!({ "name": name, "ms": LONG_MS })));
        let later = async {
            tokio::time::sleep(Duration::from_millis(LONG_MS / 3)).await;
            let asked = calls.into_iter().map(async |arguments| {
                let name = arguments["name"].as_str().expect("a name").to_owned();
                (name, user.call(tool, arguments).await)
            });
            futures::future::join_all(asked).await
        };
        let (long, later) = tokio::join!(futures::future::join_all(long), later);
        for answer in long {
            assert_eq!(answer["result"]["structuredContent"]["together"], 1, "{answer}");
        }
        later.into_iter().collect()
    }
}

fn works(count: usize) -> Vec<Value> {
    (0..count).map(|number| json!({ "name": format!("w{number}") })).collect()
}

/// How many calls were served with this one.
fn together(answer: &Value) -> u64 {
    answer["result"]["structuredContent"]["together"].as_u64().unwrap_or_else(|| panic!("{answer}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_wait_are_served_together_and_each_has_its_own_outcome() {
    let team = Team::start("").await;
    let mut calls = works(20);
    calls[7] = json!({ "name": "w7", "end": "fail" });
    let answers = team.beside_long_ones("batch_work", calls).await;
    let mut most = 0;
    for (name, answer) in &answers {
        if name == "w7" {
            assert_eq!(text_of(answer), "error: w7 is asked to fail");
            continue;
        }
        let done = &answer["result"]["structuredContent"];
        assert_eq!((&done["name"], &done["times"], &done["caller"]), (&json!(name), &json!(1), &json!("ada")));
        most = most.max(together(answer));
    }
    assert!(most >= 5, "at most {most} of 20 calls came together");
    team.host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_sees_one_caller() {
    let team = Team::start("").await;
    let asked = (0..40).map(async |number: usize| {
        let user = &team.users[number % 2];
        (number, user.call("batch_work", json!({ "name": format!("w{number}"), "ms": 20 })).await)
    });
    let answers = futures::future::join_all(asked).await;
    for (number, answer) in &answers {
        let done = &answer["result"]["structuredContent"];
        assert_eq!((&done["caller"], &done["times"]), (&json!(["ada", "bob"][number % 2]), &json!(1)), "{answer}");
    }
    assert!(answers.iter().any(|(_, answer)| together(answer) > 1), "no two calls came together");
    team.host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_one_legacy_session_come_together_and_those_of_two_do_not() {
    let team = Team::start("").await;
    let [user, _] = &team.users;
    let sessions = [user.initialize().await, user.initialize().await];
    let asked = (0..24).map(async |number: usize| {
        let arguments = json!({ "name": format!("w{number}"), "ms": 40 });
        let params = json!({ "name": "batch_work", "arguments": arguments });
        let message = json!({ "jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params });
        answer(user.send_in(&sessions[usize::from(number >= 20)], &message).await).await
    });
    let answers = futures::future::join_all(asked).await;
    let (many, few) = answers.split_at(20);
    assert!(many.iter().any(|answer| together(answer) > 4), "{many:?}");
    assert!(few.iter().all(|answer| together(answer) <= 4), "{few:?}");
    team.host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_traps_fails_alone() {
    let team = Team::start("").await;
    let mut calls = works(12);
    calls[4] = json!({ "name": "w4", "end": "trap" });
    let answers = team.beside_long_ones("batch_work", calls).await;
    let (trapped, done): (Vec<_>, Vec<_>) = answers.iter().partition(|(name, _)| *name == "w4");
    assert!(trapped.iter().all(|(_, answer)| text_of(answer).contains("crashed")), "{trapped:?}");
    assert!(done.iter().all(|(_, answer)| answer["result"]["structuredContent"]["times"] == 1), "{done:?}");
    team.host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outcome_that_is_missing_is_an_error_of_one_call() {
    let team = Team::start("").await;
    let answers = team.beside_long_ones("batch_forget", works(8)).await;
    let failed: Vec<String> = answers.values().map(text_of).filter(|text| text.starts_with("error")).collect();
    assert!((1..4).contains(&failed.len()), "{answers:?}");
    assert!(failed.iter().all(|text| text.contains("no outcome")), "{failed:?}");
    team.host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_takes_no_other_call_with_it() {
    let team = Team::start("").await;
    let [user, _] = &team.users;
    let long = ["a", "b"].map(|name| user.call("batch_work", json!({ "name": name, "ms": LONG_MS })));
    let later = async {
        tokio::time::sleep(Duration::from_millis(LONG_MS / 3)).await;
        // The last one leads, as it has the most time left; all of them have time to stand in line.
        let calls = (0..12).map(async |number: u64| {
            tokio::time::sleep(Duration::from_millis(number * 5)).await;
            let patience = Duration::from_millis(if number < 10 { 60_000 } else { LONG_MS + 100 });
            let work = json!({ "name": format!("w{number}"), "ms": LONG_MS * 2 });
            tokio::time::timeout(patience, user.call("batch_work", work)).await
        });
        futures::future::join_all(calls).await
    };
    let (_, later) = tokio::join!(futures::future::join_all(long), later);
    let (answers, gone) = later.split_at(10);
    assert!(gone.iter().all(Result::is_err), "the last two had left: {gone:?}");
    for answer in answers {
        let answer = answer.as_ref().expect("an answer");
        assert!(answer["result"]["structuredContent"]["times"].is_u64(), "{answer}");
    }
    team.host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tool_that_may_not_be_repeated_and_a_call_that_wants_progress_run_alone() {
    let team = Team::start("").await;
    let answers = team.beside_long_ones("batch_once", works(12)).await;
    assert!(answers.values().all(|answer| together(answer) == 1), "{answers:?}");
    let [user, _] = &team.users;
    let watched = (0..12).map(async |number: usize| {
        let arguments = json!({ "name": format!("p{number}"), "ms": 50 });
        let meta = json!({ "progressToken": number });
        let params = json!({ "name": "batch_work", "arguments": arguments, "_meta": meta });
        answer(user.request("tools/call", params).send().await.expect("an answer")).await
    });
    for answer in futures::future::join_all(watched).await {
        assert_eq!(together(&answer), 1, "{answer}");
    }
    team.host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_whose_time_is_over_while_it_waits_has_not_run() {
    let team = Team::start("deadline_ms = 1500\n").await;
    let [user, _] = &team.users;
    // All but the first two stand in line, and come together when those are stopped.
    let calls = (0..6).map(async |number: u64| {
        user.text("batch_work", json!({ "name": format!("long-{number}"), "ms": 10_000 })).await
    });
    let later = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        user.text("batch_work", json!({ "name": "late" })).await
    };
    let (texts, late) = tokio::join!(futures::future::join_all(calls), later);
    let is_late = |text: &String| text.contains("`deadline_ms` exceeded") && text.ends_with("1500");
    assert!(texts.iter().all(is_late), "each names the bound of the tool: {texts:?}");
    // The last one has a little more time than those that it waits for. Whatever it says of itself is true.
    let before = if is_late(&late) { 0 } else { 1 };
    let after = user.call("batch_work", json!({ "name": "late" })).await;
    assert_eq!(after["result"]["structuredContent"]["times"], before + 1, "{late} {after}");
    team.host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_ran_with_another_is_never_told_that_it_has_not() {
    let team = Team::start_with("concurrency = 2\n", |config| config.engine.queue_ms = 1_000).await;
    let [user, other] = &team.users;
    let user = Arc::new(user.clone());
    let call = |arguments: Value| {
        let user = Arc::clone(&user);
        tokio::spawn(async move { user.call("batch_work", arguments).await })
    };
    let long = ["a", "b"].map(|name| call(json!({ "name": name, "ms": LONG_MS })));
    tokio::time::sleep(Duration::from_millis(LONG_MS / 3)).await;
    let mut calls = Vec::new();
    for number in 0..6 {
        // The last one leads, as it has the most time left.
        tokio::time::sleep(Duration::from_millis(5)).await;
        calls.push(call(json!({ "name": format!("w{number}"), "after_ms": 4_000 })));
    }
    for long in long {
        assert_eq!(together(&long.await.expect("no panic")), 1);
    }
    let done = async || {
        other.call("batch_work", json!({ "name": "w0" })).await["result"]["structuredContent"]["times"].as_u64()
    };
    // It has run, and waits, once it was done more often than these calls do it.
    let mut own = 1;
    while done().await == Some(own) {
        assert!(own < 100, "it does not run");
        own += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // One takes the place that is free, the other that of the call that leads when its client goes away.
    let busy = ["x", "y"].map(|name| other.call("batch_work", json!({ "name": name, "ms": 3_000 })));
    let leaving = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        calls.pop().expect("six").abort();
        futures::future::join_all(calls).await
    };
    let (_, answers) = tokio::join!(futures::future::join_all(busy), leaving);
    for answer in answers {
        let answer = answer.expect("no panic").to_string();
        assert!(!answer.contains("retryAfterMs"), "{answer}");
    }
    team.host.stop().await;
}
