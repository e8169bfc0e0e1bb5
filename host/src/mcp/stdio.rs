//! The stdio door: one client, one message a line, nothing but MCP on standard output.
//!
//! Lines pass a check on their way in: one that is malformed or too long is answered here, with the JSON-RPC error that says so, and the protocol engine never sees it.

use std::sync::Arc;

use rmcp::service::serve_server;
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader},
    sync::Mutex,
};
use tokio_util::sync::CancellationToken;

use super::{envelope, handler::Endpoint};
use crate::tenant::Principal;

/// Bytes between the lines' check and the engine.
const PIPE_BYTES: usize = 64 << 10;

/// Bounds of a line.
#[derive(Debug, Clone, Copy)]
pub struct LineLimits {
    /// Longest line, in bytes.
    pub max_bytes: usize,
    /// Deepest nesting.
    pub max_depth: usize,
}

/// Serves the client at `input` and `output` as `principal` until it closes its end or `stop` fires.
pub async fn serve(
    endpoint: &Endpoint,
    principal: Principal,
    limits: LineLimits,
    input: impl AsyncRead + Unpin + Send + 'static,
    output: impl AsyncWrite + Unpin + Send + 'static,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let output = Arc::new(Mutex::new(output));
    let (near, far) = tokio::io::duplex(PIPE_BYTES);
    let (from_engine, to_engine) = tokio::io::split(near);
    let replies = tokio::spawn(copy_lines(from_engine, Arc::clone(&output)));
    let requests = tokio::spawn(check_lines(input, to_engine, output, limits));
    let service = async {
        match serve_server(endpoint.handler(principal, None), tokio::io::split(far)).await {
            Ok(running) => running.waiting().await.map(drop).map_err(std::io::Error::other),
            // A client that leaves before it says hello is no error.
            Err(error) => {
                tracing::debug!(%error, "the client did not open a session");
                Ok(())
            }
        }
    };
    let result = tokio::select! {
        result = service => result,
        () = stop.cancelled() => Ok(()),
    };
    requests.abort();
    let _last_replies_are_out = replies.await;
    result
}

async fn copy_lines(from: impl AsyncRead + Unpin, to: Arc<Mutex<impl AsyncWrite + Unpin>>) -> std::io::Result<()> {
    let mut lines = BufReader::new(from);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).await? > 0 {
        write_line(&to, &line).await?;
        line.clear();
    }
    Ok(())
}

async fn write_line(to: &Mutex<impl AsyncWrite + Unpin>, line: &[u8]) -> std::io::Result<()> {
    let mut to = to.lock().await;
    to.write_all(line).await?;
    to.flush().await
}

async fn check_lines(
    from: impl AsyncRead + Unpin,
    mut engine: impl AsyncWrite + Unpin,
    output: Arc<Mutex<impl AsyncWrite + Unpin>>,
    limits: LineLimits,
) -> std::io::Result<()> {
    let mut from = BufReader::new(from);
    let most = u64::try_from(limits.max_bytes).unwrap_or(u64::MAX);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut from).take(most).read_until(b'\n', &mut line).await?;
        if read == 0 {
            return engine.shutdown().await;
        }
        let refusal = if !line.ends_with(b"\n") && read >= limits.max_bytes {
            skip_line(&mut from).await?;
            Some(envelope::error(
                None,
                envelope::INVALID_REQUEST,
                &format!("the line has more than {} bytes", limits.max_bytes),
            ))
        } else if line.trim_ascii().is_empty() {
            continue;
        } else {
            let malformed = envelope::read(&line, limits.max_depth).err();
            malformed.map(|malformed| envelope::error(malformed.id.as_ref(), malformed.code, &malformed.reason))
        };
        match refusal {
            Some(refusal) => write_line(&output, format!("{refusal}\n").as_bytes()).await?,
            None => {
                if !line.ends_with(b"\n") {
                    line.push(b'\n');
                }
                engine.write_all(&line).await?;
            }
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
