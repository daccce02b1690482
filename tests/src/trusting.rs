//! A sidecar whose trust a test changes while connections live.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::certs::{Leaf, TestCa};
use crate::{Selvedge, Upstream};

/// Who the sidecar is.
pub const ORDERS: &str = "spiffe://shop.local/ns/shop/sa/orders";
/// Who calls it.
pub const WEB: &str = "spiffe://shop.local/ns/shop/sa/web";

/// A sidecar before an application, with its files.
pub struct Trusting {
    /// The process.
    pub orders: Selvedge,
}

impl Trusting {
    /// Its own certificate is of `own`, it trusts `bundle`; `identity` is what its section says
    /// besides, `inbound` what its port says besides, `more` what follows. Files of those names are
    /// there before it starts.
    #[must_use]
    pub fn start(
        own: &TestCa,
        bundle: &str,
        (identity, inbound, more): (&str, &str, &str),
        files: &[(&str, &str)],
        app: &Upstream,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let _ = own.svid(ORDERS).write(dir.path(), "orders");
        std::fs::write(dir.path().join("bundle.pem"), bundle).unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let config = format!(
            "identity: {{ trustDomain: shop.local, bundle: $DIR/bundle.pem, certificate: $DIR/orders.pem, key: $DIR/orders.key{identity} }}
inbound: [{{ bind: 127.0.0.1, port: 0, app: \"{}\"{inbound} }}]
{more}",
            app.address()
        );
        Self {
            orders: Selvedge::start_in(dir, "sidecar", &config, 2),
        }
    }

    /// Where the mesh reaches it.
    #[must_use]
    pub fn inbound(&self) -> SocketAddr {
        self.orders.address("inbound-0")
    }

    /// Replaces a file of its directory, as tools do: whole.
    pub fn put(&self, name: &str, text: &str) {
        let path = self.path(name);
        let new = self.path(&format!("{name}.new"));
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, path).unwrap();
    }

    /// A file of its directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.orders.dir().join(name)
    }
}

/// A sidecar of another workload that calls this address as `orders`, expecting `expected`.
#[must_use]
pub fn caller(leaf: &Leaf, bundle: &str, expected: &str, to: SocketAddr) -> Selvedge {
    let dir = tempfile::tempdir().unwrap();
    let _ = leaf.write(dir.path(), "web");
    std::fs::write(dir.path().join("bundle.pem"), bundle).unwrap();
    let config = format!(
        "identity: {{ trustDomain: shop.local, bundle: $DIR/bundle.pem, certificate: $DIR/web.pem, key: $DIR/web.key }}
outbound: {{ bind: \"127.0.0.1:0\" }}
services: {{ orders: {{ endpoints: [\"{to}\"], mesh: {{ identity: \"{expected}\" }} }} }}"
    );
    Selvedge::start_in(dir, "sidecar", &config, 1)
}

/// One request of its application; the status.
#[must_use]
pub fn call(caller: &Selvedge) -> u16 {
    let mut client = crate::Raw::connect(caller.address("outbound"));
    client.send("GET / HTTP/1.1\r\nHost: orders\r\n\r\n");
    client.reply().status
}

/// A gateway with a certificate of this CA for `shop.example`, at the listener `web`, before `app`.
#[must_use]
pub fn edge(ca: &TestCa, app: &Upstream) -> Selvedge {
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = ca.server(&["shop.example"]).write(dir.path(), "shop");
    let config = format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0, protocol: HTTPS, tls: {{ certificates: [{{ certificate: {}, key: {} }}] }} }}]
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{}\"] }} }}",
        certificate.display(),
        key.display(),
        app.address()
    );
    Selvedge::start_in(dir, "gateway", &config, 1)
}
