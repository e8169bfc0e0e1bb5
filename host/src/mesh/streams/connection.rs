//! Streams of one connection: those that the peer opens go to the host's doors, those that the host opens to who asked for them.

use std::{
    collections::VecDeque,
    convert::Infallible,
    fmt,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Instant,
};

use libp2p::{
    InboundUpgrade, OutboundUpgrade, Stream, StreamProtocol,
    core::UpgradeInfo,
    swarm::{
        ConnectionHandler, ConnectionHandlerEvent, StreamUpgradeError, SubstreamProtocol,
        handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound},
    },
};
use tokio::sync::{mpsc, oneshot};

use super::{
    Link, StreamBounds,
    bytes::{LinkStream, Opener},
};
use crate::mesh::{IncomingStream, PeerStream, Unreachable, meters};

/// A stream that somebody in this host asks for.
pub(in crate::mesh) struct StreamOrder {
    pub(in crate::mesh) protocol: &'static str,
    pub(in crate::mesh) deadline: Instant,
    pub(in crate::mesh) reply: oneshot::Sender<Result<PeerStream, Unreachable>>,
}

impl fmt::Debug for StreamOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamOrder({})", self.protocol)
    }
}

/// Orders that wait for their connection's task. The host orders few at a time: one stream carries many requests.
const MAX_ORDERS: usize = 256;

/// A choice among protocols; the stream is handed on as it is.
#[derive(Debug, Clone)]
pub(in crate::mesh) struct OfferedProtocols(Arc<[StreamProtocol]>);

impl OfferedProtocols {
    pub(in crate::mesh) fn new(names: &[&'static str]) -> Self {
        Self(names.iter().copied().map(StreamProtocol::new).collect())
    }
}

impl UpgradeInfo for OfferedProtocols {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        Vec::from(&*self.0).into_iter()
    }
}

impl InboundUpgrade<Stream> for OfferedProtocols {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}

impl OutboundUpgrade<Stream> for OfferedProtocols {
    type Output = Stream;
    type Error = Infallible;
    type Future = Ready<Result<Stream, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, _: StreamProtocol) -> Self::Future {
        ready(Ok(stream))
    }
}

/// One connection's streams.
#[derive(Debug)]
pub(in crate::mesh) struct LinkHandler {
    link: Arc<Link>,
    names: Arc<[&'static str]>,
    protocols: OfferedProtocols,
    bounds: StreamBounds,
    incoming: mpsc::Sender<IncomingStream>,
    orders: VecDeque<StreamOrder>,
    waker: Option<Waker>,
}

impl LinkHandler {
    pub(super) fn new(
        link: Arc<Link>,
        names: Arc<[&'static str]>,
        bounds: StreamBounds,
        incoming: mpsc::Sender<IncomingStream>,
    ) -> Self {
        let protocols = OfferedProtocols::new(&names);
        Self { link, names, protocols, bounds, incoming, orders: VecDeque::new(), waker: None }
    }

    fn take(&self, stream: Stream, protocol: &StreamProtocol) {
        let Some(name) = self.names.iter().copied().find(|name| *name == protocol.as_ref()) else { return };
        let most = if self.link.is_known() { self.bounds.per_peer } else { self.bounds.per_stranger };
        if let Err(refused) = self.link.admit(most) {
            meters::refused(refused.reason());
            return;
        }
        let stream = LinkStream::new(stream, Arc::clone(&self.link), Opener::There);
        let incoming = IncomingStream {
            peer: self.link.peer.clone(),
            path: self.link.path,
            protocol: name,
            stream: Box::new(stream),
        };
        if self.incoming.try_send(incoming).is_err() {
            // The stream ends as it is dropped: the host takes streams more slowly than all peers open them.
            meters::refused("incoming");
        }
    }

    fn deliver(&self, stream: Stream, order: StreamOrder) {
        if self.link.is_cut() {
            return refuse(order, Unreachable::Disconnected { peer: self.link.peer.clone() });
        }
        self.link.opened();
        let stream: PeerStream = Box::new(LinkStream::new(stream, Arc::clone(&self.link), Opener::Here));
        // Who asked has gone: the stream ends as it is dropped.
        let _gone = order.reply.send(Ok(stream));
    }

    fn fail(&self, error: StreamUpgradeError<Infallible>, order: StreamOrder) {
        let peer = self.link.peer.clone();
        let reason = match error {
            StreamUpgradeError::Timeout => Unreachable::TimedOut { peer },
            StreamUpgradeError::NegotiationFailed => Unreachable::Unsupported { peer, protocol: order.protocol },
            StreamUpgradeError::Io(error) => Unreachable::Failed { peer, reason: error.to_string() },
            StreamUpgradeError::Apply(never) => match never {},
        };
        refuse(order, reason);
    }
}

/// Tells who asked that there will be no stream.
pub(in crate::mesh) fn refuse(order: StreamOrder, reason: Unreachable) {
    let _gone = order.reply.send(Err(reason));
}

impl ConnectionHandler for LinkHandler {
    type FromBehaviour = StreamOrder;
    type ToBehaviour = Infallible;
    type InboundProtocol = OfferedProtocols;
    type OutboundProtocol = OfferedProtocols;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = StreamOrder;

    fn listen_protocol(&self) -> SubstreamProtocol<OfferedProtocols> {
        SubstreamProtocol::new(self.protocols.clone(), ())
    }

    fn connection_keep_alive(&self) -> bool {
        self.link.is_known() && !self.link.is_cut()
    }

    fn on_behaviour_event(&mut self, order: StreamOrder) {
        if self.orders.len() >= MAX_ORDERS {
            return refuse(order, Unreachable::Busy);
        }
        self.orders.push_back(order);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<OfferedProtocols, StreamOrder, Infallible>> {
        while let Some(order) = self.orders.pop_front() {
            if order.reply.is_closed() {
                continue;
            }
            let time = order.deadline.saturating_duration_since(Instant::now());
            let protocol = OfferedProtocols::new(&[order.protocol]);
            let protocol = SubstreamProtocol::new(protocol, order).with_timeout(time);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, OfferedProtocols, OfferedProtocols, (), StreamOrder>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol: (stream, name), .. }) => {
                self.take(stream, &name);
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: stream, info }) => {
                self.deliver(stream, info);
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => self.fail(error, info),
            _ => {}
        }
    }
}
