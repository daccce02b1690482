//! From an accepted socket to a served connection: TLS where the listener asks for it, then the
//! protocol that ALPN or the first bytes name.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::BytesMut;
use rustls::ServerConnection;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::accept::spoken::Spoken;
use crate::accept::{Counted, Downstream, ListenerPlan, ListenerSecurity, announced};
use crate::error::ErrorKind;
use crate::exchange::opaque;
use crate::telemetry::Record;
use crate::telemetry::metrics::WorkerShard;
use crate::tls;
use crate::tls::IdentityStore;
use crate::tls::bond::Bond;
use crate::tls::reason::Reason;
use crate::tls::trust::Role;
use crate::worker::Worker;

use super::detect::TLS_HANDSHAKE;
use super::io::Io;
use super::socket::Socket;
use super::{http1, http2, stream, transparent};

/// The client's connection preface (RFC 9113 section 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Serves one connection from accept to close.
pub async fn serve(
    worker: Rc<Worker>,
    listener: Arc<ListenerPlan>,
    mut stream: TcpStream,
    mut peer: SocketAddr,
    place: Option<Counted>,
) {
    let shard = worker.metrics.worker(worker.index);
    shard.accepted.add(1);
    worker.shared.live.begins();
    let mut ended = Ending {
        worker: worker.clone(),
        _places: [place, None],
    };
    Socket::tune(&stream);
    if listener.onward.is_some() {
        return Box::pin(transparent::arrive(worker, listener, stream, peer)).await;
    }
    let mut local = None;
    let deadline = Instant::now() + listener.limits.handshake;
    if is_balancer(&listener, peer) {
        let announced = announced::read(&mut stream, peer);
        match tokio::time::timeout_at(deadline, announced).await {
            Ok(Ok(named)) => (peer, local) = named,
            Ok(Err(error)) => {
                tracing::debug!(%peer, listener = %listener.name, %error, "announcement");
                return unread(&worker, listener, peer, ErrorKind::BadRequest);
            }
            Err(_) => return unread(&worker, listener, peer, ErrorKind::HeadTimeout),
        }
        // Whoever it speaks for is held to what one address may have.
        let census = &worker.shared.census;
        match census.admit_address(peer.ip(), &listener.limits) {
            Some(place) => ended._places[1] = Some(place),
            None => {
                shard.refused.add(1);
                return;
            }
        }
    }
    let here = stream.local_addr().unwrap_or(listener.address);
    let downstream = facts(listener, peer, here, local);
    if downstream.listener.streams.is_some() {
        return Box::pin(stream::arrive(worker, downstream, stream, deadline)).await;
    }
    hand_over(worker, downstream, stream, deadline).await;
}

/// TLS, where the listener wants it by the deadline, then the protocol.
pub(super) async fn hand_over(
    worker: Rc<Worker>,
    downstream: Downstream,
    stream: TcpStream,
    deadline: Instant,
) {
    let shard = worker.metrics.worker(worker.index);
    let (listener, peer) = (downstream.listener.clone(), downstream.peer);
    // Cancelled by its deadline, which closes the socket.
    match tokio::time::timeout_at(deadline, secure(&worker, downstream, stream)).await {
        Ok(Ok(Some(Secured {
            downstream,
            io,
            alpn,
        }))) => {
            speak(worker, Rc::new(downstream), io, alpn).await;
        }
        // It came for the handshake only.
        Ok(Ok(None)) => unread(&worker, listener, peer, ErrorKind::ClientGone),
        Ok(Err(failed)) => {
            count(shard, failed.reason);
            let (reason, why) = (failed.reason.word(), failed.why);
            tracing::debug!(%peer, listener = %listener.name, reason, why, "handshake");
            unread(&worker, listener, peer, failed.kind);
        }
        Err(_) => {
            count(shard, Reason::Timeout);
            unread(&worker, listener, peer, ErrorKind::HeadTimeout);
        }
    }
}

fn count(shard: &WorkerShard, reason: Reason) {
    shard.handshake_errors.add(1);
    if let Some(counter) = shard.handshake.get(reason as usize) {
        counter.add(1);
    }
}

/// A handshake that has failed.
struct Failed {
    kind: ErrorKind,
    reason: Reason,
    why: String,
}

/// Whether a peer speaks for others.
#[must_use]
pub fn is_balancer(listener: &ListenerPlan, peer: SocketAddr) -> bool {
    let balancers = listener.balancers.as_ref();
    balancers.is_some_and(|ranges| ranges.find(peer.ip().to_canonical()).is_some())
}

/// Counts a connection until it is dropped.
struct Ending {
    worker: Rc<Worker>,
    _places: [Option<Counted>; 2],
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.worker.metrics.worker(self.worker.index).closed.add(1);
        self.worker.shared.live.ends();
    }
}

fn unread(worker: &Worker, listener: Arc<ListenerPlan>, peer: SocketAddr, kind: ErrorKind) {
    let snapshot = worker.snapshot();
    let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let downstream = facts(listener, peer, nowhere, None);
    Record::unread(&snapshot, worker, &downstream).fail_with(kind);
}

/// What the protocol is known from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Alpn {
    Http1,
    Http2,
    /// Nothing that is looked into: bytes of a peer of the mesh.
    Bytes,
    /// The first bytes tell.
    None,
}

struct Secured {
    downstream: Downstream,
    io: Io,
    alpn: Alpn,
}

pub(super) fn facts(
    listener: Arc<ListenerPlan>,
    peer: SocketAddr,
    local: SocketAddr,
    announced: Option<SocketAddr>,
) -> Downstream {
    Downstream {
        listener,
        peer,
        local_port: local.port(),
        local: announced.unwrap_or(local),
        address_text: peer.ip().to_canonical().to_string().into(),
        identity: None,
        federated: false,
        client: None,
        client_cert_stamp: None,
        is_tls: false,
        server_name: None,
        onward: None,
    }
}

/// The byte that a client begins with, left where it is; `None`: it has ended without one.
async fn first_byte(stream: &TcpStream) -> std::io::Result<Option<u8>> {
    let mut first = [0];
    let n = stream.peek(&mut first).await?;
    Ok((n > 0).then_some(first).map(|[first]| first))
}

/// What is remembered of a port that lets plaintext in besides mutual TLS.
fn permissive_to(downstream: &Downstream) -> Option<&Spoken> {
    match &downstream.listener.security {
        ListenerSecurity::Mesh { permissive, .. } => permissive.as_deref(),
        _ => None,
    }
}

/// Takes note of a connection in plaintext.
pub(super) fn plaintext(downstream: &Downstream) {
    if let Some(spoken) = permissive_to(downstream) {
        spoken.plain(
            downstream.local_port,
            downstream.peer.ip(),
            SystemTime::now(),
        );
    }
}

/// TLS, where the listener wants it. `None`: the connection has done what it came for.
async fn secure(
    worker: &Worker,
    mut downstream: Downstream,
    stream: TcpStream,
) -> Result<Option<Secured>, Failed> {
    let io_error = |error: std::io::Error| Failed {
        kind: ErrorKind::ClientGone,
        reason: Reason::Gone,
        why: error.to_string(),
    };
    let listener = downstream.listener.clone();
    let (tls, permissive) = match &listener.security {
        ListenerSecurity::Plain => (None, true),
        ListenerSecurity::Tls(tls) => (Some(tls), false),
        ListenerSecurity::Mesh { tls, permissive } => (Some(tls), permissive.is_some()),
    };
    let tls = match tls {
        Some(tls) if permissive => {
            let first = first_byte(&stream).await.map_err(io_error)?;
            if first.is_some_and(|first| first != TLS_HANDSHAKE) {
                plaintext(&downstream);
            }
            (first == Some(TLS_HANDSHAKE)).then_some(tls)
        }
        other => other,
    };
    let Some(tls) = tls else {
        return Ok(Some(Secured {
            downstream,
            io: Io::plain(stream),
            alpn: Alpn::None,
        }));
    };
    // Before the handshake reads it: what changes from here on is noticed.
    let trusted = tls.store().map(|store| (store, store.trust().version));
    let Some(accepted) = tls::accept(tls, stream).await.map_err(|error| Failed {
        kind: ErrorKind::BadRequest,
        reason: Reason::of(&error),
        why: error.to_string(),
    })?
    else {
        return Ok(None);
    };
    let session = accepted.get_ref().1;
    let alpn = match session.alpn_protocol() {
        Some(b"h2" | tls::MESH_HTTP) => Alpn::Http2,
        Some(tls::MESH_TCP) => Alpn::Bytes,
        Some(_) => Alpn::Http1,
        None => Alpn::None,
    };
    downstream.is_tls = true;
    downstream.server_name = session
        .server_name()
        .map(|name| name.to_ascii_lowercase().into());
    let bond = trusted.map(|trusted| bond(worker, session, trusted));
    let bond = bond.transpose()?;
    // A client at the edge may have a certificate with a SPIFFE ID; its CA has no say in the mesh.
    if matches!(listener.security, ListenerSecurity::Tls(_)) {
        downstream.client = tls::client_certificate(session).map(Box::new);
        let stamp = downstream.client.as_ref().map(|client| client.stamp());
        downstream.client_cert_stamp = stamp.map(Into::into);
    } else if let Some(id) = tls::peer_id(session) {
        let own = tls.own_id().unwrap_or_default();
        downstream.client_cert_stamp = Some(format!("By={own};URI={id}").into());
        downstream.federated = !tls.is_of_own_domain(&id);
        if let Some(spoken) = permissive_to(&downstream) {
            spoken.mutual(downstream.local_port);
        }
        downstream.identity = Some(id);
    }
    let mut io = Io::tls(accepted);
    if let Some(bond) = bond {
        io.bound_by(bond);
    }
    Ok(Some(Secured {
        downstream,
        io,
        alpn,
    }))
}

/// Ties a connection of the mesh to the trust in its peer, who was verified by this or newer.
fn bond(
    worker: &Worker,
    session: &ServerConnection,
    (store, version): (&Arc<IdentityStore>, u64),
) -> Result<Rc<Bond>, Failed> {
    let shown = session.peer_certificates().unwrap_or_default();
    let peers = &worker.shared.peers;
    let chain = peers.note(store, shown, Role::Client, version);
    let chain = chain.map_err(|error| Failed {
        kind: ErrorKind::Distrusted,
        reason: Reason::Distrusted,
        why: error.to_string(),
    })?;
    Ok(worker.bonds.tie(chain))
}

async fn speak(worker: Rc<Worker>, downstream: Rc<Downstream>, mut io: Io, alpn: Alpn) {
    if downstream.listener.streams.is_some() {
        return Box::pin(stream::carry(worker, downstream, io)).await;
    }
    let http2 = match alpn {
        Alpn::Http1 => false,
        Alpn::Http2 => true,
        Alpn::Bytes => return Box::pin(opaque::receive(worker, downstream, io)).await,
        Alpn::None => match sniff(&mut io, &downstream).await {
            Ok(http2) => http2,
            Err(kind) => {
                let snapshot = worker.snapshot();
                Record::unread(&snapshot, &worker, &downstream).fail_with(kind);
                return;
            }
        },
    };
    if http2 {
        http2::server::serve(worker, downstream, io).await;
    } else {
        http1::server::serve(worker, downstream, io).await;
    }
}

/// Tells HTTP/2 with prior knowledge from HTTP/1 by as few bytes as that takes: no method begins
/// with all of `PRI * `, and most do not even begin with `P`.
async fn sniff(io: &mut Io, downstream: &Downstream) -> Result<bool, ErrorKind> {
    let mut seen = BytesMut::with_capacity(4 << 10);
    let deadline = Instant::now() + downstream.listener.limits.header_read;
    loop {
        // Cancelled by its deadline; what was read is lost with the connection.
        match tokio::time::timeout_at(deadline, io.read_buf(&mut seen)).await {
            Err(_) => return Err(ErrorKind::HeadTimeout),
            Ok(Ok(0) | Err(_)) if seen.is_empty() => return Err(ErrorKind::ClientGone),
            Ok(Ok(0) | Err(_)) => break,
            Ok(Ok(_)) => {}
        }
        let n = seen.len().min(PREFACE.len());
        let matches = seen.get(..n) == PREFACE.get(..n);
        if !matches || n == PREFACE.len() {
            let http2 = matches;
            io.unread(seen);
            return Ok(http2);
        }
    }
    io.unread(seen);
    Ok(false)
}
