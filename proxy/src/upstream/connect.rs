//! Connecting to an endpoint: TCP, then TLS where the service asks for it, within one time-out.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use rustix::net::sockopt::set_ipv6_tclass;
use selvedge_contract::ports::{APP_CLASS, APP_SOURCE};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use crate::balance::{Lease, Reached, ServiceSpec};
use crate::error::{Error, ErrorKind};
use crate::protocol::io::Io;
use crate::protocol::socket::Socket;
use crate::worker::Worker;

use super::security::Security;

/// A connection to the lease's endpoint, offering these protocols by ALPN where there is TLS. It
/// begins with these bytes, before TLS.
///
/// # Errors
/// [`ErrorKind::ConnectFailed`], [`ErrorKind::ConnectTimeout`], [`ErrorKind::UpstreamTls`],
/// [`ErrorKind::UpstreamIdentity`], [`ErrorKind::NoIdentity`].
pub async fn connect(
    worker: &Rc<Worker>,
    lease: &Lease,
    first: Option<Vec<u8>>,
) -> Result<Io, Error> {
    let spec = &lease.service().spec;
    let attempt = establish(lease, lease.security(), first);
    let result = tokio::time::timeout(spec.connect_timeout, attempt)
        .await
        .unwrap_or_else(|_| Err(ErrorKind::ConnectTimeout.into()));
    let shard = worker.metrics.worker(worker.index);
    let result = result.map(|mut io| {
        if worker.snapshot().may_come_round() {
            let dial = worker.shared.dials.note(io.socket());
            io.known_by(dial);
        }
        io
    });
    match &result {
        Ok(_) => shard.connected.add(1),
        Err(error) => {
            shard.connect_errors.add(1);
            tracing::debug!(service = %spec.name, endpoint = %lease.endpoint().address, %error, "connect");
        }
    }
    result
}

/// A connection to this address without anything on it, from where the service's callers come.
///
/// # Errors
/// [`ErrorKind::ConnectFailed`], [`ErrorKind::ConnectTimeout`].
pub async fn open(spec: &ServiceSpec, address: SocketAddr) -> Result<TcpStream, Error> {
    let stream = tokio::time::timeout(spec.connect_timeout, reach(spec.reached, address))
        .await
        .map_err(|_| Error::from(ErrorKind::ConnectTimeout))?
        .map_err(|error| Error::with(ErrorKind::ConnectFailed, error))?;
    tune(&stream);
    Ok(stream)
}

async fn reach(reached: Reached, address: SocketAddr) -> io::Result<TcpStream> {
    if reached == Reached::AsApplication {
        return from_beside(address).await;
    }
    TcpStream::connect(address).await
}

/// Connects in a way that the rules of redirection let by: see `APP_SOURCE`.
async fn from_beside(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() {
        let socket = TcpSocket::new_v4()?;
        // A port is chosen before it is known where to: those that others have left may be used.
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::from((APP_SOURCE, 0)))?;
        socket
    } else {
        let socket = TcpSocket::new_v6()?;
        set_ipv6_tclass(&socket, u32::from(APP_CLASS))?;
        socket
    };
    socket.connect(address).await
}

async fn establish(
    lease: &Lease,
    security: &Security,
    first: Option<Vec<u8>>,
) -> Result<Io, Error> {
    let address = lease.endpoint().address;
    let failed = |error| Error::with(ErrorKind::ConnectFailed, error);
    let reached = lease.service().spec.reached;
    let mut stream = reach(reached, address).await.map_err(failed)?;
    tune(&stream);
    if let Some(first) = first {
        stream.write_all(&first).await.map_err(failed)?;
    }
    let (config, name) = match security {
        Security::Plain => return Ok(Io::plain(stream)),
        Security::Tls(tls) => (tls.config.clone(), tls.name.clone()),
        Security::Mesh(mesh) => {
            if !mesh.store.is_ready() {
                return Err(ErrorKind::NoIdentity.into());
            }
            let ip = rustls_pki_types::ServerName::from(address.ip());
            (mesh.config.clone(), ip)
        }
    };
    let tls = TlsConnector::from(config)
        .connect(name, Socket::new(stream))
        .await
        .map_err(tls_error)?;
    let speaks_h2 = lease.speaks() == crate::balance::service::Speaks::Http2;
    let alpn = tls.get_ref().1.alpn_protocol();
    if speaks_h2 && !matches!(alpn, Some(b"h2" | crate::tls::MESH_HTTP)) {
        return Err(Error::with(
            ErrorKind::UpstreamTls,
            "the endpoint did not choose HTTP/2",
        ));
    }
    Ok(Io::tls(tls))
}

/// What is acknowledged by nobody for this long was sent to nobody: the connection is given up,
/// and with it the requests that would otherwise wait for the kernel's quarter of an hour.
const UNACKNOWLEDGED: Duration = Duration::from_secs(15);
/// A silent connection is asked for a sign of life this often.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Sets socket options; a failure costs latency or patience, not correctness.
fn tune(stream: &TcpStream) {
    Socket::tune(stream);
    let socket = SockRef::from(stream);
    let _ = socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    let _ = socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE)
            .with_interval(KEEPALIVE / 3),
    );
}

/// Tells a peer that is someone else from one that speaks no TLS.
fn tls_error(error: io::Error) -> Error {
    let inner = error
        .get_ref()
        .and_then(|e| e.downcast_ref::<rustls::Error>());
    let kind = match inner {
        Some(rustls::Error::InvalidCertificate(_)) => ErrorKind::UpstreamIdentity,
        _ => ErrorKind::UpstreamTls,
    };
    Error::with(kind, error)
}
