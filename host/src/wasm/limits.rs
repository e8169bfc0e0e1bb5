//! What one call may use. Every limit is always on; the operator changes the number, never the fact.

use serde::{Deserialize, Serialize};

/// Declares the limits once: the resolved struct, the patch that configuration writes, and how one applies to the other.
macro_rules! limits {
    ($($(#[$doc:meta])* $name:ident = $default:expr, $least:expr, $most:expr;)*) => {
        /// The limits of one call.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
        pub struct Limits { $($(#[$doc])* pub $name: u64,)* }

        impl Default for Limits {
            fn default() -> Self {
                Self { $($name: $default,)* }
            }
        }

        /// The limits that a configuration sets; the others stay as they were.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct LimitsPatch { $($(#[$doc])* pub $name: Option<Bounded<{ $least }, { $most }>>,)* }

        impl Limits {
            /// These limits, changed by `patch`.
            #[must_use]
            pub fn patched(mut self, patch: &LimitsPatch) -> Self {
                $(if let Some(Bounded(value)) = patch.$name { self.$name = value; })*
                self
            }
        }
    };
}

limits! {
    /// Longest time on the wall, in milliseconds: running, waiting and queueing together.
    deadline_ms = 30_000, 1, 86_400_000;
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
    /// Most HTTP requests.
    http_requests = 50, 0, 1_000_000;
    /// Most bytes sent and received over HTTP, all of a request and its answer counted.
    http_bytes = 16 << 20, 0, 16 << 30;
    /// Most instances of this tool at once.
    concurrency = 64, 1, 10_000;
}

/// A number between `LEAST` and `MOST`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u64")]
pub struct Bounded<const LEAST: u64, const MOST: u64>(u64);

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
    }
}
