//! Beside the path: one small document over HTTP or HTTPS, for keys and metadata that policies need.
//! No redirects, no retries, everything bounded.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// From the first packet to the last byte.
const WHOLE: Duration = Duration::from_secs(5);

/// Where a document is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    https: bool,
    host: String,
    port: u16,
    path: String,
}

/// Why a text is no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an address such as `https://id.example/jwks.json`")]
pub struct AddressError;

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let uri: http::Uri = text.parse().map_err(|_| AddressError)?;
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(AddressError),
        };
        let authority = uri.authority().ok_or(AddressError)?;
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return Err(AddressError);
        }
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        Ok(Self {
            https,
            host: authority.host().to_owned(),
            port: authority.port_u16().unwrap_or(if https { 443 } else { 80 }),
            path: path.to_owned(),
        })
    }
}

impl Address {
    /// Whether TLS guards what is sent there.
    #[must_use]
    pub const fn is_https(&self) -> bool {
        self.https
    }

    /// `Host` of a request there: without the port that the scheme has anyway.
    fn host_field(&self) -> String {
        match (self.https, self.port) {
            (true, 443) | (false, 80) => self.host.clone(),
            (_, port) => format!("{}:{port}", self.host),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(f, "{scheme}://{}:{}{}", self.host, self.port, self.path)
    }
}

/// Why a document did not come.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// It took longer than it may.
    #[error("no answer in time")]
    Timeout,
    /// No connection, or it broke.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The name cannot stand in a certificate.
    #[error("not a name for TLS")]
    Name,
    /// Not HTTP.
    #[error("{0}")]
    Http(#[from] hyper::Error),
    /// Not 200; redirects are not followed.
    #[error("it answered {0}")]
    Status(StatusCode),
    /// Larger than the caller takes.
    #[error("larger than {0} bytes, or cut short")]
    Size(usize),
    /// Cannot be: the parts of the request were checked.
    #[error("{0}")]
    Request(#[from] http::Error),
}

/// Fetches a document of at most `limit` bytes.
///
/// # Errors
/// [`FetchError`].
pub async fn fetch(
    address: &Address,
    tls: &Arc<ClientConfig>,
    limit: usize,
) -> Result<Bytes, FetchError> {
    tokio::time::timeout(WHOLE, get(address, tls, limit))
        .await
        .unwrap_or(Err(FetchError::Timeout))
}

async fn get(
    address: &Address,
    tls: &Arc<ClientConfig>,
    limit: usize,
) -> Result<Bytes, FetchError> {
    let request = Request::get(&address.path)
        .header(header::HOST, address.host_field())
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, "selvedge")
        .body(Full::default())?;
    let response = send(address, tls, request, limit).await?;
    if response.status() != StatusCode::OK {
        return Err(FetchError::Status(response.status()));
    }
    Ok(response.into_body())
}

/// What goes to an endpoint that answers in JSON.
#[derive(Debug, Clone)]
pub struct Question {
    /// A form to post; without one the endpoint is read.
    pub form: Option<String>,
    /// `Authorization`.
    pub authorization: Option<String>,
}

/// Asks an endpoint, and reads an answer of at most `limit` bytes within this time. No status is an
/// error, and no redirect is followed.
///
/// # Errors
/// [`FetchError`].
pub async fn ask(
    address: &Address,
    tls: &Arc<ClientConfig>,
    question: Question,
    limit: usize,
    time: Duration,
) -> Result<Response<Bytes>, FetchError> {
    let mut request = Request::builder()
        .uri(&address.path)
        .header(header::HOST, address.host_field())
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, "selvedge");
    if let Some(authorization) = question.authorization {
        request = request.header(header::AUTHORIZATION, authorization);
    }
    let request = match question.form {
        None => request.body(Full::default())?,
        Some(form) => request
            .method(http::Method::POST)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Full::from(form))?,
    };
    tokio::time::timeout(time, send(address, tls, request, limit))
        .await
        .unwrap_or(Err(FetchError::Timeout))
}

/// Sends one request on a connection of its own and reads an answer of at most `limit` bytes. The
/// caller writes `Host`, and bounds the time; dropping the future closes the connection.
///
/// # Errors
/// [`FetchError`]; no status is one.
pub async fn send(
    address: &Address,
    tls: &Arc<ClientConfig>,
    request: Request<Full<Bytes>>,
    limit: usize,
) -> Result<Response<Bytes>, FetchError> {
    let host = address.host.trim_matches(['[', ']']);
    let stream = TcpStream::connect((host, address.port)).await?;
    if !address.https {
        return exchange(request, stream, limit).await;
    }
    let name = ServerName::try_from(host.to_owned()).map_err(|_| FetchError::Name)?;
    let stream = TlsConnector::from(tls.clone())
        .connect(name, stream)
        .await?;
    exchange(request, stream, limit).await
}

async fn exchange<S>(
    request: Request<Full<Bytes>>,
    stream: S,
    limit: usize,
) -> Result<Response<Bytes>, FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut send, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let (head, body) = send.send_request(request).await?.into_parts();
        let body = Limited::new(body, limit).collect().await;
        let body = body.map_err(|_| FetchError::Size(limit))?.to_bytes();
        Ok(Response::from_parts(head, body))
    };
    // The connection ends with the answer, or with the first that goes wrong.
    tokio::pin!(answer, connection);
    tokio::select! {
        answer = &mut answer => answer,
        ended = &mut connection => {
            ended?;
            answer.await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let text = |text: &str| text.parse::<Address>().map(|a| a.to_string());
        assert_eq!(
            text("https://id.example/jwks?x=1"),
            Ok("https://id.example:443/jwks?x=1".into())
        );
        assert_eq!(text("http://[::1]:80"), Ok("http://[::1]:80/".into()));
        for bad in [
            "",
            "id.example",
            "/jwks",
            "ftp://a/",
            "https://",
            "https://u@a/",
            "https://a b/",
        ] {
            assert_eq!(text(bad), Err(AddressError), "{bad}");
        }
    }
}
