//! One connection to one checked address: counted bytes, TLS where the scheme asks for it, and the body that comes back over it.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Sleep,
};
use tokio_util::sync::CancellationToken;
use wasmtime_wasi_http::{Error, WasiBody};

use super::outbound::Outbound;
use crate::{
    control::Control,
    grants::http::{Scheme, UrlOrigin},
};

/// Bytes that are read before others are served. What reads them may pass over heads without end, a few bytes each, in one go.
const READ_AT_ONCE: usize = 32 << 10;
/// Interim answers (1xx) that an upstream may send before its answer to a request.
const MAX_INTERIM: u32 = 16;
/// Addresses of one name that are tried, one after the other.
const MAX_TRIES: usize = 4;

/// A stream to an upstream.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Connects to the first of `addresses` that answers. The caller has checked them; this function looks nothing up.
pub(super) async fn connect(
    outbound: &Outbound,
    origin: &UrlOrigin,
    addresses: &[SocketAddr],
    control: &Arc<Control>,
) -> Result<Box<dyn Stream>, Error> {
    let mut failed = Error::DestinationUnavailable;
    for address in addresses.iter().take(MAX_TRIES) {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true).map_err(Error::Connect)?;
                let counted = Counted { stream, control: Arc::clone(control), since: 0 };
                return match origin.scheme {
                    Scheme::Http => Ok(Box::new(counted)),
                    Scheme::Https => secure(outbound, origin, counted).await,
                };
            }
            Err(error) => failed = Error::Connect(error),
        }
    }
    Err(failed)
}

async fn secure(outbound: &Outbound, origin: &UrlOrigin, stream: Counted) -> Result<Box<dyn Stream>, Error> {
    let connector = outbound.tls.connector().await.ok_or(Error::ConfigurationError)?;
    let name = super::tls::server_name(&origin.host).ok_or(Error::TlsCertificateError)?;
    match connector.connect(name, stream).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) => {
            let refused = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
            let untrusted = matches!(refused, Some(rustls::Error::InvalidCertificate(_)));
            tracing::info!(%origin, %error, "TLS failed");
            Err(if untrusted { Error::TlsCertificateError } else { Error::TlsProtocolError })
        }
    }
}

/// Counts the interim answers to a request; the token fires when there are too many. They are heads without end, which cost the reader more than any body.
pub(super) fn bound_interim<B>(request: &mut http::Request<B>) -> CancellationToken {
    let (too_many, seen) = (CancellationToken::new(), AtomicU32::new(0));
    let told = too_many.clone();
    hyper::ext::on_informational(request, move |_| {
        if seen.fetch_add(1, Ordering::Relaxed) >= MAX_INTERIM {
            told.cancel();
        }
    });
    too_many
}

/// A stream that counts all its bytes against the call's budget.
struct Counted {
    stream: TcpStream,
    control: Arc<Control>,
    /// Bytes that were read since others were served.
    since: usize,
}

impl Counted {
    fn charge(&self, bytes: usize) -> std::io::Result<()> {
        self.control.charge_http_bytes(bytes).map_err(std::io::Error::other)
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.since >= READ_AT_ONCE {
            self.since = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if read.is_pending() {
            self.since = 0;
        }
        std::task::ready!(read)?;
        let bytes = buffer.filled().len().saturating_sub(before);
        self.since = self.since.saturating_add(bytes);
        Poll::Ready(self.charge(bytes))
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let written = std::task::ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        Poll::Ready(self.charge(written).map(|()| written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let written = std::task::ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, slices))?;
        Poll::Ready(self.charge(written).map(|()| written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// An answer's body: the guest pulls it, and the wait between two pieces is bounded.
pub(super) struct AnswerBody {
    incoming: Incoming,
    patience: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    control: Arc<Control>,
}

impl AnswerBody {
    pub(super) fn boxed(incoming: Incoming, patience: Duration, control: Arc<Control>) -> WasiBody {
        Self { incoming, patience, timer: None, control }.boxed_unsync()
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        match Pin::new(&mut this.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.timer = None;
                let frame = match frame.into_trailers() {
                    Ok(trailers) => Frame::trailers(super::exchange::redacted(trailers, &this.control)),
                    Err(frame) => frame,
                };
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(explain(&error)))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                let patience = this.patience;
                let timer = this.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
                timer.as_mut().poll(cx).map(|()| Some(Err(Error::ConnectionReadTimeout)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// Turns a failed exchange into the error for the guest.
pub(super) fn explain(error: &hyper::Error) -> Error {
    if error.is_parse_too_large() {
        Error::HttpResponseHeaderSectionSize(None)
    } else if error.is_incomplete_message() {
        Error::HttpResponseIncomplete
    } else if error.is_timeout() {
        Error::HttpResponseTimeout
    } else if error.is_parse() {
        Error::HttpProtocolError
    } else {
        Error::ConnectionTerminated
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::{io::AsyncWriteExt as _, net::TcpListener, sync::Semaphore, time::Instant};

    use super::*;
    use crate::{
        control::admission::{Admission, Share},
        engine::EngineConfig,
        limits::{Limits, TenantLimits},
    };

    async fn control() -> Arc<Control> {
        let (admission, cancel) = (Admission::new(&EngineConfig::default()), CancellationToken::new());
        let until = Instant::now() + Duration::from_secs(60);
        let (share, tool) = (Share::alone(TenantLimits::default()), Arc::new(Semaphore::new(1)));
        let slot = admission.admit(&share, &tool, 1, until, &cancel).await.expect("a place");
        Control::new(Limits::default(), until, cancel, slot)
    }

    #[tokio::test]
    async fn others_are_served_in_between_however_much_is_there_to_read() {
        const PIECE: usize = 4 << 10;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let sending = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let _until_the_other_side_goes = stream.write_all(&vec![b'x'; 1 << 20]).await;
        });
        let stream = TcpStream::connect(address).await.expect("connected");
        let mut counted = Counted { stream, control: control().await, since: 0 };
        let (mut all, mut most) = (0, 0);
        while all < 1 << 20 {
            let mut at_once = 0;
            // As the reader of heads does: on and on, until there is nothing.
            let ended = poll_fn(|context| {
                let mut piece = [0; PIECE];
                loop {
                    let mut buffer = ReadBuf::new(&mut piece);
                    match Pin::new(&mut counted).poll_read(context, &mut buffer) {
                        Poll::Ready(read) if read.is_ok() && !buffer.filled().is_empty() => {
                            at_once += buffer.filled().len()
                        }
                        Poll::Ready(_) => return Poll::Ready(true),
                        Poll::Pending => return Poll::Ready(false),
                    }
                }
            });
            let ended = ended.await;
            (all, most) = (all + at_once, most.max(at_once));
            if ended {
                break;
            }
            tokio::task::yield_now().await;
        }
        assert_eq!(all, 1 << 20);
        assert!(most < READ_AT_ONCE + PIECE, "{most}");
        sending.abort();
    }
}
