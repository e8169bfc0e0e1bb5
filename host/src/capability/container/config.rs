//! The operator's settings of the container engine, and the bounds of every container.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::grants::container::{ImagePatterns, RepositoryPatterns};

/// The container engine of this machine. Without a socket there is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ContainersConfig {
    /// The Unix socket of the engine's API.
    pub socket: Option<PathBuf>,
    /// The images that components may run, as far as their grants name them too.
    pub images: ImagePatterns,
    /// The repositories of which they may build images, likewise.
    pub repositories: RepositoryPatterns,
    /// Containers at once, of the whole host; more wait, each in its tenant's line.
    pub max_containers: usize,
    /// Most memory of one container, in bytes; it has no swap.
    pub memory_bytes: u64,
    /// Most processor time of one container, in thousandths of a processor.
    pub cpu_millis: u32,
    /// Most processes and threads of one container.
    pub processes: u32,
    /// Most bytes of one container's own files, and of one file that it writes. One that has more is killed.
    pub disk_bytes: u64,
    /// Most bytes that one container writes to its output. One that writes more is killed.
    pub output_bytes: u32,
    /// Longest time of one container, in milliseconds.
    pub run_ms: u64,
    /// Longest time to fetch an image, in milliseconds.
    pub pull_ms: u64,
    /// Longest time to fetch a repository and build its image, in milliseconds.
    pub build_ms: u64,
}

impl Default for ContainersConfig {
    fn default() -> Self {
        Self {
            socket: None,
            images: ImagePatterns::default(),
            repositories: RepositoryPatterns::default(),
            max_containers: 4,
            memory_bytes: 2 << 30,
            cpu_millis: 1_000,
            processes: 256,
            disk_bytes: 4 << 30,
            output_bytes: 1 << 20,
            run_ms: 3_600_000,
            pull_ms: 600_000,
            build_ms: 900_000,
        }
    }
}

impl ContainersConfig {
    /// Describes the first invalid number, if any.
    pub fn check(&self) -> Result<(), String> {
        let day_ms = 86_400_000;
        for (name, value, least, most) in [
            ("max_containers", u64::try_from(self.max_containers).unwrap_or(u64::MAX), 1, 1_024),
            // The least that an engine takes, and the most that its API can say of a build.
            ("memory_bytes", self.memory_bytes, 6 << 20, 1 << 50),
            ("cpu_millis", self.cpu_millis.into(), 10, 1_024_000),
            ("processes", self.processes.into(), 1, 1 << 22),
            ("disk_bytes", self.disk_bytes, 1 << 20, 1 << 50),
            ("output_bytes", self.output_bytes.into(), 1 << 10, 64 << 20),
            ("run_ms", self.run_ms, 100, day_ms),
            ("pull_ms", self.pull_ms, 100, day_ms),
            ("build_ms", self.build_ms, 100, day_ms),
        ] {
            if !(least..=most).contains(&value) {
                return Err(format!("containers.{name} = {value} is not between {least} and {most}"));
            }
        }
        match &self.socket {
            Some(socket) if !socket.is_absolute() => Err(format!("containers.socket = {socket:?} is not absolute")),
            _ => Ok(()),
        }
    }
}
