//! The mesh's metrics. Each label is one of a fixed set of words: no peer, address or name of a topic becomes one.

use super::{PeerPath, Unreachable};

/// Tells the exporter what the mesh's metrics are.
pub fn describe() {
    metrics::describe_gauge!("mcpp_mesh_peers", "Peers with an open connection, by path");
    metrics::describe_gauge!("mcpp_mesh_streams", "Open streams of the host's own protocols");
    metrics::describe_counter!("mcpp_mesh_connections_total", "Connections made, by path and direction");
    metrics::describe_counter!("mcpp_mesh_dials_failed_total", "Dials that made no connection");
    metrics::describe_counter!(
        "mcpp_mesh_streams_failed_total",
        "Streams that the host wanted and did not get, by reason"
    );
    metrics::describe_counter!(
        "mcpp_mesh_refused_total",
        "Connections and streams of peers that the host refused, by reason"
    );
    metrics::describe_counter!(
        "mcpp_mesh_punches_total",
        "Attempts to replace a relayed connection by a direct one, by outcome"
    );
    metrics::describe_counter!("mcpp_mesh_reachability_total", "Own addresses that another peer tried, by outcome");
    metrics::describe_counter!("mcpp_mesh_relay_total", "Events of relayed circuits and reservations, by kind");
    metrics::describe_gauge!("mcpp_mesh_circuits", "Circuits that this host relays for others");
    metrics::describe_counter!("mcpp_mesh_discovered_total", "Peers found, by way");
    metrics::describe_counter!("mcpp_mesh_announcements_total", "Announcements, by outcome");
}

/// A connection or stream of a peer that was refused.
pub(super) fn refused(reason: &'static str) {
    metrics::counter!("mcpp_mesh_refused_total", "reason" => reason).increment(1);
}

/// A connection that stands.
pub(super) fn connected(path: PeerPath, direction: &'static str) {
    metrics::counter!("mcpp_mesh_connections_total", "path" => path.as_str(), "direction" => direction).increment(1);
}

/// A dial that failed.
pub(super) fn dial_failed() {
    metrics::counter!("mcpp_mesh_dials_failed_total").increment(1);
}

/// A stream that could not be opened.
pub(super) fn unreachable(error: &Unreachable) {
    metrics::counter!("mcpp_mesh_streams_failed_total", "reason" => error.kind()).increment(1);
}

/// A peer that was found.
pub(super) fn discovered(way: &'static str) {
    metrics::counter!("mcpp_mesh_discovered_total", "way" => way).increment(1);
}

/// An attempt to replace a relayed connection by a direct one.
pub(super) fn punched(outcome: &'static str) {
    metrics::counter!("mcpp_mesh_punches_total", "outcome" => outcome).increment(1);
}

/// Another peer has tried an address of this host.
pub(super) fn tried(outcome: &'static str) {
    metrics::counter!("mcpp_mesh_reachability_total", "outcome" => outcome).increment(1);
}

/// Something that a relay did, here or for this host.
pub(super) fn relay(kind: &'static str) {
    metrics::counter!("mcpp_mesh_relay_total", "kind" => kind).increment(1);
}

/// Circuits that this host relays now.
pub(super) fn circuits(open: usize) {
    metrics::gauge!("mcpp_mesh_circuits").set(open as f64);
}

/// An announcement.
pub(super) fn announcement(outcome: &'static str) {
    metrics::counter!("mcpp_mesh_announcements_total", "outcome" => outcome).increment(1);
}

/// What is open now.
pub(super) fn open(direct: usize, relayed: usize, streams: usize) {
    metrics::gauge!("mcpp_mesh_peers", "path" => "direct").set(direct as f64);
    metrics::gauge!("mcpp_mesh_peers", "path" => "relayed").set(relayed as f64);
    metrics::gauge!("mcpp_mesh_streams").set(streams as f64);
}
