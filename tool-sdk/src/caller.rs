//! The caller of a tool, and the time that the caller has left.

use std::time::Duration;

/// A caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The tenant in whose catalog the call runs.
    pub tenant: String,
    /// The caller's name within the tenant.
    pub subject: String,
    /// The caller's scopes.
    pub scopes: Vec<String>,
}

/// The caller of the running call; in a native test, `test` of the tenant `local`.
pub fn caller() -> Principal {
    #[cfg(target_arch = "wasm32")]
    {
        let principal = crate::bindings::mcpp::endpoint::caller::identify();
        Principal { tenant: principal.tenant, subject: principal.subject, scopes: principal.scopes }
    }
    #[cfg(not(target_arch = "wasm32"))]
    Principal { tenant: "local".into(), subject: "test".into(), scopes: Vec::new() }
}

/// How long until the host stops this call; a minute in a native test.
pub fn remaining() -> Duration {
    #[cfg(target_arch = "wasm32")]
    return Duration::from_millis(crate::bindings::mcpp::endpoint::caller::remaining_ms());
    #[cfg(not(target_arch = "wasm32"))]
    Duration::from_secs(60)
}

/// Whether the caller has given up; never in a native test.
pub fn cancelled() -> bool {
    #[cfg(target_arch = "wasm32")]
    return crate::bindings::mcpp::endpoint::caller::cancelled();
    #[cfg(not(target_arch = "wasm32"))]
    false
}

/// A text that is the same at each repetition of the running call and of no other call; none for a call that nobody repeats, and in a native test.
///
/// The host sends a key made of it with each HTTP request that changes something, in the header `Idempotency-Key`. A tool that keeps data remembers it with what it wrote.
pub fn idempotency_key() -> Option<String> {
    #[cfg(target_arch = "wasm32")]
    return crate::bindings::mcpp::delegation::idempotency::key();
    #[cfg(not(target_arch = "wasm32"))]
    None
}

/// The W3C `traceparent` of the running call, to hand on to what it calls; empty in a native test.
pub fn traceparent() -> String {
    #[cfg(target_arch = "wasm32")]
    return crate::bindings::mcpp::endpoint::caller::traceparent();
    #[cfg(not(target_arch = "wasm32"))]
    String::new()
}
