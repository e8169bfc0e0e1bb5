//! A peer that is only a network and frames: what it takes beside the called host is as little as can be.

use std::time::{Duration, Instant};

use mcpp::{
    mcp::mesh::PROTOCOL,
    mesh::{Identity, Mesh, MeshConfig, NetworkConfig, PeerId, PeerStream, frame},
    peers::{join, ticket::JoinTicket},
};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::{hosts::MeshedHost, times::Times};

/// Time for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// A peer without a host.
pub(crate) struct Caller {
    mesh: Mesh,
}

/// A network that listens nowhere but at a port of its own.
pub(crate) async fn network() -> Mesh {
    let network = NetworkConfig { listen: vec!["127.0.0.1:0".into()], ..NetworkConfig::default() };
    let config = MeshConfig { network, identity: Identity::generate().expect("a key"), folder: None };
    Mesh::start(config, Vec::new()).await.expect("a network").0
}

fn id(host: &MeshedHost) -> PeerId {
    host.id.parse().expect("a peer's id")
}

impl Caller {
    /// A peer that may call all tools of a host.
    pub(crate) async fn join(host: &MeshedHost) -> Self {
        let mesh = network().await;
        let ticket = JoinTicket::parse(&host.ticket()).expect("a ticket");
        mesh.connect(&host.address("tcp"), PATIENCE).await.expect("connected");
        let stream = mesh.open(&ticket.peer, join::PROTOCOL, PATIENCE).await.expect("a stream");
        join::ask(&ticket, stream).await.expect("joined");
        Self { mesh }
    }

    pub(crate) async fn hang_up(&self, host: &MeshedHost) {
        self.mesh.disconnect(&id(host)).await;
    }

    /// A stream to a host, over a connection of this transport alone.
    pub(crate) async fn line(&self, host: &MeshedHost, transport: &str) -> Line {
        let has = if transport == "tcp" { "/tcp/" } else { "/quic-v1" };
        let peer = id(host);
        let open = self.mesh.peers().into_iter().find(|open| open.peer == peer);
        if !open.is_some_and(|open| open.addresses.iter().all(|address| address.contains(has))) {
            self.mesh.disconnect(&peer).await;
            self.mesh.connect(&host.address(transport), PATIENCE).await.expect("connected");
        }
        let stream = self.mesh.open(&peer, PROTOCOL, PATIENCE).await.expect("a stream");
        Line(Mutex::new(stream))
    }
}

/// A stream of frames.
pub(crate) struct Line(Mutex<PeerStream>);

/// A call of a tool.
fn request(id: usize, tool: &str, arguments: &Value) -> Vec<u8> {
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let params = json!({ "name": tool, "arguments": arguments, "_meta": meta });
    json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params }).to_string().into_bytes()
}

impl Line {
    /// Makes so many calls of `add`, so many at a time. What each took.
    pub(crate) async fn calls(&self, calls: usize, at_once: usize) -> Times {
        let numbers = json!({ "a": 40, "b": 2 });
        self.calls_of("add", |_| numbers.clone(), calls, at_once).await
    }

    /// The same of another tool, with the arguments of each call by its number.
    pub(crate) async fn calls_of(
        &self,
        tool: &str,
        arguments: impl Fn(usize) -> Value,
        calls: usize,
        at_once: usize,
    ) -> Times {
        let mut stream = self.0.lock().await;
        let mut begun = vec![Instant::now(); calls];
        let mut taken = Vec::with_capacity(calls);
        let mut sent = 0;
        while taken.len() < calls {
            while sent < calls && sent - taken.len() < at_once {
                begun[sent] = Instant::now();
                frame::write(&mut *stream, &request(sent, tool, &arguments(sent))).await.expect("written");
                sent += 1;
            }
            tokio::io::AsyncWriteExt::flush(&mut *stream).await.expect("flushed");
            let frame::Announced::Bytes(bytes) = frame::announced(&mut *stream, 1 << 20).await.expect("a frame") else {
                panic!("the host closed the stream");
            };
            let mut body = Vec::new();
            frame::body(&mut *stream, bytes, &mut body).await.expect("a frame");
            let answer: Value = serde_json::from_slice(&body).expect("JSON");
            let id = answer["id"].as_u64().expect("an id");
            let refused = answer["result"]["structuredContent"]["ok"] == false || answer["result"]["isError"] == true;
            assert!(answer["error"].is_null() && !refused, "{answer}");
            taken.push(begun[usize::try_from(id).expect("small")].elapsed());
        }
        Times::new(taken)
    }
}
