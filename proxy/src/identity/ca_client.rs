//! The client of the CA: `IstioCertificateService/CreateCertificate` over TLS 1.3, proven by the
//! present certificate, or by a join token where there is none yet.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use selvedge_contract::sign::{IstioCertificateRequest, IstioCertificateServiceClient};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::metadata::MetadataValue;
use tonic::{Request, Status};

use crate::tls::{IdentityStore, provider};

use super::{CaSource, IdentityError};

/// Connect, handshake and call together.
const CALL: Duration = Duration::from_secs(15);

/// Asks for a certificate.
pub(super) async fn ask(
    ca: &CaSource,
    store: &Arc<IdentityStore>,
    csr_pem: &str,
) -> Result<Vec<String>, IdentityError> {
    let call = call(ca, store, csr_pem);
    // Cancelled by its deadline, which closes the connection; a token may be spent by then.
    tokio::time::timeout(CALL, call)
        .await
        .unwrap_or_else(|_| Err(IdentityError::Ca("no answer in time".into())))
}

async fn call(
    ca: &CaSource,
    store: &Arc<IdentityStore>,
    csr_pem: &str,
) -> Result<Vec<String>, IdentityError> {
    let failed = |why: String| IdentityError::Ca(why);
    let proven = store.is_ready();
    let mut request = Request::new(IstioCertificateRequest {
        csr: csr_pem.to_owned(),
        validity_duration: ca
            .ttl
            .map_or(0, |ttl| i64::try_from(ttl.as_secs()).unwrap_or(0)),
        metadata: None,
    });
    if !proven {
        let token = read_token(ca.token.as_deref())?;
        let mut value = MetadataValue::try_from(format!("Bearer {}", token.trim()))
            .map_err(|_| failed("the token holds characters that cannot be sent".into()))?;
        value.set_sensitive(true);
        request.metadata_mut().insert("authorization", value);
    }
    let config = tls_config(store, proven).map_err(|e| failed(e.to_string()))?;
    let name = ServerName::try_from(ca.host.clone()).map_err(|e| failed(e.to_string()))?;
    let stream = TcpStream::connect((ca.host.as_str(), ca.port))
        .await
        .map_err(|e| failed(format!("{}:{}: {e}", ca.host, ca.port)))?;
    let stream = TlsConnector::from(config)
        .connect(name, stream)
        .await
        .map_err(|e| failed(e.to_string()))?;
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(|e| failed(e.to_string()))?;
    // Ends with the sender.
    let connection = tokio::spawn(connection);
    let service = tower::service_fn(move |request| {
        let mut sender = sender.clone();
        async move { sender.send_request(request).await }
    });
    let origin = format!("https://{}:{}", ca.host, ca.port)
        .parse()
        .map_err(|_| failed("the CA's address is not a URL".into()))?;
    let mut client = IstioCertificateServiceClient::with_origin(service, origin);
    let answer = client.create_certificate(request).await;
    drop(client);
    connection.abort();
    let answer = answer
        .map_err(|status: Status| failed(format!("{}: {}", status.code(), status.message())))?;
    Ok(answer.into_inner().cert_chain)
}

fn read_token(path: Option<&Path>) -> Result<zeroize::Zeroizing<String>, IdentityError> {
    let Some(path) = path else {
        let why = "no certificate to show and no `token` to prove who this is";
        return Err(IdentityError::Spec(why.into()));
    };
    super::read(path).map(zeroize::Zeroizing::new)
}

fn tls_config(
    store: &Arc<IdentityStore>,
    proven: bool,
) -> Result<Arc<ClientConfig>, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(store.bundle());
    let mut config = if proven {
        builder.with_client_cert_resolver(store.clone())
    } else {
        builder.with_no_client_auth()
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}
