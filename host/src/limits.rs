//! Resources that one call may use. Every limit is always on; the operator changes the number, never the fact. The engine counts fuel only
//! where it is limited.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::memory::AccountLimits;

/// A duration in milliseconds, as limits have it; the longest that a `u64` has, if it is longer.
pub fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Now, in milliseconds since 1970-01-01 UTC, as records have it.
pub fn now_ms() -> u64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// Declares limits once: the resolved struct, the patch that configuration writes, and how one applies to the other.
/// After a `?`, limits that have no number until the operator sets one.
macro_rules! limits {
    (
        $(#[$about:meta])* $limits:ident, $patch:ident;
        $($(#[$doc:meta])* $name:ident = $default:expr, $least:expr, $most:expr;)*
        $(? $(#[$optional_doc:meta])* $optional:ident, $optional_least:expr, $optional_most:expr;)*
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
        pub struct $limits {
            $($(#[$doc])* pub $name: u64,)*
            $($(#[$optional_doc])* #[serde(skip_serializing_if = "Option::is_none")] pub $optional: Option<u64>,)*
        }

        impl Default for $limits {
            fn default() -> Self {
                Self { $($name: $default,)* $($optional: None,)* }
            }
        }

        /// The limits that are set; the others stay as they were.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
        #[serde(deny_unknown_fields)]
        pub struct $patch {
            $($(#[$doc])* #[serde(skip_serializing_if = "Option::is_none")] pub $name: Option<Bounded<{ $least }, { $most }>>,)*
            $(
                $(#[$optional_doc])*
                #[serde(skip_serializing_if = "Option::is_none")]
                pub $optional: Option<Bounded<{ $optional_least }, { $optional_most }>>,
            )*
        }

        impl $limits {
            /// These limits, changed by `patch`.
            #[must_use]
            pub fn patched(mut self, patch: &$patch) -> Self {
                $(if let Some(Bounded(value)) = patch.$name { self.$name = value; })*
                $(if let Some(Bounded(value)) = patch.$optional { self.$optional = Some(value); })*
                self
            }
        }
    };
}

/// Reuse of a tool's instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Reuse {
    /// Most calls that one instance serves.
    pub calls: u32,
    /// Age at which an instance no longer begins a call, in seconds after its first.
    pub age_s: u32,
    /// Idle time for which an instance stays, in seconds.
    pub idle_s: u32,
}

impl Default for Reuse {
    fn default() -> Self {
        Self { calls: 1_000, age_s: 600, idle_s: 60 }
    }
}

/// When a call of a tool becomes a task for a client that knows tasks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskSupport {
    /// Never.
    Never,
    /// When it has not ended soon.
    #[default]
    May,
    /// Before it begins.
    Must,
}

/// Whether an engine counts instructions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fuel {
    /// It does not.
    #[default]
    Uncounted,
    /// It does.
    Counted,
}

limits! {
    /// The limits of one call.
    Limits, LimitsPatch;
    /// Longest time on the wall, in milliseconds: running, waiting and queueing together.
    deadline_ms = 30_000, 1, 86_400_000;
    /// Longest wait for the client's replies to one round of questions, in milliseconds. The call's deadline stands still meanwhile.
    input_ms = 600_000, 1, 86_400_000;
    /// Largest linear memory, all memories of the instance together, in bytes.
    memory_bytes = 64 << 20, 64 << 10, 4 << 30;
    /// Most table elements, all tables of the instance together.
    table_elements = 100_000, 1, 10_000_000;
    /// Most core instances, and most memories, and most tables.
    core_instances = 64, 1, 64;
    /// Largest result, in bytes, and the most that one host call may hand to the host.
    output_bytes = 4 << 20, 1, 256 << 20;
    /// Most bytes of log records, standard output and standard error.
    log_bytes = 256 << 10, 0, 64 << 20;
    /// Most calls into the host.
    host_calls = 100_000, 0, 1_000_000_000;
    /// Most operations on the store: its own, events, timers, and `wasi:keyvalue`.
    store_ops = 100_000, 0, 1_000_000_000;
    /// Most bytes of keys and values read from the store and written to it.
    store_bytes = 64 << 20, 0, 64 << 30;
    /// Most bytes written to files; a size given to a file counts as that many.
    file_bytes = 64 << 20, 0, 1 << 40;
    /// Most HTTP requests.
    http_requests = 50, 0, 1_000_000;
    /// Most bytes sent and received over HTTP, all of a request and its answer counted.
    http_bytes = 16 << 20, 0, 16 << 30;
    /// Most instances of this tool at once; further calls queue.
    concurrency = 64, 1, 10_000;
    /// Most calls of this tool in a minute, with as many more at once.
    calls_per_minute = 3_000_000, 1, 1_000_000_000;
    /// Most processor time, in milliseconds.
    cpu_ms = 10_000, 1, 86_400_000;
    /// Longest time that a client waits for an answer if it knows no tasks, in seconds: then it gets what is known so far and a handle.
    long_call_s = 50, 1, 86_400;
    /// Time after which a call becomes a task if it may, and its client knows tasks, in milliseconds.
    task_after_ms = 500, 0, 86_400_000;
    /// Time for which the host keeps the result of a task after its end, in seconds.
    task_ttl_s = 3_600, 1, 31_536_000;
    ?
    /// Most instructions, in the engine's units of fuel: about one each. They are counted only where this is set.
    fuel, 1, 1 << 60;
}

limits! {
    /// The limits of one tenant: all of its tools together.
    TenantLimits, TenantLimitsPatch;
    /// Instances that compute at the same time; further calls queue.
    running = 64, 1, 4_096;
    /// Instances that wait for something at the same time.
    waiting = 192, 0, 12_288;
    /// Calls that queue for an instance; one more is refused.
    queued = 512, 0, 1_000_000;
    /// Calls in a minute, with as many more at once.
    calls_per_minute = 6_000_000, 1, 1_000_000_000;
    /// Legacy sessions.
    sessions = 20_000, 1, 10_000_000;
    /// Instances that stay after a call, for their resources or for reuse.
    kept = 16, 0, 4_096;
    /// Components from files that are live.
    components = 200, 1, 100_000;
    /// HTTP connections, streams included.
    connections = 512, 1, 1_000_000;
    /// Streams that stand without a call: of changes, and of sessions.
    streams = 256, 0, 1_000_000;
    /// Bytes of large messages, beyond 64 KiB, that its connections read and write in a second, with those of a quarter second at once. Further ones wait.
    traffic_bytes_per_second = 64 << 20, 64 << 10, 1 << 40;
    /// Log records of its guests that the host's log takes in a second, with those of ten seconds at once. Further ones are dropped and counted.
    log_records_per_second = 500, 1, 1_000_000;
    /// Bytes of these records in a second, with those of ten seconds at once.
    log_bytes_per_second = 256 << 10, 1 << 10, 256 << 20;
    /// Tasks of calls that run or have a result that is kept; further calls do not become tasks.
    tasks = 1_000, 0, 1_000_000;
    /// Bytes of these tasks and their results on disk.
    task_bytes = 64 << 20, 0, 1 << 40;
    ?
    /// Memory of guests, those that stay included, in bytes. Half of the host's unless it is set.
    guest_bytes, 1 << 20, 1 << 40;
    ?
    /// Compiled code and memory images of live components, in bytes. Half of the host's unless it is set.
    code_bytes, 1 << 20, 1 << 40;
    ?
    /// Messages on their way (bodies, arguments, results, events, records of sessions, answers), in bytes. Half of the host's unless it is set.
    message_bytes, 1 << 16, 1 << 40;
}

impl TenantLimits {
    /// Memory of the host that the tenant may have.
    pub fn memory(&self) -> AccountLimits {
        let Self { guest_bytes, code_bytes, message_bytes, .. } = *self;
        AccountLimits { guest_bytes, code_bytes, message_bytes }
    }
}

/// A number between `LEAST` and `MOST`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Bounded<const LEAST: u64, const MOST: u64>(u64);

impl<const LEAST: u64, const MOST: u64> From<Bounded<LEAST, MOST>> for u64 {
    fn from(Bounded(value): Bounded<LEAST, MOST>) -> Self {
        value
    }
}

impl<const LEAST: u64, const MOST: u64> TryFrom<u64> for Bounded<LEAST, MOST> {
    type Error = String;

    fn try_from(value: u64) -> Result<Self, String> {
        if (LEAST..=MOST).contains(&value) {
            Ok(Self(value))
        } else {
            Err(format!("{value} is not between {LEAST} and {MOST}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_changes_what_it_names() {
        let patch: LimitsPatch = toml::from_str("deadline_ms = 5").expect("valid");
        assert_eq!(Limits::default().patched(&patch), Limits { deadline_ms: 5, ..Limits::default() });
        let error = toml::from_str::<LimitsPatch>("deadline_ms = 0").expect_err("zero");
        assert!(error.to_string().contains("0 is not between 1 and 86400000"), "{error}");
        let counted: LimitsPatch = toml::from_str("fuel = 7").expect("valid");
        assert_eq!(Limits::default().patched(&counted).patched(&patch).fuel, Some(7));
    }
}
