//! Lines in and out: bounded on their way in, whole and one at a time on their way out.

use std::sync::Arc;

use rmcp::model::ServerJsonRpcMessage;
use serde_json::Value;
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::Mutex,
};
use tokio_util::sync::CancellationToken;

use crate::mcp::envelope;

/// Bounds of a line.
#[derive(Debug, Clone, Copy)]
pub struct LineLimits {
    /// Longest line, in bytes.
    pub max_bytes: usize,
    /// Deepest nesting.
    pub max_depth: usize,
}

/// The result of reading.
pub(super) enum Line {
    /// A line that is not empty.
    Message,
    /// A line that is too long; it was skipped.
    TooLong,
    /// The end of the input.
    End,
}

/// Reads the next line that is not empty into `line`.
pub(super) async fn read(
    from: &mut (impl AsyncBufRead + Unpin),
    max_bytes: usize,
    line: &mut Vec<u8>,
) -> std::io::Result<Line> {
    let most = u64::try_from(max_bytes).unwrap_or(u64::MAX);
    loop {
        line.clear();
        let read = (&mut *from).take(most).read_until(b'\n', line).await?;
        if read == 0 {
            return Ok(Line::End);
        }
        if !line.ends_with(b"\n") && read >= max_bytes {
            skip_line(from).await?;
            return Ok(Line::TooLong);
        }
        if !envelope::without_mark(line).trim_ascii().is_empty() {
            return Ok(Line::Message);
        }
    }
}

async fn skip_line(from: &mut (impl AsyncBufRead + Unpin)) -> std::io::Result<()> {
    loop {
        let (found, bytes) = {
            let buffer = from.fill_buf().await?;
            match buffer.iter().position(|byte| *byte == b'\n') {
                Some(end) => (true, end.saturating_add(1)),
                None => (buffer.is_empty(), buffer.len()),
            }
        };
        from.consume(bytes);
        if found {
            return Ok(());
        }
    }
}

/// The client's end of the output. Clones write to the same.
#[derive(Clone)]
pub(super) struct LineOutput {
    to: Arc<Mutex<dyn AsyncWrite + Unpin + Send>>,
    broken: CancellationToken,
}

impl LineOutput {
    pub(super) fn new(to: impl AsyncWrite + Unpin + Send + 'static) -> Self {
        Self { to: Arc::new(Mutex::new(to)), broken: CancellationToken::new() }
    }

    /// Returns when the client does not take anything any more.
    pub(super) async fn broken(&self) {
        self.broken.cancelled().await;
    }

    /// Writes a message.
    pub(super) async fn send(&self, message: &ServerJsonRpcMessage) -> std::io::Result<()> {
        self.write(serde_json::to_vec(message)?).await
    }

    /// Writes a JSON-RPC error.
    pub(super) async fn refuse(&self, id: Option<&Value>, code: i64, reason: &str) {
        let written = self.write(envelope::error(id, code, reason).to_string().into_bytes()).await;
        if let Err(error) = written {
            tracing::debug!(%error, "an error could not be told to the client");
        }
    }

    /// Writes a message that is JSON already.
    pub(super) async fn write(&self, mut line: Vec<u8>) -> std::io::Result<()> {
        line.push(b'\n');
        let mut to = self.to.lock().await;
        let written = async {
            to.write_all(&line).await?;
            to.flush().await
        };
        // A line that was written in part would spoil all after it.
        let undone = self.broken.clone().drop_guard();
        let written = written.await;
        if written.is_ok() {
            undone.disarm();
        }
        written
    }
}
