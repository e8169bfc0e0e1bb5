//! The messages by which a component is fetched: a frame of JSON asks, a frame of JSON answers, and the bytes of a chunk are a frame of their own behind their answer.

use blake3::hazmat::ChainingValue;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use super::chunks::{CHUNK_BYTES, ChunkList, InvalidChunks, MAX_CHUNKS};
use crate::mesh::frame::{self, Announced, FrameError};

/// The largest request, in bytes.
pub const MAX_REQUEST_BYTES: usize = 1 << 10;
/// The largest answer, in bytes: the values of [`MAX_CHUNKS`], or [`MAX_OFFERS`] components.
pub const MAX_ANSWER_BYTES: usize = 256 << 10;
/// Components that one host offers one peer; further ones, by name, are not offered.
pub const MAX_OFFERS: usize = 1_000;
const _: () = assert!(MAX_CHUNKS * 80 < MAX_ANSWER_BYTES && MAX_OFFERS * 200 < MAX_ANSWER_BYTES);

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ComponentRequest {
    /// The components that the peer may fetch.
    List {},
    /// The values of a component's chunks.
    Chunks {
        /// The digest of the build.
        digest: String,
    },
    /// One chunk.
    Chunk {
        /// The digest of the build.
        digest: String,
        /// Which chunk, from 0.
        index: usize,
    },
}

/// A component that a peer may fetch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentOffer {
    /// Its name there.
    pub name: String,
    /// The digest of the live build: BLAKE3, in hexadecimal.
    pub digest: String,
    /// Its size.
    pub bytes: u64,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ComponentAnswer {
    /// The components.
    List(Vec<ComponentOffer>),
    /// A component's size, and the values of its chunks in hexadecimal.
    Chunks {
        /// The size.
        bytes: u64,
        /// The values.
        values: Vec<String>,
    },
    /// A frame with so many bytes follows.
    Chunk {
        /// How many.
        bytes: usize,
    },
    /// Nothing of what was asked.
    Refused {
        /// Why.
        error: OfferRefusal,
    },
}

/// Why a host gives nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OfferRefusal {
    /// The peer's grant names no component.
    #[error("the grant of this peer names no component; the operator names some with `mcpp invite --component`")]
    NoGrant,
    /// No live build of that digest is offered to the peer.
    #[error("no such component is offered to this peer")]
    Unknown,
    /// The file has changed since its build went live.
    #[error("the file of the component has changed and is not live yet")]
    Changed,
    /// The request is none.
    #[error("the request cannot be read")]
    Invalid,
    /// The peer has as many streams as it may, or all peers together have.
    #[error("too many components are being fetched")]
    Busy,
}

/// Why a conversation ended.
#[derive(Debug, thiserror::Error)]
pub enum ConversationError {
    /// The stream broke.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The answer is none.
    #[error("its answer is not valid")]
    Answer(#[source] serde_json::Error),
    /// The answer is to another question.
    #[error("it answers something else")]
    Other,
    /// The host refuses.
    #[error("it refuses: {0}")]
    Refused(OfferRefusal),
    /// The list is not that of the digest.
    #[error("its list is wrong: {0}")]
    Chunks(#[from] InvalidChunks),
    /// The chunk is not the one that was asked for.
    #[error("its chunk {0} is not that of the digest")]
    WrongChunk(usize),
    /// It took too long.
    #[error("it did not answer in time")]
    Late,
}

/// A longer message is parsed on a thread of its own: no request waits for that.
const LONG_MESSAGE_BYTES: usize = 16 << 10;

/// The next message; none if the other side closed the stream between two.
pub async fn read<T: DeserializeOwned + Send + 'static>(
    from: &mut (impl AsyncRead + Unpin),
    most: usize,
) -> Result<Option<Result<T, serde_json::Error>>, FrameError> {
    let Announced::Bytes(bytes) = frame::announced(from, most).await? else { return Ok(None) };
    let mut body = Vec::new();
    frame::body(from, bytes, &mut body).await?;
    if bytes <= LONG_MESSAGE_BYTES {
        return Ok(Some(serde_json::from_slice(&body)));
    }
    let parsing = tokio::task::spawn_blocking(move || serde_json::from_slice(&body));
    Ok(Some(parsing.await.map_err(std::io::Error::other)?))
}

/// Writes a message.
pub async fn write(to: &mut (impl AsyncWrite + Unpin), message: &impl Serialize) -> Result<(), FrameError> {
    let body = serde_json::to_vec(message).map_err(std::io::Error::other)?;
    frame::write(to, &body).await?;
    Ok(to.flush().await?)
}

/// Asks something.
pub async fn ask(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    request: &ComponentRequest,
) -> Result<ComponentAnswer, ConversationError> {
    write(stream, request).await?;
    let answer = read(stream, MAX_ANSWER_BYTES).await?.ok_or(FrameError::IncompletePrefix)?;
    match answer.map_err(ConversationError::Answer)? {
        ComponentAnswer::Refused { error } => Err(ConversationError::Refused(error)),
        answer => Ok(answer),
    }
}

/// Asks for the list of a digest's chunks, and holds it to the digest.
pub async fn ask_chunks(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    digest: &blake3::Hash,
) -> Result<ChunkList, ConversationError> {
    let request = ComponentRequest::Chunks { digest: digest.to_hex().to_string() };
    let ComponentAnswer::Chunks { bytes, values } = ask(stream, &request).await? else {
        return Err(ConversationError::Other);
    };
    let parsed: Option<Vec<ChainingValue>> = values.iter().map(|value| parse_value(value)).collect();
    Ok(ChunkList::check(bytes, parsed.ok_or(InvalidChunks::Digest)?, digest)?)
}

fn parse_value(text: &str) -> Option<ChainingValue> {
    blake3::Hash::from_hex(text).ok().map(|value| *value.as_bytes())
}

/// Asks for one chunk, and holds it to the list.
pub async fn ask_chunk(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    digest: &blake3::Hash,
    list: &ChunkList,
    index: usize,
) -> Result<Vec<u8>, ConversationError> {
    let request = ComponentRequest::Chunk { digest: digest.to_hex().to_string(), index };
    let ComponentAnswer::Chunk { .. } = ask(stream, &request).await? else { return Err(ConversationError::Other) };
    let most = usize::try_from(CHUNK_BYTES).unwrap_or(usize::MAX);
    let Announced::Bytes(bytes) = frame::announced(stream, most).await? else {
        return Err(FrameError::IncompletePrefix.into());
    };
    let mut body = Vec::new();
    frame::body(stream, bytes, &mut body).await?;
    if list.has(index, &body) { Ok(body) } else { Err(ConversationError::WrongChunk(index)) }
}
