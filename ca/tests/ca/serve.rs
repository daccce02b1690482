//! End to end: a real socket, TLS, HTTP/2 and gRPC.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::KeyPair;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use selvedge_ca::server::{MAX_MESSAGE, ServeError};
use selvedge_ca::{Authority, CaService, TokenStore, serve};
use selvedge_contract::sign::{
    IstioCertificateRequest, IstioCertificateServiceClient, MintRequest, Minted, TokensClient,
};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status};

use crate::support::{HOUR, der, domain, orders, request, verify};

type Identity = (Vec<CertificateDer<'static>>, KeyPair);

struct Ca {
    authority: Arc<Authority>,
    tokens: Arc<TokenStore>,
    address: SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), ServeError>>,
    _dir: TempDir,
}

async fn start() -> Ca {
    let dir = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let authority = Authority::create_or_load(dir.path(), &domain(), now).unwrap();
    let authority = Arc::new(authority);
    let tokens = Arc::new(TokenStore::open(&dir.path().join("tokens")).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let service = CaService::new(authority.clone(), Some(tokens.clone()), names);
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(serve(listener, service, shutdown.clone()));
    Ca {
        authority,
        tokens,
        address,
        shutdown,
        task,
        _dir: dir,
    }
}

impl Ca {
    fn token(&self) -> String {
        let token = self.tokens.mint(&orders(), HOUR, SystemTime::now());
        token.unwrap().as_str().to_owned()
    }

    async fn connect(
        &self,
        identity: Option<Identity>,
    ) -> Result<SendRequest<tonic::body::Body>, Status> {
        let config = client_config(&self.authority, identity);
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp);
        let tls = tls.await.map_err(unreachable)?;
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tls))
                .await
                .map_err(unreachable)?;
        tokio::spawn(connection);
        Ok(sender)
    }

    /// Asks for a token on a connection of its own.
    async fn mint(
        &self,
        identity: Option<Identity>,
        audience: &[&str],
        ttl: u32,
    ) -> Result<Minted, Status> {
        let sender = self.connect(identity).await?;
        let channel = tower::service_fn(move |request: http::Request<tonic::body::Body>| {
            let mut sender = sender.clone();
            async move { sender.send_request(request).await }
        });
        let origin = "https://localhost".parse().unwrap();
        let mut client = TokensClient::with_origin(channel, origin);
        let audience = audience.iter().map(|one| (*one).to_owned()).collect();
        let answer = client.mint_jwt(MintRequest { audience, ttl }).await?;
        Ok(answer.into_inner())
    }

    /// One call on a connection of its own.
    async fn call(
        &self,
        identity: Option<Identity>,
        authorizations: &[String],
        message: IstioCertificateRequest,
    ) -> Result<Vec<String>, Status> {
        let sender = self.connect(identity).await?;
        let channel = tower::service_fn(move |request: http::Request<tonic::body::Body>| {
            let mut sender = sender.clone();
            async move { sender.send_request(request).await }
        });
        let origin = "https://localhost".parse().unwrap();
        let mut client = IstioCertificateServiceClient::with_origin(channel, origin);
        let mut request = Request::new(message);
        for value in authorizations {
            let value = value.parse().unwrap();
            request.metadata_mut().append("authorization", value);
        }
        let answer = client.create_certificate(request).await?;
        Ok(answer.into_inner().cert_chain)
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }
}

fn unreachable(error: impl std::error::Error) -> Status {
    Status::unavailable(error.to_string())
}

fn client_config(authority: &Authority, identity: Option<Identity>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for root in authority.bundle_der() {
        roots.add(root.clone()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

fn asking(csr: &str) -> IstioCertificateRequest {
    IstioCertificateRequest {
        csr: csr.to_owned(),
        ..Default::default()
    }
}

fn bearer(token: &str) -> Vec<String> {
    vec![format!("Bearer {token}")]
}

/// A certificate from `authority`, without the wire.
fn identity_from(authority: &Authority) -> Identity {
    let (csr, key) = request();
    let issued = authority.issue(&csr, &orders(), None, SystemTime::now());
    let chain = issued.unwrap().chain_pem;
    (chain[..2].iter().map(|pem| der(pem)).collect(), key)
}

#[tokio::test]
async fn a_workload_joins_once_and_then_renews_by_certificate() {
    let ca = start().await;
    let token = ca.token();
    let (csr, key) = request();
    let chain = ca.call(None, &bearer(&token), asking(&csr)).await.unwrap();
    verify(&chain, SystemTime::now(), true).unwrap();
    assert_eq!(chain[2], *ca.authority.bundle().pem);

    let again = ca
        .call(None, &bearer(&token), asking(&csr))
        .await
        .unwrap_err();
    assert_eq!(again.code(), Code::Unauthenticated);

    let identity = (chain[..2].iter().map(|pem| der(pem)).collect(), key);
    let (csr, _) = request();
    let renewed = ca.call(Some(identity), &[], asking(&csr)).await.unwrap();
    verify(&renewed, SystemTime::now(), false).unwrap();
    assert_ne!(renewed[0], chain[0]);
    ca.stop().await;
}

#[tokio::test]
async fn strangers_learn_nothing() {
    let ca = start().await;
    let (csr, _) = request();
    let token = ca.token();
    let mut answers = Vec::new();
    for authorization in [
        vec![],
        bearer("nonsense"),
        vec!["Basic abc".to_owned()],
        [bearer(&token), bearer(&token)].concat(),
    ] {
        let error = ca
            .call(None, &authorization, asking(&csr))
            .await
            .unwrap_err();
        assert_eq!(error.code(), Code::Unauthenticated);
        answers.push(error.message().to_owned());
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    // Two authorizations were refused before the token was spent.
    ca.call(None, &bearer(&token), asking(&csr)).await.unwrap();
    ca.stop().await;
}

#[tokio::test]
async fn a_certificate_from_elsewhere_ends_the_connection() {
    let ca = start().await;
    let foreign = Authority::ephemeral(&domain(), SystemTime::now()).unwrap();
    let (csr, _) = request();
    let token = ca.token();
    let identity = Some(identity_from(&foreign));
    let refused = ca.call(identity, &bearer(&token), asking(&csr)).await;
    let error = refused.unwrap_err();
    assert_ne!(error.code(), Code::Ok);
    assert_ne!(
        error.code(),
        Code::Unauthenticated,
        "it ends before any call"
    );
    // The token was not spent by it.
    ca.call(None, &bearer(&token), asking(&csr)).await.unwrap();
    ca.stop().await;
}

#[tokio::test]
async fn a_token_for_another_identity_does_not_go_with_a_certificate() {
    let ca = start().await;
    let web = "spiffe://shop.local/ns/shop/sa/web".parse().unwrap();
    let token = ca.tokens.mint(&web, HOUR, SystemTime::now()).unwrap();
    let identity = identity_from(&ca.authority);
    let message = asking(&request().0);
    let refused = ca.call(Some(identity), &bearer(&token), message).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
    ca.stop().await;
}

#[tokio::test]
async fn bad_requests_are_invalid_arguments() {
    let ca = start().await;
    let (csr, _) = request();
    let mut too_long = asking(&csr);
    too_long.validity_duration = 91 * 24 * 3600;
    let mut far_too_long = asking(&csr);
    far_too_long.validity_duration = i64::MAX;
    for bad in [asking("junk"), asking(""), too_long, far_too_long] {
        let error = ca.call(None, &bearer(&ca.token()), bad).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    }
    let mut default = asking(&csr);
    default.validity_duration = i64::MIN;
    ca.call(None, &bearer(&ca.token()), default).await.unwrap();
    let huge = asking(&"x".repeat(MAX_MESSAGE + 1));
    let error = ca.call(None, &bearer(&ca.token()), huge).await.unwrap_err();
    assert_eq!(error.code(), Code::OutOfRange, "{error}");
    ca.stop().await;
}

#[tokio::test]
async fn tokens_are_for_whoever_has_a_certificate_and_for_a_while() {
    let ca = start().await;
    let identity = || Some(identity_from(&ca.authority));
    let minted = ca.mint(identity(), &["billing"], 0).await.unwrap();
    assert_eq!(minted.expires - minted.issued, 300);
    assert_eq!(minted.token.split('.').count(), 3);
    let long = ca.mint(identity(), &["billing"], 3600).await.unwrap();
    assert_eq!(long.expires - long.issued, 3600);
    assert_ne!(long.token, minted.token);
    let refused = |outcome: Result<Minted, Status>| outcome.unwrap_err().code();
    let stranger = ca.mint(None, &["billing"], 0).await;
    assert_eq!(refused(stranger), Code::Unauthenticated);
    for (audience, ttl) in [(&[][..], 0), (&["a"; 17][..], 0), (&["a"], 3601)] {
        let outcome = ca.mint(identity(), audience, ttl).await;
        assert_eq!(refused(outcome), Code::InvalidArgument);
    }
    ca.stop().await;
}

#[tokio::test]
async fn shutdown_does_not_wait_for_idle_connections() {
    let ca = start().await;
    // One that never says hello, one that never asks.
    let _silent = TcpStream::connect(ca.address).await.unwrap();
    let tcp = TcpStream::connect(ca.address).await.unwrap();
    let config = Arc::new(client_config(&ca.authority, None));
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let tls = TlsConnector::from(config).connect(name, tcp).await.unwrap();
    let (_sender, connection) = hyper::client::conn::http2::handshake::<_, _, tonic::body::Body>(
        TokioExecutor::new(),
        TokioIo::new(tls),
    )
    .await
    .unwrap();
    tokio::spawn(connection);
    ca.stop().await;
}

#[tokio::test]
async fn tls_1_2_is_refused() {
    let ca = start().await;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let tcp = TcpStream::connect(ca.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let refused = TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await;
    assert!(refused.unwrap_err().to_string().contains("ProtocolVersion"));
    ca.stop().await;
}
