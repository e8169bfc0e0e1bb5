//! Containers of the engine on the host's machine. A component that uses this needs a grant, `container = { images = ["IMAGE"] }`, and a host whose operator has set an engine up.
//!
//! ```
//! use std::time::Duration;
//! use mcpp_tool::{Error, container::{Event, Order, Source, run}, tool};
//!
//! /// Runs a line of Python.
//! #[tool]
//! fn python(line: String) -> Result<String, Error> {
//!     let mut order = Order::new(Source::Image("python:3.12-slim".into()));
//!     order.command = vec!["python".into(), "-c".into(), line];
//!     order.timeout = Duration::from_secs(10);
//!     let (mut said, mut container) = (Vec::new(), run(&order)?);
//!     while let Some(event) = container.next(Duration::from_secs(60))? {
//!         if let Event::Output(_, bytes) = event {
//!             said.extend(bytes);
//!         }
//!     }
//!     Ok(String::from_utf8_lossy(&said).into_owned())
//! }
//! # mcpp_tool::export!(python);
//! # fn main() {
//! #     use mcpp_tool::container::{Ending, Origin, Outcome, memory};
//! #     let ending = Ending { outcome: Outcome::Exited, exit_code: Some(0), run: Duration::ZERO };
//! #     memory::start(move |order| {
//! #         assert_eq!(order.command[2], "1+1");
//! #         Ok(vec![Ok(Event::Output(Origin::Stdout, b"2".to_vec())), Ok(Event::Ended(ending))])
//! #     });
//! #     assert_eq!(python("1+1".into()), Ok("2".into()));
//! # }
//! ```
//!
//! In a native test there is no engine until [`memory::start`] makes one in memory.

#[cfg(target_arch = "wasm32")]
mod host;
#[cfg(not(target_arch = "wasm32"))]
pub mod memory;

use std::time::Duration;

#[cfg(target_arch = "wasm32")]
use self::host as there;
#[cfg(not(target_arch = "wasm32"))]
use self::memory as there;

/// Why a container did not run.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ContainerError {
    /// This host has no engine.
    Off,
    /// The operator allows no such image, repository, directory, network or graphics processor; which.
    NotAllowed(String),
    /// A part of the order is not of its form, or too long; which.
    Invalid(String),
    /// Not while a transaction of the store is open.
    TransactionOpen,
    /// There is no memory for it now; may be repeated later.
    Busy,
    /// The engine refuses; why.
    Failed(String),
    /// The engine did not answer, or broke off; why. The container may have run.
    Unavailable(String),
}

impl std::fmt::Display for ContainerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Off => f.write_str("this host has no container engine"),
            Self::NotAllowed(what) => write!(f, "not allowed here: {what}"),
            Self::Invalid(reason) => f.write_str(reason),
            Self::TransactionOpen => f.write_str("commit or drop the open transaction first"),
            Self::Busy => f.write_str("there is no memory for a container now"),
            Self::Failed(reason) => write!(f, "the engine refuses: {reason}"),
            Self::Unavailable(reason) => write!(f, "the engine does not answer: {reason}"),
        }
    }
}

impl std::error::Error for ContainerError {}

/// Where an image comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// An image by its name.
    Image(String),
    /// An image that the engine builds of a repository.
    Repository(Repository),
}

/// A repository with a Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// Its `https:` URL.
    pub url: String,
    /// The branch, tag or commit.
    pub branch: String,
    /// The directory that is built; `.` for all of it.
    pub context: String,
    /// The Dockerfile, in the repository.
    pub dockerfile: String,
    /// Arguments of the build.
    pub build_args: Vec<(String, String)>,
}

/// A directory of the host's machine in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// The directory, exactly as the grant names it.
    pub host: String,
    /// Its path in the container.
    pub container: String,
    /// Whether the container may only read it.
    pub read_only: bool,
}

/// What runs, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Where the image comes from.
    pub source: Source,
    /// The words of the command; empty for that of the image.
    pub command: Vec<String>,
    /// The words of the entry point; empty for that of the image.
    pub entrypoint: Vec<String>,
    /// Variables of the environment.
    pub environment: Vec<(String, String)>,
    /// Directories of the machine.
    pub volumes: Vec<Volume>,
    /// The network: `none`, or one that the grant names.
    pub network: String,
    /// How many graphics processors: none, a number, or `all`.
    pub gpus: Option<String>,
    /// Most memory, in bytes; what the operator allows if none.
    pub memory_bytes: Option<u64>,
    /// Most processor time, in thousandths of a processor; likewise.
    pub cpu_millis: Option<u32>,
    /// Longest time.
    pub timeout: Duration,
    /// The working directory; that of the image if none.
    pub working_dir: Option<String>,
    /// The user; that of the image if none.
    pub user: Option<String>,
    /// Whether the container may not write to its own files.
    pub read_only: bool,
}

impl Order {
    /// An image's own command, without a network, for at most five minutes.
    pub fn new(source: Source) -> Self {
        Self {
            source,
            command: Vec::new(),
            entrypoint: Vec::new(),
            environment: Vec::new(),
            volumes: Vec::new(),
            network: "none".to_owned(),
            gpus: None,
            memory_bytes: None,
            cpu_millis: None,
            timeout: Duration::from_secs(300),
            working_dir: None,
            user: None,
            read_only: false,
        }
    }
}

/// What a container, or the engine for it, does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The engine fetches the image.
    Pulling,
    /// The engine builds the image.
    Building,
    /// The container runs.
    Running,
}

/// Where output comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Standard output of the container.
    Stdout,
    /// Standard error of the container.
    Stderr,
    /// The engine, of a build.
    Build,
}

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// By itself.
    Exited,
    /// The kernel ended it for its memory.
    OutOfMemory,
    /// The host killed it at its longest time.
    TimedOut,
    /// The host killed it because it wrote more output than the operator allows.
    TooMuchOutput,
    /// The host killed it because its own files have more bytes than the operator allows.
    TooMuchDisk,
    /// This component killed it.
    Killed,
}

/// The end of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// How it ended.
    pub outcome: Outcome,
    /// The code of its program, where there is one.
    pub exit_code: Option<i64>,
    /// How long it ran.
    pub run: Duration,
}

/// What happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The next phase.
    Phase(Phase),
    /// Output: a piece, which may begin and end within a line.
    Output(Origin, Vec<u8>),
    /// The container has ended and is gone. The last event.
    Ended(Ending),
}

/// A running container. Dropped, it is killed.
#[derive(Debug)]
pub struct Container(there::Handle);

impl Container {
    /// Waits for what happens next, for at most so long; none if nothing did, and after the end.
    ///
    /// # Errors
    /// Those of the engine. The container is gone then.
    pub fn next(&mut self, wait: Duration) -> Result<Option<Event>, ContainerError> {
        self.0.next(wait)
    }

    /// Kills it. Its end still comes as an event.
    pub fn kill(&mut self) {
        self.0.kill();
    }
}

/// Starts a container, in the tenant's turn. Grant: `container = { images = ["IMAGE"] }`.
///
/// # Errors
/// See [`ContainerError`]; what the engine says comes from [`Container::next`].
pub fn run(order: &Order) -> Result<Container, ContainerError> {
    there::start_container(order).map(Container)
}
