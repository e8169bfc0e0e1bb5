//! How a large result becomes JSON: in pieces, each of which takes its part of the tenant's memory before it is written.

use std::{io, sync::Arc};

use axum::body::Bytes;
use rmcp::model::{ContentBlock, JsonRpcMessage, ResourceContents, ServerJsonRpcMessage, ServerResult};
use serde::Serialize;
use serde_json::Value;

use super::ResultTable;
use crate::{
    call::{Content, ToolResult},
    mcp::convert,
    memory::{Account, MemoryUse, NoMemory, Reservation, json_text},
    names::TenantId,
};

/// Results beyond this are written aside, in pieces of this size.
pub(super) const PIECE_BYTES: usize = 64 << 10;

/// The tenant, its account, and the table into which a large result is written.
#[derive(Clone, Copy)]
pub(super) struct ResultRoom<'a> {
    pub(super) table: &'a ResultTable,
    pub(super) tenant: &'a TenantId,
    pub(super) account: &'a Arc<Account>,
}

impl ResultRoom<'_> {
    /// Takes memory; answers that were sent and are kept for clients that come back make room.
    fn reserve(&self, bytes: usize) -> Result<Reservation, NoMemory> {
        loop {
            match self.account.reserve(MemoryUse::Messages, u64::try_from(bytes).unwrap_or(u64::MAX)) {
                Err(_) if self.table.let_go_oldest(self.tenant) => {}
                reserved => return reserved,
            }
        }
    }
}

/// The members `content` and `structuredContent` of a result, without the name of the first.
pub(super) fn pieces(result: ToolResult, room: &ResultRoom<'_>) -> io::Result<Vec<Bytes>> {
    // A guest's result has its memory until it is written; another one gets it here.
    let own = (!result.memory.is_charged()).then(|| room.reserve(weigh(&result, usize::MAX)));
    let _source = own.transpose().map_err(io::Error::other)?;
    let mut pieces = PieceWriter { room, done: Vec::new(), current: None };
    let ToolResult { content, structured, memory: _held, .. } = result;
    io::Write::write_all(&mut pieces, b"[")?;
    if let (true, Some(structured)) = (content.is_empty(), &structured) {
        serde_json::to_writer(&mut pieces, &ContentBlock::text(json_text(structured)))?;
    }
    for (index, block) in content.into_iter().enumerate() {
        if index > 0 {
            io::Write::write_all(&mut pieces, b",")?;
        }
        serde_json::to_writer(&mut pieces, &convert::block(block))?;
    }
    io::Write::write_all(&mut pieces, b"]")?;
    if let Some(structured) = structured {
        io::Write::write_all(&mut pieces, b",\"structuredContent\":")?;
        serde_json::to_writer(&mut pieces, &structured)?;
    }
    pieces.end();
    Ok(pieces.done)
}

/// A message as JSON.
pub(super) fn pieces_of_json(message: &impl Serialize, room: &ResultRoom<'_>) -> io::Result<Vec<Bytes>> {
    let mut pieces = PieceWriter { room, done: Vec::new(), current: None };
    serde_json::to_writer(&mut pieces, message)?;
    pieces.end();
    Ok(pieces.done)
}

/// About how many bytes a message of the engine has, where its kind has no other bound: what is read, a prompt, and a page of a list.
pub(super) fn message_bytes(message: &ServerJsonRpcMessage) -> usize {
    /// An item of a list.
    const ITEM_BYTES: usize = 1 << 10;
    let JsonRpcMessage::Response(response) = message else { return 0 };
    let items = match &response.result {
        ServerResult::ReadResourceResult(read) => {
            return read.contents.iter().map(contents_bytes).fold(0, usize::saturating_add);
        }
        ServerResult::GetPromptResult(prompt) => {
            return prompt.messages.iter().map(|message| block_bytes(&message.content)).fold(0, usize::saturating_add);
        }
        ServerResult::ListToolsResult(list) => list.tools.len(),
        ServerResult::ListResourcesResult(list) => list.resources.len(),
        ServerResult::ListResourceTemplatesResult(list) => list.resource_templates.len(),
        ServerResult::ListPromptsResult(list) => list.prompts.len(),
        _ => 0,
    };
    items.saturating_mul(ITEM_BYTES)
}

fn contents_bytes(contents: &ResourceContents) -> usize {
    match contents {
        ResourceContents::TextResourceContents { text, .. } => text.len(),
        ResourceContents::BlobResourceContents { blob, .. } => blob.len(),
        _ => 0,
    }
}

fn block_bytes(block: &ContentBlock) -> usize {
    match block {
        ContentBlock::Text(text) => text.text.len(),
        ContentBlock::Image(image) => image.data.len(),
        ContentBlock::Audio(audio) => audio.data.len(),
        ContentBlock::Resource(embedded) => contents_bytes(&embedded.resource),
        _ => 0,
    }
}

/// Bytes and what they hold.
struct HeldBytes {
    bytes: Vec<u8>,
    /// Given back with them.
    _held: Reservation,
}

impl AsRef<[u8]> for HeldBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

struct PieceWriter<'a> {
    room: &'a ResultRoom<'a>,
    done: Vec<Bytes>,
    current: Option<HeldBytes>,
}

impl PieceWriter<'_> {
    fn end(&mut self) {
        self.done.extend(self.current.take().map(Bytes::from_owner));
    }
}

impl io::Write for PieceWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let current = match &mut self.current {
            Some(current) => current,
            none => {
                let held = self.room.reserve(PIECE_BYTES).map_err(io::Error::other)?;
                none.insert(HeldBytes { bytes: Vec::with_capacity(PIECE_BYTES), _held: held })
            }
        };
        let fits = PIECE_BYTES.saturating_sub(current.bytes.len()).min(bytes.len());
        current.bytes.extend_from_slice(bytes.get(..fits).unwrap_or_default());
        if current.bytes.len() >= PIECE_BYTES {
            self.end();
        }
        Ok(fits)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether a result is written aside.
pub(super) fn is_large(result: &ToolResult) -> bool {
    weigh(result, PIECE_BYTES) > PIECE_BYTES
}

/// About how many bytes a result has. Stops counting beyond `enough`.
fn weigh(result: &ToolResult, enough: usize) -> usize {
    let blocks = result.content.iter().map(Content::bytes);
    // A block of little text is some bytes too.
    let mut sum = blocks.fold(0_usize, |sum, block| sum.saturating_add(block).saturating_add(32));
    let mut open: Vec<&Value> = result.structured.iter().collect();
    while let Some(value) = open.pop() {
        if sum > enough {
            return sum;
        }
        sum = sum.saturating_add(match value {
            Value::String(text) => text.len(),
            Value::Array(items) => {
                open.extend(items);
                2
            }
            Value::Object(members) => {
                open.extend(members.values());
                members.keys().fold(2, |sum, key| sum.saturating_add(key.len()))
            }
            _ => 8,
        });
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::{Blob, ResourceContents};

    #[test]
    fn a_result_is_large_whichever_of_its_texts_is() {
        let (small, large) = (String::new, || "x".repeat(PIECE_BYTES + 1));
        let blob = |mime_type| Blob { data: Vec::new(), mime_type };
        let link = |uri, name, description, mime_type| Content::ResourceLink { uri, name, description, mime_type };
        let embedded = |uri, mime_type, contents| Content::EmbeddedResource { uri, mime_type, contents };
        let nothing = || ResourceContents::Text(small());
        for content in [
            Content::Text(large()),
            Content::Image(blob(large())),
            Content::Audio(blob(large())),
            link(large(), small(), None, None),
            link(small(), large(), None, None),
            link(small(), small(), Some(large()), None),
            link(small(), small(), None, Some(large())),
            embedded(large(), None, nothing()),
            embedded(small(), Some(large()), nothing()),
            embedded(small(), None, ResourceContents::Text(large())),
        ] {
            assert!(content.bytes() > PIECE_BYTES);
            let result = ToolResult { content: vec![content], ..ToolResult::default() };
            assert!(is_large(&result));
        }
        let result = ToolResult { content: vec![embedded(small(), None, nothing())], ..ToolResult::default() };
        assert!(!is_large(&result));
    }
}
