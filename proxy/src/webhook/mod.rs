//! Injector: the webhook as a process: its certificate from the mesh's CA, what it knows of namespaces,
//! and the socket on which API servers ask. Decisions are `selvedge_injector::admission`'s.

mod ca_bundle;
mod leader;
mod metrics;
mod namespaces;
mod serve;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use selvedge_contract::config::IdentitySpec;
use selvedge_injector::pods::settings::Settings;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::admin::listen::{self, Answer, text};
use crate::identity::{IdentityError, Keeper, Source};
use crate::kubernetes::{Api, ApiError};
use crate::telemetry::metrics::Metrics as Counters;
use crate::tls::IdentityStore;

use ca_bundle::{CaBundle, Standing};
use leader::Candidate;
use metrics::Metrics;
use namespaces::Namespaces;
use serve::Places;

/// The Lease by which replicas choose one of them.
const LEASE: &str = "selvedge-injector";
/// How often the bundle is read again: a ConfigMap changes under a process without telling it.
const REFRESH: Duration = Duration::from_secs(10);

/// How the process is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// What the installation says of every sidecar; of the injector's own certificate too.
    pub settings: Settings,
    /// Where the webhook listens.
    pub bind: SocketAddr,
    /// Where health and metrics are asked for.
    pub health: SocketAddr,
    /// The mesh's roots.
    pub bundle: PathBuf,
    /// Proves to the CA who this is.
    pub token: Option<PathBuf>,
    /// Instead of the CA: chain and key.
    pub pair: Option<(PathBuf, PathBuf)>,
    /// The MutatingWebhookConfiguration whose `caBundle` is kept.
    pub webhook: Option<String>,
    /// This replica's name among the others.
    pub name: String,
    /// The way to the API.
    pub api: Api,
}

/// Why it cannot run.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The certificate.
    #[error("identity: {0}")]
    Identity(#[from] IdentityError),
    /// The API.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// A port, or a signal.
    #[error("{0}")]
    System(#[from] io::Error),
    /// TLS.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// What answers share.
#[derive(Debug)]
struct Injector {
    settings: Arc<Settings>,
    namespaces: Arc<Namespaces>,
    metrics: Metrics,
    places: Places,
    store: Arc<IdentityStore>,
    standing: Arc<Standing>,
    keeps_bundle: bool,
    stop: CancellationToken,
}

/// Runs until `stop`.
///
/// # Errors
/// Only at the start, see [`StartError`].
pub async fn run(options: Options, stop: CancellationToken) -> Result<(), StartError> {
    let client = options.api.client()?;
    let keeper = Keeper::start(source(&options)?, &Counters::new(1)).await?;
    let store = keeper.store.clone();
    let standing = Arc::new(Standing::default());
    let injector = Arc::new(Injector {
        settings: Arc::new(options.settings.clone()),
        namespaces: Namespaces::watch(client.clone()),
        metrics: Metrics::new(),
        places: Places::default(),
        store: store.clone(),
        standing: standing.clone(),
        keeps_bundle: options.webhook.is_some(),
        stop: stop.clone(),
    });
    let listener = TcpListener::bind(crate::accept::every(options.bind)).await?;
    tracing::info!(address = %listener.local_addr()?, "webhook");
    listen::serve(options.health, "health", injector.clone(), health).await?;
    let bundle = options.webhook.map(|webhook| {
        let namespace = &options.settings.own_namespace;
        let candidate = Candidate::new(client.clone(), namespace, LEASE, options.name);
        CaBundle::new(client, webhook, store.clone(), standing, candidate)
    });
    let bundle = bundle.map(|bundle| tokio::spawn(bundle.keep(stop.clone())));
    tokio::spawn(refresh(keeper));
    serve::serve(listener, serve::tls(store)?, injector, stop).await;
    if let Some(bundle) = bundle {
        // It has let go of the lead by now, or cannot.
        let _ = tokio::time::timeout(Duration::from_secs(2), bundle).await;
    }
    Ok(())
}

/// Where the certificate comes from.
fn source(options: &Options) -> Result<Source, IdentityError> {
    let text = |path: &PathBuf| path.to_string_lossy().into_owned();
    let pair = options.pair.as_ref();
    Source::from_spec(&IdentitySpec {
        trust_domain: options.settings.trust_domain.clone(),
        ca: pair.is_none().then(|| options.settings.ca.clone()),
        crl: None,
        federation: Vec::new(),
        bundle: text(&options.bundle),
        token: options.token.as_ref().map(text),
        certificate: pair.map(|(certificate, _)| text(certificate)),
        key: pair.map(|(_, key)| text(key)),
        ttl: None,
        workload_api: None,
    })
}

async fn refresh(keeper: Keeper) {
    let mut last = None;
    loop {
        tokio::time::sleep(REFRESH).await;
        let error = keeper.refresh_files().err().map(|e| e.to_string());
        if let Some(error) = &error
            && last.as_ref() != Some(error)
        {
            tracing::error!(%error, "files not read; what was read before stays in force");
        }
        last = error;
    }
}

async fn health(injector: Arc<Injector>, request: Request<Incoming>) -> Answer {
    match request.uri().path() {
        "/livez" => text(StatusCode::OK, "ok\n"),
        "/metrics" => {
            let (store, standing) = (&injector.store, &injector.standing);
            listen::metrics(injector.metrics.encode(store, standing))
        }
        "/ready" => ready(&injector),
        _ => text(StatusCode::NOT_FOUND, "try /metrics, /livez, /ready\n"),
    }
}

/// Ready is who can answer, and is verified when it does.
fn ready(injector: &Injector) -> Answer {
    use std::sync::atomic::Ordering::Relaxed;
    let certificate = injector.store.is_ready();
    let namespaces = injector.namespaces.is_known();
    let verified = !injector.keeps_bundle || injector.standing.current.load(Relaxed);
    let serving = !injector.stop.is_cancelled();
    let ready = certificate && namespaces && verified && serving;
    let details = json!({
        "ready": ready,
        "serving": serving,
        "certificate": certificate,
        "namespaces": namespaces,
        "caBundle": verified,
        "leader": injector.standing.leads.load(Relaxed),
    });
    let status = match ready {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    listen::with_type(status, "application/json", format!("{details:#}\n"))
}
