//! Part of stage 4, the spine: copies of requests to services whose answers no client waits for.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use selvedge_contract::defaults::upstream::REPLAY;
use tokio::time::Instant;

use crate::accept::Downstream;
use crate::error::ErrorKind;
use crate::message::{Body, Request, RequestHead, Response, read_all, read_whole};
use crate::policy::Permit;
use crate::route::Rule;
use crate::route::mirror::{Mirror, UnderWay};
use crate::telemetry::Record;
use crate::timer::{Timer, deadline};
use crate::worker::Worker;

use super::compare::{self, Due};
use super::overheard::Heard;
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
    /// long to be kept. `answer`: what the client gets, if a service has answered.
    pub(super) fn go(
        self,
        worker: &Rc<Worker>,
        client: &Rc<Downstream>,
        body: Option<Body>,
        answer: Option<&mut Response>,
    ) {
        let Some(body) = body else {
            return self.to.iter().for_each(|_| lost(worker));
        };
        let due = compare::due(&self.to, answer);
        let (worker, client) = (worker.clone(), client.clone());
        let copying = async move {
            let Ok(body) = read_whole(body, REPLAY, ErrorKind::BodyTooLarge).await else {
                return;
            };
            for (mirror, due) in self.to.into_iter().zip(due) {
                // Taken now that it goes: a request that waits for its own answer holds none.
                let Some(place) = mirror.admit() else {
                    lost(&worker);
                    continue;
                };
                let (worker, client) = (worker.clone(), client.clone());
                let (head, body) = (self.head.clone(), body.clone());
                tokio::task::spawn_local(copy(worker, client, place, head, body, due));
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
    due: Option<Due>,
) {
    let body = if body.is_empty() {
        Body::Empty
    } else {
        Body::Full(body)
    };
    let mut request = Request { head, body };
    let until = deadline(worker.now(), LONGEST);
    let most = due.as_ref().map(|due| due.compare.body.unwrap_or(0));
    let heard = carry(&worker, &client, place.mirror(), &mut request, until, most).await;
    // Others may go while this one waits for the end of what the client gets.
    drop(place);
    if let Some(due) = due {
        due.settle(request.head, heard, until).await;
    }
}

/// Sends one, and reads the answer: into the void, or with this many bytes of its body. `None` then, too, where none
/// has come whole in time.
async fn carry(
    worker: &Rc<Worker>,
    client: &Rc<Downstream>,
    mirror: &Mirror,
    request: &mut Request,
    until: Option<Instant>,
    most: Option<usize>,
) -> Option<Heard> {
    let snapshot = worker.snapshot();
    let context = Context {
        worker,
        snapshot: &snapshot,
        downstream: client,
    };
    let now = worker.now();
    let mut record = Record::begin(&snapshot, worker, client, &request.head, now);
    let permit = Permit::to_mirror(mirror);
    let (mut timer, mut whole) = (Timer::new(), Timer::new());
    let sent = {
        let sending = async {
            let reply =
                send::send(context, &permit, &mut record, request, &mut timer, &Deaf).await?;
            let response = reply.into_response();
            let status = response.head.status;
            // However long it is: what matters is that it was answered.
            let heard = read(response, most).await;
            Ok::<_, crate::error::Error>((status, heard))
        };
        whole.within(until, pin!(sending)).await
    };
    match sent {
        Some(Ok((status, heard))) => {
            record.set_status(status);
            record.complete();
            return heard;
        }
        Some(Err(error)) => record.fail(&error),
        None => record.fail_with(ErrorKind::UpstreamTimeout),
    }
    None
}

/// Reads an answer to its end, unless that is far away.
async fn read(response: Response, most: Option<usize>) -> Option<Heard> {
    let Response { head, body } = response;
    let Some(most) = most else {
        let _ = read_whole(body, ANSWER, ErrorKind::BodyTooLarge).await;
        return None;
    };
    let text = match read_all(body, ANSWER.max(most), ErrorKind::BodyTooLarge).await {
        Ok((text, trailers)) if text.len() <= most => Some((text, trailers.unwrap_or_default())),
        Ok(_) | Err(ErrorKind::BodyTooLarge) => None,
        Err(_) => return None,
    };
    Some(Heard {
        status: head.status,
        fields: head.fields,
        text,
    })
}
