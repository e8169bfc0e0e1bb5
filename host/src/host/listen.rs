//! The socket of the HTTP door.

use std::net::SocketAddr;

use anyhow::Context as _;
use tokio::net::{TcpListener, TcpSocket};

/// Connections that the kernel holds until they are accepted.
const BACKLOG: u32 = 1_024;
/// The bytes of one connection's answers that the kernel holds. The host does not count them, and notices a client that stands still only beyond them.
const SEND_BUFFER_BYTES: u32 = 256 << 10;
/// The same for what a client sends and the host has not read yet. Else the kernel would keep up to 6 MiB for each connection, on nobody's account.
const RECEIVE_BUFFER_BYTES: u32 = 128 << 10;

/// Listens on `address`.
pub(super) fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let advice = || format!("cannot listen on {address}; is another host running? choose another port with --listen");
    let bind = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // As every server does: a host that starts again does not wait for connections of the one before.
        socket.set_reuseaddr(true)?;
        socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bind().with_context(advice)
}
