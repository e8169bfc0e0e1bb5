//! A component for the tests of sockets, of which nobody has one: every way out, by the standard library and past it.
#![allow(clippy::disallowed_methods, reason = "a guest has its thread to itself")]

use std::{
    io::Write as _,
    net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _, UdpSocket},
    time::Duration,
};

use mcpp_tool::{Error, tool};
use wasip2::sockets::{
    instance_network::instance_network,
    ip_name_lookup::resolve_addresses,
    network::{ErrorCode, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress},
    tcp_create_socket::create_tcp_socket,
    udp::OutgoingDatagram,
    udp_create_socket::create_udp_socket,
};

/// Results of the standard library for every way out to `127.0.0.1:PORT`.
#[tool]
fn by_library(port: u16) -> Result<Vec<String>, Error> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let said = |result: std::io::Result<()>| result.map_or_else(|error| error.kind().to_string(), |()| "out".into());
    Ok(vec![
        said(TcpStream::connect(address).and_then(|mut stream| stream.write_all(b"out"))),
        said(TcpStream::connect_timeout(&address, Duration::from_millis(100)).map(drop)),
        said(TcpListener::bind("127.0.0.1:0").map(drop)),
        said(TcpListener::bind("[::1]:0").map(drop)),
        said(UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.send_to(b"out", address)).map(drop)),
        said(UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.connect(address))),
        // The library chooses the kind of this error.
        if ("localhost", port).to_socket_addrs().is_ok() { "out".into() } else { "not found".into() },
    ])
}

/// Results of the interfaces themselves for the same ways out; a guest that gets a socket goes as far as the socket goes.
#[tool]
fn by_interface(port: u16) -> Result<Vec<String>, Error> {
    let families = [IpAddressFamily::Ipv4, IpAddressFamily::Ipv6];
    let said = |result: Result<(), ErrorCode>| result.map_or_else(|code| code.name().to_owned(), |()| "out".into());
    let mut all: Vec<String> = families.into_iter().map(|family| said(tcp(family, port))).collect();
    all.extend(families.into_iter().map(|family| said(udp(family, port))));
    let network = instance_network();
    all.extend(
        ["localhost", "127.0.0.1", "a.invalid", ""].map(|name| said(resolve_addresses(&network, name).map(drop))),
    );
    Ok(all)
}

fn here(port: u16) -> IpSocketAddress {
    IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address: (127, 0, 0, 1) })
}

fn tcp(family: IpAddressFamily, port: u16) -> Result<(), ErrorCode> {
    let (socket, network) = (create_tcp_socket(family)?, instance_network());
    socket.start_connect(&network, here(port))?;
    socket.subscribe().block();
    socket.finish_connect().map(drop)
}

fn udp(family: IpAddressFamily, port: u16) -> Result<(), ErrorCode> {
    let (socket, network) = (create_udp_socket(family)?, instance_network());
    socket.start_bind(&network, here(0))?;
    socket.finish_bind()?;
    let (_incoming, outgoing) = socket.stream(None)?;
    outgoing.check_send()?;
    outgoing.send(&[OutgoingDatagram { data: b"out".to_vec(), remote_address: Some(here(port)) }]).map(drop)
}

/// Takes handles of the network, which is all that it can get, and asks for sockets, for ever.
#[tool]
fn hoard() -> Result<u64, Error> {
    let mut kept = Vec::new();
    loop {
        kept.push(instance_network());
        if create_tcp_socket(IpAddressFamily::Ipv4).is_ok() {
            return Ok(0);
        }
    }
}

mcpp_tool::export!(by_library, by_interface, hoard);
