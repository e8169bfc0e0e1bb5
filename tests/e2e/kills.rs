//! The real program, killed in the midst of load again and again: what it acknowledged is there when it is back.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    command_line::mcpp,
    precompiled,
    support::{PATIENCE, folder, grant, guest, http_client, modern_request, parse_messages},
};

const KILLS: u32 = 50;
const CLIENTS: usize = 4;

/// A running program; killed when dropped.
pub(crate) struct Program {
    process: Child,
    pub(crate) url: String,
}

impl Program {
    /// Starts it, with the folder's `mcpp.toml` if that is there, and waits until it says where it serves.
    pub(crate) fn start(folder: &Path) -> Self {
        let config = folder.join("mcpp.toml");
        precompiled::give(&folder.join("data"));
        let mut process = Command::new(mcpp())
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(folder.join("data"))
            .arg("--tools")
            .arg(folder.join("tools"))
            .args(config.exists().then(|| format!("--config={}", config.display())))
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("started");
        let stderr = process.stderr.take().expect("piped");
        let mut lines = BufReader::new(stderr).lines();
        let url = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let record: Value = serde_json::from_str(&line).ok()?;
            (record["message"] == "serving").then(|| record["url"].as_str().map(str::to_owned))?
        });
        // Somebody must go on reading, or the program waits for its log.
        std::thread::spawn(move || lines.for_each(drop));
        precompiled::keep(&folder.join("data"));
        Self { process, url: url.expect("it serves") }
    }

    pub(crate) fn kill(self) {
        drop(self);
    }
}

/// A program that its test leaves behind, also by a panic, takes no processor from the others.
impl Drop for Program {
    fn drop(&mut self) {
        self.process.kill().expect("killed");
        self.process.wait().expect("gone");
    }
}

async fn call(http: &reqwest::Client, url: &str, tool: &str, arguments: Value) -> Option<Value> {
    let request = modern_request(http, url, "tools/call", json!({ "name": tool, "arguments": arguments }));
    let response = request.send().await.ok()?;
    let text = response.text().await.ok()?;
    let answer = parse_messages(&text).ok()?.pop()?;
    Some(answer["result"]["structuredContent"]["result"].clone()).filter(|result| !result.is_null())
}

/// Adds to a counter and emits that, until the program is gone; what was acknowledged.
async fn work(http: reqwest::Client, url: String, client: usize, from: (i64, i64)) -> (i64, i64) {
    let (mut added, mut emitted) = from;
    loop {
        let arguments = json!({ "counter": format!("c{client}"), "delta": 1 });
        let Some(number) = call(&http, &url, "store_add", arguments).await else { return (added, emitted) };
        added = number.as_i64().expect("a number");
        if added % 20 == 0 {
            let payload = format!("{client}.{added}");
            let arguments = json!({ "topic": "own", "key": format!("c{client}"), "payloads": [payload] });
            if call(&http, &url, "store_emit", arguments).await.is_none() {
                return (added, emitted);
            }
            emitted = added;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_the_program_is_killed() {
    let files = folder(&[("store", &guest("store"))]);
    grant(&files, "[components.store]\ncall = ['x']\nstore = {}\nsubscribe = ['other/*']\n");
    let http = http_client();
    let mut acknowledged = [(0, 0); CLIENTS];
    for kill in 0..KILLS {
        let program = Program::start(files.path());
        for (client, (added, _)) in acknowledged.iter_mut().enumerate() {
            let arguments = json!({ "counter": format!("c{client}"), "delta": 0 });
            let number = call(&http, &program.url, "store_add", arguments).await.and_then(|number| number.as_i64());
            let number = number.expect("an answer");
            assert!((*added..=*added + 1).contains(&number), "kill {kill}: {added} acknowledged, {number} there");
            *added = number;
        }
        let load = acknowledged
            .into_iter()
            .enumerate()
            .map(|(client, from)| tokio::spawn(work(http.clone(), program.url.clone(), client, from)));
        let load: Vec<_> = load.collect();
        // From the first moments of the load to its midst.
        tokio::time::sleep(Duration::from_millis(u64::from(kill * 7 % 120))).await;
        tokio::task::block_in_place(|| program.kill());
        for (client, worker) in load.into_iter().enumerate() {
            acknowledged[client] = worker.await.expect("no panic");
        }
    }
    assert!(acknowledged.iter().all(|(added, _)| *added > 0), "there was no load: {acknowledged:?}");
    // Every event that was acknowledged is delivered, in order, once the program is left alone.
    let program = Program::start(files.path());
    let last = |(_, emitted): &(i64, i64), client: usize| format!("own c{client} {client}.{emitted} ");
    let all_told = async {
        loop {
            let told = call(&http, &program.url, "store_told", json!({})).await.expect("an answer");
            let told: Vec<String> = serde_json::from_value(told).expect("texts");
            let missing = acknowledged
                .iter()
                .enumerate()
                .filter(|(client, from)| from.1 > 0 && !told.iter().any(|text| text.contains(&last(from, *client))));
            if missing.count() == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, all_told).await.is_ok(), "events are lost: {acknowledged:?}");
    program.kill();
}
