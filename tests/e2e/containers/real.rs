//! The engine of this machine, if one answers.

use std::path::PathBuf;

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

use crate::{
    support::{TestHost, folder, grant},
    taskqueue::{ask, holds},
};

/// The socket of an engine that answers, and an image that it has.
async fn real() -> Result<(PathBuf, String), String> {
    let socket = std::env::var("DOCKER_HOST").ok().and_then(|url| url.strip_prefix("unix://").map(PathBuf::from));
    let socket = socket.unwrap_or_else(|| PathBuf::from("/var/run/docker.sock"));
    let list = async {
        let mut stream = UnixStream::connect(&socket).await?;
        stream.write_all(b"GET /images/json HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = list.await.map_err(|error| format!("no engine answers at {}: {error}", socket.display()))?;
    // An image with a shell that is there already: a test fetches nothing.
    let known = ["busybox:latest", "alpine:latest", "debian:stable-slim", "debian:latest"];
    match known.into_iter().find(|image| answer.contains(image)) {
        Some(image) => Ok((socket, image.to_owned())),
        None => Err(format!("the engine at {} has none of {known:?}", socket.display())),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_engine_of_this_machine_runs_a_container() {
    let (socket, image) = match real().await {
        Ok(real) => real,
        Err(reason) => {
            eprintln!("skipped: {reason}");
            return;
        }
    };
    let folder = folder(&[]);
    grant(
        &folder,
        "[components.worker]\ncall = ['*']\nstore = {}\nmesh = { see = true, call = ['*: task_queue.rpc'] }\ncontainer = { images = ['*'] }\n",
    );
    let host = TestHost::start_with(folder, |config| {
        config.tools.builtin = true;
        config.limits.deadline_ms = Some(60_000.try_into().expect("legal"));
        config.containers.socket = Some(socket);
        config.containers.images = vec!["*".to_owned()].try_into().expect("images");
    })
    .await;
    let run = |command: &str, more: serde_json::Value| {
        let mut arguments = json!({ "image": image, "command": ["sh", "-c", command] });
        arguments.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        arguments
    };
    let said = ask(&host, "docker_execute", run("echo out; echo err >&2; exit 3", json!({}))).await;
    holds(&said, &json!({ "success": false, "exit_code": 3, "stdout": "out\n", "stderr": "err\n" }), "output");
    let late = ask(&host, "docker_execute", run("sleep 60", json!({ "timeout": 0.5 }))).await;
    holds(&late, &json!({ "success": false, "error_message": "the container ran longer than 0.5 s" }), "late");
    let alone =
        ask(&host, "docker_execute", run("cat /proc/net/dev | wc -l; grep CapEff /proc/self/status", json!({}))).await;
    // Two lines of headings and the loopback.
    assert!(alone["stdout"].as_str().is_some_and(|text| text.starts_with('3')), "{alone}");
    let locked = ask(&host, "docker_execute", run("touch /x", json!({ "read_only": true }))).await;
    assert_eq!(locked["success"], false, "{locked}");
}
