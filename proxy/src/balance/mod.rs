//! Stage 7, balance: which endpoint gets a request, and whether the service takes one more.

pub mod adaptive;
mod atomic;
pub mod breaker;
pub mod budget;
pub mod caps;
mod checked;
mod choose;
pub mod class;
mod decayed;
mod ejection;
pub mod endpoint;
pub mod endpoints;
pub mod key;
mod levels;
#[cfg(all(test, feature = "model-check"))]
mod model;
pub mod orca;
pub mod outcomes;
pub mod plan;
pub mod service;
#[cfg(test)]
mod simulation;
mod sticky;
pub mod storm;
mod succession;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::error::ErrorKind;
use crate::message::ResponseHead;
use crate::policy::Permit;
use crate::upstream::Security;

pub use adaptive::{Adaptive, AdaptiveSpec};
pub use breaker::Verdict;
pub use checked::{CheckResult, Finding};
pub use class::Class;
pub use endpoint::{Endpoint, Wanted};
pub use endpoints::EndpointSet;
pub use key::Asked;
pub use outcomes::Failing;
use plan::{Sticky, Strategy};
use service::Speaks;
pub use service::{Reached, Service, ServiceSpec};

/// The right to send one request to one endpoint. Counted in flight until it is dropped.
#[derive(Debug)]
pub struct Lease {
    service: Arc<Service>,
    endpoint: Arc<Endpoint>,
    probe: bool,
    /// The endpoint was left alone; this request tries whether it is back.
    trial: bool,
    reported: bool,
    /// The endpoint is the one that the request's cookie names.
    stayed: bool,
    /// Its time was taken.
    timed: bool,
    /// It counts as waiting, for a limit that adapts, ...
    waits: bool,
    /// ... since this epoch of it.
    epoch: u32,
    /// When it began, by [`endpoint::micros`].
    since: u32,
}

/// Chooses an endpoint for a permitted request, by what it asks for and other than `avoid` where there is
/// a choice. A service that is reached where its callers were going takes `onward`, which is there.
///
/// # Errors
/// [`ErrorKind::NoEndpoint`], [`ErrorKind::ExternalService`], [`ErrorKind::BreakerOpen`],
/// [`ErrorKind::TooManyRequests`], [`ErrorKind::Shed`].
pub fn pick(
    permit: &Permit<'_>,
    service: &Arc<Service>,
    onward: Option<&Arc<Endpoint>>,
    asked: &Asked,
    avoid: Option<u64>,
    now: Instant,
) -> Result<Lease, ErrorKind> {
    let set = service.endpoints.load();
    let probe = service.breaker.admit(now)?;
    let own = asked.session.and_then(|session| set.of_session(session));
    let own = own.filter(|endpoint| avoid != Some(endpoint.id));
    let mut trial = false;
    let lease = service.enter(permit.class(), now).and_then(|epoch| {
        let endpoint = match service.spec.reached {
            Reached::AtEndpoints => {
                // Who failed once already is not sent to an endpoint that may fail again, and who
                // comes back to his own stays there.
                let tried = if avoid.is_none() && own.is_none() {
                    set.on_trial(now)
                } else {
                    None
                };
                trial = tried.is_some();
                tried
                    .or(own)
                    .or_else(|| set.choose(service, asked, avoid, now))
                    .cloned()
            }
            Reached::WhereItWasGoing | Reached::AsApplication => onward.cloned(),
        };
        let endpoint = endpoint.ok_or_else(|| service.why_none());
        if endpoint.is_err() {
            service.leave();
            service.waits_no_more(epoch);
        }
        endpoint.map(|endpoint| (endpoint, epoch))
    });
    match lease {
        Ok((endpoint, epoch)) => {
            endpoint.begin();
            Ok(Lease {
                service: service.clone(),
                endpoint,
                probe,
                trial,
                reported: false,
                stayed: own.is_some(),
                timed: false,
                waits: service.adaptive.is_some(),
                epoch,
                since: if service.times() {
                    endpoint::micros(now)
                } else {
                    0
                },
            })
        }
        Err(kind) => {
            if probe {
                service.breaker.cancel_probe();
            }
            Err(kind)
        }
    }
}

impl Lease {
    /// The service.
    #[must_use]
    pub const fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// Whether it tries an endpoint that was left alone.
    #[must_use]
    pub const fn is_trial(&self) -> bool {
        self.trial
    }

    /// The endpoint.
    #[must_use]
    pub const fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// How the endpoint is reached: its own way, or else that of its service.
    #[must_use]
    pub fn security(&self) -> &Security {
        self.endpoint
            .security
            .as_deref()
            .unwrap_or(&self.service.spec.security)
    }

    /// What the endpoint speaks: in the mesh HTTP/2, whatever the application does.
    #[must_use]
    pub fn speaks(&self) -> Speaks {
        if self.endpoint.security.is_some() {
            Speaks::Http2
        } else {
            self.service.spec.speaks
        }
    }

    /// Whether it is of use to read the clock for an answer.
    #[must_use]
    pub fn times(&self) -> bool {
        self.service.times()
    }

    /// Takes note of the head of an answer, as far as the strategy goes by it.
    pub fn answered(&mut self, head: &ResponseHead, now: Instant) {
        match self.service.plan().strategy {
            // An answer in its own right, 500 included; but not these, which say "not here, not now".
            Strategy::ResponseTime => {
                let status = head.status.as_u16();
                self.time(status == 429 || matches!(status, 502..=504), now);
            }
            Strategy::ReportedLoad => {
                if let Some(load) = orca::load(&head.fields) {
                    self.endpoint.reports(load, endpoint::millis(now));
                }
            }
            _ => {}
        }
    }

    fn time(&mut self, failed: bool, now: Instant) {
        if self.service.plan().times() && !std::mem::replace(&mut self.timed, true) {
            let took = self.took(now);
            self.endpoint.took(took, failed, endpoint::millis(now));
        }
    }

    fn took(&self, now: Instant) -> Duration {
        let took = endpoint::micros(now).wrapping_sub(self.since);
        // A clock that was read a moment before the pick is no wrap.
        let took = if took > u32::MAX / 2 { 0 } else { took };
        Duration::from_micros(took.into())
    }

    /// It waits no more. How long it took is of use where it was worked on: a refusal is quick, and who gave
    /// up has seen no end.
    fn waited(&mut self, worked_on: bool, now: Instant) {
        if std::mem::take(&mut self.waits)
            && let Some(adaptive) = &self.service.adaptive
        {
            adaptive.leave(self.epoch);
            if worked_on {
                adaptive.answered(self.took(now), self.epoch, now);
            }
        }
    }

    /// Nobody waits for it any more. It would have taken as long at least: else an endpoint that never
    /// answers those who give up would draw them all.
    fn given_up(&mut self, now: Instant) {
        if self.service.plan().times() && !self.timed {
            let so_far = self.took(now);
            let millis = endpoint::millis(now);
            if so_far.as_secs_f32() * 1e6 > self.endpoint.latency(millis) {
                self.time(false, now);
            }
        }
    }

    /// Takes note of the bytes that went through it, as far as the strategy goes by them.
    pub fn carried(&self, bytes: u64, now: Instant) {
        if self.service.plan().strategy == Strategy::Bandwidth {
            self.endpoint.carries(bytes, endpoint::millis(now));
        }
    }

    /// The cookie that brings the client back to this endpoint; `None` where it has it, or none is used.
    #[must_use]
    pub fn cookie(&self, tls: bool) -> Option<String> {
        match &self.service.plan().sticky {
            Some(Sticky::Cookie(cookie)) if !self.stayed => {
                Some(sticky::written(cookie, &self.endpoint, tls))
            }
            _ => None,
        }
    }

    /// It is for bytes that are not looked into: how long they take says nothing of how busy the endpoint is.
    pub fn awaits_no_answer(&mut self, now: Instant) {
        self.waited(false, now);
    }

    /// Tells how the try ended: feeds ejection and breaker. The first report counts.
    pub fn report(&mut self, verdict: Verdict, now: Instant) {
        if std::mem::replace(&mut self.reported, true) {
            return;
        }
        if matches!(verdict, Verdict::Neutral | Verdict::Full) {
            self.given_up(now);
        } else {
            self.time(matches!(verdict, Verdict::Failure(_)), now);
        }
        self.waited(verdict.tells_time(), now);
        if self.trial {
            self.endpoint.decide(&self.service, verdict, now);
        } else {
            self.endpoint.observe(&self.service, verdict, now);
        }
        self.service.breaker.observe(verdict, self.probe, now);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.endpoint.end();
        self.service.leave();
        if self.reported {
            return;
        }
        if self.times() {
            let now = Instant::now();
            self.given_up(now);
            self.waited(false, now);
        }
        if self.probe {
            self.service.breaker.cancel_probe();
        }
        if self.trial {
            self.endpoint.cancel_trial(&self.service, Instant::now());
        }
    }
}
