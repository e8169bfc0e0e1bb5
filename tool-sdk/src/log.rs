//! Log records of the running call: to the host's log, and to the client if it asked for their level.
//!
//! Standard output and standard error become records too (`info` and `warning`). In a native test records go to standard error.

#[cfg(target_arch = "wasm32")]
use crate::bindings::mcpp::endpoint::log as host;

/// RFC 5424 severities, as MCP names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
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

/// Writes a record. Its length counts towards the call's log budget.
pub fn write(level: Level, message: impl AsRef<str>) {
    let message = message.as_ref();
    #[cfg(target_arch = "wasm32")]
    host::write(
        match level {
            Level::Debug => host::Level::Debug,
            Level::Info => host::Level::Info,
            Level::Notice => host::Level::Notice,
            Level::Warning => host::Level::Warning,
            Level::Error => host::Level::Error,
            Level::Critical => host::Level::Critical,
            Level::Alert => host::Level::Alert,
            Level::Emergency => host::Level::Emergency,
        },
        message,
    );
    #[cfg(not(target_arch = "wasm32"))]
    eprintln!("{level:?}: {message}");
}

/// Detail for a developer.
pub fn debug(message: impl AsRef<str>) {
    write(Level::Debug, message);
}

/// Normal operation.
pub fn info(message: impl AsRef<str>) {
    write(Level::Info, message);
}

/// Something odd.
pub fn warning(message: impl AsRef<str>) {
    write(Level::Warning, message);
}

/// Something failed.
pub fn error(message: impl AsRef<str>) {
    write(Level::Error, message);
}
