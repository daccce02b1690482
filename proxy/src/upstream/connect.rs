//! Connecting to an endpoint: TCP, then TLS where the service asks for it, within one time-out.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::set_ipv6_tclass;
use selvedge_contract::ports::{APP_CLASS, APP_SOURCE};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use crate::balance::service::Speaks;
use crate::balance::{Lease, Reached, ServiceSpec};
use crate::error::{Error, ErrorKind};
use crate::overload::{Pressure, Spare};
use crate::protocol::io::Io;
use crate::protocol::socket::Socket;
use crate::tls::trust::Role;
use crate::tls::{MESH_HTTP, MESH_TCP};
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
    within(
        worker,
        lease,
        establish(worker, lease, For::Requests(first)),
    )
    .await
}

/// A connection to the lease's endpoint for bytes that are no requests. In the mesh the endpoint
/// must agree to carry them ([`MESH_TCP`]). It begins with these bytes, before TLS.
///
/// # Errors
/// As [`connect`].
pub async fn connect_for_bytes(
    worker: &Rc<Worker>,
    lease: &Lease,
    first: Option<Vec<u8>>,
) -> Result<Io, Error> {
    within(worker, lease, establish(worker, lease, For::Bytes(first))).await
}

/// What a connection is for.
enum For {
    /// Requests; it begins with these bytes.
    Requests(Option<Vec<u8>>),
    /// The same.
    Bytes(Option<Vec<u8>>),
}

async fn within(
    worker: &Rc<Worker>,
    lease: &Lease,
    attempt: impl Future<Output = Result<Io, Error>>,
) -> Result<Io, Error> {
    let spec = &lease.service().spec;
    // Cancelled by its time-out, or with whatever it is for: the socket is closed.
    let result = tokio::time::timeout(spec.connect_timeout, attempt)
        .await
        .unwrap_or_else(|_| Err(ErrorKind::ConnectTimeout.into()));
    let shard = worker.metrics.worker(worker.index);
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
pub async fn open(
    spec: &ServiceSpec,
    address: SocketAddr,
    spare: Spare,
) -> Result<TcpStream, Error> {
    let reach = reach(spec.reached, address, spare);
    let stream = tokio::time::timeout(spec.connect_timeout, reach)
        .await
        .map_err(|_| Error::from(ErrorKind::ConnectTimeout))?
        .map_err(unreached)?;
    tune(&stream);
    Ok(stream)
}

async fn reach(reached: Reached, address: SocketAddr, spare: Spare) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if spare.has(&socket) {
        return Err(Errno::MFILE.into());
    }
    if reached == Reached::AsApplication {
        pass_by(&socket, address)?;
    }
    socket.connect(address).await
}

/// That there is no descriptor left says nothing about the endpoint.
fn unreached(error: io::Error) -> Error {
    let exhausted = [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error);
    let own = error
        .raw_os_error()
        .is_some_and(|code| exhausted.contains(&code));
    let kind = match own {
        true => ErrorKind::Overloaded,
        false => ErrorKind::ConnectFailed,
    };
    Error::with(kind, error)
}

/// Has a socket connect in a way that the rules of redirection let by: see `APP_SOURCE`.
fn pass_by(socket: &TcpSocket, address: SocketAddr) -> io::Result<()> {
    if address.is_ipv4() {
        // A port is chosen before it is known where to: those that others have left may be used.
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::from((APP_SOURCE, 0)))
    } else {
        Ok(set_ipv6_tclass(socket, u32::from(APP_CLASS))?)
    }
}

async fn establish(worker: &Worker, lease: &Lease, what_for: For) -> Result<Io, Error> {
    if worker.pressure() >= Pressure::RefuseRequests {
        return Err(ErrorKind::Overloaded.into());
    }
    let address = lease.endpoint().address;
    let failed = |error| Error::with(ErrorKind::ConnectFailed, error);
    let reached = lease.service().spec.reached;
    let reach = reach(reached, address, worker.shared.spare);
    let mut stream = reach.await.map_err(unreached)?;
    tune(&stream);
    let dials = worker.snapshot().may_come_round();
    // Before its first byte.
    let dial = dials.then(|| worker.shared.dials.note(&stream));
    let known = |mut io: Io| {
        if let Some(dial) = dial {
            io.known_by(dial);
        }
        io
    };
    if let For::Requests(Some(first)) | For::Bytes(Some(first)) = &what_for {
        stream.write_all(first).await.map_err(failed)?;
    }
    let mut trusted = None;
    let (config, name) = match lease.security() {
        Security::Plain => return Ok(known(Io::plain(stream))),
        Security::Tls(tls) => (tls.config.clone(), tls.name.clone()),
        Security::Mesh(mesh) => {
            if !mesh.store.is_ready() {
                return Err(ErrorKind::NoIdentity.into());
            }
            // Before the handshake reads it: what changes from here on is noticed.
            trusted = Some((&mesh.store, mesh.store.trust().version));
            let ip = rustls_pki_types::ServerName::from(address.ip());
            (mesh.config.clone(), ip)
        }
    };
    let (connector, socket) = (TlsConnector::from(config), Socket::new(stream));
    let meshed = lease.security().is_mesh();
    let tls = match what_for {
        For::Requests(_) => connector.connect(name, socket).await,
        For::Bytes(_) => {
            let offered = meshed.then(|| MESH_TCP.to_vec());
            let connector = connector.with_alpn(offered.into_iter().collect());
            connector.connect(name, socket).await
        }
    };
    let tls = tls.map_err(tls_error)?;
    let alpn = tls.get_ref().1.alpn_protocol();
    let refused = match what_for {
        For::Requests(_) if lease.speaks() == Speaks::Http2 => {
            let chosen = matches!(alpn, Some(b"h2" | MESH_HTTP));
            (!chosen).then_some("the endpoint did not choose HTTP/2")
        }
        For::Bytes(_) if meshed && alpn != Some(MESH_TCP) => {
            Some("the endpoint did not agree to carry bytes (selvedge-tcp)")
        }
        _ => None,
    };
    if let Some(why) = refused {
        return Err(Error::with(ErrorKind::UpstreamTls, why));
    }
    let bond = trusted.map(|(store, version)| {
        let shown = tls.get_ref().1.peer_certificates().unwrap_or_default();
        let chain = worker
            .shared
            .peers
            .note(store, shown, Role::Server, version);
        chain.map(|chain| worker.bonds.tie(chain))
    });
    let bond = bond.transpose();
    let bond = bond.map_err(|error| Error::with(ErrorKind::UpstreamIdentity, error))?;
    let mut io = known(Io::tls(tls));
    if let Some(bond) = bond {
        io.bound_by(bond);
    }
    Ok(io)
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
