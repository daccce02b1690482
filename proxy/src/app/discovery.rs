//! Before the stages: what an application has of a cluster, where the configuration asks for it.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::config::{Compiler, Mode, Snapshot};
#[cfg(feature = "kubernetes")]
use crate::discover::cluster::Cluster;
use crate::telemetry::metrics::Metrics;
use crate::tls::IdentityStore;
use crate::worker::Shared;

use super::StartError;

/// The cluster, or none.
#[derive(Debug)]
pub(super) struct Discovery {
    /// What it was started with; another takes effect with the next start.
    spec: Option<selvedge_contract::config::Kubernetes>,
    #[cfg(feature = "kubernetes")]
    cluster: Option<Arc<Cluster>>,
}

impl Discovery {
    /// Begins to follow what the first snapshot names.
    pub(super) fn start(
        mode: Mode,
        store: Option<Arc<IdentityStore>>,
        snapshot: &Snapshot,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, StartError> {
        let spec = snapshot.source.kubernetes.clone();
        #[cfg(feature = "kubernetes")]
        {
            let start = |spec| Cluster::start(spec, mode, store, metrics);
            let cluster = spec.as_ref().map(start).transpose();
            let cluster = cluster.map_err(|error| StartError::Discovery(error.to_string()))?;
            let this = Self { spec, cluster };
            this.attach(snapshot, BTreeSet::new());
            Ok(this)
        }
        #[cfg(not(feature = "kubernetes"))]
        {
            let _ = (mode, store, metrics);
            Ok(Self { spec })
        }
    }

    /// A reload cannot begin, end or move discovery: what it found would be gone in one breath.
    pub(super) fn check(&self, next: &Snapshot) -> Result<(), StartError> {
        if next.source.kubernetes == self.spec {
            return Ok(());
        }
        let message = "`kubernetes` has changed, which takes effect with a restart only";
        Err(StartError::Discovery(message.to_owned()))
    }
}

#[cfg(feature = "kubernetes")]
impl Discovery {
    /// Lets the path ask.
    pub(super) fn serve(&self, shared: &Shared) {
        if let Some(cluster) = &self.cluster {
            let _ = shared.demand.set(cluster.demand().clone());
        }
    }

    /// Hands what was found to the compiler; gives its names.
    pub(super) fn found(&self, compiler: &mut Compiler) -> BTreeSet<String> {
        let found = self.cluster.as_ref().map(|cluster| cluster.discovered());
        compiler.discovered = found.unwrap_or_default();
        compiler.discovered.keys().cloned().collect()
    }

    /// Follows what a snapshot names, before it is in force.
    pub(super) fn attach(&self, snapshot: &Snapshot, found: BTreeSet<String>) {
        if let Some(cluster) = &self.cluster {
            cluster.attach(snapshot, found);
        }
    }

    /// It is in force.
    pub(super) fn settled(&self) {
        if let Some(cluster) = &self.cluster {
            cluster.settled();
        }
    }

    /// Waits until another snapshot is due.
    pub(super) async fn changed(&self) {
        match &self.cluster {
            Some(cluster) => cluster.changed().await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(not(feature = "kubernetes"))]
impl Discovery {
    pub(super) fn serve(&self, _: &Shared) {}

    pub(super) fn found(&self, _: &mut Compiler) -> BTreeSet<String> {
        BTreeSet::new()
    }

    pub(super) fn attach(&self, _: &Snapshot, _: BTreeSet<String>) {}

    pub(super) fn settled(&self) {}

    pub(super) async fn changed(&self) {
        std::future::pending().await
    }
}
