//! Certificates from a CA: obtained, renewed before they age, looked for while there is none.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use rustls::sign::CertifiedKey;
use selvedge_contract::defaults::process::{RENEW_AT, RENEW_BACKOFF, RENEW_BARE, RENEW_JITTER};

use crate::telemetry::metrics::Metrics;
use crate::tls::{Identity, IdentityStore};

use super::ca_client::Caller;
use super::{IdentityError, Source, identity_of, is_member, new_key, note, shown_of};

/// Nothing is renewed sooner than after this.
const SHORTEST: Duration = Duration::from_millis(100);

/// Obtains and renews.
pub(super) struct Renewal {
    pub(super) store: Arc<IdentityStore>,
    pub(super) source: Source,
    pub(super) caller: Option<Caller>,
    pub(super) metrics: Arc<Metrics>,
}

impl Renewal {
    pub(super) async fn obtain(&self, anew: bool) -> Result<(), IdentityError> {
        let result = self.try_obtain(anew).await;
        let process = &self.metrics.process;
        match &result {
            Ok(()) => process.renewals.fetch_add(1, Relaxed),
            Err(_) => process.renewal_failures.fetch_add(1, Relaxed),
        };
        result
    }

    async fn try_obtain(&self, anew: bool) -> Result<(), IdentityError> {
        let new = new_key().map_err(|e| IdentityError::Unusable(e.to_string()))?;
        let chain = match (&self.caller, &self.source) {
            (Some(caller), _) => caller.ask(&new.csr_pem, anew).await?,
            (_, Source::Local { issuer, .. }) => issuer(&new.csr_pem).map_err(IdentityError::Ca)?,
            (None, _) => return Ok(()),
        };
        let certificates = shown_of(&chain)?;
        if let (Some(caller), Some(roots)) = (&self.caller, chain.get(certificates.len())) {
            caller.learn(roots)?;
        }
        let identity = identity_of(CertifiedKey::new(certificates, new.key))?;
        is_member(&identity, self.store.trust_domain())?;
        tracing::info!(id = %identity.id, "certificate obtained");
        note(&self.metrics, &identity);
        self.store.replace(identity);
        Ok(())
    }

    /// Renews at two thirds of each life, with jitter; after a failure sooner and sooner less. The
    /// old certificate stays in use to its end.
    pub(super) async fn renew_forever(self, mut last: Result<(), IdentityError>) {
        let mut pause = Duration::from_secs(1);
        let mut anew = false;
        let mut other_root = self.caller.as_ref().map(Caller::other_roots);
        loop {
            let wait = match &last {
                Ok(()) => {
                    pause = Duration::from_secs(1);
                    self.store.current().map_or(pause, |identity| {
                        let now = SystemTime::now();
                        time_to_renewal(&identity, now, now, fastrand::f64())
                    })
                }
                Err(error) => {
                    tracing::error!(%error, retry_in = ?pause, "no certificate");
                    let wait = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
                    // Without a certificate nothing works: the CA is to be found as soon as it is back.
                    let most = match self.store.is_ready() {
                        true => RENEW_BACKOFF,
                        false => RENEW_BARE,
                    };
                    pause = (pause * 2).min(most);
                    wait.min(most)
                }
            };
            let told = async {
                match &mut other_root {
                    Some(other_root) => other_root.signs().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = told => {}
            }
            // The CA may be another one, which does not know the certificate, but does the token.
            anew = last.is_err() && !anew;
            last = self.obtain(anew).await;
        }
    }
}

/// How long until a certificate is renewed; `random` in 0..1 spreads the fleet. Its life is counted from
/// when it was `obtained`: what lies before that is for clocks that are behind.
pub(super) fn time_to_renewal(
    identity: &Identity,
    obtained: SystemTime,
    now: SystemTime,
    random: f64,
) -> Duration {
    let begun = identity.not_before.max(obtained);
    let life = identity.not_after.duration_since(begun).unwrap_or_default();
    let jitter = (random * 2.0 - 1.0) * f64::from(RENEW_JITTER) / 100.0;
    let at = begun + life.mul_f64(f64::from(RENEW_AT) / 100.0 + jitter);
    let soon = (life / 4).clamp(SHORTEST, Duration::from_secs(1));
    at.duration_since(now).unwrap_or_default().max(soon)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    /// A certificate of this life, which began at `begun`.
    fn identity(begun: SystemTime, life: Duration) -> Identity {
        let key = new_key().unwrap().key;
        Identity {
            key: Arc::new(CertifiedKey::new(Vec::new(), key)),
            id: "spiffe://shop.local/ns/shop/sa/web".into(),
            not_before: begun,
            not_after: begun + life,
        }
    }

    const BEGUN: SystemTime = UNIX_EPOCH;
    const DAY: Duration = Duration::from_secs(24 * 3600);
    const SOON: Duration = Duration::from_secs(1);

    #[test]
    fn renewal_is_at_two_thirds_of_a_life_within_the_jitter() {
        let identity = identity(BEGUN, DAY);
        let share = |percent: u32| DAY * percent / 100;
        for (random, percent) in [
            (0.0, RENEW_AT - RENEW_JITTER),
            (0.5, RENEW_AT),
            (1.0, RENEW_AT + RENEW_JITTER),
        ] {
            let wait = time_to_renewal(&identity, BEGUN, BEGUN, random);
            assert!(wait.abs_diff(share(percent)) < SOON, "{random}: {wait:?}");
            // It is a point in time, whenever it is asked for.
            let later = time_to_renewal(&identity, BEGUN, BEGUN + DAY / 4, random);
            assert!((later + DAY / 4).abs_diff(wait) < SOON, "{later:?}");
            assert!(wait < DAY);
        }
    }

    #[test]
    fn renewal_that_is_due_is_soon_but_not_at_once() {
        let day = identity(BEGUN, DAY);
        for now in [BEGUN + DAY * 73 / 100, BEGUN + DAY, BEGUN + DAY * 300] {
            for random in [0.0, 1.0] {
                assert_eq!(time_to_renewal(&day, BEGUN, now, random), SOON);
            }
        }
        // No life at all, and an end before the beginning.
        let mut none = identity(BEGUN + DAY, Duration::ZERO);
        let wait = |none: &Identity| time_to_renewal(none, BEGUN, BEGUN + DAY, 1.0);
        assert_eq!(wait(&none), SHORTEST);
        none.not_after = BEGUN;
        assert_eq!(wait(&none), SHORTEST);
    }

    #[test]
    fn a_backdated_certificate_of_seconds_is_renewed_within_them() {
        let obtained = BEGUN + Duration::from_secs(60);
        let short = identity(BEGUN, Duration::from_secs(62));
        for random in [0.0, 1.0] {
            let wait = time_to_renewal(&short, obtained, obtained, random);
            let (least, most) = (Duration::from_millis(1200), Duration::from_millis(1450));
            assert!(wait > least && wait < most, "{wait:?}");
        }
    }
}
