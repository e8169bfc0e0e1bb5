//! A component for the tests of the mesh: each tool does one thing of `mcpp:mesh` and says what came of it.
#![allow(clippy::disallowed_methods, reason = "a guest has its thread to itself")]

use std::time::Duration;

use mcpp_tool::{Error, Output, mesh, mesh::MeshError, store, tool};
use serde_json::{Value, json};

/// The name of an error and what it says, as an error of the tool.
fn named<E: std::fmt::Debug>(error: E) -> Error {
    Error::failed(format!("{error:?}"))
}

/// This host and the peers of its tenant.
#[tool]
fn mesh_look() -> Result<Value, Error> {
    let me = mesh::identify().map_err(named)?;
    let peers = mesh::peers().map_err(named)?;
    let peers = peers.iter().map(|peer| {
        json!({
            "id": peer.id,
            "connection": peer.connection.map(|connection| format!("{:?} {:?}", connection.path, connection.origin)),
            "since": peer.connection.map(|connection| connection.since_ms),
            "there": peer.tools_there,
            "here": peer.tools_here,
        })
    });
    Ok(json!({ "id": me.id, "addresses": me.addresses, "peers": peers.collect::<Vec<_>>() }))
}

/// What was measured of a peer.
#[tool]
fn mesh_metrics(peer: String) -> Result<Value, Error> {
    let measures = mesh::metrics(&peer).map_err(named)?;
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    Ok(json!({
        "path": measures.path.map(|path| format!("{path:?}")),
        "round_trip_us": measures.round_trip.map(micros),
        "call_us": measures.call.map(micros),
        "requests": measures.requests,
        "failures": measures.failures,
        "sent": measures.sent_bytes,
        "received": measures.received_bytes,
    }))
}

/// Connects to a peer; the path.
#[tool]
fn mesh_connect(peer: String, timeout_ms: u64) -> Result<String, Error> {
    mesh::connect(&peer, Duration::from_millis(timeout_ms)).map(|path| format!("{path:?}")).map_err(named)
}

/// Disconnects a peer.
#[tool]
fn mesh_disconnect(peer: String) -> Result<(), Error> {
    mesh::disconnect(&peer).map_err(named)
}

/// Provides a service.
#[tool]
fn mesh_provide(service: String, lease_s: u64) -> Result<(), Error> {
    mesh::provide(&service, Duration::from_secs(lease_s)).map_err(named)
}

/// Provides it no longer; whether it did.
#[tool]
fn mesh_withdraw(service: String) -> Result<bool, Error> {
    mesh::withdraw(&service).map_err(named)
}

/// The hosts that provide a service.
#[tool]
fn mesh_discover(service: String, timeout_ms: u64) -> Result<Vec<String>, Error> {
    mesh::discover(&service, Duration::from_millis(timeout_ms)).map_err(named)
}

/// Announces a text of this many times a letter.
#[tool]
fn mesh_announce(topic: String, letters: usize) -> Result<(), Error> {
    mesh::announce(&topic, "x".repeat(letters).as_bytes()).map_err(named)
}

/// The announcements on a topic: who made them, and their bytes.
#[tool]
fn mesh_heard(topic: String) -> Result<Vec<(String, usize)>, Error> {
    let heard = mesh::heard(&topic, 0).map_err(named)?;
    Ok(heard.into_iter().map(|heard| (heard.peer, heard.payload.len())).collect())
}

/// Calls a tool of a peer and hands on its answer, or the name of the error.
#[tool]
fn mesh_call(peer: String, tool: String, arguments: Value, #[arg(default)] timeout_ms: u64) -> Result<Output, Error> {
    let answer = match timeout_ms {
        0 => mesh::call(&peer, &tool, &arguments),
        ms => mesh::call_within(&peer, &tool, &arguments, Duration::from_millis(ms)),
    };
    answer.map_err(named)
}

/// What each of these says while a transaction is open.
#[tool]
fn mesh_in_transaction(peer: String) -> Result<Vec<String>, Error> {
    store::transact(|_| {
        let call = mesh::call(&peer, "add", &json!({ "a": 1, "b": 2 }));
        let connect = mesh::connect(&peer, Duration::from_secs(1)).map(drop);
        let discover = mesh::discover("gpu", Duration::from_secs(1)).map(drop);
        let others = [connect, mesh::disconnect(&peer), discover, mesh::announce("ready", b"x")];
        let others = others.into_iter().map(|said: Result<(), MeshError>| format!("{said:?}"));
        Ok([format!("{:?}", call.map(drop))].into_iter().chain(others).collect())
    })
}

mcpp_tool::export!(
    mesh_look,
    mesh_metrics,
    mesh_connect,
    mesh_disconnect,
    mesh_provide,
    mesh_withdraw,
    mesh_discover,
    mesh_announce,
    mesh_heard,
    mesh_call,
    mesh_in_transaction
);
