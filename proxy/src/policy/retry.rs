//! Whether a failed try is followed by another: only what is safe, within budget and deadline.

pub mod hedge;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use http::Method;
use selvedge_contract::defaults::upstream::REPLAY;
use tokio::time::Instant;

use super::deadline;
use crate::balance::breaker::BreakerState;
use crate::balance::{Class, Failing, Lease, Service, Verdict};
use crate::error::{Error, ErrorKind, Retry, Side};
use crate::message::{Body, BodyLength, Fields, Known, RequestHead};
use crate::route::Rule;
use crate::timer;
use crate::upstream::{Answer, Failure, Reuse};
use crate::worker::Worker;

/// The tries of one request.
#[derive(Debug)]
pub struct Tries<'a> {
    rule: &'a Rule,
    service: &'a Arc<Service>,
    /// The request may be carried out twice without harm.
    repeatable: bool,
    /// A proxy before us is retrying already: a second layer would multiply.
    layered: bool,
    /// It said how much it matters.
    classed: bool,
    /// The request has no body.
    bodiless: bool,
    /// It is a call of gRPC.
    grpc: bool,
    /// It asks for another protocol.
    upgrades: bool,
    /// The last try met a connection that the endpoint was closing.
    stale: bool,
    /// The deadline is the caller's own: that it passed says nothing about the endpoint.
    impatient: bool,
    count: u32,
    now: Instant,
    deadline: Option<Instant>,
    failed_on: Option<u64>,
    /// This try is a retry, counted against the cap.
    counted: bool,
    /// There was no budget for another.
    spent: bool,
}

/// What follows a try.
#[derive(Debug)]
pub enum Next {
    /// The answer stands.
    Answer(Answer, Lease),
    /// The failure stands.
    Fail(Error),
    /// Another try, with this body, after this pause.
    Again(Body, Duration),
}

impl<'a> Tries<'a> {
    /// Before the first try.
    #[must_use]
    pub fn new(
        rule: &'a Rule,
        service: &'a Arc<Service>,
        head: &RequestHead,
        now: Instant,
    ) -> Self {
        service.budget.earn();
        let idempotent = matches!(
            head.method,
            Method::GET
                | Method::HEAD
                | Method::OPTIONS
                | Method::PUT
                | Method::DELETE
                | Method::TRACE
        );
        let (deadline, impatient) = deadline::of(rule, head, now);
        Self {
            rule,
            service,
            repeatable: idempotent || head.fields.known(Known::IdempotencyKey).is_some(),
            layered: head.fields.known(Known::XSelvedgeAttempt).is_some(),
            classed: head.fields.known(Known::XSelvedgePriority).is_some(),
            bodiless: true,
            grpc: head.is_grpc(),
            upgrades: head.upgrade.is_some(),
            stale: false,
            impatient,
            count: 0,
            now,
            deadline: if head.upgrade.is_some() {
                None
            } else {
                deadline
            },
            failed_on: None,
            counted: false,
            spent: false,
        }
    }

    /// The body under its limit, kept for a replay as far as that may be of use.
    ///
    /// # Errors
    /// [`ErrorKind::BodyTooLarge`] where its length is told and over the limit.
    pub fn watch(&mut self, body: Body, limit: u64) -> Result<Body, ErrorKind> {
        self.bodiless = body.is_empty();
        if let BodyLength::Exact(length) = body.length()
            && limit != 0
            && length > limit
        {
            return Err(ErrorKind::BodyTooLarge);
        }
        let keep = if self.rule.retry.attempts > 0 || !self.rule.mirrors.is_empty() {
            REPLAY
        } else {
            0
        };
        Ok(body.watched(limit, keep))
    }

    /// Whether the request had no body.
    #[must_use]
    pub const fn is_bodiless(&self) -> bool {
        self.bodiless
    }

    /// Endpoint that failed, to be avoided.
    #[must_use]
    pub const fn avoid(&self) -> Option<u64> {
        self.failed_on
    }

    /// Which idle connections this try may use.
    #[must_use]
    pub const fn reuse(&self) -> Reuse {
        if self.stale {
            Reuse::Never
        } else if self.repeatable && self.bodiless {
            Reuse::Any
        } else {
            Reuse::Young
        }
    }

    /// Time of this try.
    #[must_use]
    pub const fn now(&self) -> Instant {
        self.now
    }

    /// Tries so far, without the first.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// When this try ends: the nearer of the try's and the request's deadline.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let own = timer::deadline(self.now, self.rule.try_timeout);
        match (own, self.deadline) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Tells the next proxy that this is a retry, so that it does not retry too, and how much the request
    /// matters. Applications are told neither: these fields are between proxies.
    pub fn mark(&self, lease: &Lease, class: Class, fields: &mut Fields) {
        let meshed = lease.security().is_mesh();
        if meshed && self.count > 0 {
            fields.set_known(Known::XSelvedgeAttempt, b"retry");
        } else if !meshed && self.layered {
            fields.remove_known(Known::XSelvedgeAttempt);
        }
        if meshed && class != Class::Interactive {
            fields.set_known(Known::XSelvedgePriority, class.text().as_bytes());
        } else if self.classed {
            fields.remove_known(Known::XSelvedgePriority);
        }
    }

    /// A new try begins.
    pub const fn renew(&mut self, now: Instant) {
        self.now = now;
    }

    /// Judges a try; `None` is a try that its deadline ended.
    pub fn judge(
        &mut self,
        sent: Option<Result<Answer, Failure>>,
        lease: Lease,
        worker: &Worker,
    ) -> Next {
        // Only what failed needs to be dated exactly.
        let now = match sent {
            Some(Ok(_)) if !lease.times() => worker.recently(),
            _ => worker.now(),
        };
        self.end_retry();
        let next = self.judged(sent, lease, worker, now);
        if self.spent {
            worker.shared.storm.note(now);
        }
        next
    }

    fn judged(
        &mut self,
        sent: Option<Result<Answer, Failure>>,
        mut lease: Lease,
        worker: &Worker,
        now: Instant,
    ) -> Next {
        match sent {
            Some(Ok(mut answer)) => {
                let mark = mark_of(&mut answer, &lease);
                let head = &answer.response.head;
                let refused = mark == Some(Mark::Refused);
                let verdict = match head.status.as_u16() {
                    // It has as much to do as it can.
                    _ if refused => Verdict::Full,
                    status @ 502..=504 => Verdict::Failure(Failing::Status(status)),
                    _ => Verdict::Success,
                };
                lease.answered(&answer.response.head, now);
                lease.report(verdict, now);
                // It has been tried again as often as may be, nearer to the failure than we are.
                if mark == Some(Mark::Spent) {
                    worker.shared.storm.note(now);
                    return Next::Answer(answer, lease);
                }
                let others = || self.service.endpoints.load().all.len() > 1;
                let elsewhere = (refused && others()).then_some(Duration::ZERO);
                if let Some(least) = elsewhere.or_else(|| self.wants_another(&answer))
                    && let Some(body) = answer.sent.take().and_then(Body::rewind)
                {
                    if let Some(pause) = self.may(least, now) {
                        self.failed_on = Some(lease.endpoint().id);
                        return Next::Again(body, pause);
                    }
                    answer.sent = Some(body);
                }
                Next::Answer(answer, lease)
            }
            Some(Err(failure)) => {
                lease.report(verdict_of(failure.error.kind), now);
                self.stale |= failure.error.kind == ErrorKind::UpstreamStale;
                let safe = match failure.error.kind.retry() {
                    Retry::Safe => true,
                    Retry::Idempotent => self.repeatable,
                    Retry::Never => false,
                };
                if let Some(body) = failure.body.filter(|_| safe)
                    && let Some(pause) = self.may(Duration::ZERO, now)
                {
                    self.failed_on = Some(lease.endpoint().id);
                    return Next::Again(body, pause);
                }
                Next::Fail(failure.error)
            }
            None => {
                let whole = self.deadline.is_some_and(|at| at <= now);
                let kind = if whole {
                    ErrorKind::RequestTimeout
                } else {
                    ErrorKind::UpstreamTimeout
                };
                let verdict = if whole && self.impatient {
                    Verdict::Neutral
                } else {
                    Verdict::Failure(Failing::Error(kind))
                };
                lease.report(verdict, now);
                // Its body went with it.
                if !whole
                    && self.repeatable
                    && self.bodiless
                    && let Some(pause) = self.may(Duration::ZERO, now)
                {
                    self.failed_on = Some(lease.endpoint().id);
                    return Next::Again(Body::Empty, pause);
                }
                Next::Fail(kind.into())
            }
        }
    }

    /// Whether the rule has such an answer tried again, and how long the endpoint wants to be left alone first
    /// (RFC 9110 section 10.2.3). Not for longer than the longest pause: the caller can wait better than we.
    fn wants_another(&self, answer: &Answer) -> Option<Duration> {
        let head = &answer.response.head;
        let retry = &self.rule.retry;
        let by_code = self.repeatable && retry.codes.contains(&head.status.as_u16());
        let by_grpc = || {
            let bare = self.grpc && answer.response.body.is_empty();
            retry.grpc != 0 && bare && is_one_of(retry.grpc, &head.fields)
        };
        if !by_code && !by_grpc() {
            return None;
        }
        let asked = head.fields.known(Known::RetryAfter).map(asked_pause);
        let asked = asked.unwrap_or(Some(Duration::ZERO))?;
        (asked <= retry.backoff_max).then_some(asked)
    }

    /// Whether one more is allowed (attempts, layers, deadline, cap, budget), and after which pause: `least` or
    /// longer.
    fn may(&mut self, least: Duration, now: Instant) -> Option<Duration> {
        let pause = self.pause().max(least);
        // The next would be refused here, and what the endpoint has said is worth more than that.
        let open = self.service.breaker.state() != BreakerState::Closed;
        if self.layered
            || open
            || self.count >= self.rule.retry.attempts
            || self.deadline.is_some_and(|at| at <= now + pause)
        {
            return None;
        }
        if self.service.caps.retries.fetch_add(1, Relaxed) >= self.service.spec.max_retries {
            self.service.caps.retries.fetch_sub(1, Relaxed);
            return None;
        }
        self.counted = true;
        if !self.service.budget.spend(now) {
            self.spent = true;
            self.end_retry();
            return None;
        }
        self.count += 1;
        Some(pause)
    }

    /// Full jitter: anywhere between nothing and the step, which doubles.
    fn pause(&self) -> Duration {
        let retry = &self.rule.retry;
        let step = retry.backoff.saturating_mul(1 << self.count.min(10));
        step.min(retry.backoff_max).mul_f64(fastrand::f64())
    }

    fn end_retry(&mut self) {
        if std::mem::take(&mut self.counted) {
            self.service.caps.retries.fetch_sub(1, Relaxed);
        }
    }
}

impl Drop for Tries<'_> {
    fn drop(&mut self) {
        self.end_retry();
    }
}

/// What an error says about the endpoint.
const fn verdict_of(kind: ErrorKind) -> Verdict {
    match kind.side() {
        // A stale connection says that the endpoint closes idle connections, no more.
        Side::Upstream if !matches!(kind, ErrorKind::UpstreamStale) => {
            Verdict::Failure(Failing::Error(kind))
        }
        _ => Verdict::Neutral,
    }
}

/// What one proxy tells another with a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// There is no budget for retries any more, nearer to the failure.
    Spent,
    /// It was not passed on, for want of room: another endpoint may have some.
    Refused,
}

/// Takes it out. Only peers of the mesh are believed, and only with a failure.
fn mark_of(answer: &mut Answer, lease: &Lease) -> Option<Mark> {
    let head = &mut answer.response.head;
    let mark = match head.fields.known(Known::XSelvedgeAttempt)? {
        b"refused" => Mark::Refused,
        _ => Mark::Spent,
    };
    head.fields.remove_known(Known::XSelvedgeAttempt);
    (lease.security().is_mesh() && head.is_failure()).then_some(mark)
}

/// Whether an answer that is nothing but a status of gRPC has one of these.
fn is_one_of(codes: u32, fields: &Fields) -> bool {
    fields
        .grpc_status()
        .is_some_and(|number| codes.checked_shr(number).is_some_and(|bits| bits & 1 == 1))
}

/// Of `Retry-After`: seconds, or a date. `None`: neither.
fn asked_pause(value: &[u8]) -> Option<Duration> {
    let text = std::str::from_utf8(value).ok()?.trim();
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(Duration::from_secs(u64::from(seconds)));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}
