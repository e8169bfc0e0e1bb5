//! Containers: from a task or a call to the engine and back. Always against an engine of these tests, which speaks the API of the real one; and against the real one, where one answers.

mod engine;
mod real;
mod speech;
mod trouble;

use mcpp::config::Config;
use serde_json::{Value, json};

pub(crate) use self::engine::{Engine, Mood};
use crate::{
    support::{TestHost, folder, grant, messages},
    taskqueue::{ask, holds},
};

/// The most bytes of a container's files.
pub(crate) const DISK_BYTES: u64 = 8 << 20;

/// A host with an engine, whose worker may run the images `here` and `far`, and build of one organization's repositories.
pub(crate) async fn start() -> (TestHost, Engine) {
    start_with(|_| {}).await
}

pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> (TestHost, Engine) {
    let folder = folder(&[]);
    let engine = Engine::start(folder.path());
    grant(
        &folder,
        "[components.worker]\ncall = ['*']\nstore = {}\nmesh = { see = true, call = ['*: task_queue.rpc'] }\n\
         container = { images = ['here:*', 'far:*', 'missing:*'], repositories = ['https://github.com/org/*'] }\n\
         limits = { deadline_ms = 3600000 }\n",
    );
    let socket = engine.socket();
    let host = TestHost::start_with(folder, |config| {
        config.tools.builtin = true;
        config.server.drain_ms = 5_000;
        config.containers.socket = Some(socket);
        config.containers.images = vec!["*".to_owned()].try_into().expect("images");
        config.containers.repositories = vec!["https://github.com/*".to_owned()].try_into().expect("repositories");
        config.containers.output_bytes = 64 << 10;
        config.containers.disk_bytes = DISK_BYTES;
        change(config);
    })
    .await;
    assert_eq!(host.problems(), "");
    (host, engine)
}

pub(crate) async fn serve(host: &TestHost) {
    let service = json!({ "service": "own", "tools": ["docker_*"], "docker": true, "concurrency": 3 });
    holds(&ask(host, "worker_serve", service).await, &json!({ "success": true }), "serve");
}

pub(crate) async fn execute(host: &TestHost, command: &[&str]) -> Value {
    ask(host, "docker_execute", json!({ "image": "here:1", "command": command })).await
}

/// Waits for the end of a task; its record.
pub(crate) async fn ended(host: &TestHost, id: &str) -> Value {
    ask(host, "p2p_taskqueue_wait_task", json!({ "task_id": id, "timeout_s": 60 })).await["task"].clone()
}

pub(crate) async fn all_gone(host: &TestHost, engine: &Engine) {
    host.until("no container is left", async |_| engine.state().containers.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_task_of_an_image_runs_with_the_safe_settings_and_has_the_contracts_result() {
    let (host, engine) = start().await;
    serve(&host).await;
    let task = json!({
        "image": "far:1", "command": "say hello there", "environment": { "A": "b" },
        "extra": { "timeout": 20, "memory_limit": "64m", "cpu_limit": 0.5, "read_only": true, "user": "nobody", "working_dir": "/w" },
    });
    let submitted = ask(&host, "p2p_taskqueue_submit_docker_hub", task).await;
    let done = ended(&host, submitted["task_id"].as_str().expect("an id")).await;
    let wanted = json!({
        "status": "completed",
        "result": {
            "success": true, "exit_code": 0, "stdout": "hello there\n", "stderr": "", "execution_time": "…", "error_message": null,
            "logs": [{ "ts": "…", "stream": "stdout", "message": "hello there" }],
            "progress": { "phase": "ended", "heartbeat_ts": "…", "image": "far:1" },
        },
    });
    holds(&done, &wanted, "the task");
    let made = engine.state().made.clone();
    let wanted = json!({
        "Image": "far:1", "Cmd": ["say", "hello", "there"], "Env": ["A=b"], "User": "nobody", "WorkingDir": "/w", "Tty": false,
        "HostConfig": {
            "NetworkMode": "none", "Memory": 64 << 20, "MemorySwap": 64 << 20, "NanoCpus": 500_000_000, "PidsLimit": 256,
            "Ulimits": [{ "Name": "fsize", "Soft": DISK_BYTES, "Hard": DISK_BYTES }, { "Name": "core", "Soft": 0, "Hard": 0 }],
            "Tmpfs": { "/data": "", "/own": "" },
            "ReadonlyRootfs": true, "Privileged": false, "CapDrop": ["ALL"], "SecurityOpt": ["no-new-privileges:true"],
        },
        "Labels": { "mcpp.tenant": "local", "mcpp.component": "worker", "mcpp.host": "…" },
    });
    assert_eq!(made.len(), 1);
    holds(&made[0], &wanted, "the container");
    assert_eq!(engine.count("POST /images/create?fromImage=far:1"), 1, "one tag is fetched, not all");
    all_gone(&host, &engine).await;
    // The image is there now. A program that fails is a task that failed, and is not run again.
    let task = json!({ "image": "far:1", "command": ["fail", "3"] });
    let submitted = ask(&host, "p2p_taskqueue_submit_docker_hub", task).await;
    let failed = ended(&host, submitted["task_id"].as_str().expect("an id")).await;
    let wanted = json!({
        "status": "failed", "attempt": 1, "error": "the program ended with 3",
        "result": { "success": false, "exit_code": 3, "stdout": "", "stderr": "it went wrong\n" },
    });
    holds(&failed, &wanted, "the failure");
    assert_eq!(engine.count("POST /images/create"), 1);
    // Once before it was fetched and once after, and once when it was there.
    assert_eq!(engine.count("GET /images/far:1/json"), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_task_of_a_repository_is_built_run_and_leaves_no_image() {
    let (host, engine) = start().await;
    serve(&host).await;
    let task = json!({
        "repo_url": "https://github.com/org/name", "branch": "dev", "context_path": "app", "dockerfile_path": "app/Dockerfile",
        "command": ["say", "built"], "build_args": { "V": "1" },
    });
    let submitted = ask(&host, "p2p_taskqueue_submit_docker_github", task).await;
    let done = ended(&host, submitted["task_id"].as_str().expect("an id")).await;
    let expected = json!({ "status": "completed", "result": { "success": true, "stdout": "built\n" } });
    holds(&done, &expected, &format!("{done}"));
    assert_eq!(done["result"]["logs"][0]["stream"], "build", "{done}");
    let build = engine.state().seen.iter().find(|request| request.starts_with("POST /build")).cloned().expect("built");
    for part in [
        "remote=https://github.com/org/name.git#dev:app",
        "dockerfile=Dockerfile",
        "networkmode=none",
        "buildargs={\"V\":\"1\"}",
        "forcerm=true",
        "cpuquota=100000",
    ] {
        assert!(build.contains(part), "{part} is missing in {build}");
    }
    all_gone(&host, &engine).await;
    assert_eq!(engine.state().images, ["here:1"], "the built image is gone");
    let broken = json!({ "repo_url": "https://github.com/org/name", "dockerfile_path": "broken" });
    let refused = ask(&host, "docker_github", broken).await;
    holds(&refused, &json!({ "success": false, "error_message": "the engine refuses: RUN returned 1" }), "broken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_hears_the_lines_of_its_container() {
    let (host, _engine) = start().await;
    let call = json!({
        "name": "docker_execute", "arguments": { "image": "here:1", "command": ["fail", "1"] }, "_meta": { "progressToken": "p" },
    });
    let said = messages(host.modern("tools/call", call).send().await.expect("an answer")).await;
    let told: Vec<&str> = said.iter().filter_map(|message| message["params"]["message"].as_str()).collect();
    assert!(told.contains(&"stderr: it went wrong"), "{said:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_runs_that_the_operator_did_not_name() {
    // Without an engine; the grant that the worker is shipped with names no image.
    let bare = TestHost::start_with(folder(&[]), |config| config.tools.builtin = true).await;
    assert_eq!(bare.problems(), "");
    let off = ask(&bare, "docker_execute", json!({ "image": "here:1" })).await;
    holds(&off, &json!({ "success": false, "error_message": "this host has no container engine" }), "off");
    let (host, engine) = start_with(|config| {
        config.containers.images = vec!["here:1".to_owned(), "other:*".to_owned()].try_into().expect("images");
    })
    .await;
    for (arguments, reason) in [
        (json!({ "image": "other:1" }), "not allowed here: the image \"other:1\""),
        (json!({ "image": "far:1" }), "not allowed here: this host does not allow the image \"far:1\""),
        (json!({ "image": "here:1", "network_mode": "host" }), "not allowed here: the network \"host\""),
        (json!({ "image": "here:1", "volumes": { "/etc": "/etc" } }), "not allowed here: the directory \"/etc\""),
        (json!({ "image": "here:1", "gpus": "all" }), "not allowed here: the graphics processors"),
        (json!({ "image": "here:1", "memory_limit": "4g" }), "`memory-bytes` is 4294967296"),
        (json!({ "image": "here:1", "cpu_limit": 64 }), "`cpu-millis` is 64000"),
        (json!({ "image": "here:1", "no_new_privileges": false }), "`no_new_privileges` cannot be false here"),
        (json!({ "image": "--privileged" }), "is no image's name"),
    ] {
        let refused = ask(&host, "docker_execute", arguments.clone()).await;
        let said = refused["error_message"].as_str().unwrap_or_default();
        assert!(refused["success"] == json!(false) && said.contains(reason), "{arguments}: {refused}");
    }
    assert_eq!(engine.state().seen, [""; 0], "the engine was not asked");
}
