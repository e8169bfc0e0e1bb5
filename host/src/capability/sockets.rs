//! `wasi:sockets`: linked, and every operation denied. CPython and C libraries import it for every program, so a component that has it must load.
//!
//! No code here makes a socket or looks a name up, so no guest ever holds one: the socket methods are the engine's own code, and unreachable.
//! If a guest reached that code, the instance's `WasiCtx` would allow neither TCP, UDP nor look-ups. Its check of addresses, the engine's default, refuses all.

use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::{
    WasiView,
    p2::{
        DynPollable, SocketError, SocketResult, TcpSocket, UdpSocket,
        bindings::sockets::{
            instance_network,
            ip_name_lookup::{self, ResolveAddressStream},
            network::{self, ErrorCode, IpAddress, IpAddressFamily, Network},
            tcp, tcp_create_socket, udp, udp_create_socket,
        },
    },
    sockets::{WasiSockets, WasiSocketsView as _},
};

use crate::capability::state::State;

/// State of the interfaces, which deny every operation, with the table of handles.
struct DeniedSockets<'a>(&'a mut ResourceTable);

struct HasDenied;

impl HasData for HasDenied {
    type Data<'a> = DeniedSockets<'a>;
}

impl network::Host for DeniedSockets<'_> {
    fn convert_error_code(&mut self, error: SocketError) -> wasmtime::Result<ErrorCode> {
        error.downcast()
    }

    fn network_error_code(&mut self, _: Resource<wasmtime::Error>) -> wasmtime::Result<Option<ErrorCode>> {
        Ok(None)
    }
}

impl network::HostNetwork for DeniedSockets<'_> {
    fn drop(&mut self, network: Resource<Network>) -> wasmtime::Result<()> {
        self.0.delete(network)?;
        Ok(())
    }
}

impl tcp_create_socket::Host for DeniedSockets<'_> {
    fn create_tcp_socket(&mut self, _: IpAddressFamily) -> SocketResult<Resource<TcpSocket>> {
        Err(ErrorCode::AccessDenied.into())
    }
}

impl udp_create_socket::Host for DeniedSockets<'_> {
    async fn create_udp_socket(&mut self, _: IpAddressFamily) -> SocketResult<Resource<UdpSocket>> {
        Err(ErrorCode::AccessDenied.into())
    }
}

impl ip_name_lookup::Host for DeniedSockets<'_> {
    fn resolve_addresses(&mut self, _: Resource<Network>, _: String) -> SocketResult<Resource<ResolveAddressStream>> {
        Err(ErrorCode::AccessDenied.into())
    }
}

impl ip_name_lookup::HostResolveAddressStream for DeniedSockets<'_> {
    fn resolve_next_address(&mut self, _: Resource<ResolveAddressStream>) -> SocketResult<Option<IpAddress>> {
        Err(ErrorCode::AccessDenied.into())
    }

    fn subscribe(&mut self, stream: Resource<ResolveAddressStream>) -> wasmtime::Result<Resource<DynPollable>> {
        wasmtime_wasi::p2::subscribe(self.0, stream)
    }

    fn drop(&mut self, stream: Resource<ResolveAddressStream>) -> wasmtime::Result<()> {
        self.0.delete(stream)?;
        Ok(())
    }
}

fn denied(state: &mut State) -> DeniedSockets<'_> {
    DeniedSockets(state.ctx().table)
}

/// Links the interfaces.
pub(super) fn link(l: &mut Linker<State>) -> wasmtime::Result<()> {
    network::add_to_linker::<State, HasDenied>(l, &network::LinkOptions::default(), denied)?;
    instance_network::add_to_linker::<State, WasiSockets>(l, State::sockets)?;
    tcp_create_socket::add_to_linker::<State, HasDenied>(l, denied)?;
    udp_create_socket::add_to_linker::<State, HasDenied>(l, denied)?;
    ip_name_lookup::add_to_linker::<State, HasDenied>(l, denied)?;
    tcp::add_to_linker::<State, WasiSockets>(l, State::sockets)?;
    udp::add_to_linker::<State, WasiSockets>(l, State::sockets)
}
