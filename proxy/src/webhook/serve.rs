//! Injector: the webhook's socket: TLS, HTTP/1.1, and every bound on what comes over it.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use selvedge_injector::admission::{Answer as Decided, Review, answer};
use selvedge_injector::pods::options::INJECT;
use selvedge_injector::pods::workload::Namespace;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::listen::{Answer, text, with_type};
use crate::tls::{IdentityStore, provider};

use super::Injector;
use super::metrics::Failure;

/// Largest body in bytes: an API server sends objects up to 3 MiB, with an old one beside it.
const BODY: usize = 10 * 1000 * 1000;
/// All bodies that are held at a time, in KiB: a body as values takes several times its size.
const HELD: usize = 48 * 1024;
/// A larger body is worked on beside the others, one at a time.
const LARGE: usize = 64 * 1024;
const CONNECTIONS: usize = 1024;
/// A TLS handshake takes no longer.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The head of a request takes no longer; nor does a connection stay idle for longer.
const HEAD: Duration = Duration::from_secs(15);
/// A body takes no longer, with the wait for a place: API servers give up after 10 s by default.
const BODY_TIME: Duration = Duration::from_secs(10);
/// New connections are still accepted for this long after the end was asked for: the API server learns
/// of it later than we do.
const LINGER: Duration = Duration::from_secs(5);
/// What is open then has this long to end.
const DRAIN: Duration = Duration::from_secs(10);

/// The places that work is done in.
#[derive(Debug)]
pub(super) struct Places {
    held: Semaphore,
    large: Semaphore,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            held: Semaphore::new(HELD),
            large: Semaphore::new(1),
        }
    }
}

/// TLS 1.3 with the certificate in force; API servers show none of their own by default.
pub(super) fn tls(store: Arc<IdentityStore>) -> Result<TlsAcceptor, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(store);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves reviews until `stop`, then a little longer.
pub(super) async fn serve(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    injector: Arc<Injector>,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let tasks = TaskTracker::new();
    let closed = CancellationToken::new();
    let lingering = async {
        stop.cancelled().await;
        tokio::time::sleep(LINGER).await;
    };
    let mut lingering = std::pin::pin!(lingering);
    loop {
        let accepted = tokio::select! {
            () = &mut lingering => break,
            // The permit first: what cannot be served stays in the backlog.
            accepted = async {
                let place = places.clone().acquire_owned().await;
                (listener.accept().await, place)
            } => accepted,
        };
        match accepted {
            (Ok((stream, _)), place) => {
                let (acceptor, injector, closed) =
                    (acceptor.clone(), injector.clone(), closed.clone());
                tasks.spawn(async move {
                    let _place = place;
                    if let Err(error) = connection(stream, acceptor, injector, closed).await {
                        tracing::debug!(%error, "webhook connection");
                    }
                });
            }
            (Err(error), _) => {
                tracing::warn!(%error, "webhook: accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    closed.cancel();
    tasks.close();
    let _ = timeout(DRAIN, tasks.wait()).await;
}

async fn connection(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    injector: Arc<Injector>,
    closed: CancellationToken,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    stream.set_nodelay(true)?;
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    let stream = timeout(HANDSHAKE, acceptor.accept(stream))
        .await
        .map_err(late)??;
    let service = service_fn(move |request| {
        let injector = injector.clone();
        async move { Ok::<_, Infallible>(respond(&injector, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return Ok(ended?),
        () = closed.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    Ok(connection.await?)
}

async fn respond(injector: &Arc<Injector>, request: Request<Incoming>) -> Answer {
    let selected = match selected(&request) {
        Ok(selected) => selected,
        Err((status, told)) => {
            injector.metrics.failed(Failure::Request);
            return text(status, told);
        }
    };
    let refuse = |failure: Failure, status, told: &str| {
        injector.metrics.failed(failure);
        tracing::warn!(reason = failure.label(), told, "review not answered");
        text(status, format!("{told}\n"))
    };
    let most = request.body().size_hint().upper();
    let most = most.map_or(BODY, |most| usize::try_from(most).unwrap_or(usize::MAX));
    if most > BODY {
        let told = "a review has 10 MB at most";
        return refuse(Failure::TooLarge, StatusCode::PAYLOAD_TOO_LARGE, told);
    }
    let kib = u32::try_from(most.div_ceil(1024)).unwrap_or(u32::MAX);
    let received = timeout(BODY_TIME, async {
        let held = injector.places.held.acquire_many(kib).await;
        let body = Limited::new(request.into_body(), BODY).collect().await;
        (held, body.map(http_body_util::Collected::to_bytes))
    });
    match received.await {
        Err(_) => {
            let told = "the body took longer than 10 s";
            refuse(Failure::Slow, StatusCode::REQUEST_TIMEOUT, told)
        }
        Ok((_, Err(error))) if error.is::<LengthLimitError>() => {
            let told = "a review has 10 MB at most";
            refuse(Failure::TooLarge, StatusCode::PAYLOAD_TOO_LARGE, told)
        }
        Ok((_, Err(error))) => {
            let told = format!("the body cannot be read: {error}");
            refuse(Failure::Malformed, StatusCode::BAD_REQUEST, &told)
        }
        Ok((_held, Ok(body))) => match work(injector, body, selected).await {
            Ok(body) => with_type(StatusCode::OK, "application/json", body),
            Err((failure, status, told)) => refuse(failure, status, &told),
        },
    }
}

/// By which label the API server has chosen the pod, as far as the path says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Selected {
    /// By its own, or nobody says.
    Unsaid,
    /// By its namespace's: what the API server saw wins over what our watch has not seen yet.
    ByNamespace,
}

fn selected(request: &Request<Incoming>) -> Result<Selected, (StatusCode, &'static str)> {
    let selected = match request.uri().path() {
        "/inject" | "/inject/pod" => Selected::Unsaid,
        "/inject/namespace" => Selected::ByNamespace,
        _ => return Err((StatusCode::NOT_FOUND, "try POST /inject\n")),
    };
    if request.method() != Method::POST {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "use POST\n"));
    }
    let kind = request.headers().get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        let told = "expected content-type application/json\n";
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, told));
    }
    Ok(selected)
}

type Refused = (Failure, StatusCode, String);

/// Reads, asks for the namespace and decides.
async fn work(
    injector: &Arc<Injector>,
    body: Bytes,
    selected: Selected,
) -> Result<Vec<u8>, Refused> {
    let begun = Instant::now();
    // What a large one costs must not be what the small ones wait for.
    let large = match body.len() > LARGE {
        true => Some(injector.places.large.acquire().await),
        false => None,
    };
    let aside = large.is_some();
    let review = run(aside, move || Review::parse(&body)).await?;
    let review = review.map_err(|error| {
        let told = error.to_string();
        (Failure::Malformed, StatusCode::BAD_REQUEST, told)
    })?;
    let mut namespace = match review.creates_pod {
        true => namespace(injector, &review.namespace).await?,
        false => Arc::default(),
    };
    if selected == Selected::ByNamespace && !namespace.labels.contains_key(INJECT) {
        let labels = &mut Arc::make_mut(&mut namespace).labels;
        labels.insert(INJECT.to_owned(), "enabled".to_owned());
    }
    let settings = injector.settings.clone();
    let decide = move || {
        let Decided { body, verdict } = answer(&settings, &review, &namespace);
        let told = serde_json::to_vec(&body).unwrap_or_default();
        (told, verdict, review, namespace)
    };
    let (told, verdict, review, namespace) = run(aside, decide).await?;
    injector.metrics.decided(&verdict, begun.elapsed());
    let (outcome, reason) = verdict.labels();
    tracing::info!(uid = %review.uid, namespace = %namespace.name, outcome, reason, "review");
    Ok(told)
}

/// Here, or on a thread of its own.
async fn run<T: Send + 'static>(
    aside: bool,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refused> {
    if !aside {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        (Failure::Malformed, status, error.to_string())
    })
}

/// Without the namespace's annotations a pod would run otherwise than asked for: an error here fails the
/// call, and the webhook's failure policy says what becomes of the pod.
async fn namespace(injector: &Injector, name: &str) -> Result<Arc<Namespace>, Refused> {
    if name.is_empty() {
        let told = "`request.namespace` is missing".to_owned();
        return Err((Failure::Malformed, StatusCode::BAD_REQUEST, told));
    }
    let found = injector.namespaces.find(name).await;
    found.map_err(|error| {
        let told = format!("namespace {name}: {error}");
        (Failure::Namespace, StatusCode::SERVICE_UNAVAILABLE, told)
    })
}
