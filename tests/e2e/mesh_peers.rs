//! Peers of the mesh for tests: a door of a real host, and streams of frames to it.

use std::{sync::Arc, time::Duration};

use mcpp::{
    auth::{known::KnownTokens, tokens::TokenFile},
    config::MeshDoorConfig,
    mcp::mesh::{MeshDoor, PROTOCOL},
    mesh::{PeerId, PeerStream},
    names::TenantId,
    peers::{file::PeerFile, invitation::NewInvitation, known::KnownPeers},
    tenant::home::Homes,
};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_util::sync::CancellationToken;

use crate::support::{PATIENCE, TestHost};

/// The id of a peer that has no key: its streams come through pipes.
pub fn peer(number: u8) -> PeerId {
    const LETTERS: &[u8] = b"ABCDEFGHJKLMNPQRSTUVWXYZ";
    let letter = char::from(LETTERS[usize::from(number)]);
    // Any identity hash of 36 bytes is an id; so is this one.
    format!("12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2{letter}o").parse().expect("a peer's id")
}

/// A host with a door for peers.
pub struct MeshHost {
    pub test: TestHost,
    pub door: MeshDoor,
    pub peers: Arc<KnownPeers>,
    pub closing: CancellationToken,
    _stop: tokio_util::sync::DropGuard,
}

impl MeshHost {
    pub async fn start(components: &[(&str, &[u8])]) -> Self {
        Self::start_with(TestHost::start(components).await, |_| {})
    }

    pub fn start_with(test: TestHost, change: impl FnOnce(&mut MeshDoorConfig)) -> Self {
        let mut config = MeshDoorConfig::default();
        change(&mut config);
        config.check().expect("a legal configuration");
        let homes = Homes::new(test.folder.path().join("data"));
        let peers = KnownPeers::watching(PeerFile::new(&homes)).expect("a thread");
        let tokens = KnownTokens::watching(TokenFile::new(homes.tokens())).expect("a thread");
        let (closing, stop) = (CancellationToken::new(), CancellationToken::new());
        let endpoint = test.host.endpoint().clone();
        let known = Arc::clone(&peers);
        let door = MeshDoor::new(peer(23), config, endpoint, known, tokens, closing.clone(), stop.clone());
        Self { test, door: door.expect("threads"), peers, closing, _stop: stop.drop_guard() }
    }

    /// Lets a peer call tools, as an invitation does.
    pub fn grant(&self, peer: &PeerId, tools: &str) {
        let new = NewInvitation {
            tenant: TenantId::local(),
            tools: vec![tools.parse().expect("a pattern")],
            components: Vec::new(),
            calls_per_minute: None,
            only: None,
            good_for: Duration::from_secs(600),
            grant_for: None,
            uses: 1,
        };
        let (invitation, secret) = self.peers.invite(new).expect("made");
        self.peers.redeem(peer, || Ok((invitation.id, secret, invitation.tools))).expect("redeemed");
    }

    /// A stream of a peer to the door.
    pub fn open(&self, peer: &PeerId) -> FramePeer {
        self.open_protocol(peer, PROTOCOL)
    }

    pub fn open_protocol(&self, peer: &PeerId, protocol: &str) -> FramePeer {
        let (here, there) = tokio::io::duplex(64 << 10);
        let stream: PeerStream = Box::new(there);
        self.door.accept(peer.clone(), protocol, stream);
        FramePeer { stream: here }
    }
}

/// The peer's end of a stream.
pub struct FramePeer {
    pub stream: DuplexStream,
}

impl FramePeer {
    pub async fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("the door takes it");
    }

    pub async fn send_body(&mut self, body: &[u8]) {
        let length = u32::try_from(body.len()).expect("short").to_be_bytes();
        self.send_raw(&[&length, body].concat()).await;
    }

    pub async fn send(&mut self, message: &Value) {
        self.send_body(message.to_string().as_bytes()).await;
    }

    /// The next message; none if the door has closed the stream.
    pub async fn receive(&mut self) -> Option<Value> {
        let reading = async {
            let mut prefix = [0; 4];
            self.stream.read_exact(&mut prefix).await.ok()?;
            let mut body = vec![0; usize::try_from(u32::from_be_bytes(prefix)).expect("fits")];
            self.stream.read_exact(&mut body).await.ok()?;
            Some(serde_json::from_slice(&body).expect("JSON"))
        };
        tokio::time::timeout(PATIENCE, reading).await.expect("in time")
    }

    pub async fn ask(&mut self, message: &Value) -> Value {
        self.send(message).await;
        self.receive().await.expect("an answer")
    }

    /// Holds that the door closes the stream, after messages that nobody asked for.
    pub async fn closes(mut self) {
        if let Some(message) = self.receive().await {
            panic!("not closed: {message}");
        }
    }
}
