//! Two hundred generated workflows on the real program, on one host and on three, which are killed at random while their tools are swapped again and again: each run ends, and no step that
//! has completed has a second effect.

use std::{collections::BTreeMap, ops::Range, time::Duration};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::{
    command_line::{run, stderr, stdout},
    kills::Program,
    support::{folder, grant, guest, http_client, modern_request, parse_messages},
};

const RUNS: u64 = 200;
/// Swaps in the life of all hosts together, at least.
const SWAPS: u64 = 100;
/// How long one life, and the end of all runs, may take.
const PATIENCE: Duration = Duration::from_secs(90);

/// The structured answer of a tool, unless the program is gone.
async fn call(http: &reqwest::Client, url: &str, tool: &str, arguments: Value) -> Option<Value> {
    let request = modern_request(http, url, "tools/call", json!({ "name": tool, "arguments": arguments }));
    let text = request.send().await.ok()?.text().await.ok()?;
    let answer = parse_messages(&text).ok()?.pop()?;
    Some(answer["result"]["structuredContent"].clone()).filter(|reply| !reply.is_null())
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

/// How many effects a completed step of a run had when it was seen.
type Seen = BTreeMap<(u64, u64), i64>;

/// A host with the tool that the steps call.
struct Place {
    folder: TempDir,
    program: Option<Program>,
    /// What the host with the workflows calls the tool.
    tool: &'static str,
    swaps: u64,
}

impl Place {
    fn start(tool: &'static str, config: Option<&str>) -> Self {
        let folder = folder(&[("store", &build(&guest("store"), 0))]);
        grant(&folder, "[components.store]\ncall = ['x']\nstore = {}\nsubscribe = ['other/*']\n");
        if let Some(text) = config {
            std::fs::write(folder.path().join("mcpp.toml"), text).expect("written");
        }
        let mut place = Self { folder, program: None, tool, swaps: 0 };
        place.begin();
        place
    }

    fn begin(&mut self) {
        self.program = Some(tokio::task::block_in_place(|| Program::start(self.folder.path())));
    }

    fn kill(&mut self) {
        let program = self.program.take().expect("it lives");
        tokio::task::block_in_place(|| program.kill());
    }

    fn url(&self) -> &str {
        &self.program.as_ref().expect("it lives").url
    }

    /// What a command of the program prints beside this host.
    fn command(&self, arguments: &[&str]) -> String {
        let data = self.folder.path().join("data").display().to_string();
        let output = tokio::task::block_in_place(|| run(arguments, &[("MCPP_DATA", &data)]));
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        stdout(&output).trim().to_owned()
    }

    /// How many builds of `store` this life of the program has loaded.
    async fn loads(&self, http: &reqwest::Client) -> u64 {
        let metrics = self.url().replace("/mcp", "/metrics");
        let text = http.get(metrics).send().await.expect("an answer").text().await.expect("text");
        let loaded = text.lines().filter(|line| line.starts_with("mcpp_swaps_total") && line.contains("\"loaded\""));
        loaded.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    /// Puts so many builds in the place of the tool, one after the other, each when the one before is live.
    async fn swap(&mut self, http: &reqwest::Client, count: u64) {
        let component = guest("store");
        let before = self.loads(http).await;
        for swap in 0..count {
            self.swaps += 1;
            let hidden = self.folder.path().join("tools/.store.new");
            std::fs::write(&hidden, build(&component, self.swaps)).expect("written");
            std::fs::rename(&hidden, self.folder.path().join("tools/store.wasm")).expect("moved into place");
            while self.loads(http).await <= before + swap {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

/// Hosts of which the first has the workflows.
struct World {
    http: reqwest::Client,
    places: Vec<Place>,
}

impl World {
    /// The place of a step, and its counter there, which is the effect at the provider.
    fn provider(&self, run: u64, step: u64) -> (&Place, String) {
        let place = (run + step) % self.places.len() as u64;
        (&self.places[place as usize], format!("{run}.{step}"))
    }

    /// Runs of a generated shape, with 5 to 14 steps. Each step adds one to a counter of its own.
    fn generated(&self, run: u64) -> Value {
        let steps = 5 + run % 10;
        let step = |number: u64| {
            let needs: Vec<String> = (0..number)
                .filter(|before| (run + number * 7 + before * 3).is_multiple_of(4))
                .map(|before| format!("s{before}"))
                .collect();
            let (place, counter) = self.provider(run, number);
            json!({
                "step_id": format!("s{number}"), "action": place.tool, "inputs": { "counter": counter, "delta": 1 }, "depends_on": needs,
                // A swap between two builds of one name may leave a moment without it, and a killed host is away for some seconds.
                "retry": { "max_attempts": 100, "backoff_s": 0.05, "max_backoff_s": 0.5 },
            })
        };
        (0..steps).map(step).collect()
    }

    async fn ask(&self, tool: &str, arguments: Value) -> Value {
        call(&self.http, self.places[0].url(), tool, arguments).await.expect("the host with the workflows answers")
    }

    /// Begins to submit runs. Whoever has no answer submits again, and the same submission twice is one run.
    fn submit(&self, runs: Range<u64>, tag: &str) -> JoinHandle<Vec<u64>> {
        let tag = tag.to_owned();
        let drafts: Vec<(u64, Value)> = runs.map(|run| (run, self.generated(run))).collect();
        let (http, url) = (self.http.clone(), self.places[0].url().to_owned());
        tokio::spawn(async move {
            let mut unanswered = Vec::new();
            for (run, steps) in drafts {
                let arguments = json!({ "workflow_id": format!("w{run}"), "name": "w", "steps": steps, "tags": [tag] });
                match call(&http, &url, "workflow_submit", arguments).await {
                    Some(reply) => assert_eq!(reply["success"], true, "{reply}"),
                    None => unanswered.push(run),
                }
            }
            unanswered
        })
    }

    /// Submits runs, and swaps the tool everywhere meanwhile.
    async fn live(&mut self, runs: Range<u64>, swaps: u64) {
        let submitting = self.submit(runs, "swapped");
        let swapping = futures::future::join_all(self.places.iter_mut().map(|place| place.swap(&self.http, swaps)));
        tokio::time::timeout(PATIENCE, swapping).await.expect("each build goes live");
        assert_eq!(submitting.await.expect("submitted"), [0; 0], "it lives");
    }

    /// Submits runs, and kills a host in their midst. Whether one of them had begun and not ended.
    async fn killed(&mut self, runs: Range<u64>, victim: usize, after: Duration, seen: &mut Seen) -> bool {
        let (first, count, tag) = (runs.start, runs.end - runs.start, format!("from {}", runs.start));
        let submitting = self.submit(runs, &tag);
        tokio::time::sleep(after).await;
        // What was seen completed must never run again.
        for step in self.completed(first).await {
            seen.insert((first, step), self.effects(first, step).await);
        }
        let asked = |status: &str| json!({ "status_filter": status, "tag_filter": [tag], "limit": 1 });
        // The handlers may be busy with runs of before, so that these begin late.
        let watching = async {
            loop {
                if self.ask("workflow_list", asked("running")).await["total_count"] != json!(0) {
                    return true;
                }
                if self.ask("workflow_list", asked("completed")).await["total_count"] == json!(count) {
                    return false;
                }
            }
        };
        let is_in_midst = tokio::time::timeout(PATIENCE, watching).await.expect("they begin");
        self.places[victim].kill();
        let unanswered = submitting.await.expect("no panic");
        assert!(victim == 0 || unanswered.is_empty(), "the host with the workflows lives: {unanswered:?}");
        // For some of the others' attempts it is away.
        tokio::time::sleep(after).await;
        self.places[victim].begin();
        for run in unanswered {
            assert_eq!(self.submit(run..run + 1, &tag).await.expect("no panic"), [0; 0], "it lives again");
        }
        is_in_midst
    }

    /// The completed steps of a run.
    async fn completed(&self, run: u64) -> Vec<u64> {
        let status = self.ask("workflow_status", json!({ "workflow_id": format!("w{run}") })).await;
        let steps = status["steps"].as_array().cloned().unwrap_or_default();
        let done = steps.iter().filter(|step| step["status"] == "completed");
        done.filter_map(|step| step["step_id"].as_str()?[1..].parse().ok()).collect()
    }

    /// How often a step had its effect.
    async fn effects(&self, run: u64, step: u64) -> i64 {
        let (place, counter) = self.provider(run, step);
        let asked = json!({ "counter": counter, "delta": 0 });
        let answer = call(&self.http, place.url(), "store_add", asked).await.expect("the provider answers");
        answer["result"].as_i64().expect("a number")
    }

    /// Waits until all runs have completed; every run has a next event until then.
    async fn all_complete(&self) {
        let all = async {
            loop {
                let done = self.ask("workflow_list", json!({ "status_filter": "completed", "limit": 1 })).await;
                let doctor = self.ask("workflow_doctor", json!({})).await;
                let health = (&doctor["healthy"], &doctor["stuck"]);
                assert_eq!(health, (&json!(true), &json!([])), "every run has a next event");
                if done["total_count"] == json!(RUNS) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, all).await.is_err() {
            let of = |status: &'static str| self.ask("workflow_list", json!({ "status_filter": status, "limit": 3 }));
            panic!("not all runs complete: {} {}", of("running").await, of("failed").await);
        }
    }

    /// All runs, over so many kills, which the hosts take in turn.
    async fn survives(&mut self, kills: u64) {
        let places = self.places.len() as u64;
        let swaps = SWAPS.div_ceil(places * (kills + 1));
        let (mut seen, mut in_midst) = (Seen::new(), 0);
        for kill in 0..kills {
            let (first, last) = (kill * RUNS / kills, (kill + 1) * RUNS / kills);
            let middle = first + (last - first) / 4;
            self.live(first..middle, swaps).await;
            for run in first..middle {
                for step in self.completed(run).await {
                    seen.insert((run, step), self.effects(run, step).await);
                }
            }
            let after = Duration::from_millis(5 + kill * 37 % 50);
            in_midst += u64::from(self.killed(middle..last, (kill % places) as usize, after, &mut seen).await);
        }
        assert!(in_midst > kills / 2, "only {in_midst} of {kills} kills came while something ran");
        self.live(RUNS..RUNS, swaps).await;
        assert!(self.places.iter().map(|place| place.swaps).sum::<u64>() >= SWAPS);
        self.all_complete().await;
        let (mut effects, mut steps) = (0, 0);
        for run in 0..RUNS {
            let done = self.completed(run).await;
            assert_eq!(done.len() as u64, 5 + run % 10);
            for step in done {
                let count = self.effects(run, step).await;
                // Once, and once more for each kill that came between its effect and its record.
                assert!((1..=1 + kills as i64).contains(&count), "{run}.{step} has {count} effects");
                if let Some(before) = seen.get(&(run, step)) {
                    assert_eq!(count, *before, "step {step} of w{run} ran again after it had completed");
                }
                effects += count;
                steps += 1;
            }
        }
        // Kills repeat few of all: at most what ran at once.
        let repeated = effects - steps;
        assert!(!seen.is_empty() && repeated <= 16 * kills as i64, "{effects} effects of {steps} steps");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_run_ends_once_whenever_the_host_is_killed_and_its_tools_are_swapped() {
    let mut world = World { http: http_client(), places: vec![Place::start("store_add", None)] };
    world.survives(7).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_run_ends_once_over_three_hosts_whichever_is_killed_and_wherever_tools_are_swapped() {
    let mut world = World { http: http_client(), places: vec![Place::start("store_add", None)] };
    for (name, tool) in [("b", "b_store_add"), ("c", "c_store_add")] {
        // It comes back where the others look for it.
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = socket.local_addr().expect("bound").port();
        drop(socket);
        let there =
            Place::start(tool, Some(&format!("[tools]\nbuiltin = false\n[mesh]\nlisten = [\"127.0.0.1:{port}\"]\n")));
        let ticket = there.command(&["invite", "--tool", "store_*"]);
        let here = &world.places[0];
        let joined: Value = serde_json::from_str(&here.command(&["join", &ticket, "--json"])).expect("JSON");
        here.command(&["mount", name, "--peer", joined["peer"].as_str().expect("an id"), "--tool", "store_*"]);
        world.places.push(there);
    }
    world.survives(9).await;
}
