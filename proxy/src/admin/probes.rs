//! Probes of the application, asked for by the system at the health port: what redirection and mutual TLS
//! would keep out is asked from here, from inside, and answered as the application answers.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use selvedge_contract::config::{Config, Probe, ProbeWay};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::health::grpc;
use crate::tls;

/// What the system waits for a probe, where it says nothing else.
const TIMEOUT: Duration = Duration::from_secs(1);

/// The probe that a path names: `/app-health/<container>/<probe>`.
pub(super) fn find<'c>(config: &'c Config, path: &str) -> Option<&'c Probe> {
    let (container, probe) = path.strip_prefix("/app-health/")?.split_once('/')?;
    config.probes.get(container)?.get(probe)
}

/// Asks the application: the status for the system, and what to tell it.
pub(super) async fn ask(probe: &Probe) -> (StatusCode, String) {
    let time = probe.timeout.map_or(TIMEOUT, |d| d.0);
    match tokio::time::timeout(time, once(probe)).await {
        Ok(Ok(status)) => (
            status,
            format!("the application says {}\n", status.as_u16()),
        ),
        Ok(Err(why)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        Err(_) => (
            StatusCode::GATEWAY_TIMEOUT,
            format!("no answer within {time:?}\n"),
        ),
    }
}

async fn once(probe: &Probe) -> Result<StatusCode, String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, probe.port));
    let stream = TcpStream::connect(address).await;
    let stream = stream.map_err(|error| format!("{address}: {error}"))?;
    match &probe.way {
        ProbeWay::Tcp => Ok(StatusCode::OK),
        ProbeWay::Grpc => {
            let service = probe.service.as_deref().unwrap_or_default();
            let serving = grpc::check(stream, "127.0.0.1", service).await?;
            Ok(if serving {
                StatusCode::OK
            } else {
                StatusCode::SERVICE_UNAVAILABLE
            })
        }
        ProbeWay::Http => http(stream, probe).await,
        ProbeWay::Https => {
            let name = ServerName::from(address.ip());
            let connector = TlsConnector::from(unverified()?);
            let session = connector.connect(name, stream).await;
            http(session.map_err(|error| error.to_string())?, probe).await
        }
    }
}

async fn http<S>(stream: S, probe: &Probe) -> Result<StatusCode, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let told = |error: &dyn std::fmt::Display| error.to_string();
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|e| told(&e))?;
    // It ends with the answer that is not read to its end.
    let driver = tokio::spawn(connection);
    let path = probe.path.as_deref().filter(|path| !path.is_empty());
    let path: Uri = path.unwrap_or("/").parse().map_err(|e| told(&e))?;
    let mut request = Request::get(path).header("user-agent", "kube-probe/selvedge");
    let host = probe
        .headers
        .iter()
        .find(|h| h.name.eq_ignore_ascii_case("host"));
    if host.is_none() {
        request = request.header("host", format!("127.0.0.1:{}", probe.port));
    }
    for header in &probe.headers {
        request = request.header(&header.name, &header.value);
    }
    let request = request.body(Full::<Bytes>::default());
    let answer = sender.send_request(request.map_err(|e| told(&e))?).await;
    driver.abort();
    Ok(answer.map_err(|e| told(&e))?.status())
}

/// TLS that verifies nobody, as the system's own probes do.
fn unverified() -> Result<Arc<ClientConfig>, String> {
    let builder = ClientConfig::builder_with_provider(tls::provider());
    let builder = builder.with_safe_default_protocol_versions();
    let config = builder
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// See [`unverified`].
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = tls::provider().signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}
