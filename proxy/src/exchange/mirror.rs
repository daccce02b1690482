//! Part of stage 4, the spine: copies of requests to services whose answers nobody waits for.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use selvedge_contract::defaults::upstream::REPLAY;

use crate::accept::Downstream;
use crate::error::ErrorKind;
use crate::message::body::read_whole;
use crate::message::{Body, Request, RequestHead};
use crate::policy::Permit;
use crate::route::Rule;
use crate::route::mirror::{Mirror, UnderWay};
use crate::telemetry::Record;
use crate::timer::{Timer, deadline};
use crate::worker::Worker;

use super::part::Deaf;
use super::{Context, send};

/// A copy takes no longer, its answer included.
const LONGEST: Duration = Duration::from_secs(15);
/// So much of an answer is read, so that its connection can be used again.
const ANSWER: usize = 256 << 10;

/// The copies of one request, which go out when it has been answered: then its body has passed by whole.
pub(super) struct Copies {
    head: RequestHead,
    to: Vec<Arc<Mirror>>,
}

/// Draws who gets a copy. Nothing is done for rules without mirrors.
pub(super) fn drawn(rule: &Rule, head: &RequestHead) -> Option<Copies> {
    if rule.mirrors.is_empty() || head.upgrade.is_some() {
        return None;
    }
    let drawn = rule.mirrors.iter().filter(|mirror| mirror.wants());
    let to: Vec<_> = drawn.cloned().collect();
    let head = head.clone();
    (!to.is_empty()).then_some(Copies { head, to })
}

fn lost(worker: &Worker) {
    worker.metrics.worker(worker.index).mirrors_lost.add(1);
}

impl Copies {
    /// Sends them, each with this body: what was kept of it when all of it had been sent. Without, it was too
    /// long to be kept.
    pub(super) fn go(self, worker: &Rc<Worker>, client: &Rc<Downstream>, body: Option<Body>) {
        let Some(body) = body else {
            return self.to.iter().for_each(|_| lost(worker));
        };
        let (worker, client) = (worker.clone(), client.clone());
        let copying = async move {
            let Ok(body) = read_whole(body, REPLAY, ErrorKind::BodyTooLarge).await else {
                return;
            };
            for mirror in self.to {
                // Taken now that it goes: a request that waits for its own answer holds none.
                let Some(place) = mirror.admit() else {
                    lost(&worker);
                    continue;
                };
                let (worker, client) = (worker.clone(), client.clone());
                let (head, body) = (self.head.clone(), body.clone());
                tokio::task::spawn_local(copy(worker, client, place, head, body));
            }
        };
        // It bounds its own time; and ends with the worker.
        let copying: std::pin::Pin<Box<dyn Future<Output = ()>>> = Box::pin(copying);
        tokio::task::spawn_local(copying);
    }
}

async fn copy(
    worker: Rc<Worker>,
    client: Rc<Downstream>,
    place: UnderWay,
    head: RequestHead,
    body: Bytes,
) {
    let snapshot = worker.snapshot();
    let context = Context {
        worker: &worker,
        snapshot: &snapshot,
        downstream: &client,
    };
    let body = if body.is_empty() {
        Body::Empty
    } else {
        Body::Full(body)
    };
    let mut request = Request { head, body };
    let now = worker.now();
    let mut record = Record::begin(&snapshot, &worker, &client, &request.head, now);
    let permit = Permit::to_mirror(place.mirror());
    let (mut timer, mut whole) = (Timer::new(), Timer::new());
    let until = deadline(now, LONGEST);
    let sent = {
        let sending = async {
            let reply = send::send(
                context,
                &permit,
                &mut record,
                &mut request,
                &mut timer,
                &Deaf,
            )
            .await?;
            let status = reply.status();
            // However long it is: what matters is that it was answered.
            let _ = reply.collect(ANSWER).await;
            Ok::<_, crate::error::Error>(status)
        };
        whole.within(until, pin!(sending)).await
    };
    match sent {
        Some(Ok(status)) => {
            record.set_status(status);
            record.complete();
        }
        Some(Err(error)) => record.fail(&error),
        None => record.fail_with(ErrorKind::UpstreamTimeout),
    }
}
