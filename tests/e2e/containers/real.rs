//! The engine of this machine, if one answers. `.ci/engine` starts one where Docker is installed.

use std::{path::PathBuf, time::Duration};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

use super::DISK_BYTES;
use crate::{
    support::{TestHost, folder, grant},
    taskqueue::{ask, holds},
};

/// An engine that answers, and an image that it has.
struct Real {
    socket: PathBuf,
    image: String,
}

impl Real {
    async fn find() -> Result<Self, String> {
        let socket = std::env::var("DOCKER_HOST").ok().and_then(|url| url.strip_prefix("unix://").map(PathBuf::from));
        let mut real =
            Self { socket: socket.unwrap_or_else(|| PathBuf::from("/var/run/docker.sock")), image: String::new() };
        let images = real.get("/images/json").await;
        let images = images.map_err(|error| format!("no engine answers at {}: {error}", real.socket.display()))?;
        // An image with a shell that is there already: a test fetches nothing.
        let known = ["busybox:latest", "alpine:latest", "debian:stable-slim", "debian:latest"];
        let image = known.into_iter().find(|image| images.contains(image));
        image
            .ok_or_else(|| format!("the engine at {} has none of {known:?}", real.socket.display()))?
            .clone_into(&mut real.image);
        Ok(real)
    }

    async fn get(&self, path: &str) -> std::io::Result<String> {
        let mut stream = UnixStream::connect(&self.socket).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    /// What the engine has of a host, running or not.
    async fn containers(&self, folder: &TempDir) -> Vec<Value> {
        let name = std::fs::read_to_string(folder.path().join("data/containers-name")).expect("the host's name");
        let filters = format!("%7B%22label%22%3A%5B%22mcpp.host%3D{name}%22%5D%7D");
        let answer = self.get(&format!("/containers/json?all=true&filters={filters}")).await.expect("an answer");
        let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
        serde_json::from_str(body).expect("a list")
    }

    async fn host(&self) -> TestHost {
        let folder = folder(&[]);
        grant(
            &folder,
            "[components.worker]\ncall = ['*']\nstore = {}\nmesh = { see = true, call = ['*: task_queue.rpc'] }\ncontainer = { images = ['*'] }\n",
        );
        TestHost::start_with(folder, |config| {
            config.tools.builtin = true;
            config.limits.deadline_ms = Some(120_000.try_into().expect("legal"));
            config.containers.socket = Some(self.socket.clone());
            config.containers.images = vec!["*".to_owned()].try_into().expect("images");
            config.containers.memory_bytes = 64 << 20;
            config.containers.processes = 16;
            config.containers.output_bytes = 1 << 20;
            config.containers.disk_bytes = DISK_BYTES;
        })
        .await
    }

    fn run(&self, command: &str, more: Value) -> Value {
        let mut arguments = json!({ "image": self.image, "command": ["sh", "-c", command] });
        arguments.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        arguments
    }
}

/// The engine; none, with a word about it, where none answers. Where `MCPP_ENGINE` says that one must, its absence is a failure.
async fn engine() -> Option<Real> {
    match Real::find().await {
        Ok(real) => Some(real),
        Err(reason) => {
            assert!(std::env::var_os("MCPP_ENGINE").is_none(), "{reason}");
            eprintln!("skipped: {reason}");
            None
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_engine_of_this_machine_runs_a_container() {
    let Some(real) = engine().await else { return };
    let host = real.host().await;
    let said = ask(&host, "docker_execute", real.run("echo out; echo err >&2; exit 3", json!({}))).await;
    holds(&said, &json!({ "success": false, "exit_code": 3, "stdout": "out\n", "stderr": "err\n" }), "output");
    let alone = real.run("cat /proc/net/dev | wc -l; grep -E 'CapEff|NoNewPrivs' /proc/self/status; cat", json!({}));
    let alone = ask(&host, "docker_execute", alone).await;
    // Two lines of headings and the loopback. Bits 0, 1, 3, 6 and 7: an owner of files. Nothing comes in.
    let wanted = "3\nCapEff:\t00000000000000cb\nNoNewPrivs:\t1\n";
    holds(&alone, &json!({ "success": true, "stdout": wanted }), "alone");
    let more = json!({ "user": "1000", "working_dir": "/tmp", "environment": { "A": "b c" } });
    let set = ask(&host, "docker_execute", real.run("id -u; pwd; echo $A", more)).await;
    holds(&set, &json!({ "success": true, "stdout": "1000\n/tmp\nb c\n" }), "as it is ordered");
    let locked = ask(&host, "docker_execute", real.run("touch /x", json!({ "read_only": true }))).await;
    assert_eq!(locked["success"], false, "{locked}");
    let refused = ask(&host, "docker_execute", json!({ "image": real.image, "command": ["/no/such/program"] })).await;
    holds(&refused, &json!({ "success": false, "exit_code": 127 }), "no program");
    assert!(refused["stderr"].as_str().is_some_and(|said| said.contains("/no/such/program")), "{refused}");
    assert!(real.containers(&host.folder).await.is_empty(), "each is gone with its end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_engine_of_this_machine_holds_a_container_to_its_bounds() {
    let Some(real) = engine().await else { return };
    let host = real.host().await;
    for (command, more, error) in [
        ("sleep 60", json!({ "timeout": 0.5 }), "the container ran longer than 0.5 s"),
        // One word of all the zeros that there are.
        ("tail -c 1000000000 /dev/zero", json!({}), "the container used more memory than it may"),
        ("yes", json!({}), "the container wrote more than this host allows"),
        // Each of the files is smaller than what they may have together.
        (
            "for n in 1 2 3; do head -c 4000000 /dev/zero > /$n; done; sleep 60",
            json!({}),
            "the container's files have more bytes than this host allows",
        ),
    ] {
        let ended = ask(&host, "docker_execute", real.run(command, more)).await;
        holds(&ended, &json!({ "success": false, "error_message": error }), command);
    }
    // One file beyond that is refused where it is written; so is one process too many.
    let large =
        ask(&host, "docker_execute", real.run("head -c 20000000 /dev/zero > /large; wc -c < /large", json!({}))).await;
    holds(&large, &json!({ "success": true, "stdout": format!("{DISK_BYTES}\n") }), "one large file");
    let many = "for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep 5 & done; echo all";
    let many = ask(&host, "docker_execute", real.run(many, json!({}))).await;
    assert!(many["stderr"].as_str().is_some_and(|said| said.contains("fork")), "{many}");
    assert!(real.containers(&host.folder).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_engine_of_this_machine_ends_a_container_with_its_call() {
    let Some(real) = engine().await else { return };
    let host = real.host().await;
    let call = json!({ "name": "docker_execute", "arguments": real.run("sleep 100", json!({})) });
    let call = tokio::spawn(host.modern("tools/call", call).send());
    host.until("a container runs", async |host| !real.containers(&host.folder).await.is_empty()).await;
    call.abort();
    host.until("it is gone", async |host| real.containers(&host.folder).await.is_empty()).await;
    // Also one that ignores what it is told.
    let stubborn = real.run("trap '' TERM INT; sleep 100", json!({}));
    let call = json!({ "name": "docker_execute", "arguments": stubborn });
    let call = tokio::spawn(host.modern("tools/call", call).send());
    host.until("a container runs", async |host| !real.containers(&host.folder).await.is_empty()).await;
    let folder = tokio::time::timeout(Duration::from_secs(60), host.stop()).await.expect("the host stops");
    assert!(real.containers(&folder).await.is_empty(), "nothing is left behind");
    drop(call.await);
}
