//! The operator's call of a peer's tool: lines of JSON, of which those before the last one tell of its progress.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::{Query, State},
    response::{IntoResponse as _, Response},
};
use futures::stream;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::{sync::mpsc, time::Instant};

use super::{OperatedMesh, PeerCommandError};
use crate::{
    admin::{Of, Operated, answer},
    call::{
        Call, CallError, CallEvent, Observer, ReachPeer as _, Receipt, Request, ToolResult, WaitingEvent, authorize,
    },
    mcp::result_json,
    mesh::PeerId,
    names::ToolName,
    tenant::{Authorized, Principal, SCOPE_TOOLS},
};

/// Lines that wait for the command to read them.
const MAX_LINES: usize = 16;

/// A call of a peer's tool.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerCallOrder {
    /// The peer.
    pub peer: PeerId,
    /// The tool, by its name there.
    pub tool: ToolName,
    /// The arguments.
    pub arguments: Map<String, Value>,
    /// How long the operator waits, in milliseconds.
    pub timeout_ms: u64,
}

/// How a call of a peer's tool ended.
#[derive(Debug, Serialize, Deserialize)]
pub struct PeerCallDone {
    /// The tool's result in MCP's words; none if there was an error.
    pub result: Option<Value>,
    /// The error.
    pub error: Option<String>,
    /// What the call cost, here and there.
    pub cost: Value,
}

/// A line of the answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerCallLine {
    /// The call goes on.
    Progress {
        /// How far it is.
        done: f64,
        /// How far it goes.
        total: Option<f64>,
        /// The tool's words.
        message: Option<String>,
    },
    /// It has ended. No line follows.
    Done(PeerCallDone),
}

pub(in crate::admin) async fn call(
    State(shared): State<Arc<Operated>>,
    Query(Of { tenant }): Query<Of>,
    Json(order): Json<PeerCallOrder>,
) -> Response {
    let calling = async {
        let (meshed, _) = shared.meshed()?;
        let incarnation = shared.endpoint.registry().incarnation(&tenant);
        let incarnation = incarnation.ok_or_else(|| PeerCommandError::NoTenant(tenant.clone()))?;
        let share = shared.endpoint.registry().share(&tenant);
        let (observer, events) = Observer::new(None, true, share.map(|share| Arc::clone(&share.memory)));
        let scopes = Arc::new([SCOPE_TOOLS.to_owned()].into());
        let principal = Principal { tenant, incarnation, subject: "operator".into(), scopes, tools: None };
        let PeerCallOrder { peer, tool, arguments, timeout_ms } = order;
        let deadline = Instant::now().checked_add(Duration::from_millis(timeout_ms));
        let request = Request { deadline, observer, ..Request::of(principal) };
        let call = authorize(Call::new(request, tool, Value::Object(arguments)))?;
        Ok::<_, PeerCommandError>((meshed.clone(), peer, call, events))
    };
    let (meshed, peer, call, events) = match calling.await {
        Ok(calling) => calling,
        Err(error) => return answer::<()>(Err(error)),
    };
    let (lines, read) = mpsc::channel(MAX_LINES);
    tokio::spawn(async move {
        tokio::select! {
            // The command was given up: so is the call.
            () = lines.closed() => {}
            () = meshed.call(&peer, call, events, &lines) => {}
        }
    });
    let lines = stream::unfold(read, async |mut read: mpsc::Receiver<String>| {
        let line = read.recv().await?;
        Some((Ok::<_, Infallible>(line), read))
    });
    Body::from_stream(lines).into_response()
}

impl OperatedMesh {
    /// Calls, and writes a line for each event and for the end.
    async fn call(
        &self,
        peer: &PeerId,
        call: Authorized<Call>,
        mut events: mpsc::Receiver<WaitingEvent>,
        lines: &mpsc::Sender<String>,
    ) {
        let mut calling = self.remotes.reach(peer, call);
        let (result, receipt) = loop {
            tokio::select! {
                biased;
                Some(waiting) = events.recv() => if let CallEvent::Progress { done, total, message } = waiting.event {
                    tell(lines, &PeerCallLine::Progress { done, total, message }).await;
                },
                done = &mut calling => break done,
            }
        };
        tell(lines, &PeerCallLine::Done(ended(result, &receipt))).await;
    }
}

fn ended(result: Result<ToolResult, CallError>, receipt: &Receipt) -> PeerCallDone {
    let cost = receipt.json();
    match result.map(result_json) {
        Ok(Ok(result)) => PeerCallDone { result: Some(result), error: None, cost },
        Ok(Err(error)) => PeerCallDone { result: None, error: Some(error.to_string()), cost },
        Err(error) => PeerCallDone { result: None, error: Some(error.to_string()), cost },
    }
}

async fn tell(lines: &mpsc::Sender<String>, line: &PeerCallLine) {
    if let Ok(text) = serde_json::to_string(line) {
        // Nobody reads any more: the call ends.
        let _gone = lines.send(text + "\n").await;
    }
}
