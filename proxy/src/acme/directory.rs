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
use selvedge_contract::defaults::acme::{ANSWER_BYTES, REQUEST, RETRY_AFTER_MAX};
use serde::Deserialize;

use crate::fetch::{self, Address, FetchError};
use crate::tls::server_client;

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

/// The resources of a directory (RFC 8555 section 7.1.1), as far as we look at them ourselves.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Resources {
    new_nonce: String,
    new_account: String,
    new_order: String,
    /// Of RFC 9773.
    pub(super) renewal_info: Option<String>,
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
        read_resources(answer.body())
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
        let Some(pause) = told.and_then(|told| pause_of(&told, SystemTime::now())) else {
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
            read_resources(answer.body())?;
        }
        let (parts, body) = answer.into_parts();
        Ok(BytesResponse {
            parts,
            body: Box::new(body),
        })
    }
}

fn read_resources(json: &[u8]) -> Result<Resources, DirectoryError> {
    let resources: Resources =
        serde_json::from_slice(json).map_err(|_| DirectoryError::NotA("directory"))?;
    for url in [
        &resources.new_nonce,
        &resources.new_account,
        &resources.new_order,
    ] {
        let address: Result<Address, _> = url.parse();
        if !address.is_ok_and(|a| a.is_https()) {
            return Err(DirectoryError::Insecure);
        }
    }
    Ok(resources)
}

/// `Retry-After` (RFC 9110 section 10.2.3), in seconds or as a date, at most a day.
fn pause_of(told: &HeaderValue, now: SystemTime) -> Option<Duration> {
    let told = told.to_str().ok()?.trim();
    let pause = match told.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        // More digits than a number has.
        Err(_) if !told.is_empty() && told.bytes().all(|b| b.is_ascii_digit()) => RETRY_AFTER_MAX,
        Err(_) => {
            let date = jiff::fmt::rfc2822::parse(told).ok()?;
            let date = SystemTime::from(date.timestamp());
            date.duration_since(now).unwrap_or_default()
        }
    };
    Some(pause.min(RETRY_AFTER_MAX))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_bounded() {
        let pause = |text: &'static str| {
            pause_of(&HeaderValue::from_static(text), SystemTime::UNIX_EPOCH).map(|d| d.as_secs())
        };
        assert_eq!(pause("120"), Some(120));
        assert_eq!(pause(" 0 "), Some(0));
        for long in ["86401", "18446744073709551615", "99999999999999999999999"] {
            assert_eq!(pause(long), Some(86_400), "{long}");
        }
        assert_eq!(pause("Thu, 01 Jan 1970 00:01:00 GMT"), Some(60));
        for bad in ["", "soon", "-1", "1.5"] {
            assert_eq!(pause(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_directory_names_addresses_that_are_safe() {
        let with = |nonce: &str| {
            let json = serde_json::json!({ "newNonce": nonce, "newAccount": "https://a/1",
                "newOrder": "https://a/2" });
            read_resources(json.to_string().as_bytes()).is_ok()
        };
        assert!(with("https://a/nonce"));
        for bad in [
            "",
            "http://a/",
            "https://",
            "https://a b/",
            "nonce",
            "https://u@a/",
        ] {
            assert!(!with(bad), "{bad}");
        }
        assert!(read_resources(b"<html>").is_err() && read_resources(b"[]").is_err());
    }
}
