//! What is known about one request, from its head to its last byte: becomes one metric sample,
//! one access-log line and perhaps one span, when it is dropped.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{Method, StatusCode};
use tokio::time::Instant;

use crate::accept::Downstream;
use crate::balance::Lease;
use crate::config::Snapshot;
use crate::error::{Error, ErrorKind};
use crate::message::{Fields, RequestHead, Target};
use crate::policy::concurrency::Held;

use crate::worker::Worker;

use super::access_log::Line;
use super::calls::Call;
use super::export::SpanData;
use super::metrics::RouteMetrics;
use super::trace::{self, Form, TraceContext};

/// See the module. Dropped before it is told its end, it says that the client went away.
#[derive(Debug)]
pub struct Record<'a> {
    snapshot: &'a Snapshot,
    worker: &'a Worker,
    metrics: &'a RouteMetrics,
    /// When the head was complete.
    pub start: Instant,
    status: Option<StatusCode>,
    end: Option<ErrorKind>,
    complete: bool,
    /// Tries after the first.
    pub retries: u32,
    /// A try has begun.
    tried: bool,
    /// A second endpoint was asked as the first was late; and whether it answered first.
    pub hedged: Option<bool>,
    /// Body bytes received and sent.
    pub received: u64,
    /// See `received`.
    pub sent: u64,
    detail: Option<Box<Detail>>,
    /// Trace context that goes upstream, its parent, and the form it came in.
    pub trace: Option<(TraceContext, Option<u64>, Form)>,
    /// Held to the last byte: counts the request in flight.
    pub lease: Option<Lease>,
    /// The same for places of its client.
    pub held: Vec<Held>,
    /// Time that its body has waited since it was too fast: nobody's fault but the policy's.
    pub waited: Option<Rc<Cell<Duration>>>,
    /// Boxed: most requests are none, and records are moved.
    call: Option<Box<Call>>,
}

/// What only a log line or a span needs.
#[derive(Debug)]
pub struct Detail {
    /// When, by the wall clock.
    pub time: SystemTime,
    /// Facts of the connection.
    pub peer: SocketAddr,
    /// SPIFFE ID of the peer.
    pub peer_id: Option<Arc<str>>,
    /// Listener.
    pub listener: Arc<str>,
    /// Request line.
    pub method: Option<Method>,
    /// Host.
    pub host: String,
    /// Path and query.
    pub target: String,
    /// Version.
    pub version: &'static str,
    /// `X-Request-Id`.
    pub request_id: Option<String>,
    /// Endpoint of the last try.
    pub upstream: Option<SocketAddr>,
    /// Why it ended badly.
    pub reason: Option<String>,
    /// The policy on trial that would have refused it.
    pub audit: Option<Arc<str>>,
    /// What a call of gRPC came to.
    pub grpc: Option<u32>,
}

impl<'a> Record<'a> {
    /// Begins: the head is complete, no rule is known.
    #[must_use]
    pub fn begin(
        snapshot: &'a Snapshot,
        worker: &'a Worker,
        downstream: &Downstream,
        head: &RequestHead,
        start: Instant,
    ) -> Self {
        let trace = snapshot.tracing.as_ref().map(|t| t.decide(&head.fields));
        let sampled = trace.is_some_and(|(context, ..)| context.sampled);
        let wanted = snapshot.access_log.is_some() || sampled;
        let metrics: &RouteMetrics = &snapshot.unrouted;
        metrics.shard(worker.index).in_flight.add(1);
        Self {
            snapshot,
            worker,
            metrics,
            start,
            status: None,
            end: None,
            complete: false,
            retries: 0,
            tried: false,
            hedged: None,
            received: 0,
            sent: 0,
            detail: wanted.then(|| Box::new(Detail::of(downstream, head))),
            trace,
            lease: None,
            held: Vec::new(),
            waited: None,
            call: None,
        }
    }

    /// Something that is no request, or a connection that brought none.
    #[must_use]
    pub fn unread(snapshot: &'a Snapshot, worker: &'a Worker, downstream: &Downstream) -> Self {
        let metrics: &RouteMetrics = &snapshot.unrouted;
        metrics.shard(worker.index).in_flight.add(1);
        let detail = || Box::new(Detail::unread(downstream));
        Self {
            snapshot,
            worker,
            metrics,
            start: worker.now(),
            status: None,
            end: None,
            complete: false,
            retries: 0,
            tried: false,
            hedged: None,
            received: 0,
            sent: 0,
            detail: snapshot.access_log.is_some().then(detail),
            trace: None,
            lease: None,
            held: Vec::new(),
            waited: None,
            call: None,
        }
    }

    /// The rule, and later the backend, whose counters this request belongs to.
    pub fn counts_for(&mut self, metrics: &'a RouteMetrics) {
        self.metrics.shard(self.worker.index).in_flight.sub(1);
        self.metrics = metrics;
        metrics.shard(self.worker.index).in_flight.add(1);
    }

    /// The status that goes to the client.
    pub const fn set_status(&mut self, status: StatusCode) {
        self.status = Some(status);
    }

    /// A policy on trial would have refused it.
    pub fn audited_by(&mut self, policy: &Arc<str>) {
        if let Some(detail) = &mut self.detail {
            detail.audit = Some(policy.clone());
        }
    }

    /// It is a call of gRPC, for this path.
    pub fn calls(&mut self, target: &Target) {
        self.call = Some(Box::new(Call::new(target)));
    }

    /// A service has answered, not this proxy.
    pub fn is_served(&mut self) {
        if let Some(call) = &mut self.call {
            call.is_served = true;
        }
    }

    /// These are the fields of an answer, at its head or at its end: they may tell the status of gRPC.
    pub fn answers(&mut self, fields: &Fields) {
        if self.detail.is_none() && self.call.is_none() {
            return;
        }
        let Some(status) = fields.grpc_status() else {
            return;
        };
        if let Some(detail) = &mut self.detail {
            detail.grpc = Some(status);
        }
        if let Some(call) = &mut self.call {
            call.status = Some(status);
        }
    }

    /// The query holds a secret.
    pub fn conceal_query(&mut self) {
        if let Some(detail) = &mut self.detail
            && let Some(path) = detail.target.find('?')
        {
            detail.target.truncate(path);
        }
    }

    /// What went wrong.
    pub fn fail(&mut self, error: &Error) {
        self.end = Some(error.kind);
        if let Some(detail) = &mut self.detail {
            detail.reason = error.detail();
        }
    }

    /// What went wrong, without more to say.
    pub const fn fail_with(&mut self, kind: ErrorKind) {
        self.end = Some(kind);
    }

    /// Whether it was never passed on, as there was no room for it.
    #[must_use]
    pub const fn was_refused_for_load(&self) -> bool {
        use ErrorKind::{Overloaded, PendingTimeout, Shed, TooManyPending, TooManyRequests};
        // Of what was tried before, some may have been carried out.
        match self.end {
            Some(Overloaded | Shed | TooManyRequests) => !self.tried,
            Some(PendingTimeout | TooManyPending) => self.retries == 0 && self.hedged.is_none(),
            _ => false,
        }
    }

    /// Whether retries are to be left to whoever is next to the failure.
    #[must_use]
    pub fn in_a_storm(&self) -> bool {
        self.worker.shared.storm.rages(self.worker.recently())
    }

    /// The last byte has been handed to the client's connection.
    pub const fn complete(&mut self) {
        self.complete = true;
    }

    /// A try begins; `retries` came before it.
    pub fn tries(&mut self, lease: &Lease, retries: u32) {
        self.retries = retries;
        self.tried = true;
        if let Some(detail) = &mut self.detail {
            detail.upstream = Some(lease.endpoint().address);
        }
    }

    /// A connection that is carried on as it is goes there.
    pub fn goes_to(&mut self, address: SocketAddr) {
        if let Some(detail) = &mut self.detail {
            detail.upstream = Some(address);
        }
    }

    /// Writes the trace context that goes upstream.
    pub fn pass_trace_on(&self, fields: &mut Fields) {
        if let Some((context, parent, form)) = self.trace {
            trace::inject(fields, context, parent, form);
        }
    }

    fn finish(&mut self, now: Instant) {
        let end = match (self.end, self.complete) {
            (Some(kind), _) => Some(kind),
            (None, true) => None,
            (None, false) => Some(ErrorKind::ClientGone),
        };
        let duration = now.saturating_duration_since(self.start);
        let shard = self.metrics.shard(self.worker.index);
        shard.in_flight.sub(1);
        shard.durations.observe(duration);
        if let Some(call) = &self.call {
            self.metrics
                .methods
                .count(call, end, self.worker.index, duration);
        }
        shard.received.add(self.received);
        shard.sent.add(self.sent);
        if let Some(lease) = &self.lease {
            lease.carried(self.received + self.sent, now);
        }
        if self.retries > 0 {
            shard.retries.add(u64::from(self.retries));
        }
        if let Some(won) = self.hedged {
            shard.hedges.add(1);
            shard.hedges_won.add(u64::from(won));
        }
        let class = self.status.map_or(0, |s| usize::from(s.as_u16() / 100));
        if let Some(counter) = shard.class.get(class).or_else(|| shard.class.first()) {
            counter.add(1);
        }
        if let Some(counter) = shard.end.get(end.map_or(0, |kind| kind as usize + 1)) {
            counter.add(1);
        }
        if let Some(detail) = self.detail.take() {
            self.tell(*detail, end, duration);
        }
    }

    #[cold]
    fn tell(&self, detail: Detail, end: Option<ErrorKind>, duration: Duration) {
        let line = Line {
            detail,
            route: self.metrics.route.clone(),
            service: self.metrics.service.clone(),
            status: self.status,
            end,
            duration,
            retries: self.retries,
            hedged: self.hedged,
            received: self.received,
            sent: self.sent,
            trace: self.trace.map(|(context, ..)| context),
            generation: self.snapshot.generation,
        };
        if let (Some(tracing), Some((context, parent, _))) = (&self.snapshot.tracing, self.trace)
            && context.sampled
        {
            tracing.export(SpanData::of(&line, context, parent));
        }
        if let Some(log) = &self.snapshot.access_log {
            log.write(line);
        }
    }
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        self.finish(self.worker.now());
    }
}

impl Detail {
    fn unread(downstream: &Downstream) -> Self {
        let streams = downstream.listener.streams.as_ref();
        Self {
            time: SystemTime::now(),
            peer: downstream.peer,
            peer_id: downstream.identity.clone(),
            listener: downstream.listener.name.clone(),
            method: None,
            host: downstream.server_name.as_deref().unwrap_or_default().into(),
            target: String::new(),
            version: streams.map_or("-", |streams| streams.protocol),
            request_id: None,
            upstream: None,
            reason: None,
            audit: None,
            grpc: None,
        }
    }

    fn of(downstream: &Downstream, head: &RequestHead) -> Self {
        let request_id = head.fields.known(crate::message::Known::XRequestId);
        Self {
            time: SystemTime::now(),
            peer: downstream.peer,
            peer_id: downstream.identity.clone(),
            listener: downstream.listener.name.clone(),
            method: Some(head.method.clone()),
            host: head.host.as_str().to_owned(),
            target: String::from_utf8_lossy(head.target.text()).into_owned(),
            version: head.version.as_str(),
            request_id: request_id.map(|id| String::from_utf8_lossy(id).into_owned()),
            upstream: None,
            reason: None,
            audit: None,
            grpc: None,
        }
    }
}
