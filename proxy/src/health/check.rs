//! Beside the path: one health check, over a connection of its own, so that it shows also whether the
//! endpoint still takes any.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use selvedge_contract::defaults::health::BODY;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::balance::service::Speaks;
use crate::balance::{CheckResult, Class, Endpoint, Service, orca};
use crate::upstream::{Announce, Security};

use super::grpc;
use super::plan::{Ask, Get, Plan};

/// What came of it.
#[derive(Debug)]
pub(super) struct Answer {
    /// How it ended.
    pub(super) result: CheckResult,
    /// What was answered, in words.
    pub(super) text: String,
    /// What the endpoint says of its load.
    pub(super) load: Option<f32>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum NotAsked {
    /// This proxy has no certificate to show yet: that says nothing of the endpoint.
    Ours,
    /// The endpoint, in words.
    Theirs(String),
}

impl<E: std::fmt::Display> From<E> for NotAsked {
    fn from(error: E) -> Self {
        Self::Theirs(error.to_string())
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// How an endpoint is reached.
pub(super) struct Way {
    address: SocketAddr,
    security: Security,
    announces: Option<Announce>,
    http2: bool,
}

impl Way {
    /// To this endpoint of this service.
    pub(super) fn to(service: &Service, endpoint: &Endpoint) -> Self {
        let security = endpoint.security.as_deref();
        let security = security.unwrap_or(&service.spec.security).clone();
        Self {
            address: endpoint.address,
            http2: security.is_mesh() || service.spec.speaks == Speaks::Http2,
            security,
            announces: service.spec.announces,
        }
    }
}

/// Asks an endpoint. Takes as long as it takes: the caller has a time-out.
pub(super) async fn ask(way: &Way, plan: &Plan) -> Result<Answer, NotAsked> {
    let mut address = way.address;
    if let Some(port) = plan.port {
        address.set_port(port);
    }
    let stream = connect(address, &way.security, way.announces).await?;
    let http2 = way.http2;
    match &plan.ask {
        Ask::Tcp => Ok(Answer {
            result: CheckResult::Good,
            text: "connected".into(),
            load: None,
        }),
        Ask::Grpc(name, host) => {
            let host = host.clone().unwrap_or_else(|| address.to_string());
            let serving = grpc::check(stream, &host, name).await?;
            let (result, text) = if serving {
                (CheckResult::Good, "SERVING")
            } else {
                (CheckResult::Bad, "not SERVING")
            };
            Ok(Answer {
                result,
                text: text.into(),
                load: None,
            })
        }
        Ask::Http(get) => {
            let meshed = way.security.is_mesh();
            let answer = fetch(stream, address, get, (http2, meshed)).await?;
            Ok(judge(answer, get))
        }
    }
}

async fn connect(
    address: SocketAddr,
    security: &Security,
    announces: Option<Announce>,
) -> Result<Box<dyn Stream>, NotAsked> {
    let (config, name) = match security {
        Security::Plain => (None, ServerName::from(address.ip())),
        Security::Tls(tls) => (Some(&tls.config), tls.name.clone()),
        Security::Mesh(mesh) if !mesh.store.is_ready() => return Err(NotAsked::Ours),
        Security::Mesh(mesh) => (Some(&mesh.config), ServerName::from(address.ip())),
    };
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    if let Some(announce) = announces {
        stream.write_all(announce.for_nobody()).await?;
    }
    Ok(match config {
        None => Box::new(stream),
        Some(config) => {
            let connector = TlsConnector::from(config.clone());
            Box::new(connector.connect(name, stream).await?)
        }
    })
}

/// The answer to a GET, with as much of its body as is looked at.
async fn fetch(
    stream: Box<dyn Stream>,
    address: SocketAddr,
    get: &Get,
    (http2, meshed): (bool, bool),
) -> Result<Response<Bytes>, NotAsked> {
    let host = get.host.clone().unwrap_or_else(|| address.to_string());
    let uri = if http2 {
        let mut parts = get.path.clone().into_parts();
        parts.scheme = Some(http::uri::Scheme::HTTP);
        parts.authority = Some(host.parse()?);
        Uri::from_parts(parts)?
    } else {
        get.path.clone()
    };
    let mut request = Request::get(uri).header(header::USER_AGENT, "selvedge-health");
    if !http2 {
        request = request.header(header::HOST, host);
    }
    if meshed {
        // Where there is not room for all, it is to be told whether there is anything left.
        request = request.header("x-selvedge-priority", Class::Health.text());
    }
    for (name, value) in &get.fields {
        request = request.header(name, value);
    }
    let request = request.body(Full::<Bytes>::default())?;
    // Ends with this function: what drives the connection, and with it the connection.
    let mut driver = JoinSet::new();
    let io = TokioIo::new(stream);
    let answer = if http2 {
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
        driver.spawn(async { drop(connection.await) });
        sender.send_request(request).await?
    } else {
        let (mut sender, connection) = http1::handshake(io).await?;
        driver.spawn(async { drop(connection.await) });
        sender.send_request(request).await?
    };
    read(answer, get.body.is_some()).await
}

async fn read(answer: Response<Incoming>, body: bool) -> Result<Response<Bytes>, NotAsked> {
    let (head, rest) = answer.into_parts();
    if !body {
        return Ok(Response::from_parts(head, Bytes::new()));
    }
    let mut rest = Limited::new(rest, BODY);
    let mut seen = Vec::new();
    while let Some(frame) = rest.frame().await {
        // Of one that is longer, what came until then is looked at.
        let Ok(frame) = frame else { break };
        if let Some(data) = frame.data_ref() {
            seen.extend_from_slice(data);
        }
    }
    Ok(Response::from_parts(head, seen.into()))
}

fn judge(answer: Response<Bytes>, get: &Get) -> Answer {
    let status = answer.status();
    let mut text = format!("answered {}", status.as_u16());
    let degraded = get.degraded.as_ref().is_some_and(|degraded| {
        let field = degraded.field.as_ref();
        let field = field.and_then(|field| answer.headers().get(field));
        degraded.statuses.has(status) || field.is_some_and(|value| value != "false")
    });
    let by_status = get
        .degraded
        .as_ref()
        .is_some_and(|d| d.statuses.has(status));
    let mut good = get.good.has(status) || by_status;
    if let Some(expected) = &get.body
        && !contains(answer.body(), expected.as_bytes())
    {
        good = false;
        text.push_str(" without the text that is looked for");
    }
    let result = match (good, degraded) {
        (false, _) => CheckResult::Bad,
        (true, true) => CheckResult::Degraded,
        (true, false) => CheckResult::Good,
    };
    let load = answer.headers().get(orca::TEXT);
    let load = load.and_then(|value| orca::told(value.as_bytes()));
    Answer { result, text, load }
}

fn contains(body: &[u8], text: &[u8]) -> bool {
    text.is_empty() || body.windows(text.len()).any(|window| window == text)
}
