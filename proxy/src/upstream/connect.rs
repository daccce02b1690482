//! Connecting to an endpoint: TCP, then TLS where the service asks for it, within one time-out.

use std::rc::Rc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::balance::Lease;
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
    let attempt = establish(lease, &spec.security, first);
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

async fn establish(
    lease: &Lease,
    security: &Security,
    first: Option<Vec<u8>>,
) -> Result<Io, Error> {
    let address = lease.endpoint().address;
    let failed = |error| Error::with(ErrorKind::ConnectFailed, error);
    let mut stream = TcpStream::connect(address).await.map_err(failed)?;
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
    let speaks_h2 = lease.service().spec.speaks == crate::balance::service::Speaks::Http2;
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
fn tls_error(error: std::io::Error) -> Error {
    let inner = error
        .get_ref()
        .and_then(|e| e.downcast_ref::<rustls::Error>());
    let kind = match inner {
        Some(rustls::Error::InvalidCertificate(_)) => ErrorKind::UpstreamIdentity,
        _ => ErrorKind::UpstreamTls,
    };
    Error::with(kind, error)
}
