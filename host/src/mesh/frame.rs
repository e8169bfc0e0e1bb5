//! Frames on a stream of `/mcp+p2p/1.0.0`: a length as u32, big-endian, and as many bytes of JSON.
//!
//! A frame over the bound is refused by its length alone. A shorter one takes memory only as its bytes come: a peer that announces much and sends little holds little.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Bytes of the length before each frame.
pub const PREFIX_BYTES: usize = 4;

/// The beginning of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announced {
    /// A frame of so many bytes comes.
    Bytes(usize),
    /// The peer closed its end between two frames.
    End,
}

/// Why a stream has no next frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream broke.
    #[error("the stream broke: {0}")]
    Io(#[from] io::Error),
    /// The stream ended within a length.
    #[error("incomplete_prefix: the stream ended within a length")]
    IncompletePrefix,
    /// The stream ended within a frame.
    #[error("incomplete_body: the stream ended within a frame")]
    IncompleteBody,
    /// The frame is over the bound.
    #[error("frame_too_large: incoming frame too large: {bytes} > {most}")]
    TooLarge {
        /// Its announced length.
        bytes: u64,
        /// The bound.
        most: usize,
    },
}

/// Reads the length of the next frame, and refuses one of more than `most` bytes.
pub async fn announced(from: &mut (impl AsyncRead + Unpin), most: usize) -> Result<Announced, FrameError> {
    let mut prefix = [0; PREFIX_BYTES];
    let mut read = 0;
    while let Some(rest) = prefix.get_mut(read..).filter(|rest| !rest.is_empty()) {
        match from.read(rest).await? {
            0 if read == 0 => return Ok(Announced::End),
            0 => return Err(FrameError::IncompletePrefix),
            more => read = read.saturating_add(more),
        }
    }
    let length = u32::from_be_bytes(prefix);
    match usize::try_from(length) {
        Ok(bytes) if bytes <= most => Ok(Announced::Bytes(bytes)),
        _ => Err(FrameError::TooLarge { bytes: length.into(), most }),
    }
}

/// Reads the `bytes` of a frame into `body`, which grows as they come.
pub async fn body(from: &mut (impl AsyncRead + Unpin), bytes: usize, body: &mut Vec<u8>) -> Result<(), FrameError> {
    body.clear();
    let most = u64::try_from(bytes).unwrap_or(u64::MAX);
    let read = (&mut *from).take(most).read_to_end(body).await?;
    if read == bytes { Ok(()) } else { Err(FrameError::IncompleteBody) }
}

/// Writes one frame.
pub async fn write(to: &mut (impl AsyncWrite + Unpin + ?Sized), body: &[u8]) -> io::Result<()> {
    write_parts(to, &[body]).await
}

/// Writes one frame whose bytes are those of all parts.
pub async fn write_parts(to: &mut (impl AsyncWrite + Unpin + ?Sized), parts: &[impl AsRef<[u8]>]) -> io::Result<()> {
    let too_long = || io::Error::new(io::ErrorKind::InvalidInput, "a frame has at most 4 GiB");
    let bytes = parts.iter().map(|part| part.as_ref().len()).fold(0_usize, usize::saturating_add);
    let length = u32::try_from(bytes).map_err(|_| too_long())?;
    // One write where that is cheap: a frame in two packets would wait for the first's acknowledgement.
    if bytes <= COPIED_BYTES {
        let mut whole = Vec::with_capacity(bytes.saturating_add(PREFIX_BYTES));
        whole.extend_from_slice(&length.to_be_bytes());
        parts.iter().for_each(|part| whole.extend_from_slice(part.as_ref()));
        return to.write_all(&whole).await;
    }
    to.write_all(&length.to_be_bytes()).await?;
    for part in parts {
        to.write_all(part.as_ref()).await?;
    }
    Ok(())
}

/// A frame up to so many bytes is copied behind its length.
const COPIED_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    async fn next(mut bytes: &[u8], most: usize) -> Result<Option<Vec<u8>>, String> {
        let mut read = Vec::new();
        match announced(&mut bytes, most).await {
            Ok(Announced::End) => Ok(None),
            Ok(Announced::Bytes(length)) => {
                let done = body(&mut bytes, length, &mut read).await;
                done.map(|()| Some(read)).map_err(|error| error.to_string())
            }
            Err(error) => Err(error.to_string()),
        }
    }

    #[tokio::test]
    async fn a_frame_is_as_the_vector_says() {
        let message = br#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{}}"#;
        let mut written = Vec::new();
        write(&mut written, message).await.expect("written");
        let hex: String = written.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "0000003a7b226a736f6e727063223a22322e30222c226964223a312c226d6574686f64223a22746f6f6c732f6c697374222c22706172616d73223a7b7d7d"
        );
        assert_eq!(next(&written, 58).await, Ok(Some(message.to_vec())));
    }

    #[tokio::test]
    async fn frames_that_are_cut_or_too_large_are_told_apart() {
        for (bytes, most, outcome) in [
            (&b""[..], 9, Ok(None)),
            (b"\0\0", 9, Err("incomplete_prefix")),
            (b"\0\0\0\x02{", 9, Err("incomplete_body")),
            (b"\0\0\0\x02{}", 2, Ok(Some(b"{}".to_vec()))),
            (b"\0\0\0\x03{} ", 2, Err("frame_too_large: incoming frame too large: 3 > 2")),
            (b"\xff\xff\xff\xff", 1 << 20, Err("frame_too_large")),
        ] {
            match (next(bytes, most).await, outcome) {
                (Err(error), Err(says)) => assert!(error.starts_with(says), "{error}"),
                (found, outcome) => assert_eq!(found, outcome.map_err(str::to_owned), "{bytes:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_frame_that_is_announced_and_does_not_come_takes_no_memory() {
        let (mut here, mut there) = tokio::io::duplex(64);
        there.write_all(&(1_u32 << 30).to_be_bytes()).await.expect("sent");
        let length = match announced(&mut here, 1 << 30).await.expect("legal") {
            Announced::Bytes(length) => length,
            Announced::End => panic!("announced"),
        };
        there.write_all(b"{").await.expect("sent");
        drop(there);
        let mut read = Vec::new();
        assert!(matches!(body(&mut here, length, &mut read).await, Err(FrameError::IncompleteBody)));
        assert!(read.capacity() < 4 << 10, "{}", read.capacity());
    }
}
