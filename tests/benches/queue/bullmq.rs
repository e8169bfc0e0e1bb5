//! BullMQ: a Redis of its own in a folder that is gone afterwards, and `bullmq.mjs` in Node.js.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{CLIENTS, OPERATIONS, SUBMITTED_AT_ONCE, Speed, server::free_port};

/// The versions of the Node.js packages.
const PACKAGES: &str = include_str!("package.json");

pub(crate) struct BullMq {
    redis: Child,
    port: u16,
    modules: PathBuf,
    _folder: TempDir,
}

impl BullMq {
    pub(crate) async fn start() -> Self {
        let (folder, port) = (tempfile::tempdir().expect("a folder"), free_port());
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--dir"]).arg(folder.path());
        // Every change is on disk before it is acknowledged. Snapshots besides would only slow it down.
        command.args(["--appendonly", "yes", "--appendfsync", "always", "--save", ""]).stdout(Stdio::null());
        let redis = command.spawn().expect("redis-server is there: install Debian's package of this name");
        let mut bullmq = Self { redis, port, modules: modules(), _folder: folder };
        while !bullmq.answers() {
            assert_eq!(bullmq.redis.try_wait().expect("a state"), None, "redis-server runs");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        bullmq
    }

    fn answers(&self) -> bool {
        let mut reply = [0; 7];
        let ping = TcpStream::connect(("127.0.0.1", self.port)).and_then(|mut connection| {
            connection.write_all(b"PING\r\n")?;
            connection.read_exact(&mut reply)
        });
        ping.is_ok() && reply == *b"+PONG\r\n"
    }

    /// Adds jobs until so many wait; then adds, claims and completes so many, one by one and in batches.
    pub(crate) fn fill_and_measure(
        &self,
        backlog: usize,
        operations: usize,
        batched: usize,
    ) -> ([Speed; 3], [Speed; 2]) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/queue/bullmq.mjs");
        let mut command = Command::new("node");
        command.arg(script).arg(&self.modules).arg(self.port.to_string());
        command.args([backlog, operations, CLIENTS, batched, SUBMITTED_AT_ONCE].map(|number| number.to_string()));
        let output = command.stderr(Stdio::inherit()).output().expect("Node.js is there");
        assert!(output.status.success(), "bullmq.mjs: {}", output.status);
        let measured: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let speed = |operation: &str| {
            let number = |name: &str| measured[operation][name].as_f64().expect("a number");
            Speed { rate: number("rate"), p50_us: number("p50_us"), p99_us: number("p99_us") }
        };
        (OPERATIONS.map(speed), ["submitBulk", "completeAndClaim"].map(speed))
    }
}

impl Drop for BullMq {
    fn drop(&mut self) {
        let _it_may_have_ended = self.redis.kill();
        let _it_may_have_ended = self.redis.wait();
    }
}

/// The folder of the Node.js packages, below `target`; they are installed if they are not there.
fn modules() -> PathBuf {
    let here = std::env::current_exe().expect("a program");
    let folder = here.ancestors().nth(3).expect("a target folder").join("bench/node");
    let done = folder.join(".done");
    if std::fs::read_to_string(&done).is_ok_and(|installed| installed == PACKAGES) {
        return folder;
    }
    std::fs::create_dir_all(&folder).expect("made");
    std::fs::write(folder.join("package.json"), PACKAGES).expect("written");
    let mut install = Command::new("npm");
    install.args(["install", "--no-audit", "--no-fund", "--loglevel=error"]).current_dir(&folder);
    assert!(install.stdout(Stdio::null()).status().expect("npm is there").success(), "npm installed the packages");
    std::fs::write(done, PACKAGES).expect("written");
    folder
}
