//! Stage 2, tls: sessions with clients, and everything certificates are read from.

pub mod bond;
pub mod client;
pub mod connect;
pub mod federation;
pub mod files;
pub mod peers;
pub mod published;
pub mod reason;
pub mod revocation;
pub mod shown;
pub mod staple;
pub mod store;
pub mod trust;
pub mod verify;

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{Acceptor, NoServerSessionStorage, ServerConnection};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor};

use crate::acme::{Issuer, challenged_name};
use crate::protocol::socket::Socket;

pub use connect::{mesh_client, server_client};
pub use files::FileCertificates;
pub use shown::ShownCertificates;
pub use store::{Identity, IdentityStore};
use verify::{Expected, SpiffeVerifier};

/// ALPN of the mesh hop: ordinary HTTP/2, between two Selvedge proxies that know each other.
pub const MESH_HTTP: &[u8] = b"selvedge-h2";

/// ALPN of the mesh hop for everything else: bytes, of which neither proxy knows what they mean.
pub const MESH_TCP: &[u8] = b"selvedge-tcp";

/// By either of them the mesh's TLS is known from an application's own.
pub const MESH: [&[u8]; 2] = [MESH_HTTP, MESH_TCP];

/// The one provider, named wherever a configuration is built. `prefer-post-quantum` puts
/// X25519MLKEM768 first.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// TLS of a listener.
#[derive(Clone)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
    shown: Option<ShownCertificates>,
    store: Option<Arc<IdentityStore>>,
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.store.is_some() {
            "Mesh"
        } else {
            "Files"
        })
    }
}

impl ServerTls {
    /// TLS with certificates from files or ACME, chosen by SNI; HTTP/2 and HTTP/1.1 by ALPN. Clients
    /// show certificates of their own where there is something to verify them by.
    ///
    /// # Errors
    /// When the provider does not support the versions asked for.
    pub fn gateway(
        shown: ShownCertificates,
        tls13_only: bool,
        clients: Option<Arc<dyn ClientCertVerifier>>,
    ) -> Result<Self, rustls::Error> {
        let versions: &[&rustls::SupportedProtocolVersion] = if tls13_only {
            &[&rustls::version::TLS13]
        } else {
            &[&rustls::version::TLS13, &rustls::version::TLS12]
        };
        let builder =
            ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions)?;
        let resolver = Arc::new(shown.clone());
        let mut config = match clients {
            None => {
                let mut config = builder.with_no_client_auth().with_cert_resolver(resolver);
                config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
                config
            }
            Some(clients) => {
                let builder = builder.with_client_cert_verifier(clients);
                let mut config = builder.with_cert_resolver(resolver);
                // A session must not be taken up again when its certificate has been revoked.
                config.session_storage = Arc::new(NoServerSessionStorage {});
                config.send_tls13_tickets = 0;
                config
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self {
            config: Arc::new(config),
            shown: Some(shown),
            store: None,
        })
    }

    /// The same for what is not looked into: no protocol is agreed upon by ALPN.
    #[must_use]
    pub fn for_bytes(mut self) -> Self {
        let mut config = ServerConfig::clone(&self.config);
        config.alpn_protocols.clear();
        self.config = Arc::new(config);
        self
    }

    /// Mutual TLS of the mesh: TLS 1.3, a client certificate always, no tickets, since a session
    /// must not outlive the certificate that it was opened with.
    ///
    /// # Errors
    /// When the provider does not support TLS 1.3.
    pub fn mesh(store: Arc<IdentityStore>) -> Result<Self, rustls::Error> {
        let verifier = SpiffeVerifier::new(store.clone(), Expected::Anyone);
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(store.clone());
        // In the order of what is chosen: bytes only by whoever speaks nothing better.
        let spoken: [&[u8]; 4] = [MESH_HTTP, b"h2", b"http/1.1", MESH_TCP];
        config.alpn_protocols = spoken.map(<[u8]>::to_vec).into();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self {
            config: Arc::new(config),
            shown: None,
            store: Some(store),
        })
    }

    /// What peers are verified by, on a mesh listener.
    #[must_use]
    pub const fn store(&self) -> Option<&Arc<IdentityStore>> {
        self.store.as_ref()
    }

    /// Whether a SPIFFE ID is of this proxy's trust domain, on a mesh listener.
    #[must_use]
    pub fn is_of_own_domain(&self, id: &str) -> bool {
        self.store.as_ref().is_some_and(|store| {
            let rest = id.strip_prefix(&store.trust_domain().uri());
            rest.is_some_and(|rest| rest.starts_with('/'))
        })
    }

    /// SPIFFE ID of this proxy, on a mesh listener.
    #[must_use]
    pub fn own_id(&self) -> Option<Arc<str>> {
        self.store
            .as_ref()?
            .current()
            .map(|identity| identity.id.clone())
    }

    /// Whether the certificate shown for `server_name` is also good for `host` (RFC 9110 7.4).
    #[must_use]
    pub fn covers(&self, server_name: &str, host: &str) -> bool {
        self.shown
            .as_ref()
            .is_none_or(|shown| shown.covers(server_name, host))
    }

    /// Whose challenges handshakes may answer.
    fn prover(&self) -> Option<&Arc<Issuer>> {
        let issuer = self.shown.as_ref()?.issuer.as_ref()?;
        issuer.proves_in_handshakes().then_some(issuer)
    }
}

/// The server side of a handshake. The caller bounds its time. `None`: it was a challenge of ACME,
/// which has its answer.
///
/// # Errors
/// What the handshake failed with.
pub async fn accept(tls: &ServerTls, stream: TcpStream) -> io::Result<Option<TlsStream<Socket>>> {
    let socket = Socket::new(stream);
    if let Some(issuer) = tls.prover() {
        return Box::pin(accept_or_prove(tls, issuer, socket)).await;
    }
    let accepted = TlsAcceptor::from(tls.config.clone()).accept(socket).await?;
    Ok(Some(accepted))
}

/// Looks at what the client offers before it chooses what to show. A challenge that is not open gets
/// an ordinary handshake, which fails: its protocol is never negotiated there.
async fn accept_or_prove(
    tls: &ServerTls,
    issuer: &Issuer,
    socket: Socket,
) -> io::Result<Option<TlsStream<Socket>>> {
    let start = LazyConfigAcceptor::new(Acceptor::default(), socket).await?;
    let proof = match challenged_name(&start.client_hello()) {
        Some(name) => issuer.proof(name).await,
        None => None,
    };
    let Some(proof) = proof else {
        return start.into_stream(tls.config.clone()).await.map(Some);
    };
    // The handshake is all that the directory wants (RFC 8737 section 3).
    let mut proven = start.into_stream(proof).await?;
    let _ = proven.shutdown().await;
    Ok(None)
}

/// What the client's certificate says of it, at the edge. Its verifier has checked it already.
#[must_use]
pub fn client_certificate(session: &ServerConnection) -> Option<client::ClientCertificate> {
    client::ClientCertificate::read(session.peer_certificates()?.first()?)
}

/// SPIFFE ID that the peer's certificate carries. The verifier has checked it already.
#[must_use]
pub fn peer_id(session: &ServerConnection) -> Option<Arc<str>> {
    let leaf = session.peer_certificates()?.first()?;
    verify::spiffe_id(leaf).ok().map(|id| id.as_str().into())
}
