//! How long a modest tenant's calls, looks at `/health` and the operator's commands take meanwhile.

use std::{
    ffi::OsStr,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    client::{Client, Era},
    print_row,
};

/// How long each latency is measured at a time; the median of several times' quantiles counts.
const MEASURE: Duration = Duration::from_secs(4);
/// The pause between two calls of the tenant that is measured: it has a user, no load.
const PAUSE: Duration = Duration::from_millis(2);
/// Calls for each look at `/health`: the host answers one connection of a stranger at a rate, which is no part of what is measured.
const CALLS_A_LOOK: usize = 100;
/// The longest that one answer is waited for; one that does not come counts as this.
const PATIENCE: Duration = Duration::from_secs(10);

/// Single calls, and looks at `/health`; in seconds.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Seen {
    calls: Vec<f64>,
    looks: Vec<f64>,
    failed: usize,
}

/// The word by which this program is told to look on.
pub(crate) const OBSERVE: &str = "observe";

/// Looks on from a process of its own: threads of one process wait for each other's changes of its memory, and the attackers' have the lowest priority. It runs as soon as
/// an answer is there, where this program may have that; a user is on another machine.
pub(crate) async fn observe(url: &str, token: &str) -> Seen {
    let this = std::env::current_exe().expect("this program");
    let may_be_first = std::process::Command::new("chrt").args(["--rr", "1", "true"]).status();
    let first = ["chrt", "--rr", "1"].map(OsStr::new);
    let first = if may_be_first.is_ok_and(|status| status.success()) { &first[..] } else { &[] };
    let words: Vec<&OsStr> = first.iter().copied().chain([this.as_os_str()]).collect();
    let mut observer = tokio::process::Command::new(words[0]);
    let output = observer.args(&words[1..]).args([OBSERVE, url, token]).output().await.expect("an observer");
    assert!(output.status.success(), "the observer broke: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("what it has seen")
}

/// The observer's program.
pub(crate) fn look_on(url: &str, token: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let seen = runtime.block_on(watch(url, token));
    println!("{}", serde_json::to_string(&seen).expect("numbers"));
}

async fn watch(url: &str, token: &str) -> Seen {
    let client = Client::connect_as(url.to_owned(), Era::Modern, token).await;
    let (http, health) = (reqwest::Client::new(), url.replace("/mcp", "/health"));
    let mut seen = Seen::default();
    let until = Instant::now() + MEASURE;
    while Instant::now() < until {
        let started = Instant::now();
        let answer = tokio::time::timeout(PATIENCE, client.try_call("mine", &json!({}))).await;
        seen.calls.push(started.elapsed().as_secs_f64());
        let right = |answer: serde_json::Value| answer["result"]["structuredContent"]["result"] == 1;
        if !answer.ok().flatten().is_some_and(right) {
            seen.failed += 1;
        }
        tokio::time::sleep(PAUSE).await;
        if !seen.calls.len().is_multiple_of(CALLS_A_LOOK) {
            continue;
        }
        let started = Instant::now();
        let look = async { http.get(&health).send().await.ok()?.text().await.ok() };
        if tokio::time::timeout(PATIENCE, look).await.ok().flatten().is_none() {
            seen.failed += 1;
        }
        seen.looks.push(started.elapsed().as_secs_f64());
    }
    seen
}

/// Quantiles of several times, in milliseconds.
#[derive(Default)]
pub(crate) struct Latencies {
    calls_p50: Vec<f64>,
    calls_p99: Vec<f64>,
    health_p99: Vec<f64>,
    failed: usize,
    /// Further measurements: the operator's command (none for one that did not end), the host's peak of memory in megabytes, its threads.
    pub(crate) operator_ms: Vec<Option<f64>>,
    pub(crate) peak_mb: f64,
    pub(crate) threads: f64,
}

impl Latencies {
    pub(crate) fn note(&mut self, mut seen: Seen) {
        self.calls_p50.push(quantile(&mut seen.calls, 0.5));
        self.calls_p99.push(quantile(&mut seen.calls, 0.99));
        self.health_p99.push(quantile(&mut seen.looks, 0.99));
        self.failed += seen.failed;
    }

    /// Prints the medians; that of the calls' p99.
    pub(crate) fn print(&mut self, load: &str) -> f64 {
        let median = |values: &mut Vec<f64>| quantile(values, 0.5) / 1e3;
        let p99 = median(&mut self.calls_p99);
        print_row(format!("{load}: a call, p50"), Some(median(&mut self.calls_p50)), "ms");
        print_row(format!("{load}: a call, p99"), Some(p99), "ms");
        print_row(format!("{load}: a call, p99, least"), self.calls_p99.first().copied(), "ms");
        print_row(format!("{load}: a call, p99, most"), self.calls_p99.last().copied(), "ms");
        print_row(format!("{load}: /health, p99"), Some(median(&mut self.health_p99)), "ms");
        print_row(format!("{load}: answers that were wrong or did not come"), Some(self.failed as f64), "");
        if !self.operator_ms.is_empty() {
            let slowest = self.operator_ms.iter().copied().reduce(|a, b| Some(a?.max(b?))).flatten();
            print_row(format!("{load}: the operator's slowest command"), slowest, "ms");
            print_row(format!("{load}: the host's memory, most"), Some(self.peak_mb), "MB");
            print_row(format!("{load}: the host's threads, most"), Some(self.threads), "");
        }
        p99
    }
}

pub(crate) fn quantile(times: &mut [f64], quantile: f64) -> f64 {
    times.sort_by(f64::total_cmp);
    times[((times.len() - 1) as f64 * quantile).round() as usize] * 1e3
}
