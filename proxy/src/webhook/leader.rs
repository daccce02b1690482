//! Injector: one of its replicas leads, by a Lease: what has one writer is written by that one.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};

/// A leader that has not renewed for this long is none (as in client-go's defaults, doubled).
const TERM: Duration = Duration::from_secs(30);
/// How often a leader renews, and others look.
pub(super) const RENEW: Duration = Duration::from_secs(10);

/// A candidate.
#[derive(Debug)]
pub(super) struct Candidate {
    leases: Api<Lease>,
    lease: String,
    holder: String,
    /// The lease as it was last seen, and when that was on our own clock: clocks of others are not trusted.
    seen: Option<(Option<MicroTime>, tokio::time::Instant)>,
}

impl Candidate {
    /// A candidate for `lease`; `holder` is its name among the replicas.
    pub(super) fn new(client: Client, namespace: &str, lease: &str, holder: String) -> Self {
        Self {
            leases: Api::namespaced(client, namespace),
            lease: lease.to_owned(),
            holder,
            seen: None,
        }
    }

    /// Whether this replica leads from now on, for a term at most. Writes the lease where it is free or
    /// its own.
    ///
    /// # Errors
    /// The API: then nobody knows, and this replica does not lead.
    pub(super) async fn stand(&mut self) -> Result<bool, kube::Error> {
        let found = self.leases.get_opt(&self.lease).await?;
        let Some(mut lease) = found else {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(self.lease.clone()),
                    ..ObjectMeta::default()
                },
                spec: Some(self.term(None)),
            };
            let created = self.leases.create(&PostParams::default(), &lease).await;
            return won(created);
        };
        let spec = lease.spec.take().unwrap_or_default();
        let own = spec.holder_identity.as_deref() == Some(&self.holder);
        if !own && !self.is_free(&spec) {
            return Ok(false);
        }
        lease.spec = Some(self.term(Some(spec)));
        // With the version that was read: of several that find it free, one wins.
        let replaced = self
            .leases
            .replace(&self.lease, &PostParams::default(), &lease)
            .await;
        won(replaced)
    }

    /// Whether nobody holds it, or its holder has not renewed for a term since we first saw that.
    fn is_free(&mut self, spec: &LeaseSpec) -> bool {
        if spec
            .holder_identity
            .as_deref()
            .unwrap_or_default()
            .is_empty()
        {
            return true;
        }
        let now = tokio::time::Instant::now();
        match &self.seen {
            Some((renewed, since)) if *renewed == spec.renew_time => {
                now.saturating_duration_since(*since) >= TERM
            }
            _ => {
                self.seen = Some((spec.renew_time.clone(), now));
                false
            }
        }
    }

    fn term(&self, before: Option<LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let before = before.unwrap_or_default();
        let own = before.holder_identity.as_deref() == Some(&self.holder);
        let transitions = before.lease_transitions.unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.holder.clone()),
            lease_duration_seconds: i32::try_from(TERM.as_secs()).ok(),
            acquire_time: if own {
                before.acquire_time
            } else {
                Some(now.clone())
            },
            renew_time: Some(now),
            lease_transitions: Some(transitions.saturating_add(i32::from(!own))),
            ..LeaseSpec::default()
        }
    }

    /// Lets go, so that another need not wait.
    pub(super) async fn retire(&self) {
        let Ok(Some(mut lease)) = self.leases.get_opt(&self.lease).await else {
            return;
        };
        let Some(spec) = &mut lease.spec else { return };
        if spec.holder_identity.as_deref() == Some(&self.holder) {
            spec.holder_identity = None;
            let params = PostParams::default();
            let _ = self.leases.replace(&self.lease, &params, &lease).await;
        }
    }
}

/// Whoever comes second has lost, and that is no error.
fn won(written: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
    match written {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}
