//! Stage 4, the spine: one request through route, policy, balance, upstream and respond. Only
//! this folder calls those stages, and they never call each other.

mod authz;
mod cached;
mod compare;
pub mod demand;
mod hedge;
mod hold;
mod mirror;
pub mod onward;
pub mod opaque;
mod overheard;
mod part;
mod parts;
mod send;
pub mod session;

use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;

use crate::accept::{Downstream, ListenerPlan};
use crate::cache::Site;
use crate::config::Snapshot;
use crate::error::{Error, ErrorKind};
use crate::message::{Body, Known, Request, Response};
use crate::overload::Pressure;
use crate::policy::guard::{Found, Notes, Seen, Stop};
use crate::policy::{self, Caller, Passed};
use crate::respond::{self, Outgoing, Reply};
use crate::route::Rule;
use crate::telemetry::Record;
use crate::timer::{Timer, deadline};
use crate::upstream::Interim;
use crate::worker::Worker;

/// What an exchange stands on: its worker, the one snapshot it sees, its connection.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The worker.
    pub worker: &'a Rc<Worker>,
    /// Held from the head of the request to the last byte of the response.
    pub snapshot: &'a Snapshot,
    /// The connection.
    pub downstream: &'a Rc<Downstream>,
}

impl<'a> Context<'a> {
    /// The listener as this snapshot has it; where it was removed, as it was.
    #[must_use]
    pub fn plan(&self) -> &'a ListenerPlan {
        let listener = &self.downstream.listener;
        self.snapshot.listener(&listener.name).unwrap_or(listener)
    }
}

/// Carries one request out. Always gives a response; what went wrong is in it and in its record.
///
/// Dropping the future gives the request up on both sides.
pub async fn handle<'a>(
    context: Context<'a>,
    mut request: Request,
    timer: &mut Timer,
    interim: &dyn Interim,
) -> Outgoing<'a> {
    let start = context.worker.now();
    let (worker, downstream) = (context.worker, context.downstream);
    let mut record = Record::begin(context.snapshot, worker, downstream, &request.head, start);
    let seen = respond::Seen::of(&request.head, context.plan(), downstream);
    if seen.is_grpc() {
        record.calls(&request.head.target);
    }
    let mut notes = Notes::default();
    let result = forward(
        context,
        &mut record,
        &mut request,
        timer,
        interim,
        &mut notes,
    )
    .await;
    respond::finish(record, seen, notes, result)
}

/// The stages, in order; balance and upstream are in `send.rs`.
async fn forward<'a>(
    context: Context<'a>,
    record: &mut Record<'a>,
    request: &mut Request,
    timer: &mut Timer,
    interim: &dyn Interim,
    notes: &mut Notes,
) -> Result<Reply<'a>, Error> {
    let (downstream, plan) = (context.downstream, context.plan());
    if !downstream.serves(&request.head.host) {
        return Err(ErrorKind::Misdirected.into());
    }
    // The directory asks without TLS, at any plain port, and is no client of a route.
    if let Some(token) = context.snapshot.issuers.token(&request.head)
        && !downstream.is_tls
        && let Some(answer) = Box::pin(context.snapshot.issuers.answer(token)).await
    {
        return Ok(Reply::own(answer));
    }
    let found = plan.table.find(&request.head);
    let found = match (found, &plan.onward) {
        (None, Some(onward)) => Some(onward.find(&request.head, downstream.local)?),
        (found, _) => found,
    };
    let named = || plan.named.find(&request.head);
    let Some(rule) = found.or_else(named) else {
        policy::mark(plan, notes);
        return Err(ErrorKind::NoRoute.into());
    };
    record.counts_for(&rule.metrics);
    if context.worker.pressure() >= Pressure::RefuseRequests {
        return Err(ErrorKind::Overloaded.into());
    }
    let mut caller = Caller::of(downstream, &request.head);
    let passed = match policy::unguarded(rule, plan, downstream) {
        Some(passed) => passed,
        None => match gate(context, rule, record, request, notes, &mut caller).await? {
            Gate::Open(passed) => passed,
            Gate::Answered(response) => return Ok(Reply::own(*response)),
        },
    };
    if let Some(redirect) = &rule.redirect {
        return Ok(Reply::redirect(redirect, rule, downstream, &request.head));
    }
    if rule.aggregate.is_none() && rule.treatment.is_empty() && plan.treatment.is_empty() {
        let permit = policy::permit(rule, passed, downstream, &mut request.head);
        return send::send(context, &permit, record, request, timer, interim).await;
    }
    let way = Way {
        context,
        rule,
        caller,
    };
    // Boxed, so that requests that nothing is done to do not carry it along.
    Box::pin(way.fulfil(passed, record, request, timer, interim)).await
}

/// What a guard waits for, if it comes within the request's deadline.
async fn in_time<T>(until: Option<Instant>, work: impl Future<Output = T>) -> Result<T, ErrorKind> {
    match until {
        None => Ok(work.await),
        Some(until) => {
            let work = tokio::time::timeout_at(until, work);
            work.await.map_err(|_| ErrorKind::RequestTimeout)
        }
    }
}

/// What the guards of a rule came to.
enum Gate {
    Open(Passed),
    Answered(Box<Response>),
}

/// Passes a request by its guards, and finds out who calls.
async fn gate(
    context: Context<'_>,
    rule: &Arc<Rule>,
    record: &mut Record<'_>,
    request: &mut Request,
    notes: &mut Notes,
    caller: &mut Caller,
) -> Result<Gate, Error> {
    let Request { head, body } = request;
    let mut seen = Seen::new(context.downstream, head, &rule.name, record.start);
    seen.body = body.length();
    let mut held = false;
    if policy::is_callback(rule, context.plan(), head) {
        // Whatever becomes of it: its query is a secret.
        record.conceal_query();
    }
    let passed = loop {
        let passed = policy::guard(rule, context.plan(), &mut seen, notes);
        if notes.conceal {
            record.conceal_query();
        }
        if let Some(policy) = &notes.audited {
            record.audited_by(policy);
        }
        match passed {
            Ok(passed) => break passed,
            Err(Stop::Refused(error)) => return Err(error),
            Err(Stop::Answered(response)) => return Ok(Gate::Answered(response)),
            Err(Stop::Denied(kind, response)) => {
                record.fail_with(kind);
                return Ok(Gate::Answered(response));
            }
            Err(Stop::Wait(work)) => {
                let until = policy::deadline::whole(rule, seen.head, record.start);
                seen.found = Some(in_time(until, work).await?);
            }
            Err(Stop::Body(most)) => {
                if let Some(paced) = notes.paced_request.take() {
                    record.waited = Some(paced.waited());
                    *body = paced.body(std::mem::replace(body, Body::Empty));
                }
                let until = deadline(record.start, rule.request_timeout);
                let reserve = notes.reserve.get_or_insert_default();
                // Nothing of it could be sent, whatever else there is to be said for the request.
                let read = Box::pin(hold::hold(body, most, until, &record.waited, reserve)).await?;
                held = true;
                seen.found = Some(Found::Body(read));
            }
            Err(Stop::Ask(policy, question)) => {
                let ask = authz::ask(context, &policy, &question, record);
                seen.found = Some(Found::Verdict(Box::pin(ask).await));
            }
        }
    };
    caller.authorized |= seen.token.is_some() || seen.consumer.is_some();
    caller.authorized |= seen.asked || seen.signed;
    caller.token = seen.token.take();
    caller.consumer = seen.consumer.take();
    notes.apply(head);
    if held {
        // Nobody waits for it any more.
        head.fields.remove_known(Known::Expect);
    }
    if let Some(paced) = notes.paced_request.take() {
        record.waited = Some(paced.waited());
        *body = paced.body(std::mem::replace(body, Body::Empty));
    }
    Ok(Gate::Open(passed))
}

/// A request that may pass, on its way to an answer.
struct Way<'a> {
    context: Context<'a>,
    rule: &'a Arc<Rule>,
    caller: Caller,
}

impl<'a> Way<'a> {
    /// Changes it, sends it or finds its answer in the cache, changes that.
    async fn fulfil(
        &self,
        passed: Passed,
        record: &mut Record<'a>,
        request: &mut Request,
        timer: &mut Timer,
        interim: &dyn Interim,
    ) -> Result<Reply<'a>, Error> {
        let (context, rule, caller) = (self.context, self.rule, &self.caller);
        let (own, outer) = (&rule.treatment, &context.plan().treatment);
        let compress = nearest(&own.compress, &outer.compress);
        let compress = compress.map(|policy| (&**policy, policy.coding(&request.head)));
        let cache = nearest(&own.cache, &outer.cache);
        let mut site = cache.map(|_| Site {
            host: request.head.host.clone(),
            target: request.head.target.clone(),
            made: Vec::new(),
        });
        let permit = policy::permit(rule, passed, context.downstream, &mut request.head);
        let changed = match nearest(&own.transform, &outer.transform) {
            None => None,
            Some(transform) => {
                let known = transform.known(&request.head, caller);
                let changing = Box::pin(transform.request(request, &known));
                match deadline(record.start, rule.request_timeout) {
                    None => changing.await?,
                    Some(at) => hold::in_time(changing, at, &record.waited)
                        .await
                        .unwrap_or_else(|| Err(ErrorKind::BodyTimeout.into()))?,
                }
                if let Some(site) = &mut site {
                    site.made = transform.made(&request.head);
                }
                let method = request.head.method.clone();
                let changes = transform.changes_response();
                changes.then_some((transform, known, method))
            }
        };
        let mut reply = match cache.zip(site) {
            None if rule.aggregate.is_some() => {
                parts::answer(context, &permit, record, request, timer, caller).await?
            }
            None => send::send(context, &permit, record, request, timer, interim).await?,
            Some((cache, site)) => {
                let trip = cached::Trip {
                    context,
                    cache,
                    site,
                    permit: &permit,
                    caller,
                };
                trip.answer(record, request, timer, interim).await?
            }
        };
        if let Some((transform, known, method)) = changed {
            reply = Box::pin(reply.changed(transform, &method, &known)).await?;
        }
        Ok(match compress {
            Some((policy, coding)) => reply.compressed(policy, coding),
            None => reply,
        })
    }
}

/// A rule's own, or else its listener's.
fn nearest<'a, T>(own: &'a Option<T>, outer: &'a Option<T>) -> Option<&'a T> {
    own.as_ref().or(outer.as_ref())
}
