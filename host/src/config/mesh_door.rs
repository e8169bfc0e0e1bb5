//! The bounds of the mesh's door: for each peer in number and in bytes, and for all peers together.

use serde::{Deserialize, Serialize};

/// The mesh's door, `/mcp+p2p/1.0.0`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MeshDoorConfig {
    /// Largest frame that a peer may send, in bytes.
    pub max_frame_bytes: usize,
    /// Largest frame that this host takes as the answer to a call of its own, in bytes.
    pub max_answer_bytes: usize,
    /// Streams of one peer at the same time.
    pub streams_per_peer: usize,
    /// Streams that one peer may open in a second.
    pub new_streams_per_second: u32,
    /// Streams of all peers.
    pub max_streams: usize,
    /// Requests of one peer at the same time.
    pub in_flight_per_peer: usize,
    /// Bytes of one peer's frames that are read, or whose requests are not answered yet.
    pub bytes_per_peer: usize,
    /// The same for all peers together.
    pub max_bytes: usize,
    /// Frames of one peer in a second; as many may come at once. The host reads further ones later.
    pub frames_per_second: u32,
    /// Time for a stream without frames and without requests in flight, in milliseconds.
    pub idle_timeout_ms: u64,
    /// Time for a frame that has begun, and for a peer that does not read an answer, in milliseconds.
    pub frame_timeout_ms: u64,
    /// Whether peers of before MCP++ may send task-queue requests as lines, on `/ipfs-datasets/task-queue/1.0.0`.
    pub legacy_lines: bool,
}

impl Default for MeshDoorConfig {
    fn default() -> Self {
        Self {
            max_frame_bytes: 4 << 20,
            max_answer_bytes: 16 << 20,
            streams_per_peer: 32,
            new_streams_per_second: 64,
            max_streams: 4_096,
            in_flight_per_peer: 64,
            bytes_per_peer: 16 << 20,
            max_bytes: 128 << 20,
            frames_per_second: 20_000,
            idle_timeout_ms: 60_000,
            frame_timeout_ms: 30_000,
            legacy_lines: false,
        }
    }
}

impl MeshDoorConfig {
    /// Refuses values that do not work or do not go together.
    pub fn check(&self) -> Result<(), String> {
        let positive = [
            ("max_frame_bytes", self.max_frame_bytes),
            ("max_answer_bytes", self.max_answer_bytes),
            ("streams_per_peer", self.streams_per_peer),
            ("max_streams", self.max_streams),
            ("in_flight_per_peer", self.in_flight_per_peer),
            ("new_streams_per_second", usize::try_from(self.new_streams_per_second).unwrap_or(usize::MAX)),
            ("frames_per_second", usize::try_from(self.frames_per_second).unwrap_or(usize::MAX)),
        ];
        for (name, value) in positive {
            if value == 0 {
                return Err(format!("mesh_door.{name} must be at least 1"));
            }
        }
        if self.bytes_per_peer < self.max_frame_bytes || self.max_bytes < self.bytes_per_peer {
            return Err("mesh_door: max_frame_bytes ≤ bytes_per_peer ≤ max_bytes must hold".into());
        }
        if u32::try_from(self.max_bytes.max(self.max_answer_bytes)).is_err() {
            return Err("mesh_door: max_bytes and max_answer_bytes are below 4 GiB".into());
        }
        if self.idle_timeout_ms == 0 || self.frame_timeout_ms == 0 {
            return Err("mesh_door: a time-out of 0 would close every stream".into());
        }
        Ok(())
    }
}
