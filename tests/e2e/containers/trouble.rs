//! What ends a container early, engines that are away or hostile, and the bounds.

use std::time::Duration;

use serde_json::json;

use super::{DISK_BYTES, Engine, Mood, all_gone, ended, execute, serve, start, start_with};
use crate::{
    support::{PATIENCE, TestHost},
    taskqueue::{ask, holds},
};

async fn works(host: &TestHost, engine: &Engine) {
    host.until("a container works", async |_| {
        engine.state().containers.len() == 1 && engine.count("POST /containers/mcpp-") >= 2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_container_is_killed_at_its_time_and_at_its_output() {
    let (host, engine) = start().await;
    let late = ask(&host, "docker_execute", json!({ "image": "here:1", "command": "work", "timeout": 0.3 })).await;
    let wanted = json!({
        "success": false, "exit_code": null, "stdout": "working\n", "error_message": "the container ran longer than 0.3 s",
    });
    holds(&late, &wanted, "late");
    assert_eq!(
        (engine.count("POST /containers/mcpp-"), engine.state().containers.len()),
        (3, 0),
        "attach, start, kill"
    );
    let loud = execute(&host, &["flood"]).await;
    let wanted = json!({ "success": false, "error_message": "the container wrote more than this host allows", "truncated": true });
    holds(&loud, &wanted, "loud");
    assert_eq!(loud["stdout"].as_str().map(str::len), Some(64 << 10), "as much as is allowed, and no more");
    let big = execute(&host, &["big"]).await;
    holds(
        &big,
        &json!({ "success": false, "exit_code": 137, "error_message": "the container used more memory than it may" }),
        "big",
    );
    let over = (DISK_BYTES + 1).to_string();
    let full = execute(&host, &["fill", &over]).await;
    let wanted = json!({ "success": false, "exit_code": null, "error_message": "the container's files have more bytes than this host allows" });
    holds(&full, &wanted, "full");
    let within = json!({ "image": "here:1", "command": ["fill", DISK_BYTES.to_string()], "timeout": 2.5 });
    let within = ask(&host, "docker_execute", within).await;
    holds(&within, &json!({ "error_message": "the container ran longer than 2.5 s" }), "as many as are allowed");
    // A program that writes byte by byte costs no more calls of the host than it may have.
    let drip = execute(&host, &["drip", "60000"]).await;
    assert_eq!((&drip["success"], drip["stdout"].as_str().map(str::len)), (&json!(true), Some(60_000)));
    all_gone(&host, &engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_build_ends_that_fills_the_disk() {
    // A layer of the engine's double has 3 MiB, the container of a step 5 GiB.
    for (dockerfile, most, is_refused) in
        [("layers", 2 << 20, true), ("layers", 4 << 20, false), ("fills", DISK_BYTES, true)]
    {
        let (host, engine) = start_with(|config| config.containers.disk_bytes = most).await;
        let order = json!({ "repo_url": "https://github.com/org/name", "dockerfile_path": dockerfile, "command": ["say", "built"] });
        let done = ask(&host, "docker_github", order).await;
        let reason =
            format!("the engine refuses: the build has written more than {most} bytes (containers.disk_bytes)");
        let wanted = match is_refused {
            true => json!({ "success": false, "error_message": reason }),
            false => json!({ "success": true, "stdout": "built\n" }),
        };
        holds(&done, &wanted, dockerfile);
        all_gone(&host, &engine).await;
        assert_eq!(engine.state().images, ["here:1"], "no image is left");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_container_ends_with_its_call_with_its_task_and_with_its_host() {
    let (host, engine) = start().await;
    let call = json!({ "name": "docker_execute", "arguments": { "image": "here:1", "command": ["work"] } });
    let call = tokio::spawn(host.modern("tools/call", call).send());
    works(&host, &engine).await;
    // The client leaves.
    call.abort();
    all_gone(&host, &engine).await;

    serve(&host).await;
    let submit = async |id: &str| {
        let task = json!({ "task_id": id, "task_type": "docker.execute", "payload": { "image": "here:1", "command": ["work"] } });
        holds(&ask(&host, "task_submit", task).await, &json!({ "success": true }), id);
        works(&host, &engine).await;
    };
    submit("t1").await;
    host.until("its lines are there", async |host| {
        let status = ask(host, "task_status", json!({ "task_id": "t1", "include_logs": true })).await;
        status["logs"][0]["message"] == json!("working")
    })
    .await;
    holds(
        &ask(&host, "task_cancel", json!({ "task_id": "t1", "force": true })).await,
        &json!({ "success": true }),
        "cancel",
    );
    all_gone(&host, &engine).await;
    assert_eq!(ended(&host, "t1").await["status"], "cancelled");

    submit("t2").await;
    let folder = tokio::time::timeout(PATIENCE, host.stop()).await.expect("it stops");
    assert!(engine.state().containers.is_empty(), "nothing is left behind");
    let socket = engine.socket();
    let again = TestHost::start_with(folder, |config| {
        config.tools.builtin = true;
        config.containers.socket = Some(socket);
    })
    .await;
    let status = ask(&again, "p2p_taskqueue_get_task", json!({ "task_id": "t2" })).await;
    // It was handed over when the host stopped, not lost: no attempt is counted.
    let released = &status["task"]["result"]["progress"]["last_release_reason"];
    assert_eq!(released, "this host stops", "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_engine_that_is_away_or_hostile_ends_a_container_with_a_reason() {
    let (host, engine) = start().await;
    for (mood, reason) in [
        (Mood::Away, "the engine does not answer"),
        (Mood::Garbage, "the engine does not answer"),
        (Mood::Endless, "the engine does not answer"),
    ] {
        engine.set_mood(mood);
        let refused = execute(&host, &["say", "no"]).await;
        let said = refused["error_message"].as_str().unwrap_or_default();
        assert!(said.starts_with(reason), "{mood:?}: {refused}");
        engine.set_mood(Mood::Well);
    }
    // Frames of four gigabytes: the connection has no more bytes than output that is allowed.
    engine.set_mood(Mood::Giant);
    let refused = execute(&host, &["say", "no"]).await;
    assert!(refused["error_message"].as_str().is_some_and(|said| said.contains("does not answer")), "{refused}");
    engine.set_mood(Mood::Well);
    // An engine that breaks off in the midst of it.
    // The container may go on for all that anybody knows: its time ends it.
    let broken = json!({ "image": "here:1", "command": ["break"], "timeout": 1 });
    let broken = ask(&host, "docker_execute", broken).await;
    assert_eq!(broken["success"], false, "{broken}");
    let missing = ask(&host, "docker_execute", json!({ "image": "missing:1" })).await;
    holds(&missing, &json!({ "success": false, "error_message": "the engine refuses: manifest unknown" }), "missing");
    let well = execute(&host, &["say", "yes"]).await;
    holds(&well, &json!({ "success": true, "stdout": "yes\n" }), "well again");
    all_gone(&host, &engine).await;
    // A silent one ends with the call.
    engine.set_mood(Mood::Silent);
    let asked = engine.state().seen.len();
    let call = json!({ "name": "docker_execute", "arguments": { "image": "here:1", "command": ["say", "x"] } });
    let call = tokio::spawn(host.modern("tools/call", call).send());
    host.until("it was asked", async |_| engine.state().seen.len() > asked).await;
    call.abort();
    host.until("the call is over", async |host| host.host.registry().calls() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_left_behind_is_removed_and_what_is_anothers_is_not() {
    let (host, engine) = start().await;
    engine.set_mood(Mood::Stubborn);
    let ran = execute(&host, &["say", "one"]).await;
    holds(&ran, &json!({ "success": true, "stdout": "one\n" }), "it ran though");
    let left = engine.state().containers.clone();
    assert_eq!(left.len(), 1, "it could not be removed");
    let own = left.values().next().expect("one").body["Labels"].clone();
    engine.set_mood(Mood::Well);
    engine.add_container("mcpp-killed", own);
    engine.add_container("mcpp-other", json!({ "mcpp.host": "of another" }));
    engine.add_container("database", json!({}));
    holds(&execute(&host, &["say", "two"]).await, &json!({ "success": true }), "two");
    let names: Vec<String> = engine.state().containers.keys().cloned().collect();
    assert_eq!(names, ["database", "mcpp-other"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn more_containers_than_the_host_has_room_for_wait() {
    let (host, engine) = start_with(|config| config.containers.max_containers = 1).await;
    let work =
        json!({ "name": "docker_execute", "arguments": { "image": "here:1", "command": ["work"], "timeout": 60 } });
    let first = tokio::spawn(host.modern("tools/call", work).send());
    works(&host, &engine).await;
    let second = host.modern(
        "tools/call",
        json!({ "name": "docker_execute", "arguments": { "image": "here:1", "command": ["say", "x"] } }),
    );
    let second = tokio::spawn(second.send());
    host.until("the second waits", async |host| host.host.registry().calls() == 2).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(engine.state().made.len(), 1, "one at a time");
    first.abort();
    let answer = crate::support::answer(second.await.expect("joined").expect("an answer")).await;
    holds(&answer["result"]["structuredContent"], &json!({ "success": true, "stdout": "x\n" }), "the second");
    assert_eq!(engine.state().made.len(), 2);
}
