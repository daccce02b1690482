//! The built-in demo workload: answers with what it saw, and with what those it calls answered.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1 as client;
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::plan::Instance;

/// Most of an answer that is shown.
const LIMIT: usize = 1 << 20;
/// Longest wait for somebody it calls.
const CALL: Duration = Duration::from_secs(5);

/// What an echo server says of itself.
#[derive(Debug)]
pub(super) struct Echo {
    name: String,
    identity: String,
    outbound: SocketAddr,
    calls: Vec<String>,
}

impl Echo {
    pub(super) fn of(instance: &Instance) -> Self {
        Self {
            name: instance.name.clone(),
            identity: instance.identity.to_string(),
            outbound: instance.outbound,
            calls: instance.calls.clone(),
        }
    }
}

/// Serves until `stop`.
pub(super) async fn serve(echo: Echo, listener: TcpListener, stop: CancellationToken) {
    let echo = Arc::new(echo);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let Ok((stream, _)) = accepted else { continue };
        let echo = echo.clone();
        // Ends with its connection.
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(echo.clone(), request));
            let connection = server::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service);
            let _ = connection.await;
        });
    }
}

async fn answer(
    echo: Arc<Echo>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let received = Limited::new(body, LIMIT)
        .collect()
        .await
        .map_or(0, |b| b.to_bytes().len());
    let path = parts.uri.path_and_query().map_or("/", |p| p.as_str());
    let mut called = BTreeMap::new();
    for name in &echo.calls {
        let reply = tokio::time::timeout(CALL, call(&echo, name, path, &parts.headers)).await;
        let reply = reply.unwrap_or_else(|_| Err("no answer in time".into()));
        called.insert(
            name.clone(),
            reply.unwrap_or_else(|e| json!({ "error": e.to_string() })),
        );
    }
    let headers: BTreeMap<&str, String> = parts
        .headers
        .iter()
        .map(|(name, value)| {
            (
                name.as_str(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            )
        })
        .collect();
    let mut seen = json!({
        "service": echo.name,
        "identity": echo.identity,
        "peer": peer(&parts.headers),
        "protocol": format!("{:?}", parts.version),
        "method": parts.method.as_str(),
        "path": path,
        "bodyBytes": received,
        "headers": headers,
    });
    if !called.is_empty()
        && let Some(object) = seen.as_object_mut()
    {
        object.insert("called".to_owned(), json!(called));
    }
    let mut text = serde_json::to_string_pretty(&seen).unwrap_or_default();
    text.push('\n');
    let mut response = Response::new(Full::new(Bytes::from(text)));
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok(response)
}

/// Who called, as the sidecar says: the application has no certificate to look at.
fn peer(headers: &HeaderMap) -> Option<String> {
    let value = headers.get("x-forwarded-client-cert")?.to_str().ok()?;
    let uri = value
        .split(';')
        .find_map(|part| part.strip_prefix("URI="))?;
    Some(uri.to_owned())
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Calls another workload as any application would: plain HTTP to its own sidecar.
async fn call(echo: &Echo, name: &str, path: &str, from: &HeaderMap) -> Result<Value, Failure> {
    let stream = TcpStream::connect(echo.outbound).await?;
    let (mut sender, connection) = client::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let mut request = Request::get(path).header(header::HOST, name);
    // What an application must pass on for traces to hang together.
    for known in ["traceparent", "tracestate", "b3", "x-request-id"] {
        if let Some(value) = from.get(known) {
            request = request.header(known, value);
        }
    }
    let response = sender
        .send_request(request.body(Full::<Bytes>::default())?)
        .await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), LIMIT)
        .collect()
        .await?
        .to_bytes();
    connection.abort();
    Ok(serde_json::from_slice(&body).unwrap_or_else(
        |_| json!({ "status": status.as_u16(), "body": String::from_utf8_lossy(&body) }),
    ))
}
