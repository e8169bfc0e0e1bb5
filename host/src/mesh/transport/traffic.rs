//! Bytes in and out, by peer: counted on the streams of every connection, whatever carries them.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use futures::io::{AsyncRead, AsyncWrite};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};

/// Bytes of one peer's streams, since the oldest of its open connections began.
#[derive(Debug, Default)]
pub(in crate::mesh) struct PeerTraffic {
    received: AtomicU64,
    sent: AtomicU64,
}

impl PeerTraffic {
    /// Bytes received, and bytes sent.
    pub(in crate::mesh) fn bytes(&self) -> (u64, u64) {
        (self.received.load(Ordering::Relaxed), self.sent.load(Ordering::Relaxed))
    }
}

/// The bytes of all peers that have connections.
#[derive(Debug, Clone, Default)]
pub(in crate::mesh) struct Traffic(Arc<Mutex<HashMap<libp2p::PeerId, Arc<PeerTraffic>>>>);

/// Peers that have gone and are still in the map, before they are looked for.
const MAX_GONE: usize = 64;

impl Traffic {
    /// Those of one peer.
    pub(in crate::mesh) fn of(&self, peer: &libp2p::PeerId) -> Option<Arc<PeerTraffic>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(peer).cloned()
    }

    pub(super) fn count<M>(&self, peer: libp2p::PeerId, muxer: M) -> CountedMuxer<M> {
        let mut peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let traffic = Arc::clone(peers.entry(peer).or_default());
        // The connections of a peer hold its counters, besides this map. At twice as many as there are, each is looked at once for each that comes.
        if peers.len().is_multiple_of(MAX_GONE) {
            peers.retain(|_, traffic| Arc::strong_count(traffic) > 1);
        }
        CountedMuxer { muxer, traffic }
    }
}

/// Streams whose bytes are counted.
#[derive(Debug)]
pub(super) struct CountedMuxer<M> {
    muxer: M,
    traffic: Arc<PeerTraffic>,
}

impl<M: StreamMuxer + Unpin> CountedMuxer<M> {
    fn counted(&self, stream: M::Substream) -> CountedBytes<M::Substream> {
        CountedBytes { stream, traffic: Arc::clone(&self.traffic) }
    }
}

impl<M> StreamMuxer for CountedMuxer<M>
where
    M: StreamMuxer + Unpin,
    M::Substream: Unpin,
{
    type Substream = CountedBytes<M::Substream>;
    type Error = M::Error;

    fn poll_inbound(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Self::Substream, M::Error>> {
        let this = self.get_mut();
        Pin::new(&mut this.muxer).poll_inbound(cx).map_ok(|stream| this.counted(stream))
    }

    fn poll_outbound(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Self::Substream, M::Error>> {
        let this = self.get_mut();
        Pin::new(&mut this.muxer).poll_outbound(cx).map_ok(|stream| this.counted(stream))
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), M::Error>> {
        Pin::new(&mut self.get_mut().muxer).poll_close(cx)
    }

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, M::Error>> {
        Pin::new(&mut self.get_mut().muxer).poll(cx)
    }
}

/// One stream whose bytes are counted.
#[derive(Debug)]
pub(super) struct CountedBytes<S> {
    stream: S,
    traffic: Arc<PeerTraffic>,
}

fn add(counter: &AtomicU64, bytes: usize) {
    counter.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
}

impl<S: AsyncRead + Unpin> AsyncRead for CountedBytes<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        read.map_ok(|bytes| {
            add(&this.traffic.received, bytes);
            bytes
        })
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for CountedBytes<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        written.map_ok(|bytes| {
            add(&this.traffic.sent, bytes);
            bytes
        })
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, parts);
        written.map_ok(|bytes| {
            add(&this.traffic.sent, bytes);
            bytes
        })
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_close(cx)
    }
}
