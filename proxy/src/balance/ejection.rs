//! Part of stage 7, balance: endpoints that fail are left alone for a while (outlier ejection); then one
//! request tries whether they are back, and what comes of it decides.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::fence;
use std::time::Duration;

use selvedge_contract::defaults::upstream::TRIAL_AGAIN;
use tokio::time::Instant;

use super::breaker::Verdict;
use super::endpoint::{Endpoint, millis};
use super::endpoints::EndpointSet;
use super::outcomes::{Ejected, Failing};
use super::service::Service;

impl Endpoint {
    /// Takes note of how a try ended.
    pub(super) fn observe(&self, service: &Service, verdict: Verdict, now: Instant) {
        match verdict {
            Verdict::Success => self.outcomes.succeeded(),
            Verdict::Neutral => {}
            Verdict::Full => {
                if let Some(why) = self.outcomes.was_full(&service.spec.ejection) {
                    leave_alone(service, self, why, now);
                }
            }
            Verdict::Failure(what) => {
                if let Some(why) = self.failed(service, what, now) {
                    leave_alone(service, self, why, now);
                }
            }
        }
    }

    fn failed(&self, service: &Service, what: Failing, now: Instant) -> Option<Ejected> {
        let calls = self.calls();
        let spec = &service.spec.ejection;
        self.outcomes.failed(what, spec, calls, millis(now))
    }

    /// Takes note of how the request ended that tried it.
    pub(super) fn decide(&self, service: &Service, verdict: Verdict, now: Instant) {
        match verdict {
            Verdict::Success => {
                self.returns(now);
                tracing::info!(service = %service.name(), endpoint = %self.address, "endpoint is back");
                service.endpoints_changed();
            }
            Verdict::Failure(what) => {
                self.failed(service, what, now);
                leave_alone(service, self, Ejected::Trial, now);
            }
            Verdict::Full => leave_alone(service, self, Ejected::Trial, now),
            Verdict::Neutral => self.cancel_trial(service, now),
        }
    }

    /// It gets requests again, few at first.
    pub(super) fn returns(&self, now: Instant) {
        let (begun, _) = self.calls();
        self.outcomes.come_back(begun, millis(now));
        self.starts_slowly(millis(now));
    }

    /// The request that tried it said nothing of it.
    pub(super) fn cancel_trial(&self, service: &Service, now: Instant) {
        self.outcomes.cancel_trial(TRIAL_AGAIN, millis(now));
        service.endpoints_changed();
    }
}

fn leave_alone(service: &Service, endpoint: &Endpoint, why: Ejected, now: Instant) {
    let (spec, trial) = (&service.spec.ejection, why == Ejected::Trial);
    let length: Option<Duration> = endpoint.outcomes.eject(spec, trial, millis(now));
    let Some(length) = length else { return };
    // Looked at afterwards: of two workers that take out the last two, each sees what the other did.
    fence(SeqCst);
    if !trial && !service.endpoints.load().spares_those(service) {
        endpoint.outcomes.spare();
        // A table that was made meanwhile has it out.
        service.endpoints_changed();
        return;
    }
    service.ejections.note(why as usize);
    tracing::warn!(service = %service.name(), endpoint = %endpoint.address, ?length, why = why.name(), "endpoint ejected");
    service.endpoints_changed();
}

impl EndpointSet {
    /// Whether as many may be out as are at this moment: not all, and not too many.
    fn spares_those(&self, service: &Service) -> bool {
        let out = self.all.iter().filter(|e| e.is_ejected()).count();
        let most = self.all.len() * service.spec.ejection.max_share as usize;
        out * 100 <= most && self.all.iter().any(|e| e.is_available())
    }

    /// The endpoint that this request is to try, if there is one whose time is over. One comparison where
    /// none is out.
    pub(super) fn on_trial(&self, now: Instant) -> Option<&Arc<Endpoint>> {
        let next = self.next_trial().load(Relaxed);
        if millis(now) < next {
            return None;
        }
        let now = millis(now);
        let (mut tried, mut later) = (None, u64::MAX);
        for endpoint in self.all.iter().filter(|e| !e.is_unhealthy()) {
            if tried.is_none() && endpoint.outcomes.begin_trial(now) {
                tried = Some(endpoint);
            }
            if let Some(due) = endpoint.outcomes.due() {
                later = later.min(due);
            }
        }
        // Nobody else's table is any other for it. Whoever leaves one alone meanwhile makes a new one.
        let _ = self
            .next_trial()
            .compare_exchange(next, later, Relaxed, Relaxed);
        tried
    }
}
