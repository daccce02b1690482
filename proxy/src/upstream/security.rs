//! How the bytes to a service are protected: not at all, by TLS, or by the mesh's mutual TLS.

use std::fmt;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;

use crate::tls::IdentityStore;

/// See the module.
#[derive(Debug, Clone)]
pub enum Security {
    /// Plaintext.
    Plain,
    /// TLS, the server verified by name.
    Tls(ServerTls),
    /// Mutual TLS, the server verified by SPIFFE ID. Never falls back.
    Mesh(MeshTls),
}

/// TLS outside the mesh.
#[derive(Clone)]
pub struct ServerTls {
    /// Ready to use.
    pub config: Arc<ClientConfig>,
    /// Name to send and verify.
    pub name: ServerName<'static>,
}

impl Security {
    /// Whether it is mutual TLS of the mesh.
    #[must_use]
    pub const fn is_mesh(&self) -> bool {
        matches!(self, Self::Mesh(_))
    }
}

/// TLS inside the mesh.
#[derive(Clone)]
pub struct MeshTls {
    /// Ready to use; certificate and bundle are looked up at each handshake.
    pub config: Arc<ClientConfig>,
    /// Where they are.
    pub store: Arc<IdentityStore>,
    /// SPIFFE ID that the endpoints must show; `None` is any of the own trust domain.
    pub expected: Option<Arc<str>>,
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerTls({:?})", self.name)
    }
}

impl fmt::Debug for MeshTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MeshTls({:?})", self.expected)
    }
}
