//! Work over three hosts of a network of their own: tasks are submitted on A, claimed by the worker of B, and read on C. B is killed in the middle, A is cut off and healed, and their clocks are
//! ten minutes apart. Invariants: nothing is lost, and no fencing token ends a task twice.
//!
//! A library that only this test builds shifts a host's clock: it stands before the C library's `clock_gettime`.
#![expect(clippy::disallowed_methods, reason = "this test waits for other programs, on a thread of no runtime")]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::mesh_lab::{Lab, Nat, Resident};

const PATIENCE: Duration = Duration::from_secs(90);
/// How far the clocks of B and C are from that of A, in seconds.
const APART_S: i64 = 600;
/// Tasks that end at once, before B is killed and after.
const QUICK: [usize; 2] = [12, 6];
const TOOLS: [&str; 2] = ["text_*", "p2p_taskqueue_wait_task"];

/// A library that moves the wall clock of a program by `TEST_CLOCK_SHIFT_S`.
fn clock_shifter(folder: &Path) -> PathBuf {
    let (source, library) = (folder.join("shift.c"), folder.join("shift.so"));
    let code = "#define _GNU_SOURCE\n#include <stdlib.h>\n#include <sys/syscall.h>\n#include <time.h>\n#include <unistd.h>\n\
        int clock_gettime(clockid_t clock, struct timespec *now) {\n\
        int failed = (int)syscall(SYS_clock_gettime, clock, now);\n\
        const char *shift = getenv(\"TEST_CLOCK_SHIFT_S\");\n\
        if (!failed && shift && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += atol(shift);\n\
        return failed;\n}\n";
    std::fs::write(&source, code).expect("written");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).output();
    let built = built.expect("a C compiler, which links Rust too");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    library
}

fn start(lab: &mut Lab, shifter: &Path, shift_s: i64) -> Resident {
    let text = "[tools]\nbuiltin = true\n[mesh]\nlisten = [\"0.0.0.0:9710\"]\n";
    let (shifter, shift) = (shifter.display().to_string(), shift_s.to_string());
    let environment = [("LD_PRELOAD", shifter.as_str()), ("TEST_CLOCK_SHIFT_S", &shift)];
    let host = Resident::start_by(lab.place(Nat::Open), text, &environment);
    until("its tools serve", || {
        let serves =
            |tool: &str, arguments: Value| ask(&host, tool, &arguments).is_some_and(|answer| answer.is_object());
        let does = serves("worker_services", json!({}))
            && serves("queue_stats", json!({}))
            && serves("text_hash", json!({ "text": "x" }));
        if does { Ok(()) } else { Err(host.log()) }
    });
    host
}

/// The answer of a tool, by the program's own command beside the host; none if there is no answer.
fn ask(host: &Resident, tool: &str, arguments: &Value) -> Option<Value> {
    let output = host.run(&["call", tool, &arguments.to_string(), "--json"]);
    let answer: Value = serde_json::from_slice(&output.stdout).ok()?;
    Some(answer.get("structuredContent").cloned().unwrap_or(answer))
}

fn must(host: &Resident, tool: &str, arguments: Value) -> Value {
    let answer =
        ask(host, tool, &arguments).unwrap_or_else(|| panic!("{tool} {arguments} has no answer\n{}", host.log()));
    assert!(answer["success"] == true || answer["ok"] == true, "{tool} {arguments}: {answer}");
    answer
}

/// Waits for a condition; what it gives.
fn until<T>(what: &str, mut condition: impl FnMut() -> Result<T, String>) -> T {
    let begin = Instant::now();
    loop {
        match condition() {
            Ok(met) => return met,
            Err(found) => assert!(begin.elapsed() < PATIENCE, "{what}: {found}"),
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn joins(host: &Resident, to: &Resident) {
    let invited = to.run(&["invite", "--tool", "task_queue.rpc", "--json"]);
    let ticket: Value = serde_json::from_slice(&invited.stdout).unwrap_or_else(|_| panic!("{invited:?}"));
    let joined = host.run(&["join", ticket["ticket"].as_str().expect("a ticket")]);
    assert!(joined.status.success(), "{joined:?}\n{}", host.log());
}

fn serve(host: &Resident, queue_of: &Resident) {
    let service = json!({ "service": "a", "peer_id": queue_of.peer, "tools": TOOLS, "concurrency": 4 });
    must(host, "worker_serve", service);
    // Where its tool waits, until the test says more.
    must(host, "task_submit", json!({ "task_id": "gate", "task_type": "gate", "payload": {} }));
}

fn submit(host: &Resident, ids: &[String], tool: &str, arguments: &Value) {
    let task = |id: &String| {
        let payload = json!({ "tool": tool, "args": arguments });
        json!({ "task_id": id, "task_type": "tool.call", "payload": payload, "retry_policy": { "max_retries": 9, "backoff_factor": 1.0 } })
    };
    must(host, "task_submit_many", json!({ "tasks": ids.iter().map(task).collect::<Vec<_>>() }));
}

/// What a worker has in a stage: the fencing tokens by task.
fn tokens(host: &Resident, stage: &str) -> BTreeMap<String, u64> {
    let service = service(host);
    let tasks = service["tasks"].as_array().cloned().unwrap_or_default().into_iter();
    let in_stage = tasks.filter(|task| task["stage"] == stage);
    in_stage
        .map(|task| {
            (task["task_id"].as_str().expect("an id").to_owned(), task["fencing_token"].as_u64().expect("a token"))
        })
        .collect()
}

fn service(host: &Resident) -> Value {
    ask(host, "worker_services", &json!({})).map(|answer| answer["services"][0].clone()).unwrap_or_default()
}

/// The completed tasks of A, as another host reads them there.
fn read_there(from: &Resident, queue_of: &Resident) -> BTreeMap<String, Value> {
    let arguments = json!({ "status": "completed", "limit": 100, "remote_peer_id": queue_of.peer });
    let listed = ask(from, "p2p_taskqueue_list_tasks", &arguments).unwrap_or_default();
    let tasks = listed["tasks"].as_array().cloned().unwrap_or_default().into_iter();
    tasks.map(|task| (task["task_id"].as_str().expect("an id").to_owned(), task)).collect()
}

fn seconds(host: &Resident) -> i64 {
    let since = service(host)["since"].as_str().map(str::to_owned).expect("a service");
    let shown = Command::new("date").args(["-u", "+%s", "-d", &since]).output().expect("date");
    String::from_utf8_lossy(&shown.stdout).trim().parse().expect("seconds")
}

#[test]
fn work_survives_a_killed_worker_a_cut_queue_and_clocks_ten_minutes_apart() {
    let tools = tempfile::tempdir().expect("a folder");
    let shifter = clock_shifter(tools.path());
    let mut lab = Lab::new("w3");
    let a = start(&mut lab, &shifter, 0);
    let mut b = start(&mut lab, &shifter, APART_S);
    let c = start(&mut lab, &shifter, -APART_S);
    joins(&b, &a);
    joins(&c, &a);

    // Submitted on A, claimed by B, read on C.
    serve(&b, &a);
    let named = |kind: &str, count: usize| (0..count).map(|n| format!("{kind}-{n}")).collect::<Vec<_>>();
    let (quick, late, slow) = (named("quick", QUICK[0]), named("late", QUICK[1]), named("slow", 2));
    submit(&a, &quick, "text_hash", &json!({ "text": "hello" }));
    submit(&a, &slow, "p2p_taskqueue_wait_task", &json!({ "task_id": "gate", "timeout_s": 280 }));
    let done = until("C reads what B has done", || {
        let done = read_there(&c, &a);
        if done.len() == quick.len() { Ok(done) } else { Err(format!("{done:?}; B: {}", service(&b))) }
    });
    for id in &quick {
        let result = &done[id]["result"];
        assert!(result["tool"] == "text_hash" && !result["result"].is_null(), "{}", done[id]);
    }

    // B is killed while it runs two.
    let of_b = until("B runs the slow ones", || {
        let running = tokens(&b, "running");
        if slow.iter().all(|id| running.contains_key(id)) { Ok(running) } else { Err(service(&b).to_string()) }
    });
    let done_by_b = service(&b)["completed"].as_u64().expect("a count");
    let clock_b = seconds(&b);
    b.kill();
    serve(&c, &a);
    let apart = clock_b - seconds(&c);
    assert!((2 * APART_S - 300..2 * APART_S).contains(&apart), "the clocks are {apart} s apart");
    submit(&a, &late, "text_hash", &json!({ "text": "hello" }));
    let of_c = until("C has what B had", || {
        let running = tokens(&c, "running");
        if slow.iter().all(|id| running.contains_key(id)) { Ok(running) } else { Err(service(&c).to_string()) }
    });
    for (id, token) in of_b.iter().filter(|(id, _)| slow.contains(id)) {
        assert!(of_c[id] > *token, "{id}: {token} of B, {} of C", of_c[id]);
        // B's token ends nothing any more.
        let worker = format!("mcpp/{}/a", b.peer);
        let stale =
            json!({ "op": "complete", "task_id": id, "worker_id": worker, "fencing_token": token, "result": {} });
        let refused = ask(&a, "task_queue.rpc", &stale).expect("an answer");
        assert!(refused["ok"] == false && refused["error"] == "refused", "{refused}");
    }

    // A is cut off while C ends them, and healed.
    let short = quick.len() + late.len();
    until("the others are done", || {
        let done = read_there(&c, &a).len();
        if done == short && tokens(&c, "ended").is_empty() { Ok(()) } else { Err(format!("{done}; {}", service(&c))) }
    });
    a.cut_off();
    must(&c, "p2p_taskqueue_complete_task", json!({ "task_id": "gate", "result": {} }));
    until("C has ended them, and cannot say so", || {
        let ended = tokens(&c, "ended");
        if slow.iter().all(|id| ended.get(id) == of_c.get(id)) { Ok(()) } else { Err(service(&c).to_string()) }
    });
    let status = must(&a, "queue_stats", json!({}));
    assert_eq!(status["running_count"], 2, "A does not know: {status}");
    a.heal();

    // Invariant: nothing is lost.
    let all: Vec<&String> = quick.iter().chain(&late).chain(&slow).collect();
    let done = until("all tasks are completed", || {
        let done = read_there(&c, &a);
        if done.len() == all.len() { Ok(done) } else { Err(format!("{:?}; C: {}", done.keys(), service(&c))) }
    });
    assert!(all.iter().all(|id| done.contains_key(*id)), "nothing is lost: {:?}", done.keys());
    let stats = must(&a, "queue_stats", json!({}));
    let counts =
        ["queued_count", "running_count", "failed_count", "completed_count"].map(|count| stats[count].as_u64());
    assert_eq!(counts, [0, 0, 0, all.len() as u64].map(Some), "nothing is lost: {stats}");
    // Invariant: no fencing token ends a task twice. Each end was acknowledged once, to one worker.
    until("C knows that A knows", || {
        let service = service(&c);
        let acknowledged = service["completed"].as_u64().unwrap_or_default() + done_by_b;
        let is_quiet = service["tasks"] == json!([]) && acknowledged == all.len() as u64;
        if is_quiet { Ok(()) } else { Err(format!("{done_by_b} by B; {service}")) }
    });
    for id in &slow {
        assert_eq!(done[id]["attempt"], 2, "one attempt each: {}", done[id]);
    }
}
