//! The client of the CA: `IstioCertificateService/CreateCertificate` over TLS 1.3, proven by the
//! present certificate, or by a join token where there is none yet.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{ServerName, TrustAnchor};
use selvedge_contract::defaults::process::RENEW_SPREAD;
use selvedge_contract::sign::{
    INSTANCE, IstioCertificateRequest, IstioCertificateServiceClient, MintRequest, Minted,
    TokensClient,
};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tonic::metadata::MetadataValue;
use tonic::{Request, Status};

use crate::tls::{IdentityStore, provider};

use super::{CaSource, IdentityError};

/// Connect, handshake and call together.
pub(super) const CALL: Duration = Duration::from_secs(15);
/// How often a silent CA is asked whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// The CA, as one of its callers sees it.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) ca: CaSource,
    pub(super) store: Arc<IdentityStore>,
    /// Which process of its identity this is; says nothing else.
    pub(super) instance: Arc<str>,
    /// Roots from the file: the CA may be verified by them too, should it not be by those it gave.
    pub(super) anchors: Arc<ArcSwap<RootCertStore>>,
    /// Roots that the CA has said are trusted no more: a file that nobody has written since may have them.
    pub(super) gone: Arc<ArcSwap<Vec<TrustAnchor<'static>>>>,
    /// Counts how often the CA has begun to sign with another root: certificates under the one before should
    /// be replaced soon, the proxy's and the application's.
    pub(super) renew: Arc<watch::Sender<u64>>,
}

/// Speaks HTTP/2 on one connection.
pub(super) type Sender = http2::SendRequest<tonic::body::Body>;

impl Caller {
    /// Asks for a certificate; `anew` by the token, even if there is a certificate to show.
    pub(super) async fn ask(
        &self,
        csr_pem: &str,
        anew: bool,
    ) -> Result<Vec<String>, IdentityError> {
        let proven = self.store.is_ready() && !(anew && self.ca.token.is_some());
        // Cancelled by its deadline, which closes the connection; a token may be spent by then.
        tokio::time::timeout(CALL, self.call(csr_pem, proven))
            .await
            .unwrap_or_else(|_| Err(failed("no answer in time")))
    }

    /// Tells when the CA signs with another root than it does now.
    pub(super) fn other_roots(&self) -> OtherRoots {
        OtherRoots(self.renew.subscribe())
    }

    /// Trusts the roots of an answer too, where they are not known: who follows has them already; who cannot
    /// would otherwise not know the next root when it signs, as the CA takes for granted. Nothing is taken
    /// out by this, and nothing is brought back that the CA has said is trusted no more.
    pub(super) fn learn(&self, answered: &str) -> Result<(), IdentityError> {
        let (known, gone) = (self.store.bundle(), self.gone.load());
        let mut bundle = self.store.bundle_pem();
        let mut new = 0;
        for pem in certificates_in(answered) {
            let roots = super::roots_of(pem)?;
            let unknown =
                |root: &TrustAnchor<'_>| !known.roots.contains(root) && !gone.contains(root);
            if roots.roots.iter().any(unknown) {
                bundle.push_str(pem);
                bundle.push('\n');
                new += 1;
            }
        }
        if new > 0 {
            self.store.replace_own(&bundle, None)?;
            tracing::info!(
                new,
                "other roots are trusted too: the CA signs with them, or will"
            );
        }
        Ok(())
    }

    /// A root that was written into the file is the CA's again, whatever that has said before: it may have
    /// been restored from a backup. Not one that the file has had all along: files are also written anew
    /// by what knows nothing of their content.
    pub(super) fn come_back(&self, before: &RootCertStore, now: &RootCertStore) {
        let mut gone = self.gone.load().as_ref().clone();
        gone.retain(|root| before.roots.contains(root) || !now.roots.contains(root));
        self.gone.store(Arc::new(gone));
    }

    async fn call(&self, csr_pem: &str, proven: bool) -> Result<Vec<String>, IdentityError> {
        let ttl = self.ca.ttl.map_or(0, |ttl| ttl.as_secs());
        let mut request = Request::new(IstioCertificateRequest {
            csr: csr_pem.to_owned(),
            validity_duration: i64::try_from(ttl).unwrap_or(0),
            metadata: None,
        });
        if let Ok(instance) = self.instance.parse() {
            request.metadata_mut().insert(INSTANCE, instance);
        }
        if !proven {
            let token = read_token(self.ca.token.as_deref())?;
            let mut value = MetadataValue::try_from(format!("Bearer {}", token.trim()))
                .map_err(|_| failed("the token holds characters that cannot be sent"))?;
            value.set_sensitive(true);
            request.metadata_mut().insert("authorization", value);
        }
        let (sender, connection) = self.connect(proven).await?;
        // Ends with the sender.
        let connection = tokio::spawn(connection);
        let service = calling(sender);
        let mut client = IstioCertificateServiceClient::with_origin(service, self.origin()?);
        let answer = client.create_certificate(request).await;
        drop(client);
        connection.abort();
        let answer = answer.map_err(|status| refused(&status))?;
        Ok(answer.into_inner().cert_chain)
    }

    /// Asks for a JWT-SVID for these audiences, proven by the certificate in use.
    ///
    /// # Errors
    /// What the CA says, or `UNAVAILABLE` where it says nothing.
    pub(super) async fn mint(&self, audience: Vec<String>) -> Result<Minted, Status> {
        let away = |error: IdentityError| Status::unavailable(error.to_string());
        let call = async {
            let (sender, connection) = self.connect(true).await.map_err(away)?;
            let connection = tokio::spawn(connection);
            let origin = self.origin().map_err(away)?;
            let mut client = TokensClient::with_origin(calling(sender), origin);
            let answer = client.mint_jwt(MintRequest { audience, ttl: 0 }).await;
            drop(client);
            connection.abort();
            answer.map(tonic::Response::into_inner)
        };
        // Cancelled by its deadline, which closes the connection.
        let answer = tokio::time::timeout(CALL, call).await;
        answer.unwrap_or_else(|_| Err(away(failed("no answer in time"))))
    }

    /// A connection to the CA, with the certificate in use where `proven`. The caller bounds its time.
    pub(super) async fn connect(
        &self,
        proven: bool,
    ) -> Result<(Sender, impl Future<Output = hyper::Result<()>> + use<>), IdentityError> {
        let CaSource { host, port, .. } = &self.ca;
        let config = self.tls(proven).map_err(failed)?;
        let name = ServerName::try_from(host.clone()).map_err(failed)?;
        let stream = TcpStream::connect((host.as_str(), *port))
            .await
            .map_err(|error| failed(format!("{host}:{port}: {error}")))?;
        stream.set_nodelay(true).map_err(failed)?;
        let stream = TlsConnector::from(config)
            .connect(name, stream)
            .await
            .map_err(failed)?;
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(CALL)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(failed)
    }

    pub(super) fn origin(&self) -> Result<http::Uri, IdentityError> {
        let CaSource { host, port, .. } = &self.ca;
        let host = match host.contains(':') {
            true => format!("[{host}]"),
            false => host.clone(),
        };
        let origin = format!("https://{host}:{port}").parse();
        origin.map_err(|_| failed("its address is not a URL"))
    }

    fn tls(&self, proven: bool) -> Result<Arc<ClientConfig>, rustls::Error> {
        let mut roots = self.store.bundle().as_ref().clone();
        let gone = self.gone.load();
        let anchors = self.anchors.load();
        let anchors = anchors.roots.iter().filter(|root| !gone.contains(root));
        roots.extend(anchors.cloned());
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots);
        let mut config = if proven {
            builder.with_client_cert_resolver(self.store.clone())
        } else {
            builder.with_no_client_auth()
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Arc::new(config))
    }
}

/// See [`Caller::other_roots`].
pub(super) struct OtherRoots(watch::Receiver<u64>);

impl OtherRoots {
    /// Returns when it does: after a moment, for all others do the same.
    pub(super) async fn signs(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending().await
        }
        tokio::time::sleep(RENEW_SPREAD.mul_f64(fastrand::f64())).await;
    }
}

/// What generated clients send by.
fn calling(
    sender: Sender,
) -> impl tower::Service<
    http::Request<tonic::body::Body>,
    Response = http::Response<hyper::body::Incoming>,
    Error = hyper::Error,
    Future: Send,
> {
    tower::service_fn(move |request| {
        let mut sender = sender.clone();
        async move { sender.send_request(request).await }
    })
}

/// Each certificate of a PEM text, with its lines around it.
fn certificates_in(pem: &str) -> impl Iterator<Item = &str> {
    const END: &str = "-----END CERTIFICATE-----";
    pem.split_inclusive(END)
        .filter(|part| part.ends_with(END))
        .map(str::trim_start)
}

pub(super) fn failed(why: impl std::fmt::Display) -> IdentityError {
    IdentityError::Ca(why.to_string())
}

pub(super) fn refused(status: &Status) -> IdentityError {
    failed(format_args!("{}: {}", status.code(), status.message()))
}

fn read_token(path: Option<&Path>) -> Result<zeroize::Zeroizing<String>, IdentityError> {
    let Some(path) = path else {
        let why = "no certificate to show and no `token` to prove who this is";
        return Err(IdentityError::Spec(why.into()));
    };
    super::read(path).map(zeroize::Zeroizing::new)
}
