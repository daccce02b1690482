//! Part of the spine: a service is asked whether a request may pass.

use std::pin::pin;
use std::rc::Rc;

use selvedge_contract::defaults::policy as defaults;

use crate::error::{Error, ErrorKind};
use crate::message::RequestHead;
use crate::policy::ext_authz::{ExtAuthz, Verdict};
use crate::policy::guard::Notes;
use crate::policy::{Permit, forwarded};
use crate::telemetry::Record;
use crate::timer::{Timer, deadline};

use super::part::Deaf;
use super::{Context, send};

/// The verdict on a request; [`Verdict::Unknown`] where none came in time.
pub(super) async fn ask(
    context: Context<'_>,
    policy: &ExtAuthz,
    head: &RequestHead,
    notes: &Notes,
    main: &Record<'_>,
) -> Rc<Verdict> {
    let now = context.worker.now();
    let mut whole = Timer::new();
    let verdict = {
        let fetch = pin!(fetch(context, policy, head, notes, main));
        whole.within(deadline(now, policy.timeout), fetch).await
    };
    match verdict {
        Some(Ok(verdict)) => {
            let verdict = Rc::new(verdict);
            policy.remember(head, now, &verdict);
            verdict
        }
        failed => {
            let error = failed.map(|f| f.err().map(|e| e.to_string()));
            tracing::debug!(policy = %policy.name, ?error, "nobody to ask");
            Rc::new(Verdict::Unknown)
        }
    }
}

async fn fetch<'c>(
    context: Context<'c>,
    policy: &'c ExtAuthz,
    head: &RequestHead,
    notes: &Notes,
    main: &Record<'_>,
) -> Result<Verdict, Error> {
    let mut request = policy.question(head)?;
    // It is told what the application would be told, and nothing that a client says of itself.
    forwarded::stamp(context.downstream, &mut request.head);
    notes.apply(&mut request.head);
    // The question is a child of this hop.
    main.pass_trace_on(&mut request.head.fields);
    let (worker, snapshot) = (context.worker, context.snapshot);
    let now = worker.now();
    let mut record = Record::begin(snapshot, worker, context.downstream, &request.head, now);
    let permit = Permit::to_ask(policy);
    let mut timer = Timer::new();
    let sent = send::send(
        context,
        &permit,
        &mut record,
        &mut request,
        &mut timer,
        &Deaf,
    );
    let result = async {
        let reply = sent.await?;
        let (status, fields) = (reply.status(), reply.fields().clone());
        let body = reply.collect(defaults::VERDICT_BYTES).await?;
        Ok::<_, Error>((status, fields, body))
    };
    match result.await {
        Ok((status, fields, body)) => {
            record.set_status(status);
            record.complete();
            match policy.verdict(status, &fields, body) {
                Verdict::Unknown => Err(ErrorKind::NoVerdict.into()),
                verdict => Ok(verdict),
            }
        }
        Err(error) => {
            record.fail(&error);
            Err(error)
        }
    }
}
