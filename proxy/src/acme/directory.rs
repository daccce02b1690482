//! Requests to an ACME directory: HTTPS only, bounded in size and time, and nothing let through
//! that the protocol's crate would stumble over.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use instant_acme::{BodyWrapper, BytesResponse, HttpClient};
use rustls::ClientConfig;
use selvedge_contract::config::Acme;
use selvedge_contract::defaults::acme::{ANSWER_BYTES, REQUEST};

use crate::fetch::{self, Address, FetchError};
use crate::tls::server_client;

use super::answer::{Resources, pause_of};

/// A directory, for the time of one order or question.
#[derive(Debug, Clone)]
pub(super) struct Directory {
    /// Its address.
    pub(super) url: String,
    tls: Arc<ClientConfig>,
    seen: Arc<Seen>,
}

/// What answers said beside their bodies.
#[derive(Debug, Default)]
struct Seen {
    posted: AtomicBool,
    pause: Mutex<Option<Duration>>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum DirectoryError {
    /// No connection, or nothing that is HTTP.
    #[error("{0}")]
    Fetch(#[from] FetchError),
    /// It took too long.
    #[error("no answer within {} s", REQUEST.as_secs())]
    Timeout,
    /// What it should have sent.
    #[error("the directory sent no {0}")]
    NotA(&'static str),
    /// An address to send to that is not `https://`.
    #[error("the directory names an address that is not https")]
    Insecure,
}

impl Directory {
    /// Reads the CAs that it is verified by, anew each time: files change.
    pub(super) async fn open(spec: &Acme) -> Result<Self, String> {
        let ca = spec.directory_ca.clone();
        let read = move || server_client(ca.as_deref().map(Path::new), false);
        // Beside the control runtime: a network file system may hang.
        let tls = tokio::task::spawn_blocking(read).await;
        let tls = tls.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        Ok(Self {
            url: spec.directory.clone(),
            tls,
            seen: Arc::default(),
        })
    }

    /// Whether anything was asked that the directory counts.
    pub(super) fn was_asked(&self) -> bool {
        self.seen.posted.load(Relaxed)
    }

    /// How long the directory wants to be left alone.
    pub(super) fn pause(&self) -> Option<Duration> {
        *self.lock()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Duration>> {
        self.seen
            .pause
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The directory's resources.
    pub(super) async fn resources(&self) -> Result<Resources, DirectoryError> {
        let answer = self.get(&self.url).await?;
        Resources::read(answer.body()).ok_or(DirectoryError::NotA("directory"))
    }

    /// Reads what needs no signature.
    pub(super) async fn get(&self, url: &str) -> Result<Response<Bytes>, DirectoryError> {
        let uri: http::Uri = url.parse().map_err(|_| DirectoryError::Insecure)?;
        let mut request = Request::new(Full::default());
        *request.uri_mut() = uri;
        let answer = self.send(request).await?;
        if answer.status() == StatusCode::OK {
            Ok(answer)
        } else {
            Err(FetchError::Status(answer.status()).into())
        }
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, DirectoryError> {
        let (mut head, body) = request.into_parts();
        let address: Address = head
            .uri
            .to_string()
            .parse()
            .map_err(|_| DirectoryError::Insecure)?;
        let authority = head.uri.authority().filter(|_| address.is_https());
        let authority = authority.ok_or(DirectoryError::Insecure)?.clone();
        let path = head.uri.path_and_query().cloned();
        // As the address has it: directories hold the signed address against it.
        let host = HeaderValue::from_str(authority.as_str());
        let host = host.map_err(|_| DirectoryError::Insecure)?;
        head.headers.insert(header::HOST, host);
        let agent = HeaderValue::from_static(concat!("selvedge/", env!("CARGO_PKG_VERSION")));
        head.headers.insert(header::USER_AGENT, agent);
        head.uri = path.map_or_else(|| http::Uri::from_static("/"), Into::into);
        if head.method == Method::POST {
            self.seen.posted.store(true, Relaxed);
        }
        let request = Request::from_parts(head, body);
        let send = fetch::send(&address, &self.tls, request, ANSWER_BYTES);
        let mut answer = tokio::time::timeout(REQUEST, send)
            .await
            .map_err(|_| DirectoryError::Timeout)??;
        self.bound_pause(&mut answer);
        Ok(answer)
    }

    /// Notes `Retry-After` of a refusal, and bounds it: the crate adds it to the present time.
    fn bound_pause(&self, answer: &mut Response<Bytes>) {
        let told = answer.headers_mut().remove(header::RETRY_AFTER);
        let Some(pause) = told.and_then(|told| pause_of(told.to_str().ok()?, SystemTime::now()))
        else {
            return;
        };
        answer
            .headers_mut()
            .insert(header::RETRY_AFTER, pause.as_secs().into());
        if !answer.status().is_success() {
            *self.lock() = Some(pause);
        }
    }

    async fn exchange(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Result<BytesResponse, DirectoryError> {
        let is_directory = request.uri().to_string() == self.url;
        let (head, body) = request.into_parts();
        let body = body
            .collect()
            .await
            .map_or_else(|never| match never {}, |b| b.to_bytes());
        let answer = self
            .send(Request::from_parts(head, Full::new(body)))
            .await?;
        if is_directory {
            if answer.status() != StatusCode::OK {
                return Err(FetchError::Status(answer.status()).into());
            }
            // The crate takes it for granted that these are addresses.
            Resources::read(answer.body()).ok_or(DirectoryError::NotA("directory"))?;
        }
        // Of what goes wrong on the way to a directory, the status says more than that it is no JSON.
        let kind = answer.headers().get(header::CONTENT_TYPE);
        let is_problem =
            kind.is_some_and(|k| k.as_bytes().starts_with(b"application/problem+json"));
        if answer.status().as_u16() >= 400 && !is_problem {
            return Err(FetchError::Status(answer.status()).into());
        }
        let (parts, body) = answer.into_parts();
        Ok(BytesResponse {
            parts,
            body: Box::new(body),
        })
    }
}

impl HttpClient for Directory {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        let this = self.clone();
        Box::pin(async move {
            let answer = this.exchange(request).await;
            answer.map_err(|error| instant_acme::Error::Other(Box::new(error)))
        })
    }
}
