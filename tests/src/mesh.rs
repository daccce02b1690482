//! Two sidecars with mutual TLS between them, before any application: what crosses a mesh in tests of
//! protocols.

use std::net::SocketAddr;

use tempfile::TempDir;

use crate::{Selvedge, TestCa, sidecar};

/// See the module. The application is called as `app`.
pub struct Mesh {
    _dir: TempDir,
    /// The sidecar of the application.
    pub server: Selvedge,
    /// The sidecar of its callers.
    pub client: Selvedge,
}

impl Mesh {
    /// Before an application that speaks this protocol (`http1`, `http2`).
    #[must_use]
    pub fn before(app: SocketAddr, protocol: &str) -> Self {
        Self::with(app, protocol, "")
    }

    /// The same, with more keys for the inbound port.
    #[must_use]
    pub fn with(app: SocketAddr, protocol: &str, more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = TestCa::new();
        let bundle = dir.path().join("bundle.pem");
        std::fs::write(&bundle, ca.bundle()).unwrap();
        let identity = |name: &str| {
            let svid = ca.svid(&format!("spiffe://shop.local/ns/shop/sa/{name}"));
            let (certificate, key) = svid.write(dir.path(), name);
            format!(
                "identity: {{ trustDomain: shop.local, bundle: {}, certificate: {}, key: {} }}",
                bundle.display(),
                certificate.display(),
                key.display()
            )
        };
        let server = sidecar(&format!(
            "{}\ninbound: [{{ bind: 127.0.0.1, port: 0, app: \"{app}\", protocol: {protocol}, mtls: strict{more} }}]",
            identity("server"),
        ));
        let client = sidecar(&format!(
            "{}\noutbound: {{ bind: \"127.0.0.1:0\" }}
services: {{ app: {{ endpoints: [\"{}\"], mesh: {{}} }} }}",
            identity("client"),
            server.address("inbound-0")
        ));
        Self {
            _dir: dir,
            server,
            client,
        }
    }

    /// Where callers ask.
    #[must_use]
    pub fn outbound(&self) -> SocketAddr {
        self.client.address("outbound")
    }
}
