//! Part of stage 6, policy: whether a request goes to a second endpoint while the first is late. It costs what a
//! retry costs, and is refused where a retry would be.

use std::sync::atomic::Ordering::Relaxed;

use tokio::time::Instant;

use super::{Mark, Tries, mark_of, verdict_of};
use crate::balance::breaker::BreakerState;
use crate::balance::{Asked, Failing, Lease, Service, Verdict};
use crate::message::{Fields, Known};
use crate::timer;
use crate::upstream::{Answer, Failure};
use crate::worker::Worker;

/// The right to have one request under way twice. Counted as a retry until it is dropped.
#[derive(Debug)]
pub struct Hedge<'a>(&'a Service);

impl Drop for Hedge<'_> {
    fn drop(&mut self) {
        self.0.caps.retries.fetch_sub(1, Relaxed);
    }
}

impl<'a> Tries<'a> {
    /// When a second endpoint is asked too, if this request is one of which that may be done: the first
    /// try of what may be carried out twice, has no body, and belongs to no endpoint in particular.
    #[must_use]
    pub fn hedges_at(&self, asked: &Asked, lease: &Lease) -> Option<Instant> {
        let after = self.rule.retry.hedge;
        // What tries an endpoint has to come to its end, or nobody ever finds out that it is well.
        let may = !after.is_zero()
            && !lease.is_trial()
            && self.count == 0
            && self.repeatable
            && self.bodiless
            && !self.layered
            && !self.upgrades
            && asked.session.is_none();
        may.then(|| timer::deadline(self.now, after)).flatten()
    }

    /// Whether there is room for it now (circuit, cap, budget).
    #[must_use]
    pub fn hedge(&self, now: Instant) -> Option<Hedge<'a>> {
        let service: &'a Service = self.service;
        if service.breaker.state() != BreakerState::Closed {
            return None;
        }
        let under_way = service.caps.retries.fetch_add(1, Relaxed);
        let hedge = Hedge(service);
        (under_way < service.spec.max_retries && service.budget.spend(now)).then_some(hedge)
    }

    /// Tells the next proxy that this is one of two, so that it adds none of its own.
    pub fn mark_hedge(lease: &Lease, fields: &mut Fields) {
        if lease.security().is_mesh() {
            fields.set_known(Known::XSelvedgeAttempt, b"hedge");
        }
    }
}

/// Whether a try has come to something that the other could not better.
#[must_use]
pub fn settles(sent: &Result<Answer, Failure>) -> bool {
    sent.as_ref()
        .is_ok_and(|answer| !matches!(answer.response.head.status.as_u16(), 502..=504))
}

/// Tells of the endpoint whose answer was not taken: nothing, if there was none yet, or if it had no room.
pub fn lose(mut lease: Lease, sent: Option<Result<Answer, Failure>>, worker: &Worker) {
    let now = worker.now();
    let verdict = match sent {
        None => Verdict::Neutral,
        Some(Err(failure)) => verdict_of(failure.error.kind),
        Some(Ok(mut answer)) => match mark_of(&mut answer, &lease) {
            Some(Mark::Refused) => Verdict::Full,
            mark => {
                if mark == Some(Mark::Spent) {
                    worker.shared.storm.note(now);
                }
                Verdict::Failure(Failing::Status(answer.response.head.status.as_u16()))
            }
        },
    };
    lease.report(verdict, now);
}
