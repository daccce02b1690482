//! Part of stage 4, the spine: the hop of the mesh for bytes that are no requests. Here they leave for
//! an endpoint of their service, there they come in for the application; either way with a permit
//! and a lease.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use selvedge_contract::defaults::transparent::IDLE;
use socket2::SockRef;
use tokio::time::sleep;

use crate::accept::{Downstream, ListenerPlan};
use crate::balance::{self, Asked, Endpoint, Failing, Lease, Service, Verdict};
use crate::error::{Error, ErrorKind, Retry, Side};
use crate::policy::{Standing, opaque};
use crate::protocol::io::Io;
use crate::route::Rule;
use crate::telemetry::Record;
use crate::upstream::{connect, pool};
use crate::worker::Worker;

use super::onward::{self, Far};

/// The permit for what goes to this address, where that is a service of the mesh; `None` where it is
/// not.
///
/// # Errors
/// [`ErrorKind::Denied`]: the service has policies, which look at requests. [`ErrorKind::Egress`]: it is for no
/// service, as far as its address says, and nothing else may be called.
pub fn outward(plan: &ListenerPlan, to: SocketAddr) -> Result<Option<Standing>, ErrorKind> {
    let onward = plan.onward.as_ref();
    if onward.is_some_and(|onward| onward.is_closed_to(&to)) {
        return Err(ErrorKind::Egress);
    }
    let Some(rule) = onward.and_then(|onward| onward.by_address.get(&to)) else {
        return Ok(None);
    };
    if !rule.backends.iter().any(|b| b.service.is_meshed()) {
        return Ok(None);
    }
    opaque::outward(rule, plan).map(Some)
}

/// The permit for what comes to a listener that looks into nothing: its services have no policies.
///
/// # Errors
/// [`ErrorKind::Denied`]: they have some all the same.
pub fn streamed(rule: &Arc<Rule>, plan: &ListenerPlan) -> Result<Standing, ErrorKind> {
    opaque::outward(rule, plan)
}

/// Connects to an endpoint of the service, or to the application, which is `beside` where callers say
/// its port. Nothing has been sent yet: what fails is tried again, at another endpoint where there is
/// one, as often as the service's requests are, and within its budget. Each try is told. An endpoint that
/// wants to know is told of the client.
///
/// # Errors
/// Those of `balance::pick` and `upstream::connect`.
pub async fn dial(
    worker: &Rc<Worker>,
    hop: &Standing,
    service: &Arc<Service>,
    beside: Option<&Arc<Endpoint>>,
    client: &Downstream,
    mut tried: impl FnMut(&Lease, u32),
) -> Result<Far, Error> {
    let permit = hop.permit();
    let rule = permit.rule();
    let asked = Asked::of_connection(service.plan(), client.peer.ip());
    service.budget.earn();
    let mut avoid = None;
    let mut count = 0;
    loop {
        let mut lease = balance::pick(&permit, service, beside, &asked, avoid, worker.now())?;
        lease.awaits_no_answer(worker.now());
        tried(&lease, count);
        let place = pool::wait_for_place(worker, service).await?;
        let announces = service.spec.announces;
        let first = announces.map(|announce| announce.header(client));
        let connected = connect::connect_for_bytes(worker, &lease, first).await;
        let error = match connected {
            Ok(io) => {
                lease.report(Verdict::Success, worker.now());
                return Ok(Far {
                    io,
                    address: lease.endpoint().address,
                    held: Some((lease, place)),
                });
            }
            Err(error) => error,
        };
        let verdict = match error.kind.side() {
            Side::Upstream => Verdict::Failure(Failing::Error(error.kind)),
            Side::Downstream | Side::Local => Verdict::Neutral,
        };
        lease.report(verdict, worker.now());
        let again = count < rule.retry.attempts && error.kind.retry() == Retry::Safe;
        if !again || !service.budget.spend(worker.now()) {
            return Err(error);
        }
        avoid = Some(lease.endpoint().id);
        drop((lease, place));
        count += 1;
        sleep(rule.retry.backoff).await;
    }
}

/// Carries the bytes of a peer to the application, if who it is suffices for the policies of the port.
pub async fn receive(worker: Rc<Worker>, downstream: Rc<Downstream>, io: Io) {
    let plan = &downstream.listener;
    let rule = plan.opaque.as_ref();
    let rule = rule.ok_or_else(|| Error::from(ErrorKind::NoBackend));
    let permit = rule.and_then(|rule| opaque::inward(rule, plan, &downstream));
    match permit {
        Ok(permit) => onward::carry(worker, downstream, io, Some(permit), None, IDLE).await,
        Err(error) => {
            let snapshot = worker.snapshot();
            let mut record = Record::unread(&snapshot, &worker, &downstream);
            record.fail(&error);
            let _ = SockRef::from(io.socket()).set_linger(Some(Duration::ZERO));
        }
    }
}
