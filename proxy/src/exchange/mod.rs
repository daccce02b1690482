//! Stage 4, the spine: one request through route, policy, balance, upstream and respond. Only
//! this folder calls those stages, and they never call each other.

mod cached;
mod parts;
mod send;

use std::rc::Rc;

use crate::accept::{Downstream, ListenerPlan};
use crate::config::Snapshot;
use crate::error::{Error, ErrorKind};
use crate::message::{Known, Request};
use crate::policy;
use crate::policy::guard::{Notes, Seen, Stop};
use crate::respond::{self, Outgoing, Reply};
use crate::telemetry::Record;
use crate::timer::Timer;
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
    let seen = respond::Seen::of(&request.head, context.plan());
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
    let rule = plan.table.find(&request.head).ok_or(ErrorKind::NoRoute)?;
    record.counts_for(&rule.metrics);
    let mut authorized = request.head.fields.known(Known::Authorization).is_some();
    let mut token = None;
    if !(rule.guards.is_empty() && plan.guards.is_empty()) {
        let mut seen = Seen::new(downstream, &request.head, &rule.name, record.start);
        loop {
            let passed = policy::guard(rule, plan, &mut seen, notes);
            if notes.conceal {
                record.conceal_query();
            }
            match passed {
                Ok(()) => break,
                Err(Stop::Refused(error)) => return Err(error),
                Err(Stop::Answered(response)) => return Ok(Reply::own(*response)),
                Err(Stop::Wait(work)) => seen.found = Some(work.await),
            }
        }
        authorized |= seen.token.is_some() || seen.consumer.is_some();
        token = seen.token.take();
        notes.apply(&mut request.head);
    }
    if let Some(redirect) = &rule.redirect {
        policy::admit(rule, downstream, &request.head)?;
        return Ok(Reply::redirect(redirect, rule, downstream, &request.head));
    }
    let compress = nearest(&rule.treatment.compress, &plan.treatment.compress);
    let compress = compress.map(|policy| (&**policy, policy.coding(&request.head)));
    let cache = nearest(&rule.treatment.cache, &plan.treatment.cache);
    let permit = policy::check(rule, downstream, &mut request.head)?;
    let reply = match cache {
        None if rule.aggregate.is_some() => {
            let answer = parts::answer(context, &permit, record, request, timer, token);
            Box::pin(answer).await?
        }
        None => send::send(context, &permit, record, request, timer, interim).await?,
        Some(cache) => {
            let through = cached::Through {
                context,
                cache,
                permit: &permit,
                authorized,
                token,
            };
            let answer = through.answer(record, request, timer, interim);
            Box::pin(answer).await?
        }
    };
    Ok(match compress {
        Some((policy, coding)) => reply.compressed(policy, coding),
        None => reply,
    })
}

/// A rule's own, or else its listener's.
fn nearest<'a, T>(own: &'a Option<T>, outer: &'a Option<T>) -> Option<&'a T> {
    own.as_ref().or(outer.as_ref())
}
