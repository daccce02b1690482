//! The socket of the CA: TLS, HTTP/2, limits, upkeep of certificates, graceful shutdown.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use selvedge_contract::sign::{IstioCertificateServiceServer, TokensServer, TrustServer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

use crate::crowd::Crowd;
use crate::issue::IssueError;
use crate::line::{Line, Silent};
use crate::mint::MintService;
use crate::service::{CaService, Peer};
use crate::tls::{CurrentIdentity, server_config};
use crate::trust::TrustService;

/// Largest gRPC message in bytes: a request of 16 KiB with room for its metadata.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// Most connections at a time; further ones wait in the listener's backlog.
pub const MAX_CONNECTIONS: usize = 1024;
/// A TLS handshake takes no longer.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A call, from its headers to its answer, takes no longer.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection is asked to end after this long: a caller needs it for one call a day, and one
/// that stays would keep others out.
pub const CONNECTION_AGE: Duration = Duration::from_secs(60);

/// Most calls at a time on one connection.
const MAX_STREAMS: u32 = 16;
/// Largest header list in bytes.
const MAX_HEADERS: u32 = 16 * 1024;
/// Largest request for a token in bytes: 16 audiences.
const MAX_MINT: usize = 8 * 1024;
/// Largest of the other messages in bytes.
const MAX_HELD: usize = 1024;
/// Flow control in bytes: a message and more.
const WINDOW: u32 = 64 * 1024;
/// How often a silent connection is asked whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Most connections of one address: those who come and go need one each, for a moment.
const OF_ONE: u32 = 128;
/// How long open calls may go on after shutdown or the connection's age.
const DRAIN: Duration = Duration::from_secs(10);
/// How often certificates and tokens are looked at. By the wall clock, so that a suspended
/// machine does not sleep past an expiry.
const UPKEEP: Duration = Duration::from_secs(60);
/// Pause after a failed `accept`, which is mostly a want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// There is no certificate for its own endpoint.
    #[error("cannot issue the server's own certificate: {0}")]
    Identity(#[from] IssueError),
    /// TLS cannot be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// Serves `IstioCertificateService` on `listener` until `shutdown`; then lets open calls finish
/// for up to 10 seconds.
///
/// TLS 1.3 with the authority's own certificate; a client certificate is optional, but one from
/// elsewhere ends the handshake. The intermediate, the server's certificate and the join tokens
/// are kept fresh meanwhile.
///
/// # Errors
/// Only at the start: when there is no certificate for the endpoint or TLS cannot be set up.
pub async fn serve(
    listener: TcpListener,
    service: CaService,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let first = service.own_identity(SystemTime::now())?;
    let identity = Arc::new(CurrentIdentity::new(first)?);
    let config = server_config(service.authority.clone(), identity.clone())?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let calls = Calls::new(&service, &shutdown);
    let addresses = Crowd::new(OF_ONE);
    let silent = Silent::default();
    let tasks = TaskTracker::new();
    tasks.spawn(keep_fresh(service.clone(), identity, shutdown.clone()));
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => {
                // Answers are small and at once: waiting to fill a packet would cost 40 ms each.
                let _ = stream.set_nodelay(true);
                let Some(counted) = addresses.admit(address.ip()) else {
                    service.tally.turned_away.fetch_add(1, Relaxed);
                    continue;
                };
                // Further ones stay in the backlog.
                let permit = tokio::select! {
                    () = shutdown.cancelled() => break,
                    permit = place(&permits, &silent) => permit,
                };
                let connection = Connection {
                    address,
                    calls: calls.clone(),
                    line: Line::new(permit.map(|permit| (permit, counted)), &silent),
                    shutdown: shutdown.clone(),
                };
                tasks.spawn(connection.run(acceptor.clone(), stream));
            }
            Err(error) => {
                tracing::warn!(target: "selvedge::ca", %error, "accept failed");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    tasks.close();
    // Every task bounds its own end, see `DRAIN` and `HANDSHAKE_TIMEOUT`.
    tasks.wait().await;
    Ok(())
}

/// One of the places of all; that of whoever has asked nothing for the longest, where there is no other.
async fn place(permits: &Arc<Semaphore>, silent: &Silent) -> Option<OwnedSemaphorePermit> {
    if let Ok(permit) = permits.clone().try_acquire_owned() {
        return Some(permit);
    }
    silent.give_way();
    permits.clone().acquire_owned().await.ok()
}

/// What can be called.
#[derive(Debug, Clone)]
struct Calls {
    certificates: IstioCertificateServiceServer<CaService>,
    trust: TrustServer<TrustService>,
    tokens: TokensServer<MintService>,
    health: HealthServer<HealthService>,
}

impl Calls {
    fn new(service: &CaService, shutdown: &CancellationToken) -> Self {
        let trust = TrustService::new(service.clone(), shutdown.clone());
        // As long as it answers, it serves: there is nothing that one call could and another could not.
        let health = HealthService::from_health_reporter(HealthReporter::new());
        Self {
            certificates: IstioCertificateServiceServer::new(service.clone())
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE),
            trust: TrustServer::new(trust)
                .max_decoding_message_size(MAX_HELD)
                .max_encoding_message_size(MAX_MESSAGE),
            tokens: TokensServer::new(MintService::new(service.clone()))
                .max_decoding_message_size(MAX_MINT)
                .max_encoding_message_size(MAX_MESSAGE),
            health: HealthServer::new(health).max_decoding_message_size(MAX_HELD),
        }
    }

    async fn answer(
        mut self,
        request: http::Request<Incoming>,
    ) -> Result<http::Response<Body>, Infallible> {
        let late = |_| Ok(Status::deadline_exceeded("took too long").into_http());
        let (service, method) = request.uri().path().rsplit_once('/').unwrap_or_default();
        match (service, method) {
            // Its answers go on after this; that it begins is quick.
            ("/selvedge.ca.v1.Trust", _) => {
                let begun = timeout(CALL_TIMEOUT, self.trust.call(request)).await;
                begun.unwrap_or_else(late)
            }
            ("/selvedge.ca.v1.Tokens", _) => timeout(CALL_TIMEOUT, self.tokens.call(request))
                .await
                .unwrap_or_else(late),
            ("/grpc.health.v1.Health", "Check") => self.health.call(request).await,
            // A stream for everybody who asks would be a connection for everybody who asks.
            ("/grpc.health.v1.Health", _) => Ok(Status::unimplemented("use Check").into_http()),
            _ => timeout(CALL_TIMEOUT, self.certificates.call(request))
                .await
                .unwrap_or_else(late),
        }
    }
}

struct Connection {
    address: SocketAddr,
    calls: Calls,
    line: Line,
    shutdown: CancellationToken,
}

impl Connection {
    async fn run(self, acceptor: TlsAcceptor, stream: TcpStream) {
        let peer = self.address;
        let handshake = timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream));
        let outcome = tokio::select! {
            () = self.shutdown.cancelled() => return,
            () = self.line.ended() => return,
            outcome = handshake => outcome,
        };
        match outcome {
            Ok(Ok(stream)) => self.serve_http(stream).await,
            Ok(Err(error)) => {
                tracing::info!(target: "selvedge::ca", %peer, %error, "handshake failed");
            }
            Err(_) => tracing::info!(target: "selvedge::ca", %peer, "handshake timed out"),
        }
    }

    async fn serve_http(self, stream: TlsStream<TcpStream>) {
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let peer = Peer {
            address: self.address,
            certificates: certificates.into(),
        };
        let (calls, line) = (self.calls, self.line.clone());
        let answer = service_fn(move |mut request: http::Request<Incoming>| {
            line.called();
            request.extensions_mut().insert(peer.clone());
            request.extensions_mut().insert(line.clone());
            calls.clone().answer(request)
        });
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEADERS)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            // Whoever follows is silent for days; who is gone must not be waited for.
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(CALL_TIMEOUT)
            .serve_connection(TokioIo::new(stream), answer);
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => Some(ended),
            () = self.shutdown.cancelled() => None,
            () = self.line.over() => None,
        };
        let ended = match ended {
            Some(ended) => ended,
            None => {
                connection.as_mut().graceful_shutdown();
                timeout(DRAIN, connection).await.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = ended {
            tracing::debug!(target: "selvedge::ca", peer = %self.address, %error, "connection failed");
        }
    }
}

async fn keep_fresh(
    service: CaService,
    identity: Arc<CurrentIdentity>,
    shutdown: CancellationToken,
) {
    let mut bundles = service.authority.bundles();
    let mut told = HashMap::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = sleep(UPKEEP) => {}
            // What signs may have changed with it.
            _ = bundles.changed() => {}
        }
        alarm(&service, &mut told);
        let (service, identity) = (service.clone(), identity.clone());
        let work = move || refresh(&service, &identity, SystemTime::now());
        if let Err(error) = tokio::task::spawn_blocking(work).await {
            tracing::error!(target: "selvedge::ca", %error, "upkeep failed");
        }
    }
}

/// Says of each certificate when so much of its life is over, once. `told` is what was said, by what the
/// certificate is called in logs.
fn alarm(service: &CaService, told: &mut HashMap<String, u8>) {
    let status = service.status(SystemTime::now());
    for certificate in &status.certificates {
        let Some(level) = certificate.alarm else {
            continue;
        };
        let before = told.insert(certificate.sha256.clone(), level);
        if before.is_none_or(|before| before < level) {
            let (name, used) = (&certificate.name, certificate.used);
            tracing::warn!(target: "selvedge::ca", certificate = %name, used, "so much of its life is over, in percent");
        }
    }
    told.retain(|sha256, _| status.certificates.iter().any(|c| c.sha256 == *sha256));
}

/// Renews what is due. A failure leaves the old one in use and is tried again in a minute.
fn refresh(service: &CaService, identity: &CurrentIdentity, now: SystemTime) {
    match service.authority.renew_if_due(now) {
        // Without the root's key only the operator can help, so say it until someone does.
        Ok(_) if service.authority.is_due(now) => {
            tracing::warn!(target: "selvedge::ca", "intermediate is due and there is no root.key");
        }
        Ok(false) => {}
        Ok(true) => tracing::info!(target: "selvedge::ca", "intermediate renewed"),
        Err(error) => {
            tracing::error!(target: "selvedge::ca", %error, "intermediate not renewed");
        }
    }
    let signer = service.authority.signer();
    if identity.is_due(now) || !identity.is_by(&signer.certificate.der) {
        let next = service.own_identity(now);
        let replaced = next
            .map_err(ServeError::from)
            .and_then(|next| Ok(identity.replace(next)?));
        match replaced {
            Ok(()) => tracing::info!(target: "selvedge::ca", "server certificate renewed"),
            Err(error) => {
                tracing::error!(target: "selvedge::ca", %error, "server certificate not renewed");
            }
        }
    }
    if let Err(error) = service.records.sweep(now) {
        tracing::error!(target: "selvedge::ca", %error, "old issuance logs not removed");
    }
    if let Some(tokens) = &service.tokens
        && let Err(error) = tokens.sweep(now)
    {
        tracing::error!(target: "selvedge::ca", %error, "expired tokens not removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Authority;

    #[test]
    fn upkeep_renews_intermediate_and_server_certificate() {
        let now = SystemTime::now();
        let domain = "shop.local".parse().unwrap();
        let authority = Arc::new(Authority::ephemeral(&domain, now).unwrap());
        let service = CaService::new(authority.clone(), None, Vec::new());
        let identity = CurrentIdentity::new(service.own_identity(now).unwrap()).unwrap();

        let ends = authority.intermediate_ends();
        refresh(&service, &identity, now);
        assert_eq!(authority.intermediate_ends(), ends);

        let later = now + Duration::from_secs(21 * 24 * 3600);
        assert!(identity.is_due(later));
        refresh(&service, &identity, later);
        assert!(authority.intermediate_ends() > ends);
        assert!(!identity.is_due(later));
    }
}
