//! Injector: the webhook's socket: TLS, HTTP/1.1, and every bound on what comes over it.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use selvedge_injector::admission::{Answer as Decided, Review, Verdict, answer};
use selvedge_injector::pods::options::INJECT;
use selvedge_injector::pods::workload::Namespace;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::callers::Callers;
use crate::admin::listen::{Answer, text, with_type};
use crate::tls::{IdentityStore, provider};

use super::Injector;
use super::metrics::Failure;

/// Largest body in bytes: an API server sends objects up to 3 MiB, with an old one beside it.
const BODY: usize = 10 * 1000 * 1000;
/// What is held of all bodies at a time over [`LARGE`] bytes of each, in KiB.
const HELD: usize = 32 * 1024;
/// A larger body is worked on beside the others, one at a time.
const LARGE: usize = 32 * 1024;
/// Most values of a review: as values it takes many times its size, and a pod that has so many is longer
/// than what an API server can store (1.5 MiB).
const VALUES: usize = 150_000;
const CONNECTIONS: usize = 2048;
/// Those of one address: an API server has many, and nobody all.
const OF_ONE: usize = 512;
/// A TLS handshake takes no longer.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The head of a request takes no longer; nor does a connection stay idle for longer.
const HEAD: Duration = Duration::from_secs(15);
/// A body takes no longer, with the wait for a place: API servers send theirs at once, and give up after
/// 10 s by default; who is slow on purpose must not have others wait for that long.
const BODY_TIME: Duration = Duration::from_secs(4);
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
    let callers = Callers::new(OF_ONE);
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
            (Ok((stream, peer)), place) => {
                let Some(caller) = callers.admit(peer.ip()) else {
                    continue;
                };
                let (acceptor, injector, closed) =
                    (acceptor.clone(), injector.clone(), closed.clone());
                tasks.spawn(async move {
                    let _counted = (place, caller);
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
    match timeout(BODY_TIME, receive(injector, request.into_body())).await {
        Err(_) => {
            let told = "the body took longer than 4 s";
            refuse(Failure::Slow, StatusCode::REQUEST_TIMEOUT, told)
        }
        Ok(Err((failure, status, told))) => refuse(failure, status, &told),
        Ok(Ok((_held, body))) => match work(injector, body, selected).await {
            Ok(body) => with_type(StatusCode::OK, "application/json", body),
            Err((failure, status, told)) => refuse(failure, status, &told),
        },
    }
}

/// Reads a body. What is large waits for a place as it comes; what is not never waits for others.
async fn receive<'a>(
    injector: &'a Injector,
    mut incoming: Incoming,
) -> Result<(Vec<SemaphorePermit<'a>>, Bytes), Refused> {
    let too_large = |told: &str| {
        let status = StatusCode::PAYLOAD_TOO_LARGE;
        Err((Failure::TooLarge, status, told.to_owned()))
    };
    const TOLD: &str = "a review has 10 MB at most";
    if incoming.size_hint().lower() > BODY as u64 {
        return too_large(TOLD);
    }
    let (mut held, mut body) = (Vec::new(), BytesMut::new());
    // In KiB, as far as places are held.
    let mut covered = LARGE / 1024;
    while let Some(frame) = incoming.frame().await {
        let frame = frame.map_err(|error| {
            let told = format!("the body cannot be read: {error}");
            (Failure::Malformed, StatusCode::BAD_REQUEST, told)
        })?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if body.len() + data.len() > BODY {
            return too_large(TOLD);
        }
        body.extend_from_slice(&data);
        let needed = body.len().div_ceil(1024);
        if needed > covered {
            let more = u32::try_from(needed - covered).unwrap_or(u32::MAX);
            held.extend(injector.places.held.acquire_many(more).await.ok());
            covered = needed;
        }
    }
    let begins = |b: &&u8| matches!(**b, b',' | b'[' | b'{');
    if body.iter().filter(begins).count() > VALUES {
        return too_large("a review has 150,000 values at most");
    }
    Ok((held, body.freeze()))
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
        let uid = review.uid.clone();
        let Decided { body, verdict } = answer(&settings, review, &namespace);
        let told = serde_json::to_vec(&body).unwrap_or_default();
        (told, verdict, uid, namespace)
    };
    let (told, verdict, uid, namespace) = run(aside, decide).await?;
    injector.metrics.decided(&verdict, begun.elapsed());
    let (outcome, reason) = verdict.labels();
    match &verdict {
        Verdict::Refused(why) => {
            tracing::info!(%uid, namespace = %namespace.name, why, "pod refused");
        }
        _ => tracing::debug!(%uid, namespace = %namespace.name, outcome, reason, "review"),
    }
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
