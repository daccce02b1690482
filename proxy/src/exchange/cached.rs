//! Part of the spine: a request whose answer may be in a cache, or may go into one.

use std::sync::Arc;

use selvedge_contract::defaults::policy as defaults;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::cache::{Asked, Cache, Fallback, Looked, Site, Ticket, is_failure};
use crate::error::{Error, ErrorKind};
use crate::message::{Body, Request, Response};
use crate::policy::{Caller, Permit};
use crate::respond::Reply;
use crate::telemetry::Record;
use crate::timer::Timer;
use crate::upstream::Interim;

use super::part::Deaf;
use super::{Context, parts, send};

/// One request on its way through a cache.
pub(super) struct Trip<'a, 'p> {
    pub(super) context: Context<'a>,
    pub(super) cache: &'a Arc<Cache>,
    pub(super) site: Site,
    pub(super) permit: &'p Permit<'a>,
    pub(super) caller: &'p Caller,
}

impl<'a> Trip<'a, '_> {
    /// The answer from the cache, or from upstream and on its way into the cache.
    ///
    /// # Errors
    /// Those of upstream, where nothing stored may stand in.
    pub(super) async fn answer(
        self,
        record: &mut Record<'a>,
        request: &mut Request,
        timer: &mut Timer,
        interim: &dyn Interim,
    ) -> Result<Reply<'a>, Error> {
        let looked = if Cache::takes(request) {
            self.look(request).await
        } else {
            Found::Nothing(None)
        };
        let rule = self.permit.rule();
        match looked {
            Found::Answer(response) => Ok(Reply::stored(response)),
            Found::Ticket(mut ticket) => {
                ticket.condition(&mut request.head);
                let sent = self.fetch(record, request, timer, interim).await;
                let now = self.context.worker.recently();
                match sent {
                    Ok(reply) => Ok(reply.map(rule, |r| ticket.answered(r, &request.head, now))),
                    Err(error) => match ticket.instead(&request.head, now) {
                        Some(response) => Ok(Reply::stored(response)),
                        None => Err(error),
                    },
                }
            }
            Found::Nothing(Some(fallback)) => {
                let head = request.head.clone();
                let sent = self.fetch(record, request, timer, interim).await;
                let failed = sent
                    .as_ref()
                    .map_or(true, |reply| is_failure(reply.status()));
                let now = self.context.worker.recently();
                match fallback.instead(&head, now).filter(|_| failed) {
                    Some(response) => Ok(Reply::stored(response)),
                    None => sent,
                }
            }
            Found::Nothing(None) => {
                let head = (!request.head.method.is_safe()).then(|| request.head.clone());
                let reply = self.fetch(record, request, timer, interim).await?;
                if let Some(head) = head.filter(|_| reply.status().as_u16() < 400) {
                    self.cache.invalidate(&self.asked(&head));
                }
                Ok(reply)
            }
        }
    }

    async fn fetch(
        &self,
        record: &mut Record<'a>,
        request: &mut Request,
        timer: &mut Timer,
        interim: &dyn Interim,
    ) -> Result<Reply<'a>, Error> {
        let (context, permit) = (self.context, self.permit);
        if permit.rule().aggregate.is_some() {
            return parts::answer(context, permit, record, request, timer, self.caller).await;
        }
        send::send(context, permit, record, request, timer, interim).await
    }

    fn asked<'h>(&'h self, head: &'h crate::message::RequestHead) -> Asked<'h> {
        Asked {
            rule: &self.permit.rule().tag,
            site: &self.site,
            scheme: self.context.downstream.scheme(),
            head,
            authorized: self.caller.authorized,
        }
    }

    /// An answer that is here, or comes by another request; else a ticket to fetch one, if it
    /// could be kept.
    async fn look(&self, request: &Request) -> Found {
        let mut now = self.context.worker.recently();
        let mut patience = 2;
        loop {
            let asked = self.asked(&request.head);
            match self.cache.look(&asked, now, patience > 0) {
                Looked::Answer(response, ticket) => {
                    if let Some(ticket) = ticket {
                        self.refresh(request, ticket);
                    }
                    return Found::Answer(response);
                }
                Looked::Lead(ticket) => return Found::Ticket(ticket),
                Looked::Pass(fallback) => return Found::Nothing(fallback),
                Looked::Wait(others) => {
                    let came = wait(others, now).await;
                    patience = if came { patience - 1 } else { 0 };
                    now = self.context.worker.now();
                }
            }
        }
    }

    /// Fetches a new answer behind the back of the request, which has been given the old one.
    fn refresh(&self, request: &Request, mut ticket: Box<Ticket>) {
        let worker = self.context.worker.clone();
        let downstream = self.context.downstream.clone();
        let standing = self.permit.standing();
        let caller = self.caller.clone();
        let mut head = request.head.clone();
        Ticket::whole(&mut head);
        ticket.condition(&mut head);
        tokio::task::spawn_local(async move {
            let snapshot = worker.snapshot();
            let context = Context {
                worker: &worker,
                snapshot: &snapshot,
                downstream: &downstream,
            };
            let mut record = Record::begin(&snapshot, &worker, &downstream, &head, worker.now());
            let mut request = Request {
                head,
                body: Body::Empty,
            };
            let permit = standing.permit();
            let mut timer = Timer::new();
            let (told, asked) = (&mut record, &mut request);
            let sent = if permit.rule().aggregate.is_some() {
                parts::answer(context, &permit, told, asked, &mut timer, &caller).await
            } else {
                send::send(context, &permit, told, asked, &mut timer, &Deaf).await
            };
            match sent {
                Ok(reply) => {
                    record.set_status(reply.status());
                    let now = worker.recently();
                    let answered = |r| ticket.answered(r, &request.head, now);
                    let whole = reply.map(permit.rule(), answered).read_to_its_end();
                    let read = tokio::time::timeout(defaults::CACHE_REFRESH, whole).await;
                    match read {
                        Ok(Ok(())) => record.complete(),
                        Ok(Err(kind)) => record.fail_with(kind),
                        Err(_) => record.fail_with(ErrorKind::UpstreamStalled),
                    }
                }
                Err(error) => record.fail(&error),
            }
        });
    }
}

/// What a look into the cache came to.
enum Found {
    Answer(Response),
    Ticket(Box<Ticket>),
    Nothing(Option<Fallback>),
}

/// Waits for another's answer: for its head, and from there on a little for its body. Whether that
/// came to an end.
async fn wait(mut others: watch::Receiver<Option<Instant>>, now: Instant) -> bool {
    let mut until = now + Cache::PATIENCE;
    loop {
        if let Some(arrived) = *others.borrow_and_update() {
            until = arrived + Cache::BODY_PATIENCE;
        }
        match tokio::time::timeout_at(until, others.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return true,
            Err(_) => return false,
        }
    }
}
