//! Hosts of a mesh as processes of their own, and the program's commands on them.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::server::Server;

/// A host in a folder of its own.
pub(crate) struct MeshedHost {
    pub(crate) server: Server,
    pub(crate) id: String,
    data: PathBuf,
    addresses: Vec<String>,
}

/// A host's program.
fn program() -> PathBuf {
    let here = std::env::current_exe().expect("a program");
    here.parent().and_then(Path::parent).expect("a target folder").join("mcpp")
}

/// A tool that adds, as a component without an SDK.
fn add() -> Vec<u8> {
    let text = r#"(component
        (core module $m (func (export "f") (param i32 i32) (result i32) local.get 0 local.get 1 i32.add))
        (core instance $i (instantiate $m))
        (func (export "add") (param "a" s32) (param "b" s32) (result s32) (canon lift (core func $i "f"))))"#;
    wat::parse_str(text).expect("a component")
}

impl MeshedHost {
    /// A host with these lines in the section `[mesh]`, and with a tool if `adds` says so.
    pub(crate) async fn start(mesh: &str, adds: bool) -> Self {
        Self::start_with("builtin = false", mesh, if adds { Some("add") } else { None }).await
    }

    /// A host with the built-in tools, which serves when its queue does.
    ///
    /// A peer may have as many tasks there as the bench submits.
    pub(crate) async fn with_queue() -> Self {
        let host = Self::start_with("builtin = true", "", Some("task_queue.rpc")).await;
        let open = r#"{"op":"configure","peer_tasks":1000000,"peer_mib":100000}"#;
        let configured = host.command(&["call", "task_queue.rpc", open, "--url", &host.server.url()]);
        assert!(configured.contains("1000000"), "{configured}");
        host
    }

    /// A host with these lines in the sections `[tools]` and `[mesh]`, which serves when this tool does.
    async fn start_with(tools: &str, mesh: &str, waits_for: Option<&str>) -> Self {
        let adds = waits_for == Some("add");
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("tools")).expect("made");
        if adds {
            std::fs::write(folder.path().join("tools/add.wasm"), add()).expect("written");
        }
        let config = format!("[tools]\n{tools}\n[mesh]\nlisten = [\"127.0.0.1:0\"]\n{mesh}\n");
        std::fs::write(folder.path().join("mcpp.toml"), config).expect("written");
        let data = folder.path().join("data");
        let server = Server::mcpp_in(folder).await;
        let mut host = Self { server, id: String::new(), data, addresses: Vec::new() };
        let list: Value = serde_json::from_str(&host.command(&["peers", "--json"])).expect("JSON");
        host.id = list["id"].as_str().expect("an id").to_owned();
        host.addresses = serde_json::from_value(list["addresses"].clone()).expect("a list");
        while waits_for.is_some_and(|tool| !host.command(&["tools", "--url", &host.server.url()]).contains(tool)) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        host
    }

    /// Runs a command of the program on the host; its output.
    pub(crate) fn command(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(program());
        command.args(arguments).env("MCPP_DATA", &self.data).env_remove("MCPP_URL").stdin(std::process::Stdio::null());
        let output = command.output().expect("run");
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        assert!(output.status.success(), "{arguments:?}: {text} {}", String::from_utf8_lossy(&output.stderr));
        text
    }

    pub(crate) fn ticket(&self) -> String {
        self.command(&["invite", "--tool", "*"])
    }

    pub(crate) fn join(&self, other: &Self) {
        self.command(&["join", &other.ticket()]);
    }

    /// Its address over `tcp` or `quic`.
    pub(crate) fn address(&self, transport: &str) -> String {
        let has = if transport == "tcp" { "/tcp/" } else { "/quic-v1" };
        self.addresses.iter().find(|address| address.contains(has)).expect("an address").clone()
    }
}
