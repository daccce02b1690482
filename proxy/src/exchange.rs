//! Stage 4, the spine: one request through route, policy, balance, upstream and respond. Only
//! this file calls those stages, and they never call each other.

use std::pin::pin;
use std::rc::Rc;

use crate::accept::{Downstream, ListenerPlan};
use crate::config::Snapshot;
use crate::error::{Error, ErrorKind};
use crate::message::{Body, Request};
use crate::policy::guard::{Notes, Seen, Stop};
use crate::policy::retry::{Next, Tries};
use crate::respond::{self, Outgoing, Reply};
use crate::telemetry::Record;
use crate::timer::Timer;
use crate::upstream::Interim;
use crate::worker::Worker;
use crate::{balance, policy, upstream};

/// What an exchange stands on: its worker, the one snapshot it sees, its connection.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The worker.
    pub worker: &'a Rc<Worker>,
    /// Held from the head of the request to the last byte of the response.
    pub snapshot: &'a Snapshot,
    /// The connection.
    pub downstream: &'a Downstream,
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
    let seen = respond::Seen::of(&request.head);
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

/// The stages, in order. Retry is the loop around pick and send.
async fn forward<'a>(
    context: Context<'a>,
    record: &mut Record<'a>,
    request: &mut Request,
    timer: &mut Timer,
    interim: &dyn Interim,
    notes: &mut Notes,
) -> Result<Reply<'a>, Error> {
    let (worker, downstream, plan) = (context.worker, context.downstream, context.plan());
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
    let rule = plan.table.find(&request.head).ok_or(ErrorKind::NoRoute)?;
    record.counts_for(&rule.metrics);
    if !(rule.guards.is_empty() && plan.guards.is_empty()) {
        let mut seen = Seen::new(downstream, &request.head, &rule.name, record.start);
        loop {
            match policy::guard(rule, plan, &mut seen, notes) {
                Ok(()) => break,
                Err(Stop::Refused(error)) => return Err(error),
                Err(Stop::Answered(response)) => return Ok(Reply::own(*response)),
                Err(Stop::Keys(source)) => Box::pin(source.again()).await,
            }
            seen.waited = true;
        }
        notes.apply(&mut request.head);
    }
    if let Some(redirect) = &rule.redirect {
        policy::admit(rule, downstream, &request.head)?;
        return Ok(Reply::redirect(redirect, rule, downstream, &request.head));
    }
    let permit = policy::check(rule, downstream, &mut request.head)?;
    let backend = rule
        .backend(fastrand::u32(..))
        .ok_or(ErrorKind::NoBackend)?;
    record.counts_for(&backend.metrics);
    backend.request_edits.apply(&mut request.head.fields);
    record.pass_trace_on(&mut request.head.fields);

    let mut tries = Tries::new(rule, &backend.service, &request.head, record.start);
    let body = std::mem::replace(&mut request.body, Body::Empty);
    let mut body = tries.watch(body, plan.limits.body)?;
    loop {
        let lease = balance::pick(&permit, &backend.service, tries.avoid(), tries.now())?;
        record.tries(&lease, tries.count());
        tries.mark(&mut request.head.fields);
        let sent = {
            let send = pin!(upstream::send(worker, &lease, &request.head, body, interim));
            timer.within(tries.deadline(), send).await
        };
        match tries.judge(sent, lease, worker) {
            Next::Answer(answer, lease) => {
                record.lease = Some(lease);
                return Ok(Reply::upstream(answer, rule, backend));
            }
            Next::Fail(error) => return Err(error),
            Next::Again(again, pause) => {
                body = again;
                timer.pause(pause).await;
                tries.renew(worker.now());
            }
        }
    }
}
