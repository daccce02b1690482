//! Part of the spine: one answer from several services. Each call is an ordinary request through
//! balance, breaker and mutual TLS, with a record and a span of its own; all run on this task, each
//! as soon as what it needs is there.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;

use http::Method;
use selvedge_contract::defaults::policy as defaults;
use selvedge_gateway::aggregate::{Part, compose, pick};
use selvedge_gateway::template::{Slot, slot};
use serde_json::{Value, json};

use crate::error::{Error, ErrorKind};
use crate::message::Request;
use crate::policy::transform::known;
use crate::policy::{Caller, Permit};
use crate::respond::Reply;
use crate::route::Aggregate;
use crate::route::aggregate::Call;
use crate::telemetry::Record;
use crate::timer::{Timer, deadline};

use super::Context;
use super::part::{Calls, Fetched, Share};

/// A call on its way.
type Running<'f> = Pin<Box<dyn Future<Output = Result<Fetched, Error>> + 'f>>;

/// The answer of a rule that aggregates.
///
/// # Errors
/// [`ErrorKind::MethodNotAllowed`] for anything but GET and HEAD; [`ErrorKind::PartFailed`] where a
/// required call fails and no answer of its own is configured for that.
pub(super) async fn answer<'a>(
    context: Context<'a>,
    permit: &Permit<'a>,
    record: &mut Record<'a>,
    request: &mut Request,
    timer: &mut Timer,
    caller: &Caller,
) -> Result<Reply<'a>, Error> {
    let rule = permit.rule();
    let Some(plan) = &rule.aggregate else {
        return Err(ErrorKind::NoBackend.into());
    };
    if !matches!(request.head.method, Method::GET | Method::HEAD) {
        return Err(ErrorKind::MethodNotAllowed.into());
    }
    // The calls are children of this hop.
    record.pass_trace_on(&mut request.head.fields);
    let known = known(&request.head, caller);
    let gather = Gather {
        calls: Calls {
            context,
            permit,
            head: &request.head,
        },
        plan,
        known,
        share: Cell::new(Share::Unsaid),
    };
    let until = deadline(record.start, plan.timeout);
    let parts = {
        let run = pin!(gather.run());
        timer.within(until, run).await
    };
    let told = match parts {
        Some(Ok(parts)) => finish(plan, parts, gather.known, gather.share.get()),
        Some(Err(error)) => Err(error),
        None => Err(ErrorKind::RequestTimeout.into()),
    };
    match told {
        Ok((body, share)) => {
            let status = http::StatusCode::OK;
            Ok(Reply::json(rule, status, &body, share.told().as_deref()))
        }
        Err(error) => match &plan.failure_body {
            None if plan.failure_status.as_u16() == error.kind.row().status => Err(error),
            body => {
                record.fail(&error);
                let status = plan.failure_status;
                let title = status.canonical_reason().unwrap_or("Error");
                let body = body
                    .clone()
                    .unwrap_or_else(|| json!({ "title": title, "status": status.as_u16() }));
                Ok(Reply::json(rule, status, &body, Some("no-store")))
            }
        },
    }
}

/// What became of the calls: their parts in order, and which of them are stood in for.
type Parts<'a> = Vec<(&'a Call, Value, bool)>;

fn finish(
    plan: &Aggregate,
    parts: Parts<'_>,
    mut known: BTreeMap<String, Slot>,
    share: Share,
) -> Result<(Value, Share), Error> {
    let missing: Vec<&str> = parts
        .iter()
        .filter(|(_, _, whole)| !whole)
        .map(|(call, ..)| call.name.as_str())
        .collect();
    let partial = !missing.is_empty();
    let share = if partial || plan.uses_headers {
        Share::No
    } else {
        share
    };
    let Some(template) = &plan.template else {
        let parts = parts.into_iter().map(|(call, value, _)| Part {
            name: &call.name,
            merge: call.merge,
            value,
        });
        return Ok((compose(parts.collect(), &missing, &plan.partial), share));
    };
    for (call, value, _) in &parts {
        known.insert(call.name.clone(), slot(value));
    }
    let wrong = |error: String| Error::with(ErrorKind::PartFailed, error);
    let text = template
        .render(&Slot::from(known))
        .map_err(|e| wrong(e.to_string()))?;
    let mut body: Value = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
    if let (Value::Object(members), true) = (&mut body, partial) {
        members.insert(plan.partial.clone(), missing.into());
    }
    Ok((body, share))
}

struct Gather<'a, 'g> {
    calls: Calls<'a, 'g>,
    plan: &'a Aggregate,
    known: BTreeMap<String, Slot>,
    /// What the calls so far let others see.
    share: Cell<Share>,
}

impl<'a> Gather<'a, '_> {
    /// Runs all calls; ends with the first required one that fails.
    async fn run(&self) -> Result<Parts<'a>, Error> {
        let calls = &self.plan.calls;
        let mut done: Vec<Option<(Value, bool)>> = calls.iter().map(|_| None).collect();
        let mut running: Vec<(usize, Running<'_>)> = Vec::new();
        let mut begun = vec![false; calls.len()];
        let mut room = defaults::CALLS_BYTES;
        while done.iter().any(Option::is_none) {
            for (index, call) in calls.iter().enumerate() {
                let needed = |at: &usize| done.get(*at).and_then(Option::as_ref);
                let ready = call.needs.iter().all(|at| needed(at).is_some());
                if let Some(begun) = begun.get_mut(index)
                    && ready
                    && !*begun
                {
                    *begun = true;
                    let mut known = self.known.clone();
                    for at in &call.needs {
                        if let (Some((value, _)), Some(call)) = (needed(at), calls.get(*at)) {
                            known.insert(call.name.clone(), slot(value));
                        }
                    }
                    running.push((index, Box::pin(self.calls.run(call, known))));
                }
            }
            let (index, result) = next(&mut running).await;
            let Some((call, place)) = calls.get(index).zip(done.get_mut(index)) else {
                continue;
            };
            let result = result.and_then(|fetched| {
                room = room
                    .checked_sub(fetched.bytes)
                    .ok_or_else(|| Error::with(ErrorKind::PartFailed, "all parts are too long"))?;
                self.share.set(self.share.get().and(fetched.share));
                Ok(fetched.value)
            });
            *place = Some(match result {
                Ok(value) if call.pick.is_empty() => (value, true),
                Ok(value) => (pick(&value, &call.pick), true),
                Err(error) if call.required => {
                    let reason = format!("{}: {error}", call.name);
                    return Err(Error::with(ErrorKind::PartFailed, reason));
                }
                Err(error) => {
                    tracing::debug!(call = %call.name, %error, "stood in for");
                    (call.fallback.clone(), false)
                }
            });
        }
        let whole = calls.iter().zip(done.into_iter().flatten());
        Ok(whole
            .map(|(call, (value, whole))| (call, value, whole))
            .collect())
    }
}

/// Waits for the first of these, and takes it out.
async fn next(running: &mut Vec<(usize, Running<'_>)>) -> (usize, Result<Fetched, Error>) {
    let (at, result) = poll_fn(|cx| {
        for (at, (_, call)) in running.iter_mut().enumerate() {
            if let Poll::Ready(result) = call.as_mut().poll(cx) {
                return Poll::Ready((at, result));
            }
        }
        Poll::Pending
    })
    .await;
    (running.swap_remove(at).0, result)
}
