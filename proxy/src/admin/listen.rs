//! Control plane: a small HTTP server for scrapers, probes and people.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::callers::{self, Callers};

/// Connections at a time: scrapers, probes and people, not load.
const CONNECTIONS: usize = 256;
/// Those of one address.
const OF_ONE: usize = 32;
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// What such a server says.
pub(crate) type Answer = Response<Full<Bytes>>;

pub(crate) fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    with_type(status, "text/plain; charset=utf-8", body)
}

pub(crate) fn with_type(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let value = header::HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, value);
    response
}

/// Metrics in the form of OpenMetrics.
pub(crate) fn metrics(body: String) -> Answer {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    with_type(StatusCode::OK, kind, body)
}

/// Serves until the runtime ends. `what` is its name in the log.
///
/// # Errors
/// When the address is taken.
pub(crate) async fn serve<S, F>(
    address: SocketAddr,
    what: &'static str,
    state: S,
    answer: fn(S, Request<Incoming>) -> F,
) -> io::Result<()>
where
    S: Clone + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let listener = TcpListener::bind(crate::accept::every(address))
        .await
        .map_err(|error| {
            io::Error::other(format!("cannot listen on {address} ({what}): {error}"))
        })?;
    tracing::info!(address = %listener.local_addr()?, "{what}");
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let callers = Callers::new(OF_ONE);
    tokio::spawn(async move {
        loop {
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "{what}: accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Some(caller) = callers.admit(peer.ip()) else {
                continue;
            };
            let state = state.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let answered = answer(state.clone(), request);
                    async move { Ok::<_, Infallible>(answered.await) }
                });
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_TIMEOUT)
                    .serve_connection(TokioIo::new(stream), service);
                callers::bounded(connection).await;
                drop((place, caller));
            });
        }
    });
    Ok(())
}
