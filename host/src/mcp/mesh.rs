//! The mesh's door: peers call tools over streams of `/mcp+p2p/1.0.0`, in frames, many requests in flight on each.
//!
//! A peer's id says who it is; its grant says what it may do, and each frame asks for the grant anew. What a peer takes of the door is bounded in number and in bytes ([`share`]). A peer
//! without a grant reaches two things: the exchange by which it redeems a ticket, and the task queue's one tool, if it shows a token there ([`old_peer`]).

pub(super) mod frames;
pub mod guests;
mod line;
mod old_peer;
pub mod remote;
mod share;

use std::{io, sync::Arc, sync::atomic::AtomicUsize, time::Duration};

use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::io::AsyncRead;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    frames::{FrameReader, StreamEnd},
    share::{FrameAdmission, PeerShares, PeerStanding, PeerStreamPermit},
};
use super::{
    binding::Dual,
    conversation::{BindingRule, Conversation, Framing, MessageOutput},
    envelope::{self, reading_takes},
    handler::Endpoint,
    lane::{Lane, LaneSwitch, Lanes},
    written::WrittenResults,
};
use crate::{
    auth::known::KnownTokens,
    config::MeshDoorConfig,
    control::admission::Share,
    mesh::{PeerId, PeerStream},
    peers::{PeerGrant, join, known::KnownPeers},
    tasks::EntryRight,
    tenant::Principal,
};

/// MCP over the mesh.
pub const PROTOCOL: &str = "/mcp+p2p/1.0.0";
/// Task-queue requests as lines, of before MCP++.
pub const LEGACY_PROTOCOL: &str = "/ipfs-datasets/task-queue/1.0.0";
/// JSON-RPC code for a peer that may do nothing.
const UNAUTHORIZED: i64 = -32001;
/// Deepest nesting of a message.
const MAX_DEPTH: usize = 64;
/// How often a stream looks whether its peer's tenant is still there.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A stream's permit, and the lane where it is served.
type StreamPlace<'a> = (&'a PeerStreamPermit, &'a LaneSwitch);

/// The mesh's door. Clones are the same.
#[derive(Debug, Clone)]
pub struct MeshDoor(Arc<MeshApp>);

#[derive(Debug)]
struct MeshApp {
    /// This host's own id.
    id: PeerId,
    config: MeshDoorConfig,
    endpoint: Endpoint,
    peers: Arc<KnownPeers>,
    tokens: Arc<KnownTokens>,
    shares: PeerShares,
    /// The bounds as peers are told.
    limits: Arc<Value>,
    /// The threads on which streams are served. The door has its own: a peer's large frames are in no HTTP client's way.
    lanes: Arc<Lanes>,
    /// Large results on their way to peers.
    results: WrittenResults,
    streams: TaskTracker,
    /// Fires when the host takes no new requests.
    closing: CancellationToken,
    /// Fires when everything ends.
    stop: CancellationToken,
}

impl MeshDoor {
    /// A door to `endpoint`. From `closing` on it takes no requests; `stop` ends its streams. Fails if there are no threads for it.
    pub fn new(
        id: PeerId,
        config: MeshDoorConfig,
        endpoint: Endpoint,
        peers: Arc<KnownPeers>,
        tokens: Arc<KnownTokens>,
        closing: CancellationToken,
        stop: CancellationToken,
    ) -> io::Result<Self> {
        describe();
        let limits = Arc::new(published(&config));
        let shares = PeerShares::new(config.clone());
        let (lanes, streams) = (Lanes::start()?, TaskTracker::new());
        let results = WrittenResults::new(Some(endpoint.registry().engine().clone()));
        let app =
            MeshApp { id, config, endpoint, peers, tokens, shares, limits, lanes, results, streams, closing, stop };
        let app = Arc::new(app);
        tokio::spawn(Arc::clone(&app).end_tasks());
        Ok(Self(app))
    }

    /// The protocols that the door serves.
    pub fn protocols(config: &MeshDoorConfig) -> Vec<&'static str> {
        let legacy = config.legacy_lines.then_some(LEGACY_PROTOCOL);
        [PROTOCOL, join::PROTOCOL].into_iter().chain(legacy).collect()
    }

    /// Serves a stream that `peer` has opened, beside all others. Drops it if the peer has too many.
    pub fn accept(&self, peer: PeerId, protocol: &str, stream: PeerStream) {
        if self.0.closing.is_cancelled() {
            return;
        }
        let permit = match self.0.shares.open(&peer) {
            Ok(permit) => permit,
            Err(full) => {
                metrics::counter!("mcpp_mesh_streams_refused_total", "reason" => full.kind()).increment(1);
                return tracing::debug!(%peer, %full, "a stream is refused");
            }
        };
        let (app, lane) = (Arc::clone(&self.0), Arc::new(LaneSwitch::new(self.0.lane_for(&peer, 0))));
        let switch = Arc::clone(&lane);
        let serving: BoxFuture<'static, ()> = match protocol {
            PROTOCOL => Box::pin(async move { app.serve(peer, stream, (&permit, &lane)).await }),
            join::PROTOCOL => Box::pin(async move {
                join::serve(&app.peers, peer, stream).await;
                drop(permit);
            }),
            LEGACY_PROTOCOL if app.config.legacy_lines => {
                Box::pin(async move { app.serve_line(peer, stream, (&permit, &lane)).await })
            }
            _ => return,
        };
        Arc::clone(&self.0.lanes).serve(switch, self.0.streams.token(), serving);
    }

    /// Streams that are open.
    pub fn streams(&self) -> usize {
        self.0.streams.len()
    }

    /// Waits until all streams have ended; `stop` has fired before.
    pub async fn ended(&self, patience: Duration) {
        self.0.streams.close();
        let _rest_is_cut = tokio::time::timeout(patience, self.0.streams.wait()).await;
    }
}

fn describe() {
    use metrics::describe_counter;
    describe_counter!("mcpp_mesh_streams_refused_total", "Streams of peers that the door refused, by reason");
    describe_counter!("mcpp_mesh_streams_ended_total", "Streams of peers that ended, by reason");
    describe_counter!(
        "mcpp_mesh_frames_paced_total",
        "Frames of peers that the door read later, as they came too fast"
    );
    describe_counter!("mcpp_mesh_calls_out_total", "Calls of tools of peers, by outcome");
    describe_counter!("mcpp_mesh_answers_dropped_total", "Answers of peers for which no request waited");
    describe_counter!("mcpp_mesh_lists_total", "Lists of tools that this host asked of peers, by outcome");
    describe_counter!("mcpp_mesh_silences_total", "Peers that gave no sign of life while calls waited there");
}

/// The door's bounds, by the names of the transport's specification.
fn published(config: &MeshDoorConfig) -> Value {
    json!({
        "max_frame_bytes": config.max_frame_bytes,
        "max_streams_per_peer": config.streams_per_peer,
        "max_in_flight_per_peer": config.in_flight_per_peer,
        "max_bytes_per_peer": config.bytes_per_peer,
        "rate_capacity": config.frames_per_second,
        "rate_refill_per_sec": config.frames_per_second,
        "idle_timeout_sec": config.idle_timeout_ms.div_ceil(1_000),
        "frame_timeout_sec": config.frame_timeout_ms.div_ceil(1_000),
    })
}

impl MeshApp {
    /// Serves one stream of frames to its end.
    async fn serve(&self, peer: PeerId, stream: PeerStream, (permit, lane): StreamPlace<'_>) {
        let (input, output) = tokio::io::split(stream);
        let patience = Duration::from_millis(self.config.frame_timeout_ms);
        let output = MessageOutput::new(output, Framing::Frames(Arc::clone(&self.limits)), Some(patience));
        let mut reader = FrameReader::new(input, &self.config, permit.share(), self.standing(&peer));
        let end = self.converse(&peer, &mut reader, &output, (permit, lane)).await;
        metrics::counter!("mcpp_mesh_streams_ended_total", "reason" => end.kind()).increment(1);
        if let Some(error) = end.told() {
            tracing::debug!(%peer, reason = end.kind(), "a stream is closed");
            output.tell(&error).await;
        }
        output.close().await;
    }

    async fn converse(
        &self,
        peer: &PeerId,
        reader: &mut FrameReader<impl AsyncRead + Unpin + Send>,
        output: &MessageOutput,
        (permit, lane): StreamPlace<'_>,
    ) -> StreamEnd {
        let first = tokio::select! {
            first = reader.next(|| true) => first,
            () = self.stop.cancelled() => return StreamEnd::Stopped,
        };
        let first = match first {
            Ok(first) => first,
            Err(end) => return end,
        };
        lane.change_to(self.lane_for(peer, first.body().len())).await;
        let grant = self.peers.grant(peer);
        if old_peer::greets(first.body()) {
            reader.put_back(first);
            let serving = self.serve_old_peer(peer, reader, output, (permit, lane));
            return tokio::select! {
                end = serving => end,
                () = self.stop.cancelled() => StreamEnd::Stopped,
                () = output.broken() => StreamEnd::Closed,
            };
        }
        let grant = match grant {
            Ok(grant) => grant,
            Err(outsider) => return without_right(&outsider).of_request(first.body()),
        };
        reader.put_back(first);
        permit.share().set_rate(grant.calls_per_minute);
        let rule = BindingRule::Dual(Dual::default());
        let principal = grant.principal();
        let mut client = Conversation::new(
            self.endpoint.clone(),
            (principal, EntryRight::PeerGrant),
            rule,
            MAX_DEPTH,
            match self.endpoint.registry().share(&grant.tenant) {
                Some(share) => output.clone().of(share, self.results.clone(), None),
                None => output.clone(),
            },
        );
        let end = tokio::select! {
            end = self.take_all(peer, &grant, &mut client, reader, output, (permit, lane)) => end,
            end = self.ended(peer, &grant) => end,
            () = output.broken() => StreamEnd::Closed,
        };
        // What is asked is still answered where the peer only stopped asking; everything else stops what runs.
        let stop = if end.lets_answers_out() { self.stop.child_token() } else { CancellationToken::new() };
        if !end.lets_answers_out() {
            stop.cancel();
        }
        tokio::select! {
            () = client.leave(&stop) => end,
            revoked = self.ended(peer, &grant) => {
                stop.cancel();
                client.leave(&stop).await;
                revoked
            }
        }
    }

    async fn take_all(
        &self,
        peer: &PeerId,
        grant: &Arc<PeerGrant>,
        client: &mut Conversation,
        reader: &mut FrameReader<impl AsyncRead + Unpin + Send>,
        output: &MessageOutput,
        place: StreamPlace<'_>,
    ) -> StreamEnd {
        loop {
            let frame = match reader.next(|| client.is_idle()).await {
                Ok(frame) => frame,
                Err(end) => return end,
            };
            // A stream that was opened before a revocation ends with it.
            if let Some(end) = self.why_not(peer, grant) {
                return end.of_request(frame.body());
            }
            if let Err(end) = self.take(frame, client, output, place, grant).await {
                return end;
            }
        }
    }

    async fn take(
        &self,
        frame: frames::Frame,
        client: &mut Conversation,
        output: &MessageOutput,
        (permit, lane): StreamPlace<'_>,
        grant: &PeerGrant,
    ) -> Result<(), StreamEnd> {
        let (body, held) = frame.into_parts();
        lane.change_to(Lane::for_message(body.len())).await;
        let share = self.endpoint.registry().share(&grant.tenant);
        count(share.as_deref(), lane, body.len()).await;
        let account = share.map(|share| Arc::clone(&share.memory));
        let closing = self.closing.is_cancelled();
        let takes = usize::try_from(reading_takes(&[&body])).unwrap_or(usize::MAX);
        let mut door = FrameAdmission::new(permit.share(), held, account, takes, closing);
        let malformed = match client.read(&body, &mut door) {
            Ok(read) => {
                client.take(read).await;
                return Ok(());
            }
            Err(malformed) => malformed,
        };
        // A message that names its request is that request's fault; one that does not says that the stream cannot be read.
        if malformed.id.is_none() {
            return Err(StreamEnd::Unreadable { code: malformed.code, reason: malformed.reason });
        }
        output.refuse(malformed.id.as_ref(), malformed.code, &malformed.reason).await;
        Ok(())
    }

    /// Where a frame of a peer is read. A peer without a grant stays in the lobby until it shows a token.
    fn lane_for(&self, peer: &PeerId, bytes: usize) -> Lane {
        match Lane::for_message(bytes) {
            Lane::Door if self.peers.grant(peer).is_err() => Lane::Lobby,
            lane => lane,
        }
    }

    fn standing(&self, peer: &PeerId) -> PeerStanding {
        if self.peers.grant(peer).is_ok() { PeerStanding::Granted } else { PeerStanding::Stranger }
    }

    /// Why the peer may not go on; nothing if it may.
    fn why_not(&self, peer: &PeerId, grant: &Arc<PeerGrant>) -> Option<StreamEnd> {
        match self.peers.grant(peer) {
            Err(outsider) => Some(without_right(&outsider)),
            Ok(now) if now != *grant => Some(without_right(&"the grant of this peer was changed; open another stream")),
            Ok(_) if !self.endpoint.registry().is_open(&grant.tenant, &grant.incarnation) => {
                Some(without_right(&"the tenant of this peer is not open"))
            }
            Ok(_) => None,
        }
    }

    /// Stops the tasks of peers that may not come in any more, whether they have a stream or not.
    async fn end_tasks(self: Arc<Self>) {
        let mut changes = self.peers.changes();
        let comes_in = |principal: &Principal| {
            self.peers.still_knows(principal)
                && self.endpoint.registry().is_open(&principal.tenant, &principal.incarnation)
        };
        loop {
            self.endpoint.tasks().stop_unless(EntryRight::PeerGrant, comes_in);
            self.endpoint.parked().stop_unless(EntryRight::PeerGrant, comes_in);
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(LOOK_AGAIN) => {}
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// Resolves when the peer may not go on, or everything ends.
    async fn ended(&self, peer: &PeerId, grant: &Arc<PeerGrant>) -> StreamEnd {
        let mut changes = self.peers.changes();
        loop {
            if let Some(end) = self.why_not(peer, grant) {
                return end;
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return StreamEnd::Stopped },
                () = tokio::time::sleep(LOOK_AGAIN) => {}
                () = self.stop.cancelled() => return StreamEnd::Stopped,
            }
        }
    }
}

/// Waits until the tenant's large messages may move that much more.
async fn count(share: Option<&Share>, lane: &LaneSwitch, bytes: usize) {
    if let (Lane::Bulk, Some(share)) = (lane.now(), share) {
        share.traffic.settle(&AtomicUsize::new(bytes)).await;
    }
}

fn without_right(reason: &dyn std::fmt::Display) -> StreamEnd {
    StreamEnd::Unauthorized { reason: reason.to_string(), id: None }
}

/// The error that a peer without rights is told.
fn unauthorized(id: Option<&Value>, reason: &str) -> Value {
    envelope::error(id, UNAUTHORIZED, &format!("unauthorized: {reason}"))
}
