//! UDP sockets with room for bursts.

use super::runtime::OnHandle;
use super::settings;
use quinn::{Endpoint, ServerConfig};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use tokio::runtime::Handle;

/// What we ask the kernel for; it gives what its own limit allows. The default loses thousands of packets a gigabyte.
const SOCKET_BUFFER_BYTES: usize = 8 << 20;

pub(crate) fn endpoint(
    address: SocketAddr,
    server: Option<ServerConfig>,
    runtime: &Handle,
) -> io::Result<Endpoint> {
    endpoint_on(bind(address)?, server, runtime)
}

/// Of either family, so that one socket reaches every address that a name may have.
pub(crate) fn client_endpoint(runtime: &Handle) -> io::Result<Endpoint> {
    // A machine without IPv6 has the other one.
    let socket = bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)))
        .or_else(|_| bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))))?;
    endpoint_on(socket, None, runtime)
}

fn endpoint_on(socket: UdpSocket, server: Option<ServerConfig>, runtime: &Handle) -> io::Result<Endpoint> {
    Endpoint::new(settings::endpoint(), server, socket, Arc::new(OnHandle(runtime.clone())))
}

fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    // Smaller buffers are slower, not wrong.
    for (what, outcome) in [
        ("receive", socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)),
        ("send", socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)),
    ] {
        if let Err(error) = outcome {
            tracing::debug!(%error, what, "the socket keeps its default buffer");
        }
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}
