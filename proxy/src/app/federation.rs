//! Beside the path: the roots of other trust domains, from files and from their bundle endpoints.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::StatusCode;
use rustls::ClientConfig;
use selvedge_contract::config::{Federated, Profile};
use selvedge_contract::defaults::trust::{BUNDLE, BUNDLE_AGAIN, BUNDLE_BACKOFF, BUNDLE_BYTES};
use selvedge_contract::identity::TrustDomain;
use tokio::task::AbortHandle;

use crate::fetch::{self, Address, Question};
use crate::telemetry::metrics::Metrics;
use crate::tls::IdentityStore;
use crate::tls::connect::{server_client, spiffe_client};
use crate::tls::federation::Bundle;

/// The domains of the configuration in force, with who keeps their roots up to date.
#[derive(Debug, Default)]
pub(super) struct Federation {
    kept: BTreeMap<TrustDomain, Kept>,
}

#[derive(Debug)]
struct Kept {
    spec: Federated,
    task: Option<AbortHandle>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// A domain with what its file says now.
pub(super) type Domain = (TrustDomain, Federated, Option<Bundle>);

/// Reads the files of these domains.
///
/// # Errors
/// The first that cannot be read; `check_trust` has told all of them, with their places.
pub(super) fn read(specs: &[Federated]) -> Result<Vec<Domain>, String> {
    let read = |spec: &Federated| {
        let domain = spec.trust_domain.parse();
        let domain: TrustDomain = domain.map_err(|e| format!("{}: {e}", spec.trust_domain))?;
        let path = spec.bundle.as_ref().map(Path::new);
        let bundle = path.map(Bundle::read).transpose();
        let bundle = bundle.map_err(|e| e.to_string())?;
        Ok((domain, spec.clone(), bundle))
    };
    specs.iter().map(read).collect()
}

impl Federation {
    /// Puts these domains in force and drops all others. An endpoint that is asked already, goes on
    /// being asked: what it has told is newer than any file.
    pub(super) fn apply(
        &mut self,
        domains: Vec<Domain>,
        store: &Arc<IdentityStore>,
        metrics: &Arc<Metrics>,
    ) {
        let mut before = std::mem::take(&mut self.kept);
        for (domain, spec, bundle) in domains {
            let known = before.remove(&domain);
            let same = known.filter(|kept| kept.spec == spec && kept.task.is_some());
            let kept = same.unwrap_or_else(|| {
                store.federate(&domain, bundle.map(|b| (b.roots, b.published)));
                let task = spec.endpoint.is_some().then(|| {
                    let asker = Asker {
                        domain: domain.clone(),
                        spec: spec.clone(),
                        store: store.clone(),
                        metrics: metrics.clone(),
                    };
                    // Aborted when its domain, or what is said of it, is gone.
                    tokio::spawn(asker.ask_forever()).abort_handle()
                });
                Kept { spec, task }
            });
            self.kept.insert(domain, kept);
        }
        for gone in before.keys() {
            store.federate(gone, None);
        }
    }
}

/// What an endpoint has told so far.
#[derive(Debug, Default)]
struct Known {
    sequence: Option<u64>,
    roots: Option<usize>,
    /// Bundles in a row that were older.
    older: u32,
}

/// A replica that is behind tells an older bundle now and then; a domain that was restored tells nothing
/// else, and is believed when it has said so this often in a row.
const OLDER: u32 = 3;

impl Known {
    /// Whether a bundle comes before the one that is known (SPIFFE Trust Domain and Bundle, 4.1.1), and is to
    /// be left.
    fn is_older(&mut self, sequence: Option<u64>) -> bool {
        let older = matches!((sequence, self.sequence), (Some(new), Some(old)) if new < old);
        self.older = if older { self.older + 1 } else { 0 };
        older && self.older < OLDER
    }
}

/// Asks one endpoint for its bundle.
struct Asker {
    domain: TrustDomain,
    spec: Federated,
    store: Arc<IdentityStore>,
    metrics: Arc<Metrics>,
}

impl Asker {
    /// The last good bundle stays in force, however long no other comes.
    async fn ask_forever(self) {
        let mut pause = BUNDLE_BACKOFF;
        let mut known = Known::default();
        loop {
            let wait = match self.ask().await {
                Ok(bundle) => {
                    pause = BUNDLE_BACKOFF;
                    self.take(bundle, &mut known)
                }
                Err(error) => {
                    self.metrics.process.bundle_failures.fetch_add(1, Relaxed);
                    let trust_domain = &self.domain;
                    tracing::warn!(%trust_domain, error, retry_in = ?pause, "no bundle of another trust domain");
                    let wait = pause;
                    pause = (pause * 2).min(BUNDLE_AGAIN);
                    wait
                }
            };
            tokio::time::sleep(wait.mul_f64(0.9 + fastrand::f64() / 10.0)).await;
        }
    }

    fn take(&self, bundle: Bundle, known: &mut Known) -> Duration {
        let trust_domain = &self.domain;
        let (roots, sequence) = (bundle.roots.len(), bundle.sequence);
        if known.is_older(sequence) {
            tracing::warn!(%trust_domain, ?sequence, newest = ?known.sequence, "an older bundle of another trust domain is not taken");
            return bundle.refresh;
        }
        if (known.sequence, known.roots) != (sequence, Some(roots)) {
            tracing::info!(%trust_domain, roots, ?sequence, "bundle of another trust domain");
        }
        *known = Known {
            sequence,
            roots: Some(roots),
            older: 0,
        };
        let roots = Some((bundle.roots, bundle.published));
        self.store.federate(&self.domain, roots);
        bundle.refresh
    }

    async fn ask(&self) -> Result<Bundle, String> {
        let endpoint = self.spec.endpoint.as_deref().unwrap_or_default();
        let address: Address = endpoint.parse().map_err(|_| "no address".to_owned())?;
        let tls = self.tls().await?;
        let question = Question {
            form: None,
            authorization: None,
        };
        // Redirects are not followed (SPIFFE Federation, section 5.1: a client may refuse them).
        let answer = fetch::ask(&address, &tls, question, BUNDLE_BYTES, BUNDLE).await;
        let answer = answer.map_err(|error| format!("{address}: {error}"))?;
        if answer.status() != StatusCode::OK {
            return Err(format!("{address}: it answered {}", answer.status()));
        }
        Bundle::parse_json(answer.body()).map_err(|e| format!("{address}: {e}"))
    }

    async fn tls(&self) -> Result<Arc<ClientConfig>, String> {
        if self.spec.profile == Some(Profile::HttpsSpiffe) {
            let id = self.spec.endpoint_id.as_deref().unwrap_or_default();
            return spiffe_client(&self.store, id.into()).map_err(|e| e.to_string());
        }
        let ca = self.spec.ca.clone();
        let read = move || server_client(ca.as_deref().map(Path::new), false);
        // Beside the control runtime, and anew each time: files change, and may be far away.
        let tls = tokio::task::spawn_blocking(read).await;
        tls.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
    }
}
