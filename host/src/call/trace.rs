//! Where a call belongs in a trace: W3C Trace Context, version 00.

use std::cell::RefCell;

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

/// Random bytes that a thread takes from the system at once: every call needs some.
const POOL_BYTES: usize = 4 << 10;

thread_local! {
    /// Random bytes that no id has yet.
    static POOL: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Trace ids need to be distinct, not secret: where the system has no randomness to give, zeros are the lesser evil.
fn fill_random(bytes: &mut [u8]) {
    POOL.with_borrow_mut(|pool| {
        if pool.len() < bytes.len() {
            pool.resize(POOL_BYTES, 0);
            if getrandom::fill(pool).is_err() {
                tracing::warn!("the system's random source failed; trace ids are not unique");
            }
        }
        let rest = pool.len().saturating_sub(bytes.len());
        bytes.copy_from_slice(pool.get(rest..).unwrap_or_default());
        pool.truncate(rest);
    });
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
