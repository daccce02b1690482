//! Beside the path: what peers in the mesh are verified by, kept as the configuration says, and the
//! end of connections whose peers are not trusted any more.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use crate::config::Snapshot;
use crate::telemetry::metrics::Metrics;
use crate::tls::IdentityStore;
use crate::tls::revocation::Revocations;
use crate::worker::Shared;

use super::StartError;
use super::federation::{self, Domain, Federation};

/// What was read for a store and is not in force yet.
#[derive(Debug)]
pub(super) struct Read {
    revoked: Revocations,
    domains: Vec<Domain>,
}

impl Read {
    /// Reads the files that `identity` names, besides certificate and bundle.
    ///
    /// # Errors
    /// [`StartError::Trust`]: the file, and what is wrong with it.
    pub(super) fn files(snapshot: &Snapshot) -> Result<Self, StartError> {
        let spec = snapshot.source.identity.as_ref();
        let path = spec.and_then(|spec| spec.crl.as_ref());
        let revoked = path.map_or(Ok(Revocations::default()), |path| {
            Revocations::read(path.as_ref())
                .map_err(|error| StartError::Trust(format!("crl: {error}")))
        })?;
        let others = spec.map_or(&[][..], |spec| &spec.federation);
        let domains = federation::read(others)
            .map_err(|error| StartError::Trust(format!("federation: {error}")))?;
        Ok(Self { revoked, domains })
    }

    /// Puts it in force. What has ended is told, and is in force all the same: whom a list has taken
    /// out stays out.
    pub(super) fn apply(
        self,
        federation: &mut Federation,
        store: &Arc<IdentityStore>,
        metrics: &Arc<Metrics>,
    ) {
        let next = self.revoked.next_update();
        let end = next.and_then(|t| t.duration_since(UNIX_EPOCH).ok());
        let end = end.unwrap_or_default().as_secs();
        metrics.process.lists_end.store(end, Relaxed);
        warn_of_ended(&self.revoked);
        store.replace_revocations(self.revoked);
        federation.apply(self.domains, store, metrics);
    }
}

fn warn_of_ended(lists: &Revocations) {
    for issuer in lists.ended(SystemTime::now()) {
        tracing::warn!(
            %issuer,
            "a list of revoked certificates has ended: what was revoked since is not known, and is let in"
        );
    }
}

/// Verifies the peers of live connections again whenever what is trusted changes, and has those end
/// that are not any more. Never ends by itself; ends with the runtime. It sees every change from the
/// call on, not from the first poll.
pub(super) fn follow(store: Arc<IdentityStore>, shared: Arc<Shared>) -> impl Future<Output = ()> {
    let versions = store.versions();
    follow_from(versions, store, shared)
}

async fn follow_from(
    mut versions: watch::Receiver<u64>,
    store: Arc<IdentityStore>,
    shared: Arc<Shared>,
) {
    loop {
        let lists = store.trust().revoked.clone();
        let next = lists.next_update();
        // Both are safe to cancel: a version not seen now is seen next time.
        tokio::select! {
            changed = versions.changed() => {
                if changed.is_err() {
                    return;
                }
                versions.mark_unchanged();
                check(&store, &shared).await;
            }
            () = until(next) => warn_of_ended(&lists),
        }
    }
}

/// Waits for a time that is still to come; for ever for any other.
async fn until(time: Option<SystemTime>) {
    let left = time.and_then(|time| time.duration_since(SystemTime::now()).ok());
    match left.filter(|left| !left.is_zero()) {
        Some(left) => tokio::time::sleep(left + Duration::from_millis(1)).await,
        None => std::future::pending().await,
    }
}

async fn check(store: &IdentityStore, shared: &Shared) {
    let checked = shared.peers.check(store).await;
    let process = &shared.metrics.process;
    process.trust_changes.fetch_add(1, Relaxed);
    process
        .distrusted
        .fetch_add(checked.connections as u64, Relaxed);
    shared.distrusted.send_replace(());
    tracing::info!(
        verified = checked.chains,
        untrusted = checked.untrusted,
        ending = checked.connections,
        "what is trusted has changed"
    );
}
