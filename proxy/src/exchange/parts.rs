//! Part of the spine: one answer from several services. Each call is an ordinary request through
//! balance, breaker and mutual TLS, with a record and a span of its own; all run on this task, each
//! as soon as what it needs is there.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use http::Method;
use selvedge_contract::defaults::policy as defaults;
use selvedge_gateway::aggregate::{Part, compose, pick};
use selvedge_gateway::jwt::Verified;
use selvedge_gateway::template::{Slot, slot};
use serde_json::{Map, Value, json};

use crate::error::{Error, ErrorKind};
use crate::message::target::EncodedSlash;
use crate::message::{Body, Fields, Known, Request, RequestHead, ResponseHead, Target};
use crate::policy::Permit;
use crate::respond::Reply;
use crate::route::Aggregate;
use crate::route::aggregate::Call;
use crate::telemetry::Record;
use crate::timer::{Timer, deadline};
use crate::upstream::Interim;

use super::{Context, send};

/// A call on its way.
type Running<'f> = Pin<Box<dyn Future<Output = Result<Value, Error>> + 'f>>;

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
    token: Option<Rc<Verified>>,
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
    let known = known(&request.head, token.as_deref());
    let gather = Gather {
        context,
        permit,
        plan,
        head: &request.head,
        known,
    };
    let until = deadline(record.start, plan.timeout);
    let parts = {
        let run = pin!(gather.run());
        timer.within(until, run).await
    };
    let told = match parts {
        Some(Ok(parts)) => finish(plan, parts, gather.known),
        Some(Err(error)) => Err(error),
        None => Err(ErrorKind::RequestTimeout.into()),
    };
    match told {
        Ok((body, partial)) => Ok(Reply::json(rule, http::StatusCode::OK, &body, partial)),
        Err(error) => match &plan.failure_body {
            None if plan.failure_status.as_u16() == error.kind.row().status => Err(error),
            body => {
                record.fail(&error);
                let status = plan.failure_status;
                let title = status.canonical_reason().unwrap_or("Error");
                let body = body
                    .clone()
                    .unwrap_or_else(|| json!({ "title": title, "status": status.as_u16() }));
                Ok(Reply::json(rule, status, &body, true))
            }
        },
    }
}

/// What templates know of a request.
fn known(head: &RequestHead, token: Option<&Verified>) -> BTreeMap<String, Slot> {
    let mut query = Map::new();
    for (name, value) in form_urlencoded::parse(head.target.query().as_bytes()) {
        // The first of a name: an application must not be told another one than we decided by.
        query.entry(name).or_insert_with(|| value.into());
    }
    let mut header = Map::new();
    for field in head.fields.iter() {
        let name = String::from_utf8_lossy(field.name).to_ascii_lowercase();
        let value = String::from_utf8_lossy(field.value).into_owned();
        header.entry(name).or_insert_with(|| value.into());
    }
    let request = json!({
        "path": head.target.path(),
        "host": head.host.as_str(),
        "query": query,
        "header": header,
    });
    let claims = token.map_or(Value::Null, |token| token.claims.clone().into());
    BTreeMap::from([
        ("request".to_owned(), slot(&request)),
        ("claims".to_owned(), slot(&claims)),
    ])
}

/// What became of the calls: their parts in order, and which of them are stood in for.
type Parts<'a> = Vec<(&'a Call, Value, bool)>;

fn finish(
    plan: &Aggregate,
    parts: Parts<'_>,
    mut known: BTreeMap<String, Slot>,
) -> Result<(Value, bool), Error> {
    let missing: Vec<&str> = parts
        .iter()
        .filter(|(_, _, whole)| !whole)
        .map(|(call, ..)| call.name.as_str())
        .collect();
    let partial = !missing.is_empty();
    let Some(template) = &plan.template else {
        let parts = parts.iter().map(|(call, value, _)| Part {
            name: &call.name,
            merge: call.merge,
            value: value.clone(),
        });
        return Ok((compose(parts.collect(), &missing, &plan.partial), partial));
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
    Ok((body, partial))
}

struct Gather<'a, 'g> {
    context: Context<'a>,
    permit: &'g Permit<'a>,
    plan: &'a Aggregate,
    head: &'g RequestHead,
    known: BTreeMap<String, Slot>,
}

impl<'a> Gather<'a, '_> {
    /// Runs all calls; ends with the first required one that fails.
    async fn run(&self) -> Result<Parts<'a>, Error> {
        let calls = &self.plan.calls;
        let mut done: Vec<Option<(Value, bool)>> = calls.iter().map(|_| None).collect();
        let mut running: Vec<(usize, Running<'_>)> = Vec::new();
        let mut begun = vec![false; calls.len()];
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
                    running.push((index, Box::pin(self.call(call, known))));
                }
            }
            let (index, result) = next(&mut running).await;
            let Some((call, place)) = calls.get(index).zip(done.get_mut(index)) else {
                continue;
            };
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

    /// One call, to the last byte of its answer.
    async fn call(&self, call: &'a Call, known: BTreeMap<String, Slot>) -> Result<Value, Error> {
        let request = self.request(call, Slot::from(known))?;
        let Context {
            worker,
            snapshot,
            downstream,
        } = self.context;
        let now = worker.now();
        let mut record = Record::begin(snapshot, worker, downstream, &request.head, now);
        let permit = self.permit.part(call);
        let (mut timer, mut whole) = (Timer::new(), Timer::new());
        let until = deadline(now, call.timeout);
        let result = {
            let fetch = pin!(fetch(
                self.context,
                &permit,
                &mut record,
                request,
                &mut timer
            ));
            let fetched = whole.within(until, fetch).await;
            fetched.unwrap_or_else(|| Err(ErrorKind::RequestTimeout.into()))
        };
        match &result {
            Ok(_) => record.complete(),
            Err(error) => record.fail(error),
        }
        result
    }

    /// The request of a call: the client's fields but those that are about its own body, or about
    /// what it has already.
    fn request(&self, call: &Call, known: Slot) -> Result<Request, Error> {
        let wrong = |error: String| Error::with(ErrorKind::PartFailed, error);
        let target = call
            .target
            .render(&known)
            .map_err(|e| wrong(e.to_string()))?;
        let target = Target::parse(target.into(), EncodedSlash::Keep)?;
        let body = match &call.body {
            None => Body::Empty,
            Some(template) => {
                let text = template.render(&known).map_err(|e| wrong(e.to_string()))?;
                Body::Full(text.into())
            }
        };
        let mut fields = Fields::new();
        for field in self.head.fields.iter() {
            let own = matches!(
                field.known,
                Known::ContentLength
                    | Known::ContentType
                    | Known::ContentEncoding
                    | Known::Accept
                    | Known::AcceptEncoding
                    | Known::Expect
                    | Known::Range
                    | Known::IfNoneMatch
                    | Known::IfModifiedSince
            );
            let conditional = field
                .name
                .get(..3)
                .is_some_and(|start| start.eq_ignore_ascii_case(b"If-"));
            if !own && !conditional {
                fields.append(field.name, field.value);
            }
        }
        fields.append_known(Known::Accept, b"application/json");
        if let Body::Full(bytes) = &body {
            let mut digits = itoa::Buffer::new();
            fields.append_known(Known::ContentType, b"application/json");
            fields.append_known(Known::ContentLength, digits.format(bytes.len()).as_bytes());
        }
        let head = RequestHead {
            method: call.method.clone(),
            target,
            fields,
            upgrade: None,
            ..self.head.clone()
        };
        Ok(Request { head, body })
    }
}

/// Sends, and reads the answer as JSON.
async fn fetch<'c>(
    context: Context<'c>,
    permit: &Permit<'c>,
    record: &mut Record<'c>,
    mut request: Request,
    timer: &mut Timer,
) -> Result<Value, Error> {
    let sent = send::send(context, permit, record, &mut request, timer, &Deaf);
    let reply = sent.await?;
    let status = reply.status();
    record.set_status(status);
    let bytes = reply.collect(defaults::CALL_BYTES).await?;
    record.sent = bytes.len() as u64;
    if !status.is_success() {
        let reason = format!("it answered {status}");
        return Err(Error::with(ErrorKind::PartFailed, reason));
    }
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&bytes).map_err(|e| Error::with(ErrorKind::BadResponse, e))
}

/// Waits for the first of these, and takes it out.
async fn next(running: &mut Vec<(usize, Running<'_>)>) -> (usize, Result<Value, Error>) {
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

/// Nobody waits for interim responses.
pub(super) struct Deaf;

impl Interim for Deaf {
    fn interim(&self, _: ResponseHead) {}
}
