//! A request's body: read in time, and counted before it is kept.
//!
//! A client's announcement costs nothing. The host takes memory of the tenant's account as the bytes come, and takes the memory for reading the message before it reads.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes, HttpBody as _},
    http::StatusCode,
};
use futures::FutureExt as _;
use http_body_util::BodyExt as _;
use tokio::{sync::Semaphore, time::Instant};

use super::pace::Patience;
use crate::{
    config::ServerConfig,
    mcp::{
        envelope::reading_takes,
        lane::{LARGE_MESSAGE_BYTES, Lane, LaneSwitch},
    },
    memory::{Account, MemoryUse, NoMemory, Reservation},
};

/// Bytes of a body after which its parts take turns with those of its tenant's other bodies.
const READ_AT_ONCE: usize = 128 << 10;
/// The memory that every request takes besides its body: the protocol engine's task and its answer, where that is not large.
pub(super) const LEAST_BYTES: u64 = 64 << 10;
/// The largest part of a body in memory.
const PART_BYTES: usize = 64 << 10;
/// A body may stand still for this part of the time that it has in all.
const STANDSTILL: u32 = 3;

/// A body that was read, and what it holds of its tenant's memory.
#[derive(Debug)]
pub(super) struct ReadBody {
    pub(super) bytes: Bytes,
    pub(super) held: Reservation,
}

/// Why a body is not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoBody {
    #[error("the body has more than {0} bytes")]
    TooLarge(usize),
    #[error("the body did not arrive within {0} ms")]
    Late(u64),
    #[error("the body could not be read: {0}")]
    Broken(axum::Error),
    #[error("{0}")]
    NoMemory(#[from] NoMemory),
}

impl NoBody {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Late(_) => StatusCode::REQUEST_TIMEOUT,
            Self::Broken(_) => StatusCode::BAD_REQUEST,
            Self::NoMemory(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// Reads a body on `account`.
pub(super) async fn read(
    config: &ServerConfig,
    account: &Arc<Account>,
    turns: &Semaphore,
    lane: &LaneSwitch,
    body: Body,
) -> Result<ReadBody, NoBody> {
    let limit = config.max_body_bytes;
    // A client need not send the bytes that it announces.
    if body.size_hint().lower() > u64::try_from(limit).unwrap_or(u64::MAX) {
        return Err(NoBody::TooLarge(limit));
    }
    let most =
        body.size_hint().upper().and_then(|most| usize::try_from(most).ok()).map_or(limit, |most| most.min(limit));
    let mut held = account.reserve(MemoryUse::Messages, LEAST_BYTES)?;
    let until = Instant::now() + Duration::from_millis(config.body_timeout_ms);
    let text = collect(config, &mut held, (turns, lane), most, until, body).await?;
    held.grow(reading_takes(&text))?;
    // What the engine will copy is not copied yet: so there is room for this copy.
    let bytes = if text.len() > 1 { text.concat() } else { text.into_iter().next().unwrap_or_default() };
    Ok(ReadBody { bytes: Bytes::from(bytes), held })
}

/// Reads a body, into parts that never move: memory that grows would be given back and asked for again, and every other thread that wants memory of the system stands behind
/// that. Of a tenant's large ones a part of one is read at a time, however many come however fast: everybody else's requests stand behind one part and not behind all.
async fn collect(
    config: &ServerConfig,
    held: &mut Reservation,
    (turns, lane): (&Semaphore, &LaneSwitch),
    most: usize,
    until: Instant,
    mut body: Body,
) -> Result<Vec<Vec<u8>>, NoBody> {
    let mut patience = Patience::new(Duration::from_millis(config.body_timeout_ms) / STANDSTILL);
    let (mut parts, mut length): (Vec<Vec<u8>>, usize) = (Vec::new(), 0);
    // A body of known length ends with its last byte.
    while !body.is_end_stream() {
        // The semaphore is never closed. A body that has to wait for its client gives the turn on.
        let turn = if length >= READ_AT_ONCE { turns.acquire().await.ok() } else { None };
        // Most bodies are there, and need no timer.
        let (frame, waited) = match body.frame().now_or_never() {
            Some(frame) => (frame, Duration::ZERO),
            None => {
                drop(turn);
                let asked = Instant::now();
                let frame = tokio::time::timeout_at(until.min(asked + patience.left()), body.frame()).await;
                (frame.map_err(|_| NoBody::Late(config.body_timeout_ms))?, asked.elapsed())
            }
        };
        let Some(frame) = frame else { break };
        let Ok(data) = frame.map_err(NoBody::Broken)?.into_data() else { continue };
        patience.moved(data.len(), waited);
        if length.saturating_add(data.len()) > config.max_body_bytes {
            return Err(NoBody::TooLarge(config.max_body_bytes));
        }
        let mut rest = &*data;
        while !rest.is_empty() {
            let free = |part: &&mut Vec<u8>| part.len() < part.capacity();
            let Some(part) = parts.last_mut().filter(free) else {
                // At most as much again as has come: what is only announced takes nothing.
                let room = most.saturating_sub(length).clamp(1, PART_BYTES).min(length.max(rest.len()));
                held.grow(u64::try_from(room).unwrap_or(u64::MAX))?;
                parts.push(Vec::with_capacity(room));
                continue;
            };
            let (now, later) = rest.split_at(rest.len().min(part.capacity().saturating_sub(part.len())));
            part.extend_from_slice(now);
            length = length.saturating_add(now.len());
            rest = later;
        }
        if length > LARGE_MESSAGE_BYTES {
            lane.change_to(Lane::Bulk).await;
        }
        // The next part is for another turn, also where nobody else waits for it.
        tokio::task::coop::consume_budget().await;
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::envelope::VALUE_BYTES;
    use crate::memory::{AccountLimits, HostMemory, MemoryConfig};

    fn account(bytes: u64) -> Arc<Account> {
        let limits = AccountLimits { message_bytes: Some(bytes), ..AccountLimits::default() };
        HostMemory::new(&MemoryConfig { message_bytes: 1 << 30, ..MemoryConfig::default() }).account(limits)
    }

    fn turns() -> Semaphore {
        Semaphore::new(1)
    }

    /// A test's body stays where it is.
    fn lane() -> LaneSwitch {
        LaneSwitch::new(Lane::Bulk)
    }

    fn config() -> ServerConfig {
        ServerConfig::default()
    }

    #[tokio::test]
    async fn a_body_is_read_on_its_tenants_account_to_the_byte() {
        let text = format!("\"{}\"", "x".repeat(100_000));
        // The text itself, the engine's copy, and one value.
        let takes = LEAST_BYTES + 2 * 100_002 + VALUE_BYTES;
        let enough = account(takes);
        let read_body = read(&config(), &enough, &turns(), &lane(), Body::from(text.clone())).await.expect("fits");
        assert_eq!((read_body.bytes.len(), enough.used(MemoryUse::Messages)), (100_002, takes));
        drop(read_body);
        assert_eq!(enough.used(MemoryUse::Messages), 0);
        let less = account(takes - 1);
        let refused = read(&config(), &less, &turns(), &lane(), Body::from(text)).await.expect_err("one byte too few");
        assert!(refused.to_string().starts_with("message_bytes of this tenant are used up"), "{refused}");
        assert_eq!((refused.status(), less.used(MemoryUse::Messages)), (StatusCode::SERVICE_UNAVAILABLE, 0));
    }

    #[tokio::test]
    async fn what_is_announced_takes_nothing() {
        let enough = account(LEAST_BYTES + 1_000);
        let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, std::io::Error>>(1);
        let stream = futures::stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)));
        let (config, turns, lane, body) = (config(), turns(), lane(), Body::from_stream(stream));
        let mut reading = Box::pin(read(&config, &enough, &turns, &lane, body));
        sender.send(Ok(Bytes::from_static(b"\"one byte short"))).await.expect("open");
        assert!(futures::poll!(&mut reading).is_pending());
        assert_eq!(enough.used(MemoryUse::Messages), LEAST_BYTES + 15, "as much as has come");
        drop(reading);
        assert_eq!(enough.used(MemoryUse::Messages), 0);
    }

    #[tokio::test]
    async fn a_body_that_stands_still_ends() {
        let enough = account(1 << 20);
        let first = futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"{"))]);
        let body = Body::from_stream(futures::StreamExt::chain(first, futures::stream::pending()));
        let config = ServerConfig { body_timeout_ms: 60, ..config() };
        let mut held = enough.reserve(MemoryUse::Messages, 0).expect("room");
        // Long before its time in all is over.
        let until = Instant::now() + Duration::from_secs(3_600);
        let late =
            collect(&config, &mut held, (&turns(), &lane()), 1_000, until, body).await.expect_err("stands still");
        assert!(matches!(late, NoBody::Late(60)), "{late}");
        drop(held);
        assert_eq!(enough.used(MemoryUse::Messages), 0);
    }

    #[tokio::test]
    async fn a_body_that_goes_on_and_on_ends() {
        let enough = account(1 << 20);
        // Fast enough never to stand still.
        let pieces = futures::stream::unfold((), async |()| {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Some((Ok::<_, std::io::Error>(Bytes::from_static(&[b' '; 64])), ()))
        });
        let config = ServerConfig { body_timeout_ms: 600, ..config() };
        let late = read(&config, &enough, &turns(), &lane(), Body::from_stream(pieces)).await.expect_err("no end");
        assert!(matches!(late, NoBody::Late(600)), "{late}");
        assert_eq!(enough.used(MemoryUse::Messages), 0);
    }
}
