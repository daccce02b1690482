//! A caller of the CA that is not the proxy's own: any credentials, any request.

use std::net::SocketAddr;
use std::sync::Arc;

use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use selvedge_contract::sign::{IstioCertificateRequest, IstioCertificateServiceClient};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;
use tonic::body::Body;
use tonic::{Request, Status};

use crate::tls_peer::Believes;

/// A certificate with its key, as it was given.
#[derive(Debug, Clone)]
pub struct Shown {
    /// PEM, leaf first, roots last.
    pub chain: Vec<String>,
    /// PEM.
    pub key: String,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Client {
    address: SocketAddr,
    roots: String,
    shown: Option<Shown>,
    /// Verifies nothing: for CAs whose clock is not ours.
    any_time: bool,
}

/// A connection to the CA.
pub struct Line(SendRequest<Body>);

/// A runtime for one thread.
#[must_use]
pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// The serial number of a certificate (PEM), as the log writes it.
#[must_use]
pub fn serial(pem: &str) -> String {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
    let digits = parsed.raw_serial().iter().map(|b| format!("{b:02x}"));
    let digits: String = digits.collect();
    assert_eq!(digits.len(), 32, "{digits}");
    digits
}

impl Client {
    /// Of the CA there, which is verified by these roots (PEM).
    #[must_use]
    pub fn new(address: SocketAddr, roots: &str) -> Self {
        Self {
            address,
            roots: roots.to_owned(),
            shown: None,
            any_time: false,
        }
    }

    /// The same without a look at the CA's certificate, which may be of another time.
    #[must_use]
    pub fn believing_any_time(&self) -> Self {
        let any_time = true;
        Self {
            any_time,
            ..self.clone()
        }
    }

    /// The same with a certificate to show.
    #[must_use]
    pub fn showing(&self, shown: &Shown) -> Self {
        let shown = Some(shown.clone());
        Self {
            shown,
            ..self.clone()
        }
    }

    /// A certificate for a join token.
    #[must_use]
    pub fn join(&self, token: &str) -> Shown {
        let (csr, key) = crate::certs::request();
        let authorization = format!("Bearer {token}");
        let chain = self.create(&csr, &[&authorization]).unwrap();
        Shown { chain, key }
    }

    /// A certificate for what is shown.
    ///
    /// # Errors
    /// What the CA answers instead.
    pub fn request(&self) -> Result<Vec<String>, Status> {
        self.create(&crate::certs::request().0, &[])
    }

    /// One call with these values of `authorization`, on a connection of its own.
    ///
    /// # Errors
    /// What the CA answers instead.
    pub fn create(&self, csr: &str, authorization: &[&str]) -> Result<Vec<String>, Status> {
        let request = IstioCertificateRequest {
            csr: csr.to_owned(),
            ..Default::default()
        };
        self.call(request, authorization)
    }

    /// The same with any request.
    ///
    /// # Errors
    /// What the CA answers instead.
    pub fn call(
        &self,
        request: IstioCertificateRequest,
        authorization: &[&str],
    ) -> Result<Vec<String>, Status> {
        runtime().block_on(async {
            let mut line = self.connect().await?;
            line.create(request, authorization).await
        })
    }

    /// A connection; its calls are made one after the other.
    ///
    /// # Errors
    /// What the connection failed with, as `UNAVAILABLE`.
    pub async fn connect(&self) -> Result<Line, Status> {
        let failed = |error: &dyn std::fmt::Display| Status::unavailable(error.to_string());
        let stream = TcpStream::connect(self.address)
            .await
            .map_err(|e| failed(&e))?;
        stream.set_nodelay(true).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(Arc::new(self.tls()))
            .connect(name, stream)
            .await
            .map_err(|e| failed(&e))?;
        let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(|e| failed(&e))?;
        tokio::spawn(connection);
        Ok(Line(sender))
    }

    fn tls(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(self.roots.as_bytes()) {
            roots.add(root.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match self.any_time {
            false => builder.with_root_certificates(roots),
            true => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Believes)),
        };
        let mut config = match &self.shown {
            None => builder.with_no_client_auth(),
            Some(shown) => {
                let (_, certificates) = shown.chain.split_last().unwrap();
                let certificates = certificates
                    .iter()
                    .map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap());
                let key = PrivateKeyDer::from_pem_slice(shown.key.as_bytes()).unwrap();
                let certificates = certificates.collect();
                builder.with_client_auth_cert(certificates, key).unwrap()
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }
}

impl Line {
    /// For calls of other kinds.
    #[must_use]
    pub fn into_sender(self) -> SendRequest<Body> {
        self.0
    }

    /// One call.
    ///
    /// # Errors
    /// What the CA answers instead.
    pub async fn create(
        &mut self,
        request: IstioCertificateRequest,
        authorization: &[&str],
    ) -> Result<Vec<String>, Status> {
        let sender = self.0.clone();
        let service = tower::service_fn(move |request| {
            let mut sender = sender.clone();
            async move { sender.send_request(request).await }
        });
        let origin = "https://localhost".parse().unwrap();
        let mut client = IstioCertificateServiceClient::with_origin(service, origin);
        let mut request = Request::new(request);
        for value in authorization {
            let value = value.parse().unwrap();
            request.metadata_mut().append("authorization", value);
        }
        let answer = client.create_certificate(request).await?;
        Ok(answer.into_inner().cert_chain)
    }
}
