//! Full: what is refused when there is no room, and that the room comes back.

use serde_json::json;

use crate::support::{TestHost, add, folder, grant, guest, number};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_host_answers_503_with_retry_after() {
    let spin = number("run", "(loop (br 0)) i32.const 1");
    let host = TestHost::start_with(folder(&[("h", &spin), ("add", &add())]), |config| {
        config.engine.max_running = 2;
        config.engine.queue_ms = 50;
        config.limits = mcpp::config::Config::parse("[limits]\ndeadline_ms = 2000").expect("valid").limits;
    })
    .await;
    let loops: Vec<_> =
        (0..2).map(|_| tokio::spawn(host.modern("tools/call", json!({ "name": "h_run" })).send())).collect();
    host.until("both run", async |host| host.host.registry().admission().running() == 2).await;
    let refused = host
        .modern("tools/call", json!({ "name": "add", "arguments": { "a": 1, "b": 2 } }))
        .send()
        .await
        .expect("an answer");
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.headers()["retry-after"], "1");
    let answer = crate::support::answer(refused).await;
    assert_eq!(answer["error"]["message"], "busy: 2 instances run already; try again in 1000 ms");
    assert_eq!(answer["error"]["data"]["error"], "busy");
    for running in loops {
        running.await.expect("joined").expect("an answer");
    }
    assert_eq!(host.text("add", json!({ "a": 1, "b": 2 })).await, r#"{"result":3}"#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_tool_has_its_own_limit() {
    let spin = number("run", "(loop (br 0)) i32.const 1");
    let files = folder(&[("h", &spin), ("add", &add())]);
    let grants = "[components.h.tools.h_run.limits]\nconcurrency = 1\ndeadline_ms = 1000\n";
    crate::support::grant(&files, grants);
    let host = TestHost::start_with(files, |config| config.engine.queue_ms = 50).await;
    let running = tokio::spawn(host.modern("tools/call", json!({ "name": "h_run" })).send());
    host.until("it runs", async |host| host.host.registry().admission().running() == 1).await;
    let refused = host.text("h_run", json!({})).await;
    assert_eq!(refused, "JSON-RPC error -32000: busy: 1 instances of this tool run already; try again in 1000 ms");
    assert_eq!(host.text("add", json!({ "a": 1, "b": 2 })).await, r#"{"result":3}"#);
    let answer = crate::support::answer(running.await.expect("joined").expect("an answer")).await;
    assert_eq!(crate::support::text_of(&answer), "error: budget `deadline_ms` exceeded: the tool was stopped at 1000");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_calls_do_not_take_the_places_of_running_ones() {
    let host = TestHost::start_with(folder(&[("probe", &guest("probe")), ("add", &add())]), |config| {
        config.engine.max_running = 1;
        config.engine.max_waiting = 3;
    })
    .await;
    let sleep = || host.modern("tools/call", json!({ "name": "probe_sleep", "arguments": { "ms": 1500 } })).send();
    let sleeping: Vec<_> = (0..3).map(|_| tokio::spawn(sleep())).collect();
    host.until("all sleep", async |host| host.host.registry().admission().waiting() == 3).await;
    assert_eq!(host.text("add", json!({ "a": 1, "b": 2 })).await, r#"{"result":3}"#);
    // A fourth has no place to wait: it is not broken off, but waits in its place among the running.
    assert_eq!(host.text("probe_sleep", json!({ "ms": 10 })).await, "slept 10 ms");
    for sleeper in sleeping {
        let answer = crate::support::answer(sleeper.await.expect("joined").expect("an answer")).await;
        assert_eq!(crate::support::text_of(&answer), "slept 1500 ms");
    }
    assert_eq!((host.host.registry().admission().waiting(), host.host.registry().admission().running()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_is_counted() {
    let host = TestHost::start(&[("metered", &crate::support::binary("metered", "local.get 0"))]).await;
    host.text("metered", json!({ "a": 1, "b": 2 })).await;
    host.text("metered", json!({ "a": 1 })).await;
    let lines = host.metric("mcpp_calls_total").await;
    for outcome in ["ok", "invalid_arguments"] {
        let line = format!(r#"mcpp_calls_total{{tenant="local",tool="metered",outcome="{outcome}"}} 1"#);
        assert!(lines.contains(&line), "{line} is not in {lines:?}");
    }
    host.text("no_such_tool", json!({})).await;
    assert!(
        !host.metric("mcpp_calls_total").await.iter().any(|line| line.contains("no_such_tool")),
        "a request made a label"
    );
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guests_strangers_and_large_messages_have_a_lower_priority_than_doors() {
    let _host = TestHost::start(&[("add", &add())]).await;
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    let threads = std::fs::read_dir("/proc/self/task").expect("threads").map(|entry| entry.expect("a thread").path());
    let low = ["mcpp-guest", "mcpp-load", "mcpp-lobby", "mcpp-bulk", "mcpp-outbound", "notify-rs"];
    let name = |path: &std::path::Path| read(path.join("comm"));
    let (low, others): (Vec<_>, Vec<_>) = threads.partition(|path| low.iter().any(|low| name(path).starts_with(low)));
    // After the name in parentheses, the seventeenth field is the nice value.
    let nice = |path: std::path::PathBuf| -> Option<(i32, String)> {
        let nice = read(path.join("stat")).rsplit_once(')')?.1.split_whitespace().nth(16)?.parse().ok()?;
        Some((nice, name(&path).trim().to_owned()))
    };
    let (low, others) = [low, others].map(|paths| paths.into_iter().filter_map(nice).collect::<Vec<_>>()).into();
    assert!(low.len() > 2 && !others.is_empty());
    let least = others.iter().max().expect("a thread");
    assert!(low.iter().all(|low| low.0 > least.0), "low {low:?}, others {others:?}");
}

/// Processor time of this process's threads with such a name, in nanoseconds.
#[cfg(target_os = "linux")]
pub fn thread_ns(name: &str) -> u64 {
    let threads = std::fs::read_dir("/proc/self/task").expect("threads").map(|entry| entry.expect("a thread").path());
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    let named = threads.filter(|path| read(path.join("comm")).trim_end() == name);
    let used = |path: std::path::PathBuf| read(path.join("schedstat")).split_whitespace().next()?.parse::<u64>().ok();
    named.filter_map(used).sum()
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_fills_much_new_memory_on_the_guests_threads() {
    let files = folder(&[("hostile", &guest("hostile"))]);
    let http = "[[components.hostile.http]]\nurl = 'http://127.0.0.1:9'\naddresses = ['127.0.0.1/32']";
    grant(&files, &format!("[components.hostile]\nstore = {{}}\n{http}"));
    let host = TestHost::start_with(files, |_| {}).await;
    assert_eq!(host.problems(), "");
    let hold = async |bytes: usize| host.text("hostile_hold", json!({ "bytes": bytes, "ms": 0 })).await;
    hold(0).await;
    let used = || ["mcpp-guest", "tokio-rt-worker"].map(thread_ns);
    let before = used();
    // Nobody knows yet that the tool has long calls.
    for _ in 0..2 {
        assert_eq!(hold(48 << 20).await, format!("held {} bytes", 48 << 20));
    }
    let [guests, doors] = [used()[0] - before[0], used()[1] - before[1]];
    assert!(guests > doors, "{guests} ns on the guests' threads, {doors} ns on the doors'");
}
