//! Part of the spine: a request whose answer may be in a cache, or may go into one.

use std::rc::Rc;
use std::sync::Arc;

use selvedge_gateway::jwt::Verified;

use crate::cache::{Asked, Cache, Looked, Ticket};
use crate::error::Error;
use crate::message::{Body, Request};
use crate::policy::Permit;
use crate::respond::Reply;
use crate::telemetry::Record;
use crate::timer::Timer;
use crate::upstream::Interim;

use super::parts::Deaf;
use super::{Context, parts, send};

/// One request on its way through a cache.
pub(super) struct Through<'a, 'p> {
    pub(super) context: Context<'a>,
    pub(super) cache: &'a Arc<Cache>,
    pub(super) permit: &'p Permit<'a>,
    pub(super) authorized: bool,
    pub(super) token: Option<Rc<Verified>>,
}

impl<'a> Through<'a, '_> {
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
        let ticket = if Cache::takes(request) {
            match self.look(request).await {
                Ok(reply) => return Ok(reply),
                Err(ticket) => ticket,
            }
        } else {
            None
        };
        let Some(mut ticket) = ticket else {
            let unsafe_method = !request.head.method.is_safe();
            let head = unsafe_method.then(|| request.head.clone());
            let reply = self.fetch(record, request, timer, interim).await?;
            if let Some(head) = head.filter(|_| reply.status().as_u16() < 400) {
                self.cache.invalidate(&self.asked(&head));
            }
            return Ok(reply);
        };
        ticket.condition(&mut request.head);
        let sent = self.fetch(record, request, timer, interim).await;
        let now = self.context.worker.recently();
        match sent {
            Ok(reply) => Ok(reply.map(|r| ticket.answered(r, &request.head, now))),
            Err(error) => match ticket.instead(&request.head, now) {
                Ok(response) => Ok(Reply::stored(response, self.permit.rule())),
                Err(_) => Err(error),
            },
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
            let token = self.token.clone();
            return parts::answer(context, permit, record, request, timer, token).await;
        }
        send::send(context, permit, record, request, timer, interim).await
    }

    fn asked<'h>(&'h self, head: &'h crate::message::RequestHead) -> Asked<'h> {
        Asked {
            rule: &self.permit.rule().name,
            scheme: self.context.downstream.scheme(),
            head,
            authorized: self.authorized,
        }
    }

    /// An answer that is here, or comes by another request; else a ticket to fetch one, if it
    /// could be kept.
    async fn look(&self, request: &Request) -> Result<Reply<'a>, Option<Box<Ticket>>> {
        let mut now = self.context.worker.recently();
        let mut patience = 2;
        loop {
            let asked = self.asked(&request.head);
            match self.cache.look(&asked, now, patience > 0) {
                Looked::Answer(response, ticket) => {
                    if let Some(ticket) = ticket {
                        self.refresh(request, ticket);
                    }
                    return Ok(Reply::stored(response, self.permit.rule()));
                }
                Looked::Lead(ticket) => return Err(Some(ticket)),
                Looked::Pass => return Err(None),
                Looked::Wait(mut others) => {
                    let came = tokio::time::timeout(Cache::PATIENCE, others.changed()).await;
                    patience = if came.is_ok() { patience - 1 } else { 0 };
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
        let token = self.token.clone();
        let mut head = request.head.clone();
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
                parts::answer(context, &permit, told, asked, &mut timer, token).await
            } else {
                send::send(context, &permit, told, asked, &mut timer, &Deaf).await
            };
            match sent {
                Ok(reply) => {
                    record.set_status(reply.status());
                    let reply = reply.map(|r| ticket.answered(r, &request.head, worker.recently()));
                    if reply.read_to_its_end().await {
                        record.complete();
                    }
                }
                Err(error) => record.fail(&error),
            }
        });
    }
}
