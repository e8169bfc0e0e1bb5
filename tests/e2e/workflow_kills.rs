//! Two hundred generated workflows on the real program, which is killed at random while their tool is swapped again and again: each run ends, and no step that has completed has a
//! second effect.

use std::{collections::BTreeMap, path::Path, time::Duration};

use serde_json::{Value, json};

use crate::{
    kills::Program,
    support::{folder, grant, guest, http_client, modern_request, parse_messages},
};

const RUNS: u64 = 200;
const KILLS: u64 = 7;
/// How often the tool is swapped in each life of the program.
const SWAPS: u64 = 13;
/// How long one life, and the end of all runs, may take.
const PATIENCE: Duration = Duration::from_secs(90);

/// The structured answer of a tool, unless the program is gone.
async fn call(http: &reqwest::Client, url: &str, tool: &str, arguments: Value) -> Option<Value> {
    let request = modern_request(http, url, "tools/call", json!({ "name": tool, "arguments": arguments }));
    let text = request.send().await.ok()?.text().await.ok()?;
    let answer = parse_messages(&text).ok()?.pop()?;
    Some(answer["result"]["structuredContent"].clone()).filter(|reply| !reply.is_null())
}

/// Runs of a generated shape, with 5 to 14 steps. Each step adds one to a counter of its own, which is the effect at the provider.
fn generated(run: u64) -> Value {
    let steps = 5 + run % 10;
    let step = |number: u64| {
        let needs: Vec<String> = (0..number)
            .filter(|before| (run + number * 7 + before * 3).is_multiple_of(4))
            .map(|before| format!("s{before}"))
            .collect();
        json!({
            "step_id": format!("s{number}"), "action": "store_add", "inputs": { "counter": format!("{run}.{number}"), "delta": 1 }, "depends_on": needs,
            // A swap between two builds of one name may leave a moment without it.
            "retry": { "max_attempts": 5, "backoff_s": 0.05 },
        })
    };
    (0..steps).map(step).collect()
}

/// Another build of a component: it has a section that means nothing.
pub(crate) fn build(component: &[u8], number: u64) -> Vec<u8> {
    let name = b"build";
    let mut wasm = component.to_vec();
    wasm.extend([0, 2 + name.len() as u8, name.len() as u8]);
    wasm.extend(name);
    wasm.push((number % 2) as u8);
    wasm
}

fn write(folder: &Path, wasm: &[u8]) {
    let hidden = folder.join("tools/.store.new");
    std::fs::write(&hidden, wasm).expect("written");
    std::fs::rename(&hidden, folder.join("tools/store.wasm")).expect("moved into place");
}

/// How many builds of `store` this life of the program has loaded.
async fn loads(http: &reqwest::Client, url: &str) -> u64 {
    let metrics = url.replace("/mcp", "/metrics");
    let text = http.get(metrics).send().await.expect("an answer").text().await.expect("text");
    let loaded = text.lines().filter(|line| line.starts_with("mcpp_swaps_total") && line.contains("\"loaded\""));
    loaded.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// The completed steps of a run, with the number of each.
async fn completed(http: &reqwest::Client, url: &str, run: u64) -> Vec<u64> {
    let status = call(http, url, "workflow_status", json!({ "workflow_id": format!("w{run}") })).await;
    let steps = status.map(|status| status["steps"].as_array().cloned().unwrap_or_default()).unwrap_or_default();
    let done = steps.iter().filter(|step| step["status"] == "completed");
    done.filter_map(|step| step["step_id"].as_str()?[1..].parse().ok()).collect()
}

async fn count(http: &reqwest::Client, url: &str, (run, step): (u64, u64)) -> Option<i64> {
    let counter = json!({ "counter": format!("{run}.{step}"), "delta": 0 });
    call(http, url, "store_add", counter).await?["result"].as_i64()
}

/// One life of the program: some more runs are submitted, and the tool is swapped [`SWAPS`] times meanwhile, after `swapped` times in earlier lives.
async fn live(folder: &Path, http: &reqwest::Client, first: u64, swapped: u64) -> (Program, u64) {
    let program = Program::start(folder);
    let (client, url) = (http.clone(), program.url.clone());
    let until = RUNS.min(first + RUNS.div_ceil(KILLS));
    let submitting = tokio::spawn(async move {
        let mut next = first;
        while next < until {
            let arguments = json!({ "workflow_id": format!("w{next}"), "name": "w", "steps": generated(next) });
            let reply = call(&client, &url, "workflow_submit", arguments).await.expect("it lives");
            assert_eq!(reply["success"], true, "{reply}");
            next += 1;
        }
    });
    let component = guest("store");
    let before = loads(http, &program.url).await;
    let swapping = async {
        for swap in 0..SWAPS {
            write(folder, &build(&component, swapped + swap + 1));
            while loads(http, &program.url).await <= before + swap {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    };
    tokio::time::timeout(PATIENCE, swapping).await.expect("each build goes live");
    submitting.await.expect("submitted");
    (program, until)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_run_ends_once_whenever_the_host_is_killed_and_its_tools_are_swapped() {
    let files = folder(&[("store", &build(&guest("store"), 0))]);
    grant(&files, "[components.store]\ncall = ['x']\nstore = {}\nsubscribe = ['other/*']\n");
    let http = http_client();
    let (mut submitted, mut seen, mut swaps) = (0, BTreeMap::new(), 0);
    for kill in 0..KILLS {
        let (program, until) = live(files.path(), &http, submitted, swaps).await;
        swaps += SWAPS;
        // What was seen completed must never run again.
        for run in submitted..until {
            for step in completed(&http, &program.url, run).await {
                let effects = count(&http, &program.url, (run, step)).await.expect("a number");
                let before = *seen.entry((run, step)).or_insert(effects);
                assert_eq!(effects, before, "step {step} of w{run} ran again after it had completed");
            }
        }
        submitted = until;
        tokio::time::sleep(Duration::from_millis(kill * 97 % 250)).await;
        tokio::task::block_in_place(|| program.kill());
    }
    assert_eq!(submitted, RUNS);
    let (program, _) = live(files.path(), &http, RUNS, swaps).await;
    assert!(swaps + SWAPS >= 100);
    let all = async {
        loop {
            let filter = json!({ "status_filter": "completed", "limit": 1 });
            let done = call(&http, &program.url, "workflow_list", filter).await.expect("a list");
            let doctor = call(&http, &program.url, "workflow_doctor", json!({})).await.expect("examined");
            assert_eq!(
                (&doctor["healthy"], &doctor["stuck"]),
                (&json!(true), &json!([])),
                "every run has a next event"
            );
            if done["total_count"] == json!(RUNS) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, all).await.is_err() {
        let of = |status: &'static str| call(&http, &program.url, "workflow_list", json!({ "status_filter": status }));
        panic!("not all runs complete: {:?} {:?}", of("running").await, of("failed").await);
    }
    let (mut effects, mut steps) = (0, 0);
    for run in 0..RUNS {
        let done = completed(&http, &program.url, run).await;
        assert_eq!(done.len() as u64, 5 + run % 10);
        for step in done {
            let count = count(&http, &program.url, (run, step)).await.expect("a number");
            // Once, and once more for each kill that came between its effect and its record.
            assert!((1..=1 + KILLS as i64).contains(&count), "{run}.{step} has {count} effects");
            if let Some(before) = seen.get(&(run, step)) {
                assert_eq!(count, *before, "step {step} of w{run} ran again after it had completed");
            }
            effects += count;
            steps += 1;
        }
    }
    // Kills repeat few of all: at most what ran at once.
    assert!(!seen.is_empty() && effects - steps <= 16 * KILLS as i64, "{effects} effects of {steps} steps");
    program.kill();
}
