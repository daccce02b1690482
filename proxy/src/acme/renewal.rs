//! The task of an issuer: looks at the store, orders what is missing or due, waits after failures.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use selvedge_contract::defaults::acme::{
    BACKOFF, BACKOFF_MAX, BACKOFF_UNREACHED, BACKOFF_UNREACHED_MAX, ORDER_GAP, ORDER_GAP_MAX,
    STORE, WINDOW_AGAIN,
};
use tokio::time::Instant;

use super::directory::Directory;
use super::order::{Attempt, Failure, Outcome};
use super::store::Stamp;
use super::window::Plan;
use super::{Certificate, Issuer, Name};

/// What the task knows of a name beside its certificate.
#[derive(Debug, Default)]
struct Progress {
    /// The file that was read last.
    stamp: Option<Stamp>,
    /// Of the certificate in use.
    plan: Option<Plan>,
    failures: Failures,
    /// No order before.
    not_before: Option<Instant>,
}

/// Failures in a row, apart: hours without a network must not make the first refusal a long one.
#[derive(Debug, Default, Clone, Copy)]
struct Failures {
    unreached: u32,
    counted: u32,
}

/// Runs until the issuer is retired. One order at a time: replicas take turns at the lock anyway.
pub(super) async fn run(issuer: Arc<Issuer>) {
    let mut all: Vec<Progress> = issuer.names.iter().map(|_| Progress::default()).collect();
    loop {
        look(&issuer, &mut all).await;
        for (name, progress) in issuer.names.iter().zip(&mut all) {
            if issuer.retired.is_cancelled() {
                return;
            }
            progress.ask(&issuer, name).await;
            if progress.is_due(name) {
                progress.order(&issuer, name).await;
            }
        }
        let now = SystemTime::now();
        let due = all.iter().filter_map(|p| p.wait(now)).min();
        let wait = due.map_or(STORE, |due| due.min(STORE));
        // Cancelled by the end of the issuer; nothing is in hand.
        tokio::select! {
            () = issuer.retired.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Takes what is new in the store: at the start, and what other replicas obtain.
async fn look(issuer: &Arc<Issuer>, all: &mut [Progress]) {
    let known: Vec<Option<Stamp>> = all.iter().map(|p| p.stamp).collect();
    let this = issuer.clone();
    let read = tokio::task::spawn_blocking(move || {
        let changed = this.names.iter().zip(known).map(|(name, known)| {
            let stamp = this.store.stamp(&name.name);
            let new = stamp.is_some() && stamp != known;
            (stamp, new.then(|| this.store.certificate(&name.name)))
        });
        changed.collect::<Vec<_>>()
    });
    let Ok(read) = read.await else {
        return;
    };
    for ((name, progress), (stamp, read)) in issuer.names.iter().zip(all).zip(read) {
        match read {
            Some(Ok(Some((stamp, certificate)))) => {
                progress.stamp = Some(stamp);
                progress.take(name, certificate);
            }
            Some(Err(error)) => {
                // Said once for each version of the file; it will be replaced by an order.
                progress.stamp = stamp;
                tracing::warn!(acme = %issuer.name, name = %name.name, %error, "not used");
            }
            _ => {}
        }
    }
}

impl Progress {
    fn take(&mut self, name: &Name, certificate: Certificate) {
        let now = SystemTime::now();
        let held = name.issued().map(|held| held.not_before);
        // Not by their ends: the next may live shorter than the last.
        if held.is_some_and(|held| held > certificate.not_before) {
            return;
        }
        let plan = Plan::by_life(&certificate, now, fastrand::f64());
        self.plan = Some(plan);
        self.failures = Failures::default();
        self.not_before = None;
        name.adopt(certificate);
        *name.lock() = super::Status {
            renew_at: Some(plan.renew_at),
            error: None,
        };
    }

    /// Asks for the directory's window, where it is time.
    async fn ask(&mut self, issuer: &Issuer, name: &Name) {
        let now = SystemTime::now();
        let (Some(plan), Some(certificate)) = (&mut self.plan, name.issued()) else {
            return;
        };
        if plan.ask_at.is_none_or(|at| now < at) || !certificate.is_good(now) {
            return;
        }
        let asked = match Directory::open(&issuer.spec).await {
            Ok(directory) => {
                let asked = plan.ask(&directory, &certificate, now).await;
                asked.map_err(|e| e.to_string())
            }
            Err(error) => {
                plan.ask_at = Some(now + WINDOW_AGAIN);
                Err(error)
            }
        };
        if let Err(error) = asked {
            tracing::debug!(acme = %issuer.name, name = %name.name, error, "no renewal window");
        }
        name.lock().renew_at = Some(plan.renew_at);
    }

    /// How long until an order may be due; none while there is nothing to wait for but the store.
    fn wait(&self, now: SystemTime) -> Option<Duration> {
        let allowed = self.not_before.map(|at| at - Instant::now());
        let renewal = self.plan.map(|plan| plan.renew_at.duration_since(now));
        match (allowed, renewal) {
            (Some(allowed), None) => Some(allowed),
            (allowed, Some(renewal)) => {
                let renewal = renewal.unwrap_or_default();
                Some(allowed.map_or(renewal, |allowed| allowed.max(renewal)))
            }
            (None, None) => None,
        }
    }

    fn is_due(&self, name: &Name) -> bool {
        let allowed = self.not_before.is_none_or(|at| Instant::now() >= at);
        let now = SystemTime::now();
        let needed = match (&self.plan, name.issued()) {
            (Some(plan), Some(held)) => now >= plan.renew_at || !held.is_good(now),
            _ => true,
        };
        allowed && needed
    }

    async fn order(&mut self, issuer: &Arc<Issuer>, name: &Name) {
        let held = name.issued();
        // A directory may refuse it, say because another has replaced it already: only once.
        let known = self.failures.counted == 0 && self.plan.is_some_and(|plan| plan.has_window());
        let attempt = Attempt {
            issuer: issuer.clone(),
            name: name.name.clone(),
            held_since: held.as_ref().map(|held| held.not_before),
            replaces: held.filter(|_| known).and_then(|held| held.id.clone()),
        };
        match attempt.run().await {
            Ok(Outcome::Issued) => {
                name.counters.issued.fetch_add(1, Relaxed);
                tracing::info!(acme = %issuer.name, name = %name.name, "certificate issued");
                self.read_back(issuer, name).await;
                let life = name.issued().map_or(ORDER_GAP, |held| held.life());
                let gap = (life / 100).clamp(ORDER_GAP, ORDER_GAP_MAX);
                self.not_before = Some(Instant::now() + gap);
            }
            Ok(Outcome::Found) => {
                self.not_before = Some(Instant::now() + STORE);
                self.read_back(issuer, name).await;
            }
            Ok(Outcome::Busy) => self.not_before = Some(Instant::now() + STORE),
            Err(failure) => self.fail(issuer, name, failure),
        }
    }

    async fn read_back(&mut self, issuer: &Arc<Issuer>, name: &Name) {
        let (this, host) = (issuer.clone(), name.name.clone());
        let read = move || this.store.certificate(&host);
        if let Ok(Ok(Some((stamp, certificate)))) = tokio::task::spawn_blocking(read).await {
            self.stamp = Some(stamp);
            self.take(name, certificate);
        }
    }

    fn fail(&mut self, issuer: &Issuer, name: &Name, failure: Failure) {
        name.counters.failed.fetch_add(1, Relaxed);
        let pause = pause(&failure, self.failures, fastrand::f64());
        let failures = if failure.counted {
            &mut self.failures.counted
        } else {
            &mut self.failures.unreached
        };
        *failures = failures.saturating_add(1);
        self.not_before = Some(Instant::now() + pause);
        let Failure { why: error, .. } = failure;
        tracing::error!(acme = %issuer.name, name = %name.name, error, retry_in = ?pause,
            failures, "no certificate; the one in use stays");
        name.lock().error = Some(error);
    }
}

/// How long to wait after a failure; `random` in 0..1 spreads the fleet. Never less than the
/// directory asked for.
fn pause(failure: &Failure, before: Failures, random: f64) -> Duration {
    let (first, before, longest) = if failure.counted {
        (BACKOFF, before.counted, BACKOFF_MAX)
    } else {
        (BACKOFF_UNREACHED, before.unreached, BACKOFF_UNREACHED_MAX)
    };
    let doubled = first.saturating_mul(2u32.saturating_pow(before.min(20)));
    let own = doubled.min(longest).mul_f64(1.0 + random / 4.0);
    failure.pause.map_or(own, |asked| asked.max(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(counted: bool, pause: Option<u64>) -> Failure {
        Failure {
            why: String::new(),
            counted,
            pause: pause.map(Duration::from_secs),
        }
    }

    fn before(counted: u32, unreached: u32) -> Failures {
        Failures { unreached, counted }
    }

    #[test]
    fn pauses_double_to_six_hours() {
        let seconds = |before| pause(&failure(true, None), before, 0.0).as_secs();
        // Hours without a network count for nothing here.
        for (counted, wanted) in [(0, 60), (1, 120), (3, 480), (9, 21_600), (u32::MAX, 21_600)] {
            assert_eq!(seconds(before(counted, 30)), wanted);
        }
        let spread = pause(&failure(true, None), before(0, 0), 1.0);
        assert_eq!(spread, Duration::from_secs(75));
    }

    #[test]
    fn a_directory_that_is_not_reached_is_tried_sooner() {
        let seconds = |before| pause(&failure(false, None), before, 0.0).as_secs();
        for (unreached, wanted) in [(0, 2), (4, 32), (11, 3600), (u32::MAX, 3600)] {
            assert_eq!(seconds(before(5, unreached)), wanted);
        }
    }

    #[test]
    fn a_directory_that_asks_for_more_gets_it() {
        let seconds = |asked| pause(&failure(true, Some(asked)), before(0, 0), 0.0).as_secs();
        assert_eq!((seconds(1), seconds(3600)), (60, 3600));
    }
}
