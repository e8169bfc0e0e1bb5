//! WebSocket: one MCP message a text message, both eras, at the endpoint's own path.
//!
//! A connection that asks for it passes the checks of every request first, and counts as one of its tenant's streams. From then on it is a conversation as on standard input:
//! each message is checked and answered by itself, and requests of the modern era need no session. When the client leaves, what it asked for is stopped.

mod wire;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::Response,
};
use futures::StreamExt as _;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::{
    io::AsyncWriteExt as _,
    sync::Semaphore,
    time::{Instant, MissedTickBehavior},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message, handshake,
        protocol::{Role, WebSocketConfig, frame::coding::CloseCode},
    },
};
use tokio_util::sync::CancellationToken;

use self::wire::{Closing, CountedStream, Unparsed, messages_out};
use super::{
    App, Connection,
    body::LEAST_BYTES,
    refusals::{TRANSPORT_ERROR, failure, no_memory, no_stream},
    room::BusyConnection,
};
use crate::{
    call::CallError,
    control::admission::Share,
    mcp::{
        conversation::{Admit, BindingRule, Conversation, Framing, MessageOutput},
        envelope::{self, reading_takes},
        in_flight::Held,
        lane::{LARGE_MESSAGE_BYTES, Lane},
        streams::OpenStream,
    },
    memory::{Account, MemoryUse},
    tasks::EntryRight,
    tenant::{Principal, door::StreamPermit},
};

/// The subprotocol of MCP's clients. The host chooses it where it is offered.
const SUBPROTOCOL: &str = "mcp";
/// Requests of one connection that are answered at the same time.
const MAX_IN_FLIGHT: usize = 64;
/// A client that asks for more may try again after this.
const TRY_AGAIN: Duration = Duration::from_millis(50);
/// The host asks a silent client whether it is there.
const PING_EVERY: Duration = Duration::from_secs(30);
/// A client that has sent nothing for so long, not even an answer to a ping, is gone.
const SILENCE: Duration = Duration::from_secs(90);
/// Time for the client to say that it is gone too.
const CLOSE_TIME: Duration = Duration::from_secs(1);
/// The buffer for small messages of one connection.
const READ_BUFFER_BYTES: usize = 8 << 10;

/// Whether a request asks for a WebSocket.
pub(super) fn is_asked(request: &Request) -> bool {
    let asks = |value: &HeaderValue| value.to_str().is_ok_and(|value| value.eq_ignore_ascii_case("websocket"));
    *request.method() == Method::GET && request.headers().get(header::UPGRADE).is_some_and(asks)
}

/// Makes the connection of `request` a WebSocket of `principal`.
pub(super) fn open(
    app: &Arc<App>,
    principal: Principal,
    share: &Arc<Share>,
    connection: &Arc<Connection>,
    mut request: Request,
) -> Response {
    let upgrade = hyper::upgrade::on(&mut request);
    let mut accepted = match handshake::server::create_response_with_body(&request, Body::empty) {
        Ok(accepted) => accepted,
        Err(error) => {
            let reason = format!("the request asks for a WebSocket in a way that is not valid: {error}");
            let mut refused = failure(StatusCode::BAD_REQUEST, None, TRANSPORT_ERROR, &reason);
            refused.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            return refused;
        }
    };
    if let Err(full) = share.memory.reserve(MemoryUse::Messages, LEAST_BYTES) {
        return no_memory(None, &full);
    }
    let Some(stream) = share.door.stream(share.limits.streams) else { return no_stream(None, share) };
    if offers(request.headers(), SUBPROTOCOL) {
        accepted.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    }
    let talk = Talk {
        app: Arc::clone(app),
        open: app.open.open(&principal),
        share: Arc::clone(share),
        connection: Arc::downgrade(connection),
        principal,
        _busy: connection.busy(),
        _stream: stream,
    };
    connection.go_on_with(Box::new(move |closing| Box::pin(talk.hold(upgrade, closing))));
    accepted
}

/// Whether the client offers a subprotocol.
fn offers(headers: &HeaderMap, name: &str) -> bool {
    let offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    offered.flat_map(|value| value.split(',')).any(|offer| offer.trim() == name)
}

/// One WebSocket and whose it is.
struct Talk {
    app: Arc<App>,
    principal: Principal,
    share: Arc<Share>,
    connection: std::sync::Weak<Connection>,
    open: OpenStream,
    _busy: BusyConnection,
    _stream: StreamPermit,
}

impl Talk {
    /// Talks with the client until one of both leaves, or `closing`.
    async fn hold(self, upgrade: OnUpgrade, closing: CancellationToken) {
        let Ok(upgraded) = upgrade.await else { return };
        let config = &self.app.config;
        let limits = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .max_message_size(Some(config.max_body_bytes))
            .max_frame_size(Some(config.max_body_bytes));
        let unparsed = Unparsed::new(&self.share.memory);
        let stream = CountedStream::new(TokioIo::new(upgraded), Arc::clone(&unparsed));
        let mut last = stream.clone();
        let socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(limits)).await;
        let (outgoing, mut incoming) = socket.split();
        let (writer, signals) = messages_out(outgoing);
        let output = MessageOutput::new(writer, Framing::Messages, None);
        let rate = self.app.authenticator.is_on().then(|| Arc::clone(&self.share.traffic));
        let output = output.of(Arc::clone(&self.share), self.app.results.clone(), rate);
        let (rule, depth) = (BindingRule::Ordinary, config.max_body_depth);
        let mut client = Conversation::new(
            self.app.endpoint.clone(),
            (self.principal.clone(), EntryRight::Token),
            rule,
            depth,
            output.clone(),
        );
        let in_flight = Arc::new(Semaphore::new(MAX_IN_FLIGHT));
        let mut tick = tokio::time::interval_at(Instant::now() + PING_EVERY, PING_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        // Bytes of large messages that were read and are not counted yet.
        let uncounted = AtomicUsize::new(0);
        let end = loop {
            let next = async {
                self.share.traffic.settle(&uncounted).await;
                incoming.next().await
            };
            let message = tokio::select! {
                message = next => message,
                () = self.open.ended() => break Closing::new(CloseCode::Policy, "the right to call was taken away"),
                () = closing.cancelled() => break Closing::new(CloseCode::Away, "the host stops"),
                () = output.broken() => return client.leave(&stopped()).await,
                _ = tick.tick() => {
                    if uncounted.load(Ordering::Relaxed) == 0 && heard.elapsed() >= SILENCE {
                        break Closing::new(CloseCode::Away, "the client has been silent for too long");
                    }
                    signals.ping();
                    // Behind an answer that the client does not read, the answer's own time counts.
                    let _or_later = tokio::time::timeout(CLOSE_TIME, output.flush()).await;
                    continue;
                }
            };
            heard = Instant::now();
            match message {
                Some(Ok(Message::Text(text))) => {
                    if text.len() > LARGE_MESSAGE_BYTES && self.app.authenticator.is_on() {
                        uncounted.store(text.len(), Ordering::Relaxed);
                    }
                    self.take(text.as_bytes(), &unparsed, &mut client, &in_flight, &output).await;
                }
                Some(Ok(Message::Ping(payload) | Message::Pong(payload))) => unparsed.control(payload.len()),
                Some(Ok(Message::Binary(_))) => break Closing::new(CloseCode::Unsupported, "MCP messages are text"),
                Some(Ok(Message::Frame(_))) => {}
                Some(Ok(Message::Close(_))) | None => return client.leave(&stopped()).await,
                Some(Err(error)) => match refusal(&error, config.max_body_bytes) {
                    Some(end) => break end,
                    None => return client.leave(&stopped()).await,
                },
            }
        };
        // What is asked is still answered where the host only stops asking.
        let stop = if end.lets_answers_out() { CancellationToken::new() } else { stopped() };
        client.leave(&stop).await;
        signals.close(end);
        output.close().await;
        let last_words = async { while incoming.next().await.is_some_and(|message| message.is_ok()) {} };
        let _or_it_is_cut = tokio::time::timeout(CLOSE_TIME, last_words).await;
        // A client that still sends would not learn why: what it sends is thrown away for a moment.
        let _or_it_is_gone = last.shutdown().await;
    }

    /// Takes one message: in the lane of its size, and in its tenant's turn.
    async fn take(
        &self,
        text: &[u8],
        unparsed: &Unparsed,
        client: &mut Conversation,
        in_flight: &Arc<Semaphore>,
        output: &MessageOutput,
    ) {
        if let Some(connection) = self.connection.upgrade() {
            let lane = if text.len() > LARGE_MESSAGE_BYTES { Lane::Bulk } else { Lane::Door };
            connection.lane.change_to(lane).await;
        }
        let shared = self.app.endpoint.registry().admission().note(&self.principal.tenant);
        let place = self.share.door.enter(shared).await;
        let takes = reading_takes(&[text]).saturating_add(LEAST_BYTES);
        let mut door = MessageAdmission { in_flight, account: &self.share.memory, takes };
        let malformed = client.accept(envelope::without_mark(text), &mut door).await.err();
        unparsed.parsed();
        place.leave();
        if let Some(malformed) = malformed {
            self.share.door.refusals.hold_back().await;
            output.refuse(malformed.id.as_ref(), malformed.code, &malformed.reason).await;
        }
        // Those of other connections come between.
        tokio::task::yield_now().await;
    }
}

fn stopped() -> CancellationToken {
    let stop = CancellationToken::new();
    stop.cancel();
    stop
}

/// The answer to what cannot be read; none if nobody is there to hear it.
fn refusal(error: &Error, max_bytes: usize) -> Option<Closing> {
    match error {
        Error::Capacity(_) => {
            Some(Closing::new(CloseCode::Size, &format!("the message has more than {max_bytes} bytes")))
        }
        Error::Utf8(_) => Some(Closing::new(CloseCode::Invalid, "the text is not UTF-8")),
        Error::Protocol(error) => Some(Closing::new(CloseCode::Protocol, &error.to_string())),
        Error::Io(error) if error.kind() == std::io::ErrorKind::OutOfMemory => {
            Some(Closing::new(CloseCode::Again, "bytes of this tenant's messages are used up"))
        }
        _ => None,
    }
}

/// Lets the requests of one connection in.
struct MessageAdmission<'a> {
    in_flight: &'a Arc<Semaphore>,
    account: &'a Arc<Account>,
    /// The memory that reading the message takes.
    takes: u64,
}

impl Admit for MessageAdmission<'_> {
    fn admit(&mut self) -> Result<Held, CallError> {
        let busy = |what, limit| CallError::Busy { what, limit, retry_after: TRY_AGAIN };
        let in_flight = Arc::clone(self.in_flight).try_acquire_owned();
        let in_flight = in_flight.map_err(|_| busy("requests of this connection are in flight", MAX_IN_FLIGHT))?;
        let takes = usize::try_from(self.takes).unwrap_or(usize::MAX);
        let memory = self.account.reserve(MemoryUse::Messages, self.takes);
        let memory = memory.map_err(|_| busy("bytes of this tenant's messages are there", takes))?;
        Ok(Held::of((in_flight, memory)))
    }
}
