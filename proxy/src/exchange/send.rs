//! Part of stage 4, the spine: a request that policy has let through is sent, and sent again where
//! that is safe. Retry is the loop around pick and send.

use std::pin::pin;
use std::time::Duration;

use tokio::time::Instant;

use crate::balance::{Asked, Lease};
use crate::error::{Error, ErrorKind};
use crate::message::{Body, Known, Request};
use crate::policy::Permit;
use crate::policy::client::passed_on_for;
use crate::policy::retry::{Next, Tries};
use crate::respond::Reply;
use crate::telemetry::Record;
use crate::timer::Timer;
use crate::upstream::{Answer, Interim};
use crate::{balance, upstream};

use super::hedge::Race;
use super::hold::Waited;
use super::{Context, mirror};

/// Sends a request to one of its rule's backends. The lease of the answer is in the record.
///
/// # Errors
/// What the last try failed with.
pub(super) async fn send<'a>(
    context: Context<'a>,
    permit: &Permit<'a>,
    record: &mut Record<'a>,
    request: &mut Request,
    timer: &mut Timer,
    interim: &dyn Interim,
) -> Result<Reply<'a>, Error> {
    let (worker, rule, client) = (context.worker, permit.rule(), context.downstream);
    let backend = rule.backend(fastrand::u32(..));
    let backend = backend.ok_or(ErrorKind::NoBackend)?;
    record.counts_for(&backend.metrics);
    record.pass_trace_on(&mut request.head.fields);
    // Before the backend's own edits, which may hold what is for that backend only.
    let copies = mirror::drawn(rule, &request.head);
    backend.request_edits.apply(&mut request.head.fields);
    let source = || passed_on_for(client, &request.head.fields);
    let asked = Asked::of(backend.service.plan(), &request.head, source);
    let mut tries = Tries::new(rule, &backend.service, &request.head, record.start);
    if backend.service.times() {
        // What guards have waited for is none of the endpoint's time.
        tries.renew(worker.now());
    }
    let body = std::mem::replace(&mut request.body, Body::Empty);
    let limit = permit.body_limit(context.plan().limits.body);
    let mut body = tries.watch(body, limit)?;
    loop {
        let lease = balance::pick(
            permit,
            &backend.service,
            client.onward.as_ref(),
            &asked,
            tries.avoid(),
            tries.now(),
        )?;
        record.tries(&lease, tries.count());
        tries.mark(&lease, permit.class(), &mut request.head.fields);
        let head = &request.head;
        let (sent, lease) = if let Some(at) = tries.hedges_at(&asked, &lease) {
            let race = Race {
                context,
                permit,
                service: &backend.service,
                asked: &asked,
                head,
                interim,
                at,
            };
            Box::pin(race.run(&tries, lease, timer, record)).await
        } else {
            let reuse = tries.reuse();
            let send = upstream::send(worker, &lease, head, body, interim, client, reuse);
            let sent = in_time(timer, tries.deadline(), &record.waited, send).await;
            (sent, lease)
        };
        match tries.judge(sent, lease, worker) {
            Next::Answer(mut answer, lease) => {
                stays(&mut answer, &lease, client.is_tls);
                record.lease = Some(lease);
                let sent = answer.sent.take();
                if let Some(copies) = copies {
                    let sent = sent.and_then(Body::rewind);
                    copies.go(worker, client, sent, Some(&mut answer.response));
                }
                return Ok(Reply::upstream(answer, rule, backend));
            }
            Next::Fail(error) => {
                if let Some(copies) = copies {
                    let sent = tries.is_bodiless().then_some(Body::Empty);
                    copies.go(worker, client, sent, None);
                }
                return Err(error);
            }
            Next::Again(again, pause) => {
                body = again;
                timer.pause(pause).await;
                tries.renew(worker.now());
            }
        }
    }
}

/// Has the client come back to the endpoint, where it is to; but not to one that has just failed it.
fn stays(answer: &mut Answer, lease: &Lease, tls: bool) {
    let head = &mut answer.response.head;
    if !head.is_failure()
        && let Some(cookie) = lease.cookie(tls)
    {
        head.fields
            .append_known(Known::SetCookie, cookie.as_bytes());
    }
}

/// What a try gives, if it does so in time; what its body was made to wait is not counted.
async fn in_time<F: Future>(
    timer: &mut Timer,
    until: Option<Instant>,
    waited: &Waited,
    send: F,
) -> Option<F::Output> {
    let mut send = pin!(send);
    let so_far = || waited.as_ref().map_or(Duration::ZERO, |w| w.get());
    let mut granted = so_far();
    loop {
        match timer
            .within(until.map(|at| at + granted), send.as_mut())
            .await
        {
            // Its body was made to wait meanwhile.
            None if so_far() > granted => granted = so_far(),
            done => return done,
        }
    }
}
