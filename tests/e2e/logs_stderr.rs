//! The log of the real program: nobody has to read it, and its first line can be read.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{ChildStderr, Stdio},
};

use serde_json::{Value, json};

use crate::{
    command_line::mcpp,
    hostile_guests::log_bomb,
    support::{PATIENCE, TestHost, answer, folder, grant, http_client, modern_request},
};

/// Reads lines of the log until one has this message.
fn read_until(log: &mut BufReader<ChildStderr>, message: &str) -> Value {
    loop {
        let mut line = String::new();
        assert!(log.read_line(&mut line).expect("readable") > 0, "the log ended before {message:?}");
        let record: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("not JSON: {line}"));
        if record["message"] == message {
            return record;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_log_nobody_reads_answers_and_stops() {
    let files = folder(&[("run", &log_bomb(4_096, 60))]);
    let config = files.path().join("mcpp.toml");
    let rates = "[tenant_limits]\nlog_records_per_second = 1000000\nlog_bytes_per_second = 268435456\n";
    std::fs::write(&config, rates).expect("written");
    let mut process = tokio::process::Command::new(mcpp());
    process.args(["serve", "--listen", "127.0.0.1:0", "--config"]).arg(&config);
    process.arg("--data").arg(files.path().join("data")).arg("--tools").arg(files.path().join("tools"));
    process.env_remove("RUST_LOG").stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut process = process.spawn().expect("started");
    let stderr = process.stderr.take().expect("piped").into_owned_fd().expect("a pipe");
    let mut log = BufReader::with_capacity(1, ChildStderr::from(stderr));
    let first = read_until(&mut log, "configuration");
    let configuration = first["configuration"].as_str().expect("text");
    let configuration: Value = serde_json::from_str(configuration).unwrap_or_else(|_| panic!("not JSON: {first}"));
    assert_eq!(configuration["tenant_limits"]["log_records_per_second"], 1_000_000);
    assert_eq!(configuration["server"]["listen"], "127.0.0.1:0");
    let url = read_until(&mut log, "serving")["url"].as_str().expect("a URL").to_owned();
    let http = http_client();
    // Each writes 300 KB: the pipe is full after the first, and what may wait after the twentieth.
    for number in 0..40 {
        let request = modern_request(&http, &url, "tools/call", json!({ "name": "run", "arguments": {} }));
        let answered = tokio::time::timeout(PATIENCE, request.send()).await;
        let said = answer(answered.unwrap_or_else(|_| panic!("call {number} has no answer")).expect("an answer")).await;
        assert!(said.get("error").is_none() && said["result"]["isError"] != true, "{said}");
    }
    let root = url.trim_end_matches("/mcp");
    let metrics = http.get(format!("{root}/metrics")).send().await.expect("an answer").text().await.expect("text");
    let lost = metrics.lines().find_map(|line| line.strip_prefix("mcpp_log_lines_lost_total "));
    let lost: u64 = lost.expect("lines were lost").parse().expect("a number");
    assert!(lost > 0);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(process.id().expect("it runs")).expect("small"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("sent");
    let ended = tokio::time::timeout(PATIENCE, process.wait()).await.expect("it stops").expect("waited for");
    assert!(ended.success(), "{ended}");
    drop(log.read_to_end(&mut Vec::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_that_write_too_many_records_lose_some_and_these_are_counted() {
    let files = folder(&[("run", &log_bomb(8_192, 30))]);
    grant(&files, "[components.run.limits]\nlog_bytes = 1000000\n");
    let host = TestHost::start_with(files, |config| {
        config.tenant_limits = toml::from_str("log_records_per_second = 1").expect("valid");
    })
    .await;
    // Ten records at once, and perhaps one or two more in the time that the call takes.
    let said = host.call("run", json!({})).await;
    assert!(said["result"]["isError"] != true && said.get("error").is_none(), "{said}");
    let dropped = host.metric("mcpp_log_records_dropped_total").await;
    let number = dropped
        .iter()
        .find_map(|line| line.strip_prefix(r#"mcpp_log_records_dropped_total{tenant="local",reason="records"} "#));
    let number: u64 = number.unwrap_or_else(|| panic!("{dropped:?}")).parse().expect("a number");
    assert!((10..=20).contains(&number), "{number}");
}
