//! Admin, health and metrics: two small HTTP servers on the control runtime, away from the path.

pub(crate) mod callers;
mod calls;
mod discovery;
mod endpoints;
mod exposition;
pub(crate) mod listen;
mod mirrors;
mod mtls;
mod policies;
mod probes;
mod purge;
mod services;
mod trust;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::{Method, StatusCode, header};
use hyper::body::Incoming;
use selvedge_contract::config::Admin;
use selvedge_contract::ports;
use serde_json::json;
use tokio::sync::mpsc;

use listen::{Answer, text, with_type};

use crate::cli::logging::Level;
use crate::drain::Phase;
use crate::tls::IdentityStore;
use crate::worker::Shared;

pub(crate) use mtls::ListenerReport;

/// What admin asks of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Read the configuration again.
    Reload,
    /// Begin the drain.
    Drain,
}

/// What the servers look at.
#[derive(Debug, Clone)]
struct State {
    shared: Arc<Shared>,
    store: Option<Arc<IdentityStore>>,
    level: Level,
    requests: mpsc::Sender<Request>,
    /// Admin, or only health and metrics.
    full: bool,
}

/// Starts both servers, where they are not `off`.
///
/// # Errors
/// When an address is not valid, not loopback (admin), or taken.
pub async fn start(
    config: &Admin,
    shared: &Arc<Shared>,
    store: Option<Arc<IdentityStore>>,
    level: Level,
    requests: mpsc::Sender<Request>,
) -> io::Result<()> {
    let state = State {
        shared: shared.clone(),
        store,
        level,
        requests,
        full: true,
    };
    let admin = format!("127.0.0.1:{}", ports::ADMIN);
    let health = format!("0.0.0.0:{}", ports::HEALTH);
    let admin = config.bind.as_deref().unwrap_or(&admin);
    let health = config.health.as_deref().unwrap_or(&health);
    if admin != "off" {
        let address = parse("admin.bind", admin)?;
        if !address.ip().is_loopback() {
            return Err(io::Error::other(format!(
                "admin.bind: {address} is not a loopback address"
            )));
        }
        listen::serve(address, "admin", state.clone(), answer).await?;
    }
    if health != "off" {
        let state = State {
            full: false,
            ..state
        };
        let address = parse("admin.health", health)?;
        listen::serve(address, "health", state, answer).await?;
    }
    Ok(())
}

fn parse(key: &str, text: &str) -> io::Result<SocketAddr> {
    text.parse()
        .map_err(|_| io::Error::other(format!("{key}: `{text}` is not an address and a port")))
}

fn object(value: &serde_json::Value) -> Answer {
    let body = serde_json::to_vec_pretty(value).unwrap_or_default();
    with_type(StatusCode::OK, "application/json", body)
}

async fn answer(state: State, request: http::Request<Incoming>) -> Answer {
    let (state, request) = (&state, &request);
    let path = request.uri().path();
    if state.full && !is_local(request) {
        return text(
            StatusCode::FORBIDDEN,
            "admin answers to this machine only\n",
        );
    }
    match (request.method(), path) {
        (&Method::GET, "/metrics") => {
            return listen::metrics(exposition::encode(&state.shared));
        }
        (&Method::GET, "/livez") => return text(StatusCode::OK, "ok\n"),
        (&Method::GET, "/ready") => return ready(state),
        (&Method::GET, path) if path.starts_with("/app-health/") => {
            let source = state.shared.snapshot().source.clone();
            return match probes::find(&source, path) {
                None => text(StatusCode::NOT_FOUND, "no such probe\n"),
                Some(probe) => {
                    let (status, told) = probes::ask(probe).await;
                    text(status, told)
                }
            };
        }
        _ if !state.full => return text(StatusCode::NOT_FOUND, "try /metrics, /livez, /ready\n"),
        _ => {}
    }
    match (request.method(), path) {
        (&Method::GET, "/") => text(StatusCode::OK, HELP),
        (&Method::GET, "/config") => {
            let snapshot = state.shared.snapshot();
            object(&json!({ "generation": snapshot.generation, "config": snapshot.source }))
        }
        (&Method::GET, "/endpoints") => object(&endpoints::shown(&state.shared.snapshot())),
        (&Method::GET, "/mtls") => object(&json!(mtls::report(&state.shared.snapshot()))),
        (&Method::GET, "/mirrors") => object(&mirrors::shown(&state.shared.snapshot())),
        (&Method::GET, "/certificates") => object(&certificates(state)),
        (&Method::POST, "/log") => {
            let filter = request
                .uri()
                .query()
                .and_then(|q| q.strip_prefix("level="))
                .unwrap_or_default();
            match state.level.set(filter) {
                Ok(()) => text(StatusCode::OK, format!("log level: {filter}\n")),
                Err(error) => text(
                    StatusCode::BAD_REQUEST,
                    format!("level={filter}: {error}\n"),
                ),
            }
        }
        (&Method::POST, "/cache/purge") => purge::answer(&state.shared, request.uri().query()),
        (&Method::POST, "/drain") => ask(state, Request::Drain).await,
        (&Method::POST, "/reload") => ask(state, Request::Reload).await,
        (_, "/log" | "/drain" | "/reload" | "/cache/purge") => {
            text(StatusCode::METHOD_NOT_ALLOWED, "use POST\n")
        }
        _ => text(StatusCode::NOT_FOUND, HELP),
    }
}

const HELP: &str = "GET  /config        the configuration in force, secrets by file name only\n\
    GET  /endpoints     services, their endpoints and breakers\n\
    GET  /certificates  the certificate of this proxy, whom it trusts, and those by ACME\n\
    GET  /mtls          who comes to permissive ports in plaintext\n\
    GET  /mirrors       what mirrors that are compared answer otherwise, names only\n\
    GET  /metrics /livez /ready\n\
    POST /log?level=debug\n\
    POST /cache/purge?key=https://host/path | prefix=https://host/ | tag=name | all   [&policy=name]\n\
    POST /reload\n\
    POST /drain\n";

async fn ask(state: &State, request: Request) -> Answer {
    match state.requests.send(request).await {
        Ok(()) => text(StatusCode::ACCEPTED, "accepted\n"),
        Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, "the process is ending\n"),
    }
}

/// A browser on this machine must not be steered here by a page from elsewhere: the name must be
/// this machine's, and no other origin may ask.
fn is_local(request: &http::Request<Incoming>) -> bool {
    let host = request
        .headers()
        .get(header::HOST)
        .and_then(|h| h.to_str().ok())
        .unwrap_or_default();
    let host =
        crate::message::Host::parse(Bytes::copy_from_slice(host.as_bytes())).unwrap_or_default();
    let name = host.name();
    let foreign = request.headers().contains_key(header::ORIGIN)
        || request
            .headers()
            .get("sec-fetch-site")
            .is_some_and(|s| s != "none" && s != "same-origin");
    matches!(name, "localhost" | "127.0.0.1" | "[::1]") && !foreign
}

fn ready(state: &State) -> Answer {
    let serving = *state.shared.drain.borrow() == Phase::Serving;
    let certified = state.store.as_ref().is_none_or(|store| store.is_ready());
    let failure = state.shared.reload_failure();
    let mut details = json!({
        "ready": serving && certified,
        "serving": serving,
        "certificate": certified,
        "generation": state.shared.snapshot().generation,
        "lastReload": failure.as_deref().unwrap_or("ok"),
    });
    if let Some(demand) = state.shared.demand.get() {
        // Last good state serves on: no reason to be taken out of balance.
        let trouble = demand.status.trouble();
        details["discovery"] = json!(trouble.as_deref().unwrap_or("ok"));
    }
    let mut answer = object(&details);
    if !(serving && certified) {
        *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    answer
}

fn certificates(state: &State) -> serde_json::Value {
    let mut shown = match state.store.as_deref().and_then(IdentityStore::current) {
        None => json!({ "identity": null }),
        Some(identity) => json!({
            "identity": &*identity.id,
            "notBefore": time(identity.not_before),
            "notAfter": time(identity.not_after),
        }),
    };
    if let Some(store) = &state.store {
        shown["trust"] = trust::shown(store);
    }
    let snapshot = state.shared.snapshot();
    let issuers = snapshot.issuers.0.iter();
    let issuers = issuers.map(|issuer| {
        let names = issuer
            .names
            .iter()
            .map(|name| (name.name.clone(), acme(name)));
        (issuer.name.to_string(), names.collect())
    });
    let issuers: serde_json::Map<_, serde_json::Value> = issuers.collect();
    if !issuers.is_empty() {
        shown["acme"] = issuers.into();
    }
    shown
}

fn acme(name: &crate::acme::Name) -> serde_json::Value {
    let issued = name.issued();
    let status = name.status();
    let state = match &issued {
        None => "self-signed",
        Some(held) if held.is_good(SystemTime::now()) => "issued",
        Some(_) => "expired",
    };
    json!({
        "state": state,
        "notAfter": issued.map(|held| time(held.not_after)),
        "renewAt": status.renew_at.map(time),
        "lastError": status.error,
    })
}

fn time(t: SystemTime) -> String {
    jiff::Timestamp::try_from(t).map_or_else(|_| String::new(), |t: jiff::Timestamp| t.to_string())
}
