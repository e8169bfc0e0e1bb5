//! A call, its answer and its errors, in no protocol's words.
//!
//! A [`Call`] is one kind of [`Request`] to a component. Doors build a [`Call`] and translate a [`ToolResult`] or a [`CallError`] back; the registry and everything inward know nothing else.

pub mod asks;
pub mod build;
pub mod effect;
mod error;
pub mod hook;
pub mod inputs;
pub mod interface;
mod observer;
pub mod place;
mod result_memory;
mod trace;

use std::{fmt, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::{
    build::{BuildId, PinBuilds},
    effect::EffectKey,
    inputs::ClientLine,
    interface::InterfaceDigest,
    place::PlaceNote,
};
pub use self::{
    error::CallError,
    observer::{
        CallEvent, EventGate, LogLevel, MAX_EVENT_BYTES, MAX_PENDING_EVENTS, Observer, WaitingEvent,
        dropped as event_dropped,
    },
    result_memory::ResultMemory,
    trace::TraceContext,
};
use crate::{
    mesh::PeerId,
    names::{TenantId, ToolName},
    tenant::{Authorized, Denied, Principal, SCOPE_TOOLS},
};

/// How deep tools may call tools.
pub const MAX_CALL_DEPTH: u8 = 8;
/// Over how many hosts a call may go. Hosts that mount each other's tools could else send a call around for ever.
pub const MAX_HOPS: u8 = 4;

/// The part that all kinds of requests have on their way from a door to a component.
#[derive(Debug, Clone)]
pub struct Request {
    /// The caller.
    pub principal: Principal,
    /// When the caller stops waiting, if that is sooner than the component's own deadline.
    pub deadline: Option<Instant>,
    /// Fires when the caller gives up.
    pub cancel: CancellationToken,
    /// Where the request belongs in a trace.
    pub trace: TraceContext,
    /// Receiver of the request's log and progress.
    pub observer: Observer,
    /// 0 for a request from a door, one more for each call by a tool.
    pub depth: u8,
    /// How many events, each emitted by the handler of the one before, led to this request; 0 for a request of a client.
    pub chain: u32,
    /// The hosts over which the request came to this one.
    pub hops: u8,
    /// The legacy client's session; none in the modern era, which has none.
    pub session: Option<Session>,
    /// What the request has the same of at each repetition; none for one that nobody repeats.
    pub effect: Option<EffectKey>,
    /// The line to the client, for questions of the guest.
    pub client: ClientLine,
    /// Where it runs, for the caller to read.
    pub place: PlaceNote,
}

impl Request {
    /// The first of a trace, of a caller that waits for as long as it takes and is told nothing meanwhile.
    pub fn of(principal: Principal) -> Self {
        Self {
            principal,
            deadline: None,
            cancel: CancellationToken::new(),
            trace: TraceContext::root(),
            observer: Observer::default(),
            depth: 0,
            chain: 0,
            hops: 0,
            session: None,
            effect: None,
            client: ClientLine::default(),
            place: PlaceNote::default(),
        }
    }
}

/// A request to call a tool.
#[derive(Debug, Clone)]
pub struct Call {
    /// The request.
    pub request: Request,
    /// The tool that it calls.
    pub tool: ToolName,
    /// The arguments: a JSON object.
    pub arguments: Value,
    /// The interface that the caller knows, if it says one: a tool with another one is not called.
    pub interface: Option<InterfaceDigest>,
    /// The builds that the caller has pinned: a tool of a component runs on the one that has it. Empty for today's tools.
    pub builds: Vec<BuildId>,
}

impl Call {
    /// A call of today's tool of this name, whatever its interface.
    pub fn new(request: Request, tool: ToolName, arguments: Value) -> Self {
        Self { request, tool, arguments, interface: None, builds: Vec::new() }
    }
}

impl AsRef<Request> for Call {
    fn as_ref(&self) -> &Request {
        &self.request
    }
}

/// A legacy client's session. The host drops a session's data when the session ends, which is when its last clone is dropped.
#[derive(Debug, Clone, Default)]
pub struct Session(Arc<()>);

impl Session {
    /// The shared value that identifies the session and lives as long as it.
    pub fn life(&self) -> &Arc<()> {
        &self.0
    }
}

/// Checks that the principal may ask anything of components at all; which tools exist for it is the catalog's matter.
pub fn authorize<T: AsRef<Request>>(asked: T) -> Result<Authorized<T>, Denied> {
    let principal = asked.as_ref().principal.clone();
    Authorized::check(asked, &principal, SCOPE_TOOLS)
}

/// Where authorized calls go: the registry, as guests see it.
pub trait Dispatch: PinBuilds + fmt::Debug + Send + Sync {
    /// Runs a call to its end.
    fn dispatch(&self, call: Authorized<Call>) -> BoxFuture<'_, Result<ToolResult, CallError>>;

    /// A component of the tenant says that something of its own has changed.
    fn changed(&self, tenant: &TenantId, component: &str, change: GuestChange<'_>);

    /// The schemas of a tool that the principal may use, of the one among `builds` that has it; of today's if there are none.
    fn describe(&self, principal: &Principal, tool: &ToolName, builds: &[BuildId]) -> Option<ToolSchemas>;
}

/// A part of what a component serves that has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestChange<'a> {
    /// The resource with this URI.
    Resource(&'a str),
    /// The list of resources or templates.
    ResourceList,
    /// The list of prompts.
    PromptList,
}

/// What the catalog says of a tool, as JSON Schemas.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolSchemas {
    /// The schema of its arguments.
    pub input: String,
    /// The schema of its result, if the tool has one.
    pub output: Option<String>,
}

/// Where calls of other hosts' tools go: the mesh, as the registry and guests see it.
pub trait ReachPeer: fmt::Debug + Send + Sync {
    /// Calls a tool of a peer.
    fn reach<'a>(
        &'a self,
        peer: &'a PeerId,
        call: Authorized<Call>,
    ) -> BoxFuture<'a, (Result<ToolResult, CallError>, Receipt)>;
}

/// One block of a result.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// Text.
    Text(String),
    /// A picture.
    Image(Blob),
    /// A sound.
    Audio(Blob),
    /// A resource by name.
    ResourceLink {
        /// Its URI.
        uri: String,
        /// A short name.
        name: String,
        /// Description of the resource.
        description: Option<String>,
        /// Its media type.
        mime_type: Option<String>,
    },
    /// A resource itself.
    EmbeddedResource {
        /// Its URI.
        uri: String,
        /// Its media type.
        mime_type: Option<String>,
        /// Contents of the resource.
        contents: ResourceContents,
    },
}

impl Content {
    /// Bytes of all strings and data of the block. Media types and addresses count too, because the component chooses them.
    pub fn bytes(&self) -> usize {
        let of = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let parts = match self {
            Self::Text(text) => [text.len(), 0, 0, 0],
            Self::Image(blob) | Self::Audio(blob) => [blob.data.len(), blob.mime_type.len(), 0, 0],
            Self::ResourceLink { uri, name, description, mime_type } => {
                [uri.len(), name.len(), of(description), of(mime_type)]
            }
            Self::EmbeddedResource { uri, mime_type, contents } => {
                let contents = match contents {
                    ResourceContents::Text(text) => text.len(),
                    ResourceContents::Binary(bytes) => bytes.len(),
                };
                [uri.len(), of(mime_type), contents, 0]
            }
        };
        parts.into_iter().fold(0, usize::saturating_add)
    }
}

/// Bytes with a media type.
#[derive(Debug, Clone, PartialEq)]
pub struct Blob {
    /// The bytes.
    pub data: Vec<u8>,
    /// Their media type.
    pub mime_type: String,
}

/// Contents of an embedded resource.
#[derive(Debug, Clone, PartialEq)]
pub enum ResourceContents {
    /// Text.
    Text(String),
    /// Anything else.
    Binary(Vec<u8>),
}

/// Answer of a tool.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ToolResult {
    /// Blocks for a human reader.
    pub content: Vec<Content>,
    /// The answer as JSON for a program.
    pub structured: Option<Value>,
    /// Whether the tool says that it did not succeed.
    pub is_error: bool,
    /// By what the component knows the answer that comes later, if this is not the whole of it.
    pub deferred: Option<String>,
    /// Tenant's memory that the result holds.
    pub memory: ResultMemory,
}

/// Resources that a call used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// The call's highest linear memory, in bytes.
    pub memory_bytes: u64,
    /// Its calls into the host.
    pub host_calls: u64,
    /// Processor time of the guest and of what the host did for it in its place.
    pub processor_time: Duration,
    /// Its operations on the store.
    pub store_ops: u64,
    /// The bytes that it read from the store and wrote to it.
    pub store_bytes: u64,
    /// The bytes that it wrote to files.
    pub file_bytes: u64,
    /// Its HTTP requests.
    pub http_requests: u64,
    /// Bytes that it sent and received over HTTP.
    pub http_bytes: u64,
    /// The fuel of its instructions, where that is counted.
    pub fuel: Option<u64>,
}

/// Resources that a call used, and its duration from door to door.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Receipt {
    /// Queueing, running and waiting together.
    pub duration: Duration,
    /// Resources that it used.
    pub cost: Cost,
}

impl Receipt {
    /// As clients read it.
    pub fn json(&self) -> Value {
        let ms = |time: Duration| time.as_secs_f64() * 1_000.0;
        serde_json::json!({
            "duration_ms": ms(self.duration),
            "cpu_ms": ms(self.cost.processor_time),
            "memory_bytes": self.cost.memory_bytes,
            "host_calls": self.cost.host_calls,
            "store_ops": self.cost.store_ops,
            "store_bytes": self.cost.store_bytes,
            "file_bytes": self.cost.file_bytes,
            "http_requests": self.cost.http_requests,
            "http_bytes": self.cost.http_bytes,
            "fuel": self.cost.fuel,
        })
    }

    /// Reads what [`Receipt::json`] wrote on another host. What is missing there is nothing here.
    pub fn from_json(json: &Value) -> Self {
        let count = |key: &str| json.get(key).and_then(Value::as_u64).unwrap_or_default();
        let time = |key: &str| {
            let ms = json.get(key).and_then(Value::as_f64).unwrap_or_default();
            Duration::try_from_secs_f64(ms / 1_000.0).unwrap_or_default()
        };
        let cost = Cost {
            memory_bytes: count("memory_bytes"),
            host_calls: count("host_calls"),
            processor_time: time("cpu_ms"),
            store_ops: count("store_ops"),
            store_bytes: count("store_bytes"),
            file_bytes: count("file_bytes"),
            http_requests: count("http_requests"),
            http_bytes: count("http_bytes"),
            fuel: json.get("fuel").and_then(Value::as_u64),
        };
        Self { duration: time("duration_ms"), cost }
    }
}

/// The budgets of a call that can run out while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Budget {
    /// Time on the wall, in milliseconds.
    Deadline,
    /// Processor time, in milliseconds.
    Cpu,
    /// Linear memory, in bytes.
    Memory,
    /// All memory of the tenant's guests, or of the host's, in bytes.
    GuestBytes,
    /// Table elements.
    Tables,
    /// Core instances, memories and tables, in number.
    Instances,
    /// Bytes of the result.
    Output,
    /// Bytes of log, standard output and standard error.
    Log,
    /// Calls into the host.
    HostCalls,
    /// Operations on the store, in number.
    StoreOps,
    /// Bytes read from the store and written to it.
    StoreBytes,
    /// Bytes written to files.
    FileBytes,
    /// HTTP requests.
    HttpRequests,
    /// Bytes sent and received over HTTP.
    HttpBytes,
    /// Bytes of WebAssembly stack.
    Stack,
    /// Resources that a client holds, in number.
    Handles,
    /// Tasks and other handles of an async call, in number.
    Tasks,
    /// Instructions, in units of fuel.
    Fuel,
}

impl Budget {
    /// The name by which limits are configured.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deadline => "deadline_ms",
            Self::Cpu => "cpu_ms",
            Self::Memory => "memory_bytes",
            Self::GuestBytes => "guest_bytes",
            Self::Tables => "table_elements",
            Self::Instances => "core_instances",
            Self::Output => "output_bytes",
            Self::Log => "log_bytes",
            Self::HostCalls => "host_calls",
            Self::StoreOps => "store_ops",
            Self::StoreBytes => "store_bytes",
            Self::FileBytes => "file_bytes",
            Self::HttpRequests => "http_requests",
            Self::HttpBytes => "http_bytes",
            Self::Stack => "stack_bytes",
            Self::Handles => "handles",
            Self::Tasks => "tasks",
            Self::Fuel => "fuel",
        }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_principal_without_the_scope_is_denied() {
        let call = |scopes: &[&str]| {
            let scopes = Arc::new(scopes.iter().map(|scope| (*scope).to_owned()).collect());
            let request = Request::of(Principal { scopes, ..Principal::local_user() });
            Call::new(request, ToolName::new("t").expect("legal"), Value::Null)
        };
        assert!(authorize(call(&[SCOPE_TOOLS])).is_ok());
        assert_eq!(authorize(call(&["other"])).expect_err("denied").to_string(), "local-user lacks the scope `tools`");
    }
}
