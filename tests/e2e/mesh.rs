//! Real hosts as peers, on loopback: who they are, how they find each other again, and what strangers cannot take from them.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use mcpp::mesh::{Bond, Identity, Incoming, Mesh, MeshConfig, NetworkConfig};
use serde_json::Value;

use crate::{
    command_line::{mcpp, run, stdout},
    support::{PATIENCE, TestHost, add, folder},
};

/// A peer that is no host.
async fn peer() -> (Mesh, Incoming) {
    let network = NetworkConfig { listen: vec!["127.0.0.1:0".into()], ..NetworkConfig::default() };
    let identity = Identity::generate().expect("a key");
    Mesh::start(MeshConfig { network, identity, folder: None }, Vec::new()).await.expect("it starts")
}

fn mesh(host: &TestHost) -> &Mesh {
    host.host.mesh().expect("the host is part of a mesh")
}

fn over(mesh: &Mesh, transport: &str) -> String {
    mesh.addresses().into_iter().find(|address| address.contains(transport)).expect("it listens there")
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what} did not come to be"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_a_peer_on_its_machine_with_a_key_of_its_own() {
    let host = TestHost::start(&[]).await;
    let data = host.folder.path().join("data");
    let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!((mode(&data.join("mesh")), mode(&data.join("mesh/identity.key"))), (0o700, 0o600));
    let said = tokio::task::block_in_place(|| run(&["id"], &[("MCPP_DATA", data.to_str().expect("text"))]));
    assert_eq!(stdout(&said).trim(), mesh(&host).id().as_str());
    let addresses = mesh(&host).addresses();
    assert_eq!(addresses.len(), 2, "{addresses:?}");
    assert!(addresses.iter().all(|address| address.starts_with("/ip4/127.0.0.1/")), "{addresses:?}");
    let (other, _in) = peer().await;
    for transport in ["/tcp/", "/quic-v1"] {
        let found = other.connect(&over(mesh(&host), transport), PATIENCE).await.expect("connected");
        assert_eq!(&found, mesh(&host).id());
        other.disconnect(&found).await;
        until("the end", || other.peers().is_empty()).await;
    }
    // The key stays: the host is the same peer after a restart.
    let before = mesh(&host).id().clone();
    let host = TestHost::start_with(host.stop().await, |_| {}).await;
    assert_eq!(mesh(&host).id(), &before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mesh_that_is_off_is_no_mesh() {
    let host = TestHost::start_with(folder(&[]), |config| config.mesh.enabled = false).await;
    assert!(host.host.mesh().is_none());
    assert!(!host.folder.path().join("data/mesh").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_end_their_connections_as_they_stop() {
    let a = TestHost::start(&[]).await;
    let at = over(mesh(&a), "/tcp/");
    let b = TestHost::start_with(folder(&[]), |config| config.mesh.peers = vec![at]).await;
    until("the connection", || mesh(&a).peers().iter().any(|peer| &peer.peer == mesh(&b).id())).await;
    b.stop().await;
    until("its end", || mesh(&a).peers().is_empty()).await;
}

/// A host as a program of its own, without tools; killed when dropped.
struct Process(Child);

impl Process {
    fn start(folder: &Path, port: u16) -> Self {
        let config = folder.join("mcpp.toml");
        let listen = format!("[tools]\nbuiltin = false\n[mesh]\nlisten = [\"127.0.0.1:{port}\"]\n");
        std::fs::write(&config, listen).expect("written");
        let mut process = Command::new(mcpp())
            .args(["serve", "--listen", "127.0.0.1:0", "--config"])
            .arg(config)
            .arg("--data")
            .arg(folder.join("data"))
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("started");
        let mut lines = BufReader::new(process.stderr.take().expect("piped")).lines().map_while(Result::ok);
        let serving = lines
            .by_ref()
            .find(|line| serde_json::from_str::<Value>(line).is_ok_and(|record| record["message"] == "serving"));
        assert!(serving.is_some(), "it serves");
        std::thread::spawn(move || lines.for_each(drop));
        Self(process)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _or_gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_was_killed_is_found_again_when_it_is_back() {
    let killed = tempfile::tempdir().expect("a folder");
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("known").port();
    let process = Process::start(killed.path(), free);
    let data = killed.path().join("data");
    let id = run(&["id"], &[("MCPP_DATA", data.to_str().expect("text"))]);
    let at = format!("/ip4/127.0.0.1/tcp/{free}/p2p/{}", stdout(&id).trim());
    let host = TestHost::start_with(folder(&[]), |config| config.mesh.peers = vec![at]).await;
    until("the connection", || mesh(&host).peers().len() == 1).await;
    drop(process);
    until("the loss", || mesh(&host).peers().is_empty()).await;
    let _process = Process::start(killed.path(), free);
    until("the connection again", || mesh(&host).peers().len() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_strangers_leaves_room_for_those_that_the_host_knows() {
    let host = TestHost::start_with(folder(&[("add", &add())]), |config| config.mesh.max_strangers = 40).await;
    let at = over(mesh(&host), "/tcp/");
    let (known, _in) = peer().await;
    mesh(&host).know(known.id(), Bond::Known).expect("room");
    let mut strangers = Vec::new();
    for _ in 0..15 {
        let batch = futures::future::join_all((0..10).map(|_| async {
            let (stranger, incoming) = peer().await;
            let _or_refused = stranger.connect(&at, PATIENCE).await;
            (stranger, incoming)
        }));
        strangers.extend(batch.await);
        assert!(mesh(&host).peers().len() <= 40, "{}", mesh(&host).peers().len());
    }
    assert_eq!(strangers.len(), 150);
    assert_eq!(mesh(&host).peers().len(), 40);
    known.connect(&at, PATIENCE).await.expect("there is room");
    until("the known peer", || mesh(&host).peers().iter().any(|peer| &peer.peer == known.id())).await;
    let refused = host.metric("mcpp_mesh_refused_total{reason=\"strangers\"}").await;
    assert!(!refused.is_empty(), "the refusals are not counted");
    assert_eq!(host.text("add", serde_json::json!({ "a": 1, "b": 2 })).await, "{\"result\":3}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_unencrypted_is_spoken() {
    let host = TestHost::start(&[]).await;
    let at = over(mesh(&host), "/tcp/");
    let port: u16 = at.split('/').nth(4).expect("a port").parse().expect("a number");
    let said = tokio::task::spawn_blocking(move || {
        let line = |text: &str| {
            let mut bytes = vec![u8::try_from(text.len() + 1).expect("short")];
            bytes.extend(text.as_bytes());
            bytes.push(b'\n');
            bytes
        };
        let mut answers = Vec::new();
        for protocol in ["/plaintext/2.0.0", "/secio/1.0.0", "/tls/1.0.0", "/noise"] {
            let mut socket = std::net::TcpStream::connect(("127.0.0.1", port)).expect("connected");
            socket.set_read_timeout(Some(PATIENCE)).expect("set");
            socket.write_all(&line("/multistream/1.0.0")).expect("sent");
            socket.write_all(&line(protocol)).expect("sent");
            let mut answer = vec![0; line("/multistream/1.0.0").len()];
            socket.read_exact(&mut answer).expect("the header");
            let mut length = [0];
            socket.read_exact(&mut length).expect("a length");
            let mut answer = vec![0; length[0].into()];
            socket.read_exact(&mut answer).expect("an answer");
            answers.push(String::from_utf8(answer).expect("text").trim().to_owned());
        }
        answers
    });
    assert_eq!(said.await.expect("no panic"), ["na", "na", "na", "/noise"]);
}
