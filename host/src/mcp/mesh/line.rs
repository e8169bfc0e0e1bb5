//! One stream to a peer, with many requests of this host's in flight.
//!
//! A task writes the frames, another reads them and gives each answer to the request that waits for it. An answer for which nothing waits is dropped: one that came twice, or too late. When
//! the stream breaks, everything that waits is told at once.

mod heard;

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rmcp::model::{LoggingMessageNotificationParam, ProgressNotificationParam};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader, BufWriter},
    sync::{mpsc, oneshot, watch},
};
use tokio_util::sync::CancellationToken;

use self::heard::HeardInput;
use crate::{
    call::{CallEvent, MAX_EVENT_BYTES, Observer, event_dropped},
    config::MeshDoorConfig,
    engine::Engine,
    mcp::{apart::read_apart, conversation::OF_REQUEST, convert},
    memory::json_bytes,
    mesh::{
        PeerStream,
        frame::{self, Announced, FrameError},
    },
};

/// Frames that wait to be written. A request whose frame finds no place waits, within its deadline.
const MAX_UNWRITTEN: usize = 64;
/// A notification of more bytes is dropped. The longest text that a client is shown has 64 KiB, and up to six bytes of JSON for each.
const MAX_NOTIFICATION_BYTES: usize = 6 * MAX_EVENT_BYTES + (4 << 10);
/// A line that nobody used for so long is closed by this host, before the peer closes it under a request.
const IDLE: Duration = Duration::from_secs(30);

/// A stream that is open. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct PeerLine(Arc<LineState>);

#[derive(Debug)]
struct LineState {
    frames: mpsc::Sender<Vec<u8>>,
    waiting: Mutex<HashMap<u64, WaitingRequest>>,
    next: AtomicU64,
    closed: CancellationToken,
    /// Why the peer closed it, in its words.
    reason: OnceLock<String>,
    /// Counts changes of the peer's list of tools.
    changes: watch::Sender<u64>,
    /// On whose threads long messages are read.
    engine: Engine,
}

#[derive(Debug)]
struct WaitingRequest {
    answer: oneshot::Sender<PeerAnswer>,
    observer: Observer,
}

/// A request that waits for its answer; forgotten when it is dropped.
#[derive(Debug)]
pub(super) struct InLine {
    line: PeerLine,
    id: u64,
    answer: oneshot::Receiver<PeerAnswer>,
}

/// The message that answers a request.
#[derive(Debug)]
pub(super) struct PeerAnswer {
    pub(super) json: Vec<u8>,
    /// The memory that it takes as values; they take more than the text.
    pub(super) value_bytes: u64,
}

/// The line broke before the answer came.
#[derive(Debug)]
pub(super) struct Broken(pub(super) String);

impl PeerLine {
    /// Speaks on a stream. `heard` counts what comes, also parts of a message. Long messages are read on the threads of `engine`.
    pub(super) fn open(stream: PeerStream, config: &MeshDoorConfig, engine: &Engine, heard: Arc<AtomicU64>) -> Self {
        let (frames, unwritten) = mpsc::channel(MAX_UNWRITTEN);
        let line = Self(Arc::new(LineState {
            frames,
            waiting: Mutex::default(),
            next: AtomicU64::new(1),
            closed: CancellationToken::new(),
            reason: OnceLock::new(),
            changes: watch::Sender::new(0),
            engine: engine.clone(),
        }));
        let (input, output) = tokio::io::split(stream);
        let input = HeardInput { input, heard };
        let patience = Duration::from_millis(config.frame_timeout_ms);
        let closed = line.0.closed.clone();
        tokio::spawn(async move {
            // Whatever ends the writer ends the line.
            let _closed = closed.clone().drop_guard();
            tokio::select! {
                written = write_all(output, unwritten, patience) => {
                    if let Err(error) = written {
                        tracing::debug!(%error, "a stream to a peer cannot be written");
                    }
                }
                () = closed.cancelled() => {}
            }
        });
        let (reader, most) = (line.clone(), config.max_answer_bytes);
        tokio::spawn(async move {
            let read = tokio::select! {
                read = reader.read_all(input, most, patience) => read,
                () = reader.0.closed.cancelled() => Ok(()),
            };
            if let Err(error) = read {
                let _first_reason = reader.0.reason.set(error.to_string());
            }
            reader.0.closed.cancel();
            reader.waiting().clear();
        });
        line
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, WaitingRequest>> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nothing can be asked any more.
    pub(super) fn is_closed(&self) -> bool {
        self.0.closed.is_cancelled()
    }

    /// Resolves when nothing can be asked any more.
    pub(super) async fn closed(&self) {
        self.0.closed.cancelled().await;
    }

    /// Ends it, with everything that waits.
    pub(super) fn close(&self) {
        self.0.closed.cancel();
    }

    /// Ends it, and tells everything that waits why.
    pub(super) fn give_up(&self, reason: &str) {
        let _first_reason = self.0.reason.set(reason.to_owned());
        self.close();
    }

    /// Tells when the peer's list of tools has changed.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Takes the list for changed: an answer of the peer said so.
    pub(super) fn note_change(&self) {
        self.0.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn broken(&self) -> Broken {
        Broken(self.0.reason.get().cloned().unwrap_or_else(|| "the stream broke".to_owned()))
    }

    /// Asks something; `params` gives the parameters as JSON, by the request's id. `None` if nothing of it was sent: the line is closed.
    pub(super) async fn ask(
        &self,
        method: &str,
        params: impl FnOnce(u64) -> String,
        observer: Observer,
    ) -> Option<InLine> {
        let place = tokio::select! {
            place = self.0.frames.reserve() => place.ok()?,
            () = self.closed() => return None,
        };
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let message = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{}}}"#, params(id));
        let (told, answer) = oneshot::channel();
        self.waiting().insert(id, WaitingRequest { answer: told, observer });
        let asked = InLine { line: self.clone(), id, answer };
        // The reader clears what waits after it has closed: one of the two sees the other.
        if self.is_closed() {
            return None;
        }
        place.send(message.into_bytes());
        Some(asked)
    }

    async fn read_all(&self, input: impl AsyncRead + Unpin, most: usize, patience: Duration) -> Result<(), FrameError> {
        let mut input = BufReader::new(input);
        loop {
            let announced = {
                let mut announced = std::pin::pin!(frame::announced(&mut input, most));
                loop {
                    match tokio::time::timeout(IDLE, &mut announced).await {
                        Ok(announced) => break announced?,
                        Err(_) if self.waiting().is_empty() => return Ok(()),
                        Err(_) => {}
                    }
                }
            };
            let Announced::Bytes(bytes) = announced else { return Ok(()) };
            let mut body = Vec::new();
            let reading = frame::body(&mut input, bytes, &mut body);
            match tokio::time::timeout(patience, reading).await {
                Ok(read) => read?,
                Err(_) => return Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
            }
            let line = self.clone();
            if read_apart(&self.0.engine, bytes, move || line.take(body)).await.is_none() {
                // The host stops.
                return Ok(());
            }
        }
    }

    /// Gives a message to what waits for it.
    fn take(&self, body: Vec<u8>) {
        #[derive(Deserialize)]
        struct Outside<'a> {
            #[serde(borrow)]
            id: Option<&'a RawValue>,
            #[serde(borrow)]
            method: Option<Cow<'a, str>>,
            #[serde(borrow)]
            params: Option<&'a RawValue>,
            #[serde(borrow)]
            error: Option<&'a RawValue>,
        }
        let Ok(outside) = serde_json::from_slice::<Outside<'_>>(&body) else { return self.close() };
        match (outside.id, outside.method, outside.error) {
            (_, Some(method), _) => self.notified(&method, outside.params),
            (Some(id), None, _) => {
                let waiting = id.get().parse().ok().and_then(|id: u64| self.waiting().remove(&id));
                match waiting {
                    Some(waiting) => drop(waiting.answer.send(PeerAnswer::new(body))),
                    None => metrics::counter!("mcpp_mesh_answers_dropped_total").increment(1),
                }
            }
            // An error of no request says why the stream ends.
            (None, None, Some(error)) => {
                #[derive(Deserialize)]
                struct Reason<'a> {
                    #[serde(borrow)]
                    message: Cow<'a, str>,
                }
                let reason = serde_json::from_str::<Reason<'_>>(error.get()).map(|reason| reason.message);
                let _first_reason = self.0.reason.set(reason.unwrap_or_default().chars().take(400).collect());
            }
            (None, None, None) => {}
        }
    }

    fn notified(&self, method: &str, params: Option<&RawValue>) {
        let Some(params) = params.map(RawValue::get) else { return };
        if params.len() > MAX_NOTIFICATION_BYTES {
            return event_dropped("too_large");
        }
        let observer = |id: Option<u64>| id.and_then(|id| Some(self.waiting().get(&id)?.observer.clone()));
        match method {
            "notifications/tools/list_changed" => self.note_change(),
            "notifications/progress" => {
                let Ok(progress) = serde_json::from_str::<ProgressNotificationParam>(params) else { return };
                let id = serde_json::to_value(&progress.progress_token).ok().and_then(|token| token.as_u64());
                if let Some(observer) = observer(id) {
                    let ProgressNotificationParam { progress: done, total, message, .. } = progress;
                    observer.notify(CallEvent::Progress { done, total, message });
                }
            }
            "notifications/message" => {
                let of = serde_json::from_str::<Value>(params).ok();
                let of = of.as_ref().and_then(|params| params.get("_meta")?.get(OF_REQUEST)?.as_u64());
                let Ok(record) = serde_json::from_str::<LoggingMessageNotificationParam>(params) else { return };
                if let Some(observer) = observer(of) {
                    let message = match record.data {
                        Value::String(text) => text,
                        other => other.to_string(),
                    };
                    let component = record.logger.unwrap_or_default();
                    observer.notify(CallEvent::Log { level: convert::from_level(record.level), component, message });
                }
            }
            _ => {}
        }
    }
}

impl PeerAnswer {
    fn new(json: Vec<u8>) -> Self {
        let as_values = std::str::from_utf8(&json).map_or(0, json_bytes);
        let value_bytes = as_values.max(u64::try_from(json.len()).unwrap_or(u64::MAX));
        Self { json, value_bytes }
    }
}

impl InLine {
    /// The answer's message.
    pub(super) async fn answer(&mut self) -> Result<PeerAnswer, Broken> {
        (&mut self.answer).await.map_err(|_| self.line.broken())
    }

    /// Tells the peer that nobody waits any more.
    pub(super) fn cancel(&self) {
        let params = json!({ "requestId": self.id, "reason": "the caller gave up" });
        let message = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": params });
        if self.line.0.frames.try_send(message.to_string().into_bytes()).is_err() {
            // The peer would run on for nobody: without the stream it stops.
            self.line.close();
        }
    }
}

impl Drop for InLine {
    fn drop(&mut self) {
        // A request without an answer was given up by its caller, in whatever way.
        if self.line.waiting().remove(&self.id).is_some() && !self.line.is_closed() {
            self.cancel();
        }
    }
}

async fn write_all(
    output: impl AsyncWrite + Unpin,
    mut unwritten: mpsc::Receiver<Vec<u8>>,
    patience: Duration,
) -> std::io::Result<()> {
    let mut output = BufWriter::new(output);
    while let Some(first) = unwritten.recv().await {
        let writing = async {
            frame::write(&mut output, &first).await?;
            while let Ok(next) = unwritten.try_recv() {
                frame::write(&mut output, &next).await?;
            }
            output.flush().await
        };
        tokio::time::timeout(patience, writing).await.map_err(|_| std::io::ErrorKind::TimedOut)??;
    }
    output.shutdown().await
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::{engine::EngineConfig, threads::thread_time};

    #[tokio::test]
    async fn a_long_answer_is_read_on_the_guests_threads() {
        let engine = Engine::new(&EngineConfig::default()).expect("an engine");
        let (here, mut there) = tokio::io::duplex(1 << 20);
        let line = PeerLine::open(Box::new(here), &MeshDoorConfig::default(), &engine, Arc::default());
        let asked = line.ask("tools/call", |_| "{}".to_owned(), Observer::default());
        let mut asked = asked.await.expect("an open line");
        // Dear for its length: every element is looked at.
        let answer = format!(r#"{{"jsonrpc":"2.0","id":1,"result":[0{}]}}"#, ",0".repeat(4 << 20));
        let (bytes, before) = (answer.len(), thread_time());
        let written = async { frame::write(&mut there, answer.as_bytes()).await };
        let (written, heard) = tokio::join!(written, asked.answer());
        written.expect("a line");
        let heard = heard.expect("an answer");
        assert_eq!(heard.json.len(), bytes);
        assert!(heard.value_bytes > 4 * u64::try_from(bytes).expect("a size"), "{}", heard.value_bytes);
        let here = thread_time().saturating_sub(before);
        let looked_at = tokio::task::spawn_blocking(move || {
            let before = thread_time();
            drop(PeerAnswer::new(heard.json));
            thread_time().saturating_sub(before)
        });
        let looked_at = looked_at.await.expect("no panic");
        assert!(here < looked_at, "{here:?} on the door's thread; to size it alone takes {looked_at:?}");
    }
}
