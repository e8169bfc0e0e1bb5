//! A guest's standard output and standard error: log records of its call, one a line, never bytes on a transport.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::{
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamError, StreamResult},
};

use crate::{
    call::{CallEvent, LogLevel, Observer},
    control::Control,
    names::TenantId,
    telemetry,
};

/// Longest line, in bytes. The host breaks a longer one into several records.
const MAX_LINE_BYTES: usize = 8 << 10;
/// Most bytes of one write.
const WRITE_BYTES: usize = 64 << 10;

/// Writer of records.
#[derive(Debug, Clone)]
pub struct RecordWriter {
    /// Tenant that it belongs to; none while the host only asks the component for its tools.
    pub tenant: Option<TenantId>,
    /// The component.
    pub component: Arc<str>,
    /// The called tool; empty without a call.
    pub tool: Arc<str>,
}

/// One of the two streams. Clones write to the same line.
#[derive(Clone)]
pub struct LogStream(Arc<Mutex<OutputLine>>);

impl std::fmt::Debug for LogStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogStream").finish_non_exhaustive()
    }
}

impl LogStream {
    /// A stream whose lines become records of `level`.
    pub fn new(writer: RecordWriter, level: LogLevel, control: Arc<Control>, observer: Observer) -> Self {
        Self(Arc::new(Mutex::new(OutputLine { writer, level, control, observer, bytes: Vec::new() })))
    }

    /// Ends the line, and writes from now on for another call.
    pub fn write_for(&self, writer: RecordWriter, control: Arc<Control>, observer: Observer) {
        let mut line = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        line.flush();
        *line = OutputLine { writer, level: line.level, control, observer, bytes: Vec::new() };
    }

    fn take(&self, bytes: &[u8]) -> wasmtime::Result<()> {
        let mut line = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        line.control.charge_log(bytes.len())?;
        line.push(bytes);
        Ok(())
    }
}

/// The current line. The host writes out an unfinished last line when the call ends.
struct OutputLine {
    writer: RecordWriter,
    level: LogLevel,
    control: Arc<Control>,
    observer: Observer,
    bytes: Vec<u8>,
}

impl OutputLine {
    fn push(&mut self, bytes: &[u8]) {
        for chunk in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = chunk.strip_suffix(b"\n").map_or((chunk, false), |text| (text, true));
            for part in text.chunks(MAX_LINE_BYTES) {
                if self.bytes.len().saturating_add(part.len()) > MAX_LINE_BYTES {
                    self.flush();
                }
                self.bytes.extend_from_slice(part);
            }
            if ends {
                self.flush();
            }
        }
    }

    fn flush(&mut self) {
        if self.bytes.is_empty() {
            return;
        }
        let message = String::from_utf8_lossy(&std::mem::take(&mut self.bytes)).into_owned();
        record(&self.writer, self.level, self.control.redactor().text(message), &self.observer);
    }
}

impl Drop for OutputLine {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Writes one record of a guest to the host's log and to the call's observer.
pub fn record(writer: &RecordWriter, level: LogLevel, message: String, observer: &Observer) {
    telemetry::guest_record(writer.tenant.as_ref(), &writer.component, &writer.tool, level, &message);
    observer.notify(CallEvent::Log { level, component: writer.component.to_string(), message });
}

impl IsTerminal for LogStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LogStream {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for LogStream {
    async fn ready(&mut self) {}
}

impl OutputStream for LogStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.take(&bytes).map_err(StreamError::Trap)
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES)
    }
}

impl AsyncWrite for LogStream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Poll::Ready(self.take(bytes).map(|()| bytes.len()).map_err(std::io::Error::other))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
