//! Part of the spine: a service is asked whether a request may pass.

use std::pin::pin;
use std::rc::Rc;

use bytes::Bytes;
use http::StatusCode;
use selvedge_contract::defaults::policy as defaults;

use crate::error::ErrorKind;
use crate::message::{Body, Fields, Request};
use crate::policy::Permit;
use crate::policy::ext_authz::{ExtAuthz, Form, Question, Verdict, grpc};
use crate::telemetry::Record;
use crate::timer::{Timer, deadline};

use super::part::Deaf;
use super::{Context, send};

/// The verdict on a request; [`Verdict::Unknown`] where none came in time. The status decides, once
/// it is here: a refusal whose body is too long or too slow is a refusal without one.
pub(super) async fn ask(
    context: Context<'_>,
    policy: &ExtAuthz,
    question: &Question,
    main: &Record<'_>,
) -> Rc<Verdict> {
    let (worker, snapshot) = (context.worker, context.snapshot);
    let mut request = Request {
        head: question.head.clone(),
        body: if question.body.is_empty() {
            Body::Empty
        } else {
            Body::Full(question.body.clone())
        },
    };
    // The question is a child of this hop.
    main.pass_trace_on(&mut request.head.fields);
    let now = worker.now();
    let mut record = Record::begin(snapshot, worker, context.downstream, &request.head, now);
    let permit = Permit::to_ask(policy);
    let (mut timer, mut whole) = (Timer::new(), Timer::new());
    let until = deadline(now, policy.timeout);
    let sent = {
        let send = pin!(send::send(
            context,
            &permit,
            &mut record,
            &mut request,
            &mut timer,
            &Deaf
        ));
        whole.within(until, send).await
    };
    let reply = match sent {
        Some(Ok(reply)) => reply,
        failed => {
            let kind = match &failed {
                Some(Err(error)) => error.kind,
                _ => ErrorKind::UpstreamTimeout,
            };
            tracing::debug!(policy = %policy.name, ?kind, "nobody to ask");
            record.fail_with(kind);
            return Rc::new(Verdict::Unknown);
        }
    };
    let (status, fields) = (reply.status(), reply.fields().clone());
    record.set_status(status);
    let longest = match &policy.form {
        Form::Http(_) => defaults::VERDICT_BYTES,
        Form::Grpc(_) => grpc::ANSWER,
    };
    let read = {
        let read = pin!(reply.collect_all(longest));
        whole.within(until, read).await
    };
    let verdict = match judge(policy, status, &fields, read) {
        Ok(verdict) => {
            record.complete();
            Rc::new(verdict)
        }
        Err(kind) => {
            record.fail_with(kind);
            return Rc::new(Verdict::Unknown);
        }
    };
    policy.remember(question, now, &verdict);
    verdict
}

/// What an answer says, as far as it has come.
fn judge(
    policy: &ExtAuthz,
    status: StatusCode,
    fields: &Fields,
    read: Option<Result<(Bytes, Option<Fields>), ErrorKind>>,
) -> Result<Verdict, ErrorKind> {
    match (&policy.form, read) {
        (Form::Http(_), read) => {
            let (body, _) = read.and_then(Result::ok).unwrap_or_default();
            Ok(policy.verdict(status, fields, body))
        }
        (Form::Grpc(_), Some(Ok((body, trailers)))) => {
            grpc::read(status, fields, &body, trailers.as_ref()).map_err(|why| {
                tracing::debug!(policy = %policy.name, why, "no verdict");
                ErrorKind::BadResponse
            })
        }
        (Form::Grpc(_), Some(Err(kind))) => Err(kind),
        (Form::Grpc(_), None) => Err(ErrorKind::UpstreamTimeout),
    }
}
