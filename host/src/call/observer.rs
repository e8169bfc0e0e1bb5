//! The observer of a running call, which receives its log records and its progress.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::mpsc;

use crate::memory::{Account, MemoryUse, Reservation};

/// How many log and progress events of one call may wait for a slow client before further ones are dropped.
pub const MAX_PENDING_EVENTS: usize = 64;
/// The longest text of an event, in bytes. A longer one is cut: a client shows a line of it, and the whole of a log record is in the host's own log.
pub const MAX_EVENT_BYTES: usize = 64 << 10;
/// End of a text that the host cut.
const CUT: &str = " … (cut)";
/// Bytes of an event beside its text: the message around it, twice.
const EVENT_BYTES: u64 = 512;

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

/// News of a running call for its observer.
#[derive(Debug, Clone, PartialEq)]
pub enum CallEvent {
    /// A log record.
    Log {
        /// Severity.
        level: LogLevel,
        /// The component that wrote it.
        component: String,
        /// The text.
        message: String,
    },
    /// Progress of the call.
    Progress {
        /// Done so far; rises from event to event.
        done: f64,
        /// All there is to do, where known.
        total: Option<f64>,
        /// The step that the call is at.
        message: Option<String>,
    },
}

impl CallEvent {
    /// Cuts the event's text to [`MAX_EVENT_BYTES`].
    fn cut(&mut self) {
        let text = match self {
            Self::Log { message, .. } => message,
            Self::Progress { message: Some(message), .. } => message,
            Self::Progress { message: None, .. } => return,
        };
        if text.len() > MAX_EVENT_BYTES {
            text.truncate(text.floor_char_boundary(MAX_EVENT_BYTES.saturating_sub(CUT.len())));
            text.push_str(CUT);
            text.shrink_to_fit();
        }
    }

    /// Bytes of the event's text.
    pub fn text_bytes(&self) -> usize {
        match self {
            Self::Log { message, .. } => message.len(),
            Self::Progress { message, .. } => message.as_ref().map_or(0, String::len),
        }
    }

    /// Bytes that the event takes while it waits.
    fn bytes(&self) -> u64 {
        let component = match self {
            Self::Log { component, .. } => component.len(),
            Self::Progress { .. } => 0,
        };
        let text = self.text_bytes().saturating_add(component);
        EVENT_BYTES.saturating_add(u64::try_from(text).unwrap_or(u64::MAX))
    }
}

/// Where events of a call pass that come from another host.
pub trait EventGate: std::fmt::Debug + Send + Sync {
    /// The event, if it may go on.
    fn pass(&self, event: CallEvent) -> Option<CallEvent>;
}

/// Where a call's log and progress go. A slow observer loses events; it never slows the call.
#[derive(Debug, Clone, Default)]
pub struct Observer {
    events: Option<mpsc::Sender<WaitingEvent>>,
    account: Option<Arc<Account>>,
    log_level: Option<LogLevel>,
    progress: bool,
    /// The highest progress that it was told, as the bits of a number.
    highest: Option<Arc<AtomicU64>>,
    /// Bytes of text that this clone may still hand on; none for no bound.
    left: Option<Arc<AtomicU64>>,
    gate: Option<Arc<dyn EventGate>>,
}

/// An event on its way to the client, and the memory that it takes meanwhile.
#[derive(Debug)]
pub struct WaitingEvent {
    /// The event.
    pub event: CallEvent,
    /// Reservation of the event's memory. The owner of the event keeps it as long as the event.
    pub memory: Reservation,
}

impl Observer {
    /// An observer of records from `log_level` on (none if absent) and, if asked, of progress. Events that wait are charged to `account`; without
    /// one there are none.
    pub fn new(
        log_level: Option<LogLevel>,
        progress: bool,
        account: Option<Arc<Account>>,
    ) -> (Self, mpsc::Receiver<WaitingEvent>) {
        let (events, receiver) = mpsc::channel(MAX_PENDING_EVENTS);
        let highest = progress.then(|| Arc::new(AtomicU64::new(f64::NEG_INFINITY.to_bits())));
        (Self { events: Some(events), account, log_level, progress, highest, left: None, gate: None }, receiver)
    }

    /// The same observer, behind a gate: also events that it does not want pass there first.
    #[must_use]
    pub fn through(self, gate: Arc<dyn EventGate>) -> Self {
        Self { gate: Some(gate), ..self }
    }

    /// The least level of records that the observer wants, if it wants any; and whether it wants progress.
    pub fn wants(&self) -> (Option<LogLevel>, bool) {
        (self.log_level, self.progress)
    }

    /// The same observer for somebody who may hand on so many bytes of text, and no more than this one may.
    #[must_use]
    pub fn within(&self, bytes: u64) -> Self {
        let left = self.left.clone().unwrap_or_else(|| Arc::new(AtomicU64::new(bytes)));
        Self { left: Some(left), ..self.clone() }
    }

    /// Whether progress rises; it is the highest then.
    fn rises(&self, done: f64) -> bool {
        let higher = |highest: u64| (done > f64::from_bits(highest)).then(|| done.to_bits());
        let rise = |highest: &Arc<AtomicU64>| highest.fetch_update(Ordering::Relaxed, Ordering::Relaxed, higher);
        self.highest.as_ref().is_none_or(|highest| rise(highest).is_ok())
    }

    /// Whether there is room for so many more bytes of text; they are taken then.
    fn has_left(&self, bytes: u64) -> bool {
        let take = |left: &Arc<AtomicU64>| {
            left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes))
        };
        self.left.as_ref().is_none_or(|left| take(left).is_ok())
    }

    /// Hands on what the observer asked for. Progress that does not rise is ignored. A text of more than [`MAX_EVENT_BYTES`] is cut; an event for which there is no room is dropped.
    pub fn notify(&self, mut event: CallEvent) {
        if let Some(gate) = &self.gate {
            let Some(passed) = gate.pass(event) else { return dropped("refused") };
            event = passed;
        }
        let wanted = match &event {
            CallEvent::Log { level, .. } => self.log_level.is_some_and(|least| *level >= least),
            CallEvent::Progress { done, .. } => self.progress && self.rises(*done),
        };
        let (true, Some(events), Some(account)) = (wanted, &self.events, &self.account) else { return };
        let Ok(place) = events.try_reserve() else { return dropped("slow") };
        event.cut();
        if !self.has_left(event.bytes()) {
            return dropped("budget");
        }
        match account.reserve(MemoryUse::Messages, event.bytes()) {
            Ok(memory) => place.send(WaitingEvent { event, memory }),
            Err(_) => dropped("memory"),
        }
    }
}

/// Counts an event that the client does not get.
pub fn dropped(reason: &'static str) {
    metrics::counter!("mcpp_call_events_dropped_total", "reason" => reason).increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{AccountLimits, HostMemory, MemoryConfig};

    fn account(message_bytes: u64) -> Arc<Account> {
        let config = MemoryConfig { guest_bytes: 1, code_bytes: 1, message_bytes };
        HostMemory::new(&config).account(AccountLimits::default())
    }

    fn log(message: impl Into<String>) -> CallEvent {
        CallEvent::Log { level: LogLevel::Info, component: "c".into(), message: message.into() }
    }

    #[tokio::test]
    async fn a_slow_observer_loses_events_and_blocks_nobody() {
        let (observer, mut events) = Observer::new(Some(LogLevel::Info), false, Some(account(64 << 20)));
        for n in 0..MAX_PENDING_EVENTS + 5 {
            observer.notify(log(n.to_string()));
        }
        observer.notify(CallEvent::Progress { done: 1.0, total: None, message: None });
        drop(observer);
        let mut seen = 0;
        while let Some(waiting) = events.recv().await {
            assert!(matches!(waiting.event, CallEvent::Log { .. }));
            seen += 1;
        }
        assert_eq!(seen, MAX_PENDING_EVENTS);
    }

    #[tokio::test]
    async fn the_largest_events_take_no_more_than_the_account_has() {
        let account = account(4 << 20);
        let (observer, mut events) = Observer::new(Some(LogLevel::Info), true, Some(Arc::clone(&account)));
        for n in 0..MAX_PENDING_EVENTS {
            let message = Some("\u{1F600}".repeat(1 << 20));
            observer.notify(CallEvent::Progress { done: n as f64, total: None, message });
        }
        let used = account.used(MemoryUse::Messages);
        assert!(used <= 2 << 20, "{used}");
        assert!(used > (2 << 20) - (128 << 10), "{used}");
        let first = events.recv().await.expect("some had room");
        let CallEvent::Progress { message: Some(message), .. } = &first.event else { panic!("{first:?}") };
        assert!(message.len() <= MAX_EVENT_BYTES && message.ends_with(CUT), "{}", message.len());
        drop((first, events));
        observer.notify(log("nobody reads any more"));
        assert_eq!(account.used(MemoryUse::Messages), 0, "what is dropped is given back");
    }

    #[tokio::test]
    async fn progress_rises_and_a_bounded_observer_hands_on_no_more_than_it_may() {
        let (observer, mut events) = Observer::new(Some(LogLevel::Info), true, Some(account(64 << 20)));
        let peer = observer.within(2 * (EVENT_BYTES + 64));
        let report = |observer: &Observer, done| {
            observer.notify(CallEvent::Progress { done, total: None, message: None });
        };
        report(&observer, 2.0);
        report(&peer, 1.0);
        report(&peer, f64::NAN);
        report(&peer, 3.0);
        report(&observer, 3.0);
        // The clone of a bounded one has no more than that one.
        peer.within(1 << 20).notify(log("x"));
        peer.notify(log("y"));
        observer.notify(log("z"));
        drop((observer, peer));
        let mut seen = Vec::new();
        while let Some(waiting) = events.recv().await {
            seen.push(match waiting.event {
                CallEvent::Log { message, .. } => message,
                CallEvent::Progress { done, .. } => done.to_string(),
            });
        }
        assert_eq!(seen, ["2", "3", "x", "z"]);
    }

    #[test]
    fn a_text_is_cut_from_the_first_byte_too_many() {
        for (bytes, is_cut) in [(MAX_EVENT_BYTES, false), (MAX_EVENT_BYTES + 1, true)] {
            let mut event = log("x".repeat(bytes));
            event.cut();
            let CallEvent::Log { message, .. } = event else { panic!("a record") };
            assert_eq!(message.len(), MAX_EVENT_BYTES);
            assert_eq!(message.ends_with(CUT), is_cut, "{bytes}");
        }
    }
}
