//! Who watches a running call: its log records and its progress.

use tokio::sync::mpsc;

/// How many log and progress events of one call may wait for a slow client before further ones are dropped.
pub const MAX_PENDING_EVENTS: usize = 64;

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

#[cfg(test)]
mod tests {
    use super::*;

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
