//! Public certificates by ACME (RFC 8555): obtained and renewed on the control runtime, never on
//! the path, and shown from the next handshake on.

pub mod answer;
mod certificate;
mod challenge;
mod directory;
mod order;
mod renewal;
mod store;
mod window;

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use rustls::sign::CertifiedKey;
use selvedge_contract::config::{Acme, AcmeChallenge};
use tokio_util::sync::CancellationToken;

use crate::telemetry::metrics::{Metrics, OrderCounters};

pub use certificate::{Certificate, Unusable};
pub use challenge::{ALPN, Issuers, challenged_name};
pub use order::external_key;
pub use store::{Store, is_token};

/// One entry of `acme`: its names, what is shown for them, and where that is kept.
#[derive(Debug)]
pub struct Issuer {
    /// Its key in the configuration.
    pub name: Arc<str>,
    /// What the configuration says.
    pub spec: Acme,
    /// Files that replicas share.
    pub store: Store,
    /// One certificate each.
    pub names: Vec<Name>,
    /// Places in `names`, for handshakes.
    places: HashMap<String, usize>,
    watched: AtomicBool,
    retired: CancellationToken,
}

/// A DNS name with its certificate.
#[derive(Debug)]
pub struct Name {
    /// Lower case.
    pub name: String,
    /// Counters, which outlive this.
    pub counters: Arc<OrderCounters>,
    issued: ArcSwapOption<Certificate>,
    /// Shown until there is another, so that the port works from the first second.
    self_signed: Arc<CertifiedKey>,
    status: Mutex<Status>,
}

/// What admin shows of a name.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// When the certificate is renewed, as far as is known.
    pub renew_at: Option<SystemTime>,
    /// Why the last try failed, if it did.
    pub error: Option<String>,
}

impl Name {
    /// The certificate that the directory issued, if there is one.
    #[must_use]
    pub fn issued(&self) -> Option<Arc<Certificate>> {
        self.issued.load_full()
    }

    /// What handshakes show.
    #[must_use]
    pub fn shown(&self) -> Arc<CertifiedKey> {
        let issued = self.issued.load();
        issued
            .as_ref()
            .map_or_else(|| self.self_signed.clone(), |issued| issued.key.clone())
    }

    /// How it stands.
    #[must_use]
    pub fn status(&self) -> Status {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows this certificate from the next handshake on.
    fn adopt(&self, certificate: Certificate) {
        let end = certificate.not_after.duration_since(UNIX_EPOCH);
        let end = end.map_or(0, |d| d.as_secs());
        self.counters.not_after.store(end, Relaxed);
        self.issued.store(Some(Arc::new(certificate)));
    }
}

impl Issuer {
    /// Opens the store and shows what is in it, else certificates that are self-signed.
    ///
    /// # Errors
    /// When the store cannot be made, or the system has no randomness.
    pub fn open(name: &Arc<str>, spec: &Acme, metrics: &Metrics) -> io::Result<Arc<Self>> {
        let store = Store::new(Path::new(&spec.store), &spec.directory);
        store.prepare()?;
        let mut names = Vec::new();
        for host in &spec.names {
            let host = host.to_ascii_lowercase();
            let self_signed = certificate::self_signed(&host).map_err(io::Error::other)?;
            let one = Name {
                counters: metrics.orders(name, &host),
                issued: ArcSwapOption::empty(),
                self_signed: Arc::new(self_signed),
                status: Mutex::default(),
                name: host,
            };
            // What is wrong with it is said when the task looks, which is at once.
            if let Ok(Some((_, held))) = store.certificate(&one.name) {
                one.adopt(held);
            }
            names.push(one);
        }
        Ok(Arc::new(Self {
            name: name.clone(),
            spec: spec.clone(),
            store,
            places: names
                .iter()
                .enumerate()
                .map(|(at, n)| (n.name.clone(), at))
                .collect(),
            names,
            watched: AtomicBool::new(false),
            retired: CancellationToken::new(),
        }))
    }

    /// What is shown for a name (lower case), if it is one of these.
    #[must_use]
    pub fn shown(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        self.find(name).map(Name::shown)
    }

    /// What is shown to a client that names nobody known.
    #[must_use]
    pub fn first(&self) -> Option<Arc<CertifiedKey>> {
        self.names.first().map(Name::shown)
    }

    fn find(&self, name: &str) -> Option<&Name> {
        self.names.get(*self.places.get(name)?)
    }

    /// Whether challenges come in handshakes.
    #[must_use]
    pub fn proves_in_handshakes(&self) -> bool {
        self.spec.challenge == AcmeChallenge::TlsAlpn01
    }

    /// Ends the task; an order that is under way is finished.
    pub fn retire(&self) {
        self.retired.cancel();
    }
}

/// Begins to obtain and renew, unless that has begun already. Must run inside the control runtime.
pub fn watch(issuer: &Arc<Issuer>) {
    if !issuer.watched.swap(true, Relaxed) {
        tokio::spawn(renewal::run(issuer.clone()));
    }
}
