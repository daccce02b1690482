//! The sockets of a listener for datagrams: one for each worker, and the kernel keeps each client with one.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

use super::every;

/// Opens a socket that other workers open too. Not `again`, the address must be free.
///
/// # Errors
/// What the system says: address in use, no permission.
pub fn bind(address: SocketAddr, again: bool) -> io::Result<UdpSocket> {
    let address = every(address);
    let open = || {
        Socket::new(
            Domain::for_address(address),
            Type::DGRAM,
            Some(Protocol::UDP),
        )
    };
    if !again && address.port() != 0 {
        // Without SO_REUSEPORT a bind fails where anyone else is.
        open()?.bind(&address.into())?;
    }
    let socket = open()?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// A socket of one session, which only hears this endpoint.
///
/// # Errors
/// What the system says.
pub fn towards(endpoint: SocketAddr) -> io::Result<tokio::net::UdpSocket> {
    let any = match endpoint {
        SocketAddr::V4(_) => SocketAddr::from(([0, 0, 0, 0], 0)),
        SocketAddr::V6(_) => SocketAddr::from(([0_u16; 8], 0)),
    };
    let socket = UdpSocket::bind(any)?;
    socket.set_nonblocking(true)?;
    socket.connect(endpoint)?;
    tokio::net::UdpSocket::from_std(socket)
}
