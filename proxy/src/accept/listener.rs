//! The accept loop of one worker on one listener, and the sockets below it.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use crate::drain::Phase;
use crate::worker::Worker;

/// Connections that the kernel holds for us. Linux cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Opens a listening socket that other workers open too: the kernel spreads connections.
///
/// Not `again`, the address must be free: sharing a port is for the workers of one process, and
/// must not hide that another process has it.
///
/// # Errors
/// What the system says: address in use, no permission.
pub fn bind(address: SocketAddr, again: bool) -> io::Result<std::net::TcpListener> {
    let address = every(address);
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if !again && address.port() != 0 {
        // Without SO_REUSEPORT a bind fails where anyone listens.
        let probe = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        probe.set_reuse_address(true)?;
        probe.bind(&address.into())?;
        probe.listen(1)?;
    }
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The address that is meant by "every address of this machine", `[::]`: where the kernel has no IPv6,
/// those of IPv4.
#[must_use]
pub fn every(address: SocketAddr) -> SocketAddr {
    let all = address.is_ipv6() && address.ip().is_unspecified();
    if all && Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP)).is_err() {
        return SocketAddr::from(([0, 0, 0, 0], address.port()));
    }
    address
}

/// Takes a port without listening on it, so that nobody else gets it before it is bound with
/// `again`.
///
/// # Errors
/// What the system says.
pub fn hold(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// What an accept error means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AcceptError {
    /// Only that connection is gone.
    Connection,
    /// The process or the machine is out of something: wait.
    Exhausted,
}

fn classify(error: &io::Error) -> AcceptError {
    match error.kind() {
        io::ErrorKind::ConnectionAborted
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::Interrupted
        | io::ErrorKind::ConnectionRefused => AcceptError::Connection,
        _ => AcceptError::Exhausted,
    }
}

/// Pause after the first error that says the process is out of something; doubles up to a second.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Accepts until the drain begins or `removed` resolves, handing each connection to `serve`.
/// Never gives up on an error.
pub async fn accept_forever(
    worker: Rc<Worker>,
    listener: std::net::TcpListener,
    removed: tokio_util::sync::CancellationToken,
    serve: impl Fn(TcpStream, SocketAddr),
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let mut phase = worker.shared.drain.subscribe();
    let mut pause = FIRST_PAUSE;
    loop {
        // Cancelled by drain or removal; `accept` holds no connection when it is dropped.
        let accepted = tokio::select! {
            biased;
            _ = phase.wait_for(|phase| *phase >= Phase::Draining) => return Ok(()),
            () = removed.cancelled() => return Ok(()),
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                pause = FIRST_PAUSE;
                serve(stream, peer);
            }
            Err(error) => {
                worker.metrics.worker(worker.index).accept_errors.add(1);
                if classify(&error) == AcceptError::Exhausted {
                    tracing::warn!(%error, ?pause, "accept");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_apart() {
        let class = |code: i32| classify(&io::Error::from_raw_os_error(code));
        // ECONNABORTED, EINTR; EMFILE, ENFILE, ENOMEM.
        assert_eq!(class(103), AcceptError::Connection);
        assert_eq!(class(4), AcceptError::Connection);
        for code in [24, 23, 12] {
            assert_eq!(class(code), AcceptError::Exhausted);
        }
    }
}
