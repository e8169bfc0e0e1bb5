//! The stdio door: one client, one message a line, nothing but MCP on standard output.
//!
//! Each line is checked and answered by itself ([`super::conversation`]). A line that cannot be read gets an error with its id, and the next line is read.

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, BufReader};
use tokio_util::sync::CancellationToken;

use super::{
    conversation::{BindingRule, Conversation, Framing, MessageOutput},
    envelope,
    handler::Endpoint,
};
use crate::{tasks::EntryRight, tenant::Principal};

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
    let output = MessageOutput::new(output, Framing::Lines, None);
    let mut client = Conversation::new(
        endpoint.clone(),
        (principal, EntryRight::Owner),
        BindingRule::Ordinary,
        limits.max_depth,
        output.clone(),
    );
    let result = tokio::select! {
        result = read_all(&mut client, BufReader::new(input), limits, &output) => result,
        () = stop.cancelled() => Ok(()),
        // No client is left to answer.
        () = output.broken() => Ok(()),
    };
    client.leave(&stop).await;
    result
}

async fn read_all(
    client: &mut Conversation,
    mut input: impl AsyncBufRead + Unpin,
    limits: LineLimits,
    output: &MessageOutput,
) -> std::io::Result<()> {
    let mut line = Vec::new();
    loop {
        match read(&mut input, limits.max_bytes, &mut line).await? {
            Line::End => return Ok(()),
            Line::TooLong => {
                let reason = format!("the line has more than {} bytes", limits.max_bytes);
                output.refuse(None, envelope::INVALID_REQUEST, &reason).await;
            }
            Line::Message => {
                if let Err(malformed) = client.accept(envelope::without_mark(&line), &mut ()).await {
                    output.refuse(malformed.id.as_ref(), malformed.code, &malformed.reason).await;
                }
            }
        }
    }
}

/// The result of reading.
enum Line {
    /// A line that is not empty.
    Message,
    /// A line that is too long; it was skipped.
    TooLong,
    /// The end of the input.
    End,
}

/// Reads the next line that is not empty into `line`.
async fn read(from: &mut (impl AsyncBufRead + Unpin), max_bytes: usize, line: &mut Vec<u8>) -> std::io::Result<Line> {
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
