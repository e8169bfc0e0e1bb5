//! A call, its answer and its errors, in no protocol's words.
//!
//! Doors build a [`Call`] and translate a [`ToolResult`] or a [`CallError`] back; the registry and everything inward know nothing else.

use std::{fmt, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use serde_json::Value;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::tenant::{Authorized, Principal};

/// How deep tools may call tools.
pub const MAX_CALL_DEPTH: u8 = 8;
/// How many log and progress events of one call may wait for a slow client before further ones are dropped.
pub const MAX_PENDING_EVENTS: usize = 64;

/// A tool's name as clients see it: 1 to 128 characters of `A-Z a-z 0-9 _ . -`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ToolName(Arc<str>);

/// A tool name that breaks the rule.
#[derive(Debug, thiserror::Error)]
#[error("tool name {0:?} is not 1 to 128 characters of `A-Z`, `a-z`, `0-9`, `_`, `.` and `-`")]
pub struct InvalidToolName(String);

impl ToolName {
    /// Checks and takes a name.
    pub fn new(name: &str) -> Result<Self, InvalidToolName> {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if name.is_empty() || name.len() > 128 || !name.chars().all(legal) {
            return Err(InvalidToolName(name.chars().take(160).collect()));
        }
        Ok(Self(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ToolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One call on its way from a door to a guest.
#[derive(Debug, Clone)]
pub struct Call {
    /// Who calls.
    pub principal: Principal,
    /// Which tool.
    pub tool: ToolName,
    /// The arguments: a JSON object.
    pub arguments: Value,
    /// When the caller stops waiting, if that is sooner than the tool's own deadline.
    pub deadline: Option<Instant>,
    /// Fires when the caller gives up.
    pub cancel: CancellationToken,
    /// Where the call belongs in a trace.
    pub trace: TraceContext,
    /// Who watches the call's log and progress.
    pub observer: Observer,
    /// 0 for a call from a door, one more for each call by a tool.
    pub depth: u8,
}

/// W3C trace context of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    sampled: bool,
}

impl TraceContext {
    /// A new trace.
    pub fn root() -> Self {
        // One question to the system for both ids: this runs at every call.
        let mut ids = [0; 24];
        fill_random(&mut ids);
        let (mut trace_id, mut span_id) = ([0; 16], [0; 8]);
        let (trace, span) = ids.split_at(trace_id.len());
        trace_id.copy_from_slice(trace);
        span_id.copy_from_slice(span);
        Self { trace_id, span_id, sampled: false }
    }

    /// Continues the trace of a `traceparent` (W3C Trace Context, version 00); a malformed one starts a new trace, as the standard demands.
    pub fn from_traceparent(header: Option<&str>) -> Self {
        header.and_then(Self::parse).unwrap_or_else(Self::root)
    }

    fn parse(header: &str) -> Option<Self> {
        let mut parts = header.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let future_version = version != "00";
        if version.len() != 2 || version == "ff" || flags.len() != 2 || (parts.next().is_some() && !future_version) {
            return None;
        }
        let trace_id: [u8; 16] = hex(trace)?;
        let parent: [u8; 8] = hex(span)?;
        let [flags] = hex::<1>(flags)?;
        if trace_id == [0; 16] || parent == [0; 8] {
            return None;
        }
        Some(Self { trace_id, span_id: new_span_id(), sampled: flags & 1 == 1 })
    }

    /// The same trace, one span deeper.
    pub fn child(&self) -> Self {
        Self { span_id: new_span_id(), ..self.clone() }
    }

    /// The trace's id, 32 hexadecimal digits.
    pub fn trace_id(&self) -> String {
        self.trace_id.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The `traceparent` to hand on.
    pub fn traceparent(&self) -> String {
        let span: String = self.span_id.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("00-{}-{span}-{:02x}", self.trace_id(), u8::from(self.sampled))
    }
}

fn new_span_id() -> [u8; 8] {
    let mut id = [0; 8];
    fill_random(&mut id);
    id
}

/// Trace ids need to be distinct, not secret: where the system has no randomness to give, zeros are the lesser evil.
fn fill_random(bytes: &mut [u8]) {
    if getrandom::fill(bytes).is_err() {
        tracing::warn!("the system's random source failed; trace ids are not unique");
    }
}

/// Lower-case hexadecimal digits, as trace context demands, to bytes.
fn hex<const N: usize>(digits: &str) -> Option<[u8; N]> {
    if digits.len() != 2 * N || !digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// RFC 5424 severities, lowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Detail for a developer.
    Debug,
    /// Normal operation.
    Info,
    /// Normal but worth a look.
    Notice,
    /// Something odd.
    Warning,
    /// Something failed.
    Error,
    /// A part is broken.
    Critical,
    /// Act now.
    Alert,
    /// Unusable.
    Emergency,
}

impl LogLevel {
    /// The name that MCP and syslog use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
            Self::Alert => "alert",
            Self::Emergency => "emergency",
        }
    }
}

/// What a running call tells its observer.
#[derive(Debug, Clone, PartialEq)]
pub enum CallEvent {
    /// A log record.
    Log {
        /// How grave.
        level: LogLevel,
        /// The component that wrote it.
        component: String,
        /// The text.
        message: String,
    },
    /// How far the call is.
    Progress {
        /// Done so far; rises from event to event.
        done: f64,
        /// All there is to do, where known.
        total: Option<f64>,
        /// What is being done.
        message: Option<String>,
    },
}

/// Where a call's log and progress go. A slow observer loses events; it never slows the call.
#[derive(Debug, Clone, Default)]
pub struct Observer {
    events: Option<mpsc::Sender<CallEvent>>,
    log_level: Option<LogLevel>,
    progress: bool,
}

impl Observer {
    /// An observer of records from `log_level` on (none if absent) and, if asked, of progress.
    pub fn new(log_level: Option<LogLevel>, progress: bool) -> (Self, mpsc::Receiver<CallEvent>) {
        let (events, receiver) = mpsc::channel(MAX_PENDING_EVENTS);
        (Self { events: Some(events), log_level, progress }, receiver)
    }

    /// Hands on what the observer asked for.
    pub fn notify(&self, event: CallEvent) {
        let wanted = match &event {
            CallEvent::Log { level, .. } => self.log_level.is_some_and(|least| *level >= least),
            CallEvent::Progress { .. } => self.progress,
        };
        if let (true, Some(events)) = (wanted, &self.events)
            && events.try_send(event).is_err()
        {
            metrics::counter!("mcpp_call_events_dropped_total").increment(1);
        }
    }
}

/// Where authorized calls go: the registry, as guests see it.
pub trait Dispatch: fmt::Debug + Send + Sync {
    /// Runs a call to its end.
    fn dispatch(&self, call: Authorized<Call>) -> BoxFuture<'_, Result<ToolResult, CallError>>;
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
        /// What it is.
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
        /// What it holds.
        contents: ResourceContents,
    },
}

/// Bytes with a media type.
#[derive(Debug, Clone, PartialEq)]
pub struct Blob {
    /// The bytes.
    pub data: Vec<u8>,
    /// Their media type.
    pub mime_type: String,
}

/// What an embedded resource holds.
#[derive(Debug, Clone, PartialEq)]
pub enum ResourceContents {
    /// Text.
    Text(String),
    /// Anything else.
    Binary(Vec<u8>),
}

/// What a tool answered.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ToolResult {
    /// Blocks for a reader.
    pub content: Vec<Content>,
    /// The same for a program.
    pub structured: Option<Value>,
    /// Whether the tool says that it did not succeed.
    pub is_error: bool,
}

/// The budgets of a call that can run out while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Budget {
    /// Time on the wall, in milliseconds.
    Deadline,
    /// Linear memory, in bytes.
    Memory,
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
    /// Bytes of WebAssembly stack.
    Stack,
}

impl Budget {
    /// The name by which limits are configured.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deadline => "deadline_ms",
            Self::Memory => "memory_bytes",
            Self::Tables => "table_elements",
            Self::Instances => "core_instances",
            Self::Output => "output_bytes",
            Self::Log => "log_bytes",
            Self::HostCalls => "host_calls",
            Self::Stack => "stack_bytes",
        }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a call has no result.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// No such tool for this principal.
    #[error("unknown tool `{0}`")]
    UnknownTool(ToolName),
    /// The arguments do not match the input schema, or the tool refused one.
    #[error("invalid argument{}: {reason}", at(path))]
    InvalidArguments {
        /// JSON pointer into the arguments.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// A limit on concurrency is reached; the call has not run and may be repeated.
    #[error("busy: {limit} {what} already; try again in {} ms", retry_after.as_millis())]
    Busy {
        /// What there are too many of.
        what: &'static str,
        /// How many are allowed.
        limit: usize,
        /// When to try again.
        retry_after: Duration,
    },
    /// Tools call tools too deeply.
    #[error("calls are nested deeper than {MAX_CALL_DEPTH}")]
    TooDeep,
    /// A budget ran out; the call was stopped.
    #[error("budget `{budget}` exceeded: the tool was stopped at {limit}")]
    BudgetExceeded {
        /// Which.
        budget: Budget,
        /// How much there was of it.
        limit: u64,
    },
    /// The caller gave up; the call was stopped.
    #[error("the call was cancelled")]
    Cancelled,
    /// The guest trapped.
    #[error("the tool crashed: {0}")]
    Trapped(String),
    /// The guest's result breaks its own contract.
    #[error("the tool's result is invalid{}: {reason}", at(path))]
    InvalidResult {
        /// JSON pointer into the structured result.
        path: String,
        /// What is wrong.
        reason: String,
    },
}

impl CallError {
    /// A short, stable name for metrics and scripts.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::UnknownTool(_) => "unknown_tool",
            Self::InvalidArguments { .. } => "invalid_arguments",
            Self::Busy { .. } => "busy",
            Self::TooDeep => "too_deep",
            Self::BudgetExceeded { .. } => "budget_exceeded",
            Self::Cancelled => "cancelled",
            Self::Trapped(_) => "trapped",
            Self::InvalidResult { .. } => "invalid_result",
        }
    }
}

fn at(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!(" at `{path}`") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tool_names_are_checked() {
        for (name, legal) in
            [("add", true), ("A.b_c-1", true), ("", false), ("a b", false), ("é", false), (&"a".repeat(129), false)]
        {
            assert_eq!(ToolName::new(name).is_ok(), legal, "{name:?}");
        }
    }

    #[test]
    fn traceparent_is_continued_or_restarted() {
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let context = TraceContext::from_traceparent(Some(parent));
        assert_eq!(context.trace_id(), "0af7651916cd43dd8448eb211c80319c");
        assert_ne!(context.traceparent(), parent);
        assert!(context.traceparent().ends_with("-01"));
        for bad in [
            "",
            "00-0af7",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_ne!(
                TraceContext::from_traceparent(Some(bad)).trace_id(),
                "0af7651916cd43dd8448eb211c80319c",
                "{bad}"
            );
        }
    }

    #[tokio::test]
    async fn a_slow_observer_loses_events_and_blocks_nobody() {
        let (observer, mut events) = Observer::new(Some(LogLevel::Info), false);
        for n in 0..MAX_PENDING_EVENTS + 5 {
            observer.notify(CallEvent::Log { level: LogLevel::Info, component: "c".into(), message: n.to_string() });
        }
        observer.notify(CallEvent::Progress { done: 1.0, total: None, message: None });
        drop(observer);
        let mut seen = 0;
        while let Some(event) = events.recv().await {
            assert!(matches!(event, CallEvent::Log { .. }));
            seen += 1;
        }
        assert_eq!(seen, MAX_PENDING_EVENTS);
    }
}
