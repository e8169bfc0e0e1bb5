//! Messages out: whole, one at a time, as lines or as frames.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use rmcp::model::{JsonRpcMessage, RequestId, ServerJsonRpcMessage, ServerResult};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt as _},
    sync::Mutex,
};
use tokio_util::sync::CancellationToken;

use crate::{
    control::admission::Share,
    mcp::{
        binding, envelope,
        in_flight::Held,
        written::{ResultWriter, WrittenResults},
    },
    memory::MemoryUse,
    mesh::frame,
    tenant::rates::{ByteRate, PART_BYTES},
};

/// By this in `_meta` a notification says which request it belongs to, where many requests share a stream.
pub(in crate::mcp) const OF_REQUEST: &str = "mcpp/request";

/// Time to say that nothing more comes.
const CLOSE_TIME: Duration = Duration::from_secs(1);

/// The form of messages on a connection.
#[derive(Debug, Clone)]
pub(in crate::mcp) enum Framing {
    /// One message a line.
    Lines,
    /// Each message after its length, and with what a peer of the mesh wants to know in the host's greetings.
    Frames(Arc<Value>),
    /// Each message by one flush, and in as many parts as there are writes.
    Messages,
}

/// The client's end of the output. Clones write to the same.
#[derive(Clone)]
pub(in crate::mcp) struct MessageOutput {
    to: Arc<Mutex<dyn AsyncWrite + Unpin + Send>>,
    framing: Framing,
    /// Time for the client to take one message.
    patience: Option<Duration>,
    /// Whose messages wait to be written, and where the large ones are written.
    aside: Option<Arc<Aside>>,
    broken: CancellationToken,
}

struct Aside {
    share: Arc<Share>,
    results: WrittenResults,
    /// The rate of its large messages, where it has one.
    rate: Option<Arc<ByteRate>>,
}

impl MessageOutput {
    pub(in crate::mcp) fn new(
        to: impl AsyncWrite + Unpin + Send + 'static,
        framing: Framing,
        patience: Option<Duration>,
    ) -> Self {
        Self { to: Arc::new(Mutex::new(to)), framing, patience, aside: None, broken: CancellationToken::new() }
    }

    /// The same output, whose messages take memory of a tenant until they are written, and are written by `results` where they are large. Where there is no memory the output breaks.
    /// They move at `rate`, if there is one.
    pub(in crate::mcp) fn of(self, share: Arc<Share>, results: WrittenResults, rate: Option<Arc<ByteRate>>) -> Self {
        Self { aside: Some(Arc::new(Aside { share, results, rate })), ..self }
    }

    /// Writes the large results of a request aside, where this output can put them in their place.
    pub(super) fn result_writer(&self) -> Option<ResultWriter> {
        self.aside.as_ref().map(|aside| aside.results.message_writer())
    }

    /// Writes what the connection has to say by itself.
    pub(in crate::mcp) async fn flush(&self) {
        if self.to.lock().await.flush().await.is_err() {
            self.broken.cancel();
        }
    }

    /// Returns when the client does not take anything any more.
    pub(in crate::mcp) async fn broken(&self) {
        self.broken.cancelled().await;
    }

    /// Says that nothing more comes.
    pub(in crate::mcp) async fn close(&self) {
        let closing = async { self.to.lock().await.shutdown().await };
        let _the_client_may_be_gone = tokio::time::timeout(CLOSE_TIME, closing).await;
    }

    /// Writes a message; on a stream of frames a notification says to which request it belongs. An answer gives back what its request `held` when its turn comes.
    pub(super) async fn send(
        &self,
        message: ServerJsonRpcMessage,
        of: Option<&RequestId>,
        held: Held,
    ) -> std::io::Result<()> {
        let message = match self.aside.as_deref() {
            None => message,
            Some(Aside { share, results, .. }) => match results.pieces_of(message, share).await {
                Ok(Err(small)) => small,
                Ok(Ok(pieces)) => return self.put(pieces, held).await,
                Err(error) => {
                    // The client would wait for ever.
                    self.broken.cancel();
                    return Err(error);
                }
            },
        };
        let written = self.written(&message, of)?;
        // Its values are not kept while it waits for the client.
        drop(message);
        self.write(written, held).await
    }

    /// A message as JSON.
    fn written(&self, message: &ServerJsonRpcMessage, of: Option<&RequestId>) -> serde_json::Result<Vec<u8>> {
        let Framing::Frames(limits) = &self.framing else { return serde_json::to_vec(message) };
        let (greets, notifies) = match message {
            JsonRpcMessage::Response(response) => match &response.result {
                ServerResult::InitializeResult(_) => (Some(binding::LEGACY), false),
                ServerResult::DiscoverResult(_) => (Some(binding::CURRENT), false),
                _ => (None, false),
            },
            JsonRpcMessage::Notification(_) => (None, true),
            _ => (None, false),
        };
        match (greets, of) {
            (Some(active), _) => {
                let mut message = serde_json::to_value(message)?;
                if let Some(result) = message.get_mut("result") {
                    binding::greet(result, active, limits);
                }
                serde_json::to_vec(&message)
            }
            (None, Some(id)) if notifies => {
                let mut message = serde_json::to_value(message)?;
                if let Some(params) = message.get_mut("params").and_then(Value::as_object_mut) {
                    let meta = params.entry("_meta").or_insert_with(|| json!({}));
                    if let Some(meta) = meta.as_object_mut() {
                        meta.insert(OF_REQUEST.to_owned(), id.clone().into_json_value());
                    }
                }
                serde_json::to_vec(&message)
            }
            _ => serde_json::to_vec(message),
        }
    }

    /// Writes a JSON-RPC error.
    pub(in crate::mcp) async fn refuse(&self, id: Option<&Value>, code: i64, reason: &str) {
        self.tell(&envelope::error(id, code, reason)).await;
    }

    /// Writes a message of the door's own.
    pub(in crate::mcp) async fn tell(&self, message: &Value) {
        if let Err(error) = self.write(message.to_string().into_bytes(), Held::nothing()).await {
            tracing::debug!(%error, "an error could not be told to the client");
        }
    }

    /// Writes a message that is JSON already. `held` is given back when its turn comes: not later, since the client may ask again as soon as it has read the answer, and not earlier,
    /// so that the answers that wait for a slow client keep their places.
    pub(in crate::mcp) async fn write(&self, mut message: Vec<u8>, held: Held) -> std::io::Result<()> {
        if message.len() > PART_BYTES {
            // It may wait long, and is charged for its bytes.
            message.shrink_to_fit();
        }
        let parts = match &self.aside {
            None => vec![message.into()],
            Some(aside) => aside.results.put_in(&aside.share.tenant, message.into()),
        };
        self.put(parts, held).await
    }

    /// Writes the parts of one message.
    async fn put(&self, parts: Vec<Bytes>, held: Held) -> std::io::Result<()> {
        // A message that was written in part would spoil all after it.
        let undone = self.broken.clone().drop_guard();
        // The pieces of a large one have their memory.
        let bytes = if let [whole] = parts.as_slice() { u64::try_from(whole.len()).unwrap_or(u64::MAX) } else { 0 };
        let reserve = |aside: &Arc<Aside>| aside.share.memory.reserve(MemoryUse::Messages, bytes);
        let reserved = self.aside.as_ref().map(reserve).transpose();
        let _until_it_is_written =
            reserved.map_err(|full| std::io::Error::new(std::io::ErrorKind::OutOfMemory, full.to_string()))?;
        let writing = async {
            let mut to = self.to.lock().await;
            drop(held);
            if self.broken.is_cancelled() {
                return Err(std::io::ErrorKind::BrokenPipe.into());
            }
            match &self.framing {
                Framing::Lines => write_line(&mut *to, parts).await?,
                Framing::Frames(_) => frame::write_parts(&mut *to, &parts).await?,
                Framing::Messages => {
                    for frame in parts.iter().flat_map(|part| part.chunks(PART_BYTES)) {
                        let rate = self.aside.as_ref().and_then(|aside| aside.rate.as_ref());
                        if let Some(rate) = rate.filter(|_| frame.len() == PART_BYTES) {
                            rate.wait(frame.len()).await;
                        }
                        to.write_all(frame).await?;
                    }
                }
            }
            to.flush().await
        };
        let written = match self.patience {
            None => writing.await,
            Some(patience) => match tokio::time::timeout(patience, writing).await {
                Ok(written) => written,
                Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
            },
        };
        if written.is_ok() {
            undone.disarm();
        }
        written
    }
}

/// Writes a message and the end of its line: at once, where it is one part.
async fn write_line(to: &mut (impl AsyncWrite + Unpin + ?Sized), parts: Vec<Bytes>) -> std::io::Result<()> {
    let mut parts = parts.into_iter();
    let last = parts.next_back().unwrap_or_default();
    for part in parts {
        to.write_all(&part).await?;
    }
    let mut last = Vec::from(last);
    last.push(b'\n');
    to.write_all(&last).await
}
