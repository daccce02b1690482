//! Injector: the API server is told by which roots to verify the webhook: `caBundle` of its
//! configuration, patched by the leader, looked at by all.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use crate::tls::IdentityStore;

use super::leader::{Candidate, RENEW};

/// Who owns the field, for other writers.
const MANAGER: &str = "selvedge-injector";

/// How things stand, for readiness and metrics.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// The API server verifies us by the roots that we have.
    pub current: AtomicBool,
    /// This replica leads.
    pub leads: AtomicBool,
}

/// Sees to it that the API server verifies the webhook by the bundle of the mesh.
#[derive(Debug)]
pub(super) struct CaBundle {
    configurations: Api<MutatingWebhookConfiguration>,
    name: String,
    store: Arc<IdentityStore>,
    standing: Arc<Standing>,
    candidate: Candidate,
}

impl CaBundle {
    pub(super) fn new(
        client: Client,
        name: String,
        store: Arc<IdentityStore>,
        standing: Arc<Standing>,
        candidate: Candidate,
    ) -> Self {
        Self {
            configurations: Api::all(client),
            name,
            store,
            standing,
            candidate,
        }
    }

    /// Looks, leads and patches until `stop`; then lets go of the lead.
    pub(super) async fn keep(mut self, stop: tokio_util::sync::CancellationToken) {
        let mut looks = tokio::time::interval(RENEW);
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                () = stop.cancelled() => break,
            }
            if let Err(error) = self.look().await {
                tracing::warn!(%error, webhook = %self.name, "caBundle");
            }
        }
        if self.standing.leads.load(Relaxed) {
            self.candidate.retire().await;
        }
    }

    async fn look(&mut self) -> Result<(), kube::Error> {
        let leads = self.candidate.stand().await;
        self.standing
            .leads
            .store(matches!(leads, Ok(true)), Relaxed);
        let leads = leads?;
        let pem = self.store.bundle_pem();
        let found = self.configurations.get(&self.name).await?;
        let webhooks = found.webhooks.unwrap_or_default();
        let bundle = |pem: &str| STANDARD.encode(pem);
        let differs = webhooks.iter().any(|webhook| {
            let shown = webhook.client_config.ca_bundle.as_ref();
            shown.is_none_or(|shown| shown.0 != pem.as_bytes())
        });
        if differs && leads && !pem.is_empty() {
            let entries = webhooks.iter().map(|webhook| {
                json!({ "name": webhook.name, "clientConfig": { "caBundle": bundle(&pem) } })
            });
            let patch = json!({
                "apiVersion": "admissionregistration.k8s.io/v1",
                "kind": "MutatingWebhookConfiguration",
                "metadata": { "name": self.name },
                "webhooks": entries.collect::<Vec<_>>(),
            });
            // Only this field is ours: what else there is stays with who installed it.
            let params = PatchParams::apply(MANAGER).force();
            self.configurations
                .patch(&self.name, &params, &Patch::Apply(&patch))
                .await?;
            tracing::info!(webhook = %self.name, "caBundle patched");
        }
        self.standing
            .current
            .store(!differs || (leads && !pem.is_empty()), Relaxed);
        Ok(())
    }
}
