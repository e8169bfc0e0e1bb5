//! Large results, written as JSON by the host itself, away from the doors' threads, in pieces that each hold their part of the tenant's memory.
//!
//! The protocol engine would write an answer in one go on the thread of a door, and keep what a session may ask for again in no account. It gets a short text with a mark
//! instead; the door puts the pieces in the place of the mark, and each is given back when it is on the wire. A session's client may come back for an answer that it did
//! not get, so its pieces stay for a while, unless its tenant needs the memory. A text whose pieces are gone says so itself.

mod pieces;

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::body::Bytes;
use rmcp::model::{CallToolResult, ContentBlock, ServerJsonRpcMessage};
use tokio::{task::AbortHandle, time::Instant};

use self::pieces::{PIECE_BYTES, ResultRoom, is_large, message_bytes, pieces, pieces_of_json};
use super::{apart::Writers, convert};
use crate::{call::ToolResult, control::admission::Share, engine::Engine, memory::MemoryUse, names::TenantId};

/// Results beyond this are written aside.
pub(super) const LARGE_RESULT_BYTES: u64 = PIECE_BYTES as u64;
/// Pieces of a session's answer stay this long after it was sent, as long as the engine keeps the text with their mark.
const RESUME_TIME: Duration = Duration::from_secs(60);
/// The text that a client reads if the pieces are gone, up to the mark.
const GONE: &str = "the host no longer keeps this result [mcpp:";
/// Hexadecimal digits of a mark.
const MARK_DIGITS: usize = 32;

/// The large results of one door that wait to be sent.
#[derive(Debug, Clone)]
pub(super) struct WrittenResults(Arc<ResultTable>);

#[derive(Debug)]
struct ResultTable {
    by_mark: Mutex<HashMap<u128, WrittenResult>>,
    writers: Writers,
}

#[derive(Debug)]
struct WrittenResult {
    tenant: TenantId,
    /// The text as the engine writes it.
    stands_for_it: Vec<u8>,
    pieces: Vec<Bytes>,
    /// When its request had ended; only such a one may be let go for another.
    sent: Option<Instant>,
    /// What lets it go if its message is not sent in time.
    expiry: Option<AbortHandle>,
    stay: Stay,
}

/// How long a result stays that stands in the place of a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stay {
    /// As long as its request.
    ForRequest,
    /// A while longer: a session's client may come back for it.
    ForSession,
    /// Until it is sent, in a message of a stream that goes on; for a while at most.
    UntilSent,
}

impl WrittenResults {
    /// Results that are written on the threads of `engine`, if there is one.
    pub(super) fn new(engine: Option<Engine>) -> Self {
        Self(Arc::new(ResultTable { by_mark: Mutex::default(), writers: Writers::new(engine) }))
    }

    /// Writes the large results of one request. A session's client may come back for them.
    pub(super) fn writer(&self, resumable: bool) -> ResultWriter {
        let stay = if resumable { Stay::ForSession } else { Stay::ForRequest };
        ResultWriter { table: Arc::clone(&self.0), stay, marks: Arc::default() }
    }

    /// Writes the large results of one request on a conversation, whose messages go out one by one.
    pub(super) fn message_writer(&self) -> ResultWriter {
        ResultWriter { table: Arc::clone(&self.0), stay: Stay::UntilSent, marks: Arc::default() }
    }

    /// A message of the engine in pieces, if it is large: written as a large result is. A small one comes back.
    pub(super) async fn pieces_of(
        &self,
        message: ServerJsonRpcMessage,
        share: &Arc<Share>,
    ) -> io::Result<Result<Vec<Bytes>, ServerJsonRpcMessage>> {
        let bytes = message_bytes(&message);
        if bytes <= PIECE_BYTES {
            return Ok(Err(message));
        }
        let held = share.memory.reserve(MemoryUse::Messages, u64::try_from(bytes).unwrap_or(u64::MAX));
        let held = held.map_err(io::Error::other)?;
        let pieces = self.0.write_apart(share, move |room| {
            let _until_it_is_written = held;
            pieces_of_json(&message, room)
        });
        pieces.await.map(Ok)
    }

    /// `text`, with the pieces of `tenant`'s results in the place of their marks.
    pub(super) fn put_in(&self, tenant: &TenantId, text: Bytes) -> Vec<Bytes> {
        let mut results = self.0.by_mark();
        // The text for a result is short, and so is what is around it.
        if results.is_empty() || text.len() > PIECE_BYTES {
            return vec![text];
        }
        let found = marks(&text).find_map(|mark| {
            let result = results.get(&mark).filter(|result| result.tenant == *tenant)?;
            Some((mark, find(&text, &result.stands_for_it)?, result))
        });
        let Some((mark, at, result)) = found else { return vec![text] };
        let rest = text.slice(at.saturating_add(result.stands_for_it.len())..);
        let mut all = Vec::with_capacity(result.pieces.len().saturating_add(2));
        all.push(text.slice(..at));
        all.extend(result.pieces.iter().cloned());
        all.push(rest);
        if result.stay == Stay::UntilSent
            && let Some(sent) = results.remove(&mark)
            && let Some(expiry) = sent.expiry
        {
            expiry.abort();
        }
        all
    }
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len().max(1)).position(|window| window == part)
}

/// The marks in a text.
fn marks(text: &[u8]) -> impl Iterator<Item = u128> {
    let windows = text.windows(GONE.len().saturating_add(MARK_DIGITS));
    windows.filter_map(|window| {
        let digits = window.strip_prefix(GONE.as_bytes())?;
        u128::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    })
}

impl ResultTable {
    fn by_mark(&self) -> MutexGuard<'_, HashMap<u128, WrittenResult>> {
        self.by_mark.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `write` write on the threads of the guests: one of a tenant at a time, and few in all.
    async fn write_apart(
        self: &Arc<Self>,
        share: &Share,
        write: impl FnOnce(&ResultRoom<'_>) -> io::Result<Vec<Bytes>> + Send + 'static,
    ) -> io::Result<Vec<Bytes>> {
        let (table, tenant, account) = (Arc::clone(self), share.tenant.clone(), Arc::clone(&share.memory));
        let write = move || write(&ResultRoom { table: &table, tenant: &tenant, account: &account });
        let written = self.writers.write(Some(share), write).await;
        written.unwrap_or_else(|| Err(io::Error::other("writing it was broken off")))
    }

    /// Lets go of the oldest result of `tenant` that was sent; whether there was one.
    fn let_go_oldest(&self, tenant: &TenantId) -> bool {
        let mut results = self.by_mark();
        let sent = results.iter().filter(|(_, result)| result.tenant == *tenant);
        let oldest = sent.filter_map(|(mark, result)| Some((result.sent?, *mark))).min();
        let Some((_, mark)) = oldest else { return false };
        let gone = results.remove(&mark);
        drop(results);
        gone.is_some()
    }
}

/// Writes the large results of one request; the handler finds it in the request's extensions.
#[derive(Debug, Clone)]
pub(super) struct ResultWriter {
    table: Arc<ResultTable>,
    stay: Stay,
    /// The request's results go with its last clone.
    marks: Arc<Mutex<Vec<ResultMark>>>,
}

/// One result of a request that is being answered.
#[derive(Debug)]
struct ResultMark {
    table: Arc<ResultTable>,
    mark: u128,
    stay: Stay,
}

impl Drop for ResultMark {
    fn drop(&mut self) {
        let mark = self.mark;
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if self.stay != Stay::ForRequest => {
                let mut results = self.table.by_mark();
                // One that was sent already is gone.
                let Some(result) = results.get_mut(&mark) else { return };
                let table = Arc::clone(&self.table);
                let expiry = runtime.spawn(async move {
                    tokio::time::sleep(RESUME_TIME).await;
                    drop(table.by_mark().remove(&mark));
                });
                result.expiry = Some(expiry.abort_handle());
                result.sent = (self.stay == Stay::ForSession).then(Instant::now);
            }
            _ => drop(self.table.by_mark().remove(&mark)),
        }
    }
}

/// A result in the protocol's words. A large one is written aside if the door can put it in its place.
pub(super) async fn result(
    result: ToolResult,
    writer: Option<&ResultWriter>,
    share: Option<Arc<Share>>,
) -> CallToolResult {
    match (writer, share) {
        (Some(writer), Some(share)) if is_large(&result) => Box::pin(writer.write(result, &share)).await,
        _ => convert::result(result),
    }
}

impl ResultWriter {
    /// A writer for one message of a stream that goes on: its result stays until the message is sent, for a while at most.
    pub(super) fn for_message(&self) -> Self {
        Self { table: Arc::clone(&self.table), stay: Stay::UntilSent, marks: Arc::default() }
    }

    async fn write(&self, result: ToolResult, share: &Share) -> CallToolResult {
        // The call has run: nothing here may tell a client to try again.
        let lost = |error| format!("the call has run, but its result was lost: {error}");
        let written = self.try_write(result, share).await;
        written.unwrap_or_else(|error| CallToolResult::error(vec![ContentBlock::text(lost(error))]))
    }

    async fn try_write(&self, result: ToolResult, share: &Share) -> io::Result<CallToolResult> {
        let is_error = result.is_error;
        let written = self.table.write_apart(share, move |room| pieces(result, room)).await?;
        self.place(written, is_error, share)
    }

    /// Writes a result on this thread, which may take its time and has its turn among the tenant's large ones.
    pub(super) fn write_here(&self, result: ToolResult, share: &Share) -> io::Result<CallToolResult> {
        let is_error = result.is_error;
        let room = ResultRoom { table: &self.table, tenant: &share.tenant, account: &share.memory };
        self.place(pieces(result, &room)?, is_error, share)
    }

    /// The result that stands for these pieces until the door puts them in its place.
    fn place(&self, pieces: Vec<Bytes>, is_error: bool, share: &Share) -> io::Result<CallToolResult> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let mark = u128::from_ne_bytes(random);
        let content = vec![ContentBlock::text(format!("{GONE}{mark:032x}]"))];
        let written = WrittenResult {
            tenant: share.tenant.clone(),
            stands_for_it: serde_json::to_vec(&content)?,
            pieces,
            sent: None,
            expiry: None,
            stay: self.stay,
        };
        self.table.by_mark().insert(mark, written);
        let mark = ResultMark { table: Arc::clone(&self.table), mark, stay: self.stay };
        self.marks.lock().unwrap_or_else(PoisonError::into_inner).push(mark);
        Ok(if is_error { CallToolResult::error(content) } else { CallToolResult::success(content) })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        call::{Blob, Content, ResourceContents},
        limits::TenantLimits,
        memory::{AccountLimits, HostMemory, MemoryConfig, MemoryUse},
    };

    fn share(message_bytes: u64) -> Arc<Share> {
        let limits = TenantLimits { message_bytes: Some(message_bytes), ..TenantLimits::default() };
        let memory = HostMemory::new(&MemoryConfig { message_bytes: 1 << 30, ..MemoryConfig::default() });
        let account = AccountLimits { message_bytes: Some(message_bytes), ..AccountLimits::default() };
        Share::new(TenantId::local(), limits, memory.account(account))
    }

    fn text(bytes: usize) -> ToolResult {
        ToolResult {
            content: vec![Content::Text("\"é\n".repeat(bytes / 4))],
            structured: None,
            is_error: false,
            ..ToolResult::default()
        }
    }

    fn every_kind() -> Vec<ToolResult> {
        let blob = || Blob { data: (0..200_000_u32).map(|n| n.to_le_bytes()[0]).collect(), mime_type: "a/b".into() };
        let (uri, mime_type) = ("u://x".to_owned(), Some("c/d".to_owned()));
        let link = Content::ResourceLink {
            uri: uri.clone(),
            name: "n".into(),
            description: None,
            mime_type: mime_type.clone(),
        };
        let embedded =
            |contents| Content::EmbeddedResource { uri: uri.clone(), mime_type: mime_type.clone(), contents };
        let content = vec![
            Content::Image(blob()),
            Content::Audio(blob()),
            link,
            embedded(ResourceContents::Text("t".repeat(70_000))),
            embedded(ResourceContents::Binary(blob().data)),
            Content::Text(String::new()),
        ];
        let structured = json!({ "rows": vec!["r"; 50_000], "null": null, "deep": [[{ "n": 1.5 }]] });
        vec![
            text(300_000),
            ToolResult { content, structured: Some(structured.clone()), is_error: true, ..ToolResult::default() },
            ToolResult { content: Vec::new(), structured: Some(structured), is_error: false, ..ToolResult::default() },
        ]
    }

    #[tokio::test]
    async fn a_large_result_reads_as_the_engine_would_write_it() {
        let share = share(64 << 20);
        for result in every_kind() {
            let results = WrittenResults::new(None);
            let writer = results.writer(false);
            let expected = serde_json::to_value(convert::result(result.clone())).expect("JSON");
            let placed = serde_json::to_vec(&writer.write(result, &share).await).expect("JSON");
            assert!(placed.len() < 1_000);
            let other = TenantId::new("other").expect("legal");
            assert_eq!(
                results.put_in(&other, placed.clone().into()).len(),
                1,
                "another tenant's mark stands for nothing"
            );
            let sent = results.put_in(&share.tenant, placed.into());
            assert!(sent.iter().all(|piece| piece.len() <= PIECE_BYTES));
            assert_eq!(serde_json::from_slice::<Value>(&sent.concat()).expect("JSON"), expected);
            drop((sent, writer));
            assert_eq!(share.memory.used(MemoryUse::Messages), 0, "given back with its last piece");
        }
    }

    #[tokio::test]
    async fn each_piece_is_given_back_when_it_is_sent() {
        let (share, results) = (share(64 << 20), WrittenResults::new(None));
        let writer = results.writer(false);
        let placed = serde_json::to_vec(&writer.write(text(1 << 20), &share).await).expect("JSON");
        let mut sent = results.put_in(&share.tenant, placed.into());
        drop(writer);
        let used = || share.memory.used(MemoryUse::Messages);
        let all = used();
        assert!(all >= 1 << 20, "{all}");
        while let Some(piece) = sent.pop() {
            let before = used();
            let is_piece = piece.len() == PIECE_BYTES;
            drop(piece);
            assert!(!is_piece || used() == before - PIECE_BYTES as u64);
        }
        assert_eq!(used(), 0);
    }

    #[tokio::test]
    async fn a_result_without_room_says_that_the_call_has_run() {
        // The result itself, and the pieces of its JSON: to the piece.
        let result = ToolResult {
            content: vec![Content::Text("x".repeat(100_000))],
            structured: None,
            is_error: false,
            ..ToolResult::default()
        };
        let takes = 100_032 + 2 * PIECE_BYTES as u64;
        for (bytes, lost) in [(takes, false), (takes - 1, true)] {
            let (share, results) = (share(bytes), WrittenResults::new(None));
            let placed = results.writer(false).write(result.clone(), &share).await;
            let text = serde_json::to_string(&placed).expect("JSON");
            assert_eq!(
                text.contains("the call has run, but its result was lost: message_bytes of this tenant are used up"),
                lost,
                "{text}"
            );
            assert_eq!(placed.is_error, Some(lost));
            assert_eq!(share.memory.used(MemoryUse::Messages), 0);
        }
    }

    #[tokio::test]
    async fn the_result_of_a_streams_message_stays_until_it_is_sent_and_no_longer_than_a_while() {
        let (share, results) = (share(64 << 20), WrittenResults::new(None));
        let stream = results.writer(false);
        let message = async || {
            let written = stream.for_message().write(text(200_000), &share).await;
            Bytes::from(serde_json::to_vec(&written).expect("JSON"))
        };
        let (first, second) = (message().await, message().await);
        tokio::task::yield_now().await;
        let sent = results.put_in(&share.tenant, first.clone());
        assert!(sent.len() > 1, "the writer is gone, the message is not");
        drop(sent);
        assert_eq!(results.put_in(&share.tenant, first).len(), 1, "a message is sent once");
        assert!(!results.0.let_go_oldest(&share.tenant), "what was not sent is not let go for another");
        let (held, left) = (share.memory.used(MemoryUse::Messages), results.0.by_mark().len());
        assert!(held > 200_000 && left == 1, "{held} bytes of {left}");
        assert!(results.0.by_mark().values().all(|result| result.expiry.is_some()), "nobody may ever read it");
        drop(results.put_in(&share.tenant, second));
        assert_eq!(share.memory.used(MemoryUse::Messages), 0);
    }

    #[tokio::test]
    async fn what_a_session_may_ask_for_again_stays_until_its_tenant_needs_the_room() {
        let (share, results) = (share(700_000), WrittenResults::new(None));
        let first = results.writer(true);
        let placed = serde_json::to_vec(&first.write(text(200_000), &share).await).expect("JSON");
        drop(first);
        tokio::task::yield_now().await;
        assert!(results.put_in(&share.tenant, placed.clone().into()).len() > 1, "the client may come back for it");
        let second = results.writer(true);
        let also = serde_json::to_vec(&second.write(text(200_000), &share).await).expect("JSON");
        assert!(results.put_in(&share.tenant, also.into()).len() > 1);
        let gone = results.put_in(&share.tenant, placed.into()).concat();
        assert!(String::from_utf8_lossy(&gone).contains("the host no longer keeps this result"));
    }
}
