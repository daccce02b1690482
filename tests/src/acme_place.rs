//! A gateway that gets its certificates by ACME, and questions to it.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::acme::{Pebble, Setup, free_port, s_client};
use crate::{PATIENCE, Selvedge, Upstream, gateway};

/// A place for a gateway: its ports, known before it listens, since pebble has to know them too.
pub struct Place {
    /// Ports, for pebble.
    pub setup: Setup,
    upstream: Upstream,
}

impl Place {
    /// Free ports, and an upstream that answers `ok`.
    #[must_use]
    #[expect(
        clippy::new_without_default,
        reason = "ports are no default of anything"
    )]
    pub fn new() -> Self {
        Self {
            setup: Setup {
                http: free_port(),
                tls: free_port(),
                ..Setup::default()
            },
            upstream: Upstream::answering("ok"),
        }
    }

    /// A gateway whose certificates come from `directory`.
    #[must_use]
    pub fn config(&self, directory: &str, ca: &Path, store: &str, more: &str) -> String {
        self.config_at(self.setup.http, self.setup.tls, directory, ca, store, more)
    }

    /// The same at other ports than those that pebble knows.
    #[must_use]
    pub fn config_at(
        &self,
        http: u16,
        tls: u16,
        directory: &str,
        ca: &Path,
        store: &str,
        more: &str,
    ) -> String {
        format!(
            "acme:
  public: {{ directory: \"{directory}\", directoryCa: {}, store: \"{store}\", {more} }}
listeners:
  - {{ name: web, bind: 127.0.0.1, port: {http} }}
  - {{ name: tls, bind: 127.0.0.1, port: {tls}, protocol: HTTPS, tls: {{ acme: public }} }}
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{}\"] }} }}
",
            ca.display(),
            self.upstream.address()
        )
    }

    /// A gateway with a store of its own.
    #[must_use]
    pub fn start(&self, pebble: &Pebble, more: &str) -> Selvedge {
        gateway(&self.config(&pebble.directory(), &pebble.ca(), "$DIR/store", more))
    }
}

/// Two names for a certificate each.
pub const TWO: &str = "names: [a.example, b.example]";

/// Orders of a name with this outcome.
#[must_use]
pub fn orders(proxy: &Selvedge, name: &str, outcome: &str) -> f64 {
    let labels = [format!("name=\"{name}\""), format!("outcome=\"{outcome}\"")];
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    proxy.metric("selvedge_acme_orders_total", &labels)
}

/// Waits until something holds: a directory may make an order wait some seconds, several times.
///
/// # Panics
/// When it does not within three times [`PATIENCE`].
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    wait_within(3 * PATIENCE, what, &mut holds);
}

/// The same within another time.
///
/// # Panics
/// When it does not.
pub fn wait_within(time: Duration, what: &str, holds: &mut dyn FnMut() -> bool) {
    let deadline = Instant::now() + time;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        // Each look costs the process under test a request: it shall have time for its own work.
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// Waits until every name has its first certificate by an order of this process.
pub fn wait_issued(proxy: &Selvedge, names: &[&str]) {
    for name in names {
        wait_until(name, || orders(proxy, name, "issued") >= 1.0);
    }
}

/// Whether a stranger who trusts `root` accepts what is shown for a name.
#[must_use]
pub fn is_verified(proxy: &Selvedge, name: &str, root: &Path) -> bool {
    s_client(proxy.address("tls"), name, root, &[]).contains("Verify return code: 0 (ok)")
}
