//! The way to the engine: a Unix socket, one connection for each request, and no more bytes of an answer than the request is worth.

use std::{
    io,
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bollard::{API_DEFAULT_VERSION, BollardRequest, Docker, errors::Error};
use http::{HeaderValue, Response, Uri, header};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
};

/// Bytes that are read ahead, and bytes of an answer's head.
const MAX_READ_AHEAD_BYTES: usize = 64 << 10;
/// Most fields of an answer's head.
const MAX_FIELDS: usize = 128;

/// A client whose answers begin within `patience` and have at most so many bytes.
pub(super) fn client(socket: &Path, patience: Duration, max_bytes: u64) -> Result<Docker, Error> {
    let socket = socket.to_owned();
    let send = move |request: BollardRequest| send(socket.clone(), max_bytes, request);
    // The name is only there to make URLs of.
    Docker::connect_with_custom_transport(send, Some("http://engine"), patience.as_secs().max(1), API_DEFAULT_VERSION)
}

async fn send(socket: PathBuf, max_bytes: u64, mut request: BollardRequest) -> Result<Response<Incoming>, Error> {
    let stream = CappedStream { stream: UnixStream::connect(&socket).await?, left: max_bytes };
    let mut builder = http1::Builder::new();
    builder.max_buf_size(MAX_READ_AHEAD_BYTES).max_headers(MAX_FIELDS);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    // It ends with the answer: nobody can send a second request.
    tokio::spawn(async move { drop(connection.with_upgrades().await) });
    if let Some(path) = request.uri().path_and_query().cloned() {
        *request.uri_mut() = Uri::from(path);
    }
    let headers = request.headers_mut();
    headers.insert(header::HOST, HeaderValue::from_static("engine"));
    headers.entry(header::CONNECTION).or_insert(HeaderValue::from_static("close"));
    Ok(sender.send_request(request).await?)
}

/// A stream of which only so many bytes can be read.
struct CappedStream {
    stream: UnixStream,
    left: u64,
}

impl AsyncRead for CappedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let read = u64::try_from(buffer.filled().len().saturating_sub(before)).unwrap_or(u64::MAX);
        match self.left.checked_sub(read) {
            Some(left) => {
                self.left = left;
                Poll::Ready(Ok(()))
            }
            None => Poll::Ready(Err(io::Error::other("the engine's answer is too large"))),
        }
    }
}

impl AsyncWrite for CappedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
