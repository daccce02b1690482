//! Part of the spine: a service is asked whether a request may pass.

use std::pin::pin;
use std::rc::Rc;

use selvedge_contract::defaults::policy as defaults;

use crate::error::ErrorKind;
use crate::message::{Body, Request, RequestHead};
use crate::policy::Permit;
use crate::policy::ext_authz::{ExtAuthz, Verdict};
use crate::telemetry::Record;
use crate::timer::{Timer, deadline};

use super::part::Deaf;
use super::{Context, send};

/// The verdict on a request; [`Verdict::Unknown`] where none came in time. The status decides, once
/// it is here: a refusal whose body is too long or too slow is a refusal without one.
pub(super) async fn ask(
    context: Context<'_>,
    policy: &ExtAuthz,
    question: &RequestHead,
    main: &Record<'_>,
) -> Rc<Verdict> {
    let (worker, snapshot) = (context.worker, context.snapshot);
    let mut request = Request {
        head: question.clone(),
        body: Body::Empty,
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
    let body = {
        let read = pin!(reply.collect(defaults::VERDICT_BYTES));
        whole.within(until, read).await
    };
    record.complete();
    let body = body.and_then(Result::ok).unwrap_or_default();
    let verdict = Rc::new(policy.verdict(status, &fields, body));
    policy.remember(question, now, &verdict);
    verdict
}
