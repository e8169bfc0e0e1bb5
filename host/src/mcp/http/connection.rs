//! Connections: how they come in, take turns, and end.
//!
//! The door accepts up to a rate that leaves time for those who are in: beyond the bounds of the [`ConnectionRoom`] a connection gets a short answer and is closed. One request at a time is taken from a
//! connection, and a connection whose next request was there before its last answer gives way to the others first.

use std::{
    convert::Infallible,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    body::{Body, Bytes, HttpBody},
    http::{HeaderValue, header},
    response::Response,
};
use futures::future::BoxFuture;
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    PROBES, Routes, linger,
    pace::RequestRate,
    refusals::no_connection,
    room::{BusyConnection, ConnectionKind, ConnectionRoom, NoConnection, OpenConnection},
    wire::{BusyPoll, LastAsked, TimedStream},
};
use crate::{
    config::ServerConfig,
    control::admission::Share,
    mcp::{
        lane::{LARGE_MESSAGE_BYTES, LaneSwitch, LaneTimer, Lanes},
        streams::{OpenStream, OpenStreams},
    },
    tenant::{Principal, rates::ByteRate},
};

/// The most that a connection buffers of a head, of what it reads and of what it writes.
const BUFFER_BYTES: usize = 64 << 10;
/// Time that a connection in the reserve has in all.
const RESERVE_TIME: Duration = Duration::from_secs(2);
/// Time for the last answer of a connection that has to leave.
const LEAVE_TIME: Duration = Duration::from_secs(2);
/// Files besides connections: the reserve, stores, outbound connections, folders that are watched.
const OTHER_FILES: u64 = 1_024;
/// Connections that are accepted before others are served.
const ACCEPTED_AT_ONCE: usize = 8;

/// How a door's connections are served.
#[derive(Debug, Clone)]
pub(super) struct Connections {
    config: ServerConfig,
    routes: Routes,
    room: Arc<ConnectionRoom>,
    strangers: Arc<RequestRate>,
    accepted: Arc<RequestRate>,
    /// What clients send after their last answer.
    lingering: Arc<ByteRate>,
    last_asked: Arc<LastAsked>,
}

/// The future of a connection that speaks HTTP no more, until the host closes.
pub(super) type Afterlife = Box<dyn FnOnce(CancellationToken) -> BoxFuture<'static, ()> + Send>;

/// One connection, as the requests on it see it.
pub(super) struct Connection {
    open: OpenConnection,
    afterlife: Mutex<Option<Afterlife>>,
    rate: RequestRate,
    calm: RequestRate,
    strangers: Arc<RequestRate>,
    /// The note that a principal has something open here.
    note: Mutex<Option<Arc<OpenStream>>>,
    /// Where it is served.
    pub(super) lane: Arc<LaneSwitch>,
}

/// A connection is an open file: lets this process have as many of those as it may, and says if that is too few.
pub(super) fn allow_open_files(connections: usize) {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the number of open files");
    }
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let wanted = u64::try_from(connections).unwrap_or(u64::MAX).saturating_add(OTHER_FILES);
    if files < wanted {
        tracing::warn!(files, wanted, "this process may open fewer files than its connections need; see `ulimit -n`");
    }
    make_room_for_files(files.min(wanted));
}

/// Has the kernel make its table of this process's files as large as it will be. It makes each larger one while whoever opens a file waits, for tens of milliseconds if there are many threads.
fn make_room_for_files(files: u64) {
    let Ok(highest) = i32::try_from(files.saturating_sub(1)) else { return };
    let made = std::fs::File::open("/").and_then(|any| Ok(rustix::io::fcntl_dupfd_cloexec(any, highest)?));
    if let Err(error) = made {
        tracing::debug!(%error, "the table of files grows as files are opened");
    }
}

impl Connections {
    pub(super) fn new(config: ServerConfig, routes: Routes, room: Arc<ConnectionRoom>) -> Self {
        Self {
            config,
            routes,
            room,
            strangers: Arc::new(RequestRate::of_strangers()),
            accepted: Arc::new(RequestRate::of_connections()),
            lingering: linger::rate(),
            last_asked: Arc::default(),
        }
    }

    /// Accepts until `closing`.
    pub(super) async fn accept(
        self,
        listener: TcpListener,
        lanes: Arc<Lanes>,
        closing: CancellationToken,
        open: TaskTracker,
    ) {
        // The kernel tells the threads that have registered it. New connections wake the lobby's, and not the doors'.
        let listener = match listener.into_std().and_then(TcpListener::from_std) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "the HTTP door accepts no connections"),
        };
        let mut since = 0_usize;
        loop {
            let next = async {
                // The others wait in the kernel's queue.
                self.accepted.wait().await;
                listener.accept().await
            };
            let accepted = tokio::select! {
                accepted = next => accepted,
                () = closing.cancelled() => return,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: accepting again at once would only spin.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "cannot switch off Nagle's algorithm");
            }
            let lane = Arc::new(LaneSwitch::default());
            let connection = self.clone().serve(stream, peer.ip(), Arc::clone(&lane), closing.clone());
            Arc::clone(&lanes).serve(lane, open.token(), connection);
            since = since.saturating_add(1);
            if since >= ACCEPTED_AT_ONCE {
                since = 0;
                tokio::task::yield_now().await;
            }
        }
    }

    async fn serve(self, stream: TcpStream, peer: IpAddr, lane: Arc<LaneSwitch>, closing: CancellationToken) {
        let open = self.room.enter(peer);
        let activity = Arc::clone(&open.activity);
        let is_reserve = open.is_reserve;
        let (time, patience) = if is_reserve {
            (RESERVE_TIME, RESERVE_TIME)
        } else {
            (
                Duration::from_millis(self.config.stranger_timeout_ms),
                Duration::from_millis(self.config.write_timeout_ms),
            )
        };
        let header_timeout = Duration::from_millis(self.config.header_timeout_ms);
        let switch = Arc::clone(&lane);
        let connection = Arc::new(Connection {
            open,
            afterlife: Mutex::default(),
            rate: RequestRate::of_connection(),
            calm: RequestRate::of_calm(),
            strangers: Arc::clone(&self.strangers),
            note: Mutex::default(),
            lane,
        });
        let routes = Arc::new(self.routes);
        let of_requests = Arc::clone(&connection);
        let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
            let (connection, routes) = (Arc::clone(&of_requests), Arc::clone(&routes));
            async move {
                let rest = UnreadRest::of(request.body());
                let ended = Arc::clone(&rest.ended);
                let mut request = request.map(|body| Body::new(WatchedBody { body, ended }));
                connection.open.activity.arrived();
                let turn = connection.turn(request.uri().path(), routes.is_endpoint(&request)).await;
                // A request that waits for its turn is no work yet: its connection makes room where that is short.
                let busy = connection.open.begin();
                let mut response = match turn {
                    Ok(()) => {
                        request.extensions_mut().insert(connection);
                        routes.answer(request).await
                    }
                    Err(refused) => *refused,
                };
                if rest.is_long() {
                    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(response.map(|body| BusyBody { body, _busy: busy }))
            }
        });
        let busy_poll = BusyPoll::new(&self.last_asked);
        let wire = Arc::clone(&activity.wire);
        let stream = TimedStream::new(stream, patience, wire, Arc::clone(&switch), self.lingering, busy_poll);
        let serving = hyper::server::conn::http1::Builder::new()
            .timer(LaneTimer::new(switch))
            .header_read_timeout(header_timeout.min(if is_reserve { RESERVE_TIME } else { header_timeout }))
            .keep_alive(!is_reserve)
            .max_buf_size(BUFFER_BYTES)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut serving = std::pin::pin!(serving);
        let has_time = tokio::time::sleep(time);
        let timed_out = async {
            has_time.await;
            if connection.is_tenants() {
                std::future::pending::<()>().await;
            }
            metrics::counter!("mcpp_connections_cut_total", "reason" => "stranger").increment(1);
        };
        // One of its own: whoever polls the door's waits for its lock, as all other connections do.
        let ends = closing.child_token();
        let leave_time = tokio::select! {
            biased;
            ended = serving.as_mut() => {
                note(ended);
                return connection.go_on(closing).await;
            }
            () = timed_out => LEAVE_TIME,
            () = activity.leave.cancelled() => LEAVE_TIME,
            () = ends.cancelled() => Duration::MAX,
        };
        // A client that has said nothing yet loses nothing.
        if activity.is_unused() && leave_time < Duration::MAX {
            return;
        }
        serving.as_mut().graceful_shutdown();
        tokio::select! {
            ended = serving => note(ended),
            () = tokio::time::sleep(leave_time) => {}
        }
    }
}

fn note(ended: Result<(), hyper::Error>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke");
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("open", &self.open).finish_non_exhaustive()
    }
}

impl Connection {
    /// Goes on with `afterlife` when the answer that changes the protocol is written.
    pub(super) fn go_on_with(&self, afterlife: Afterlife) {
        *self.afterlife.lock().unwrap_or_else(PoisonError::into_inner) = Some(afterlife);
    }

    async fn go_on(&self, closing: CancellationToken) {
        let afterlife = self.afterlife.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(afterlife) = afterlife {
            afterlife(closing).await;
        }
    }

    /// The connection is busy until what this gives is dropped.
    pub(super) fn busy(&self) -> BusyConnection {
        self.open.begin()
    }

    fn is_tenants(&self) -> bool {
        matches!(self.open.kind(), Some(ConnectionKind::Tenant(_)))
    }

    /// Waits until it is the turn of a request for `path`; refuses what a connection in the reserve is not for.
    async fn turn(&self, path: &str, is_endpoint: bool) -> Result<(), Box<Response>> {
        if self.open.is_reserve && !PROBES.contains(&path) {
            metrics::counter!("mcpp_refused_total", "reason" => "connections").increment(1);
            return Err(Box::new(no_connection("connections of this host are used up")));
        }
        if !self.open.activity.wire.take_awaited() {
            tokio::task::yield_now().await;
        }
        // The endpoint has rates of its own, by tenant, and holds back what it refuses.
        if is_endpoint {
            return Ok(());
        }
        let due = async {
            self.rate.wait().await;
            if !self.is_tenants() && !self.calm.take() {
                self.strangers.wait().await;
            }
        };
        tokio::select! {
            () = due => Ok(()),
            () = self.open.activity.leave.cancelled() => Err(Box::new(no_connection("this connection makes room for others"))),
        }
    }

    /// Notes in `streams` that `principal` has something open. The note stays for the next request, which most often is the same principal's.
    pub(super) fn note(&self, streams: &Arc<OpenStreams>, principal: &Principal) -> Arc<OpenStream> {
        let mut note = self.note.lock().unwrap_or_else(PoisonError::into_inner);
        match &*note {
            Some(before) if before.is_open_for(principal) => Arc::clone(before),
            _ => Arc::clone(note.insert(Arc::new(streams.open(principal)))),
        }
    }

    /// Makes the connection a tenant's. `shared` says whether the host may have others.
    pub(super) fn assign(&self, share: &Share, shared: bool) -> Result<(), NoConnection> {
        // Large messages of a host's only tenant are in nobody's way.
        if shared {
            self.open.activity.wire.count_by(&share.traffic);
        }
        self.open.assign(&share.tenant, share.limits.connections, shared)
    }
}

/// The part of a request's body that nobody read before the answer. If it is long the connection is of no use after the answer, and its client must know: it would send its
/// next request to a connection that closes.
struct UnreadRest {
    is_short: bool,
    ended: Arc<AtomicBool>,
}

impl UnreadRest {
    fn of(body: &Incoming) -> Self {
        let most = body.size_hint().upper().and_then(|most| usize::try_from(most).ok());
        let is_short = most.is_some_and(|most| most <= LARGE_MESSAGE_BYTES);
        Self { is_short, ended: Arc::new(AtomicBool::new(body.is_end_stream())) }
    }

    fn is_long(&self) -> bool {
        !self.is_short && !self.ended.load(Ordering::Relaxed)
    }
}

/// A request's body that notes its end.
struct WatchedBody {
    body: Incoming,
    ended: Arc<AtomicBool>,
}

impl HttpBody for WatchedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = std::task::ready!(std::pin::Pin::new(&mut self.body).poll_frame(context));
        if frame.is_none() || self.body.is_end_stream() {
            self.ended.store(true, Ordering::Relaxed);
        }
        std::task::Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

/// A body during which its connection is busy.
struct BusyBody {
    body: Body,
    _busy: BusyConnection,
}

impl HttpBody for BusyBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        std::pin::Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}
