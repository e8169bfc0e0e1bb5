//! HTTP/1.1 byte by byte, so that a case decides over each of them; over TCP and over the operator's socket.

use std::io;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};

/// A larger answer is a fault.
const MAX_ANSWER_BYTES: usize = 32 << 20;

/// How much of an answer is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// All of it.
    End,
    /// The first event of a stream that stays open.
    FirstEvent,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in small letters.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// A connection that stays open.
#[derive(Debug)]
pub struct Connection<S> {
    stream: BufReader<S>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub fn new(stream: S) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    /// Sends a request, whose head has no length yet, and reads its answer.
    pub async fn ask(&mut self, head: &[u8], body: &[u8], until: Until) -> io::Result<Answer> {
        let length = format!("content-length: {}\r\n\r\n", body.len());
        self.stream.write_all(&[head, length.as_bytes(), body].concat()).await?;
        self.stream.flush().await?;
        loop {
            let answer = self.read(until).await?;
            if answer.status >= 200 {
                return Ok(answer);
            }
        }
    }

    async fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }

    async fn read(&mut self, until: Until) -> io::Result<Answer> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let line = self.line().await?;
        let status = line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let status = status.ok_or_else(|| invalid(&line))?;
        let mut answer = Answer { status, headers: Vec::new(), body: Vec::new() };
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| invalid(&line))?;
            answer.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        if answer.header("transfer-encoding") == Some("chunked") {
            while until == Until::End || !answer.body.windows(2).any(|pair| pair == b"\n\n") {
                let size = self.line().await?;
                let size = usize::from_str_radix(&size, 16).map_err(|_| invalid(&size))?;
                self.more(&mut answer.body, size).await?;
                self.line().await?;
                if size == 0 {
                    break;
                }
            }
        } else if let Some(length) = answer.header("content-length").and_then(|length| length.parse().ok()) {
            self.more(&mut answer.body, length).await?;
        }
        Ok(answer)
    }

    async fn more(&mut self, body: &mut Vec<u8>, bytes: usize) -> io::Result<()> {
        let at = body.len();
        if at + bytes > MAX_ANSWER_BYTES {
            return Err(io::Error::other("the answer is too large"));
        }
        body.resize(at + bytes, 0);
        self.stream.read_exact(&mut body[at..]).await.map(drop)
    }
}
