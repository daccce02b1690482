//! Part of stage 4, the spine: a request whose endpoint is late goes to a second one too, and the first answer
//! counts. What is given up closes its connection, or resets its stream.

use std::cell::OnceCell;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use tokio::time::Instant;

use crate::balance::{Asked, Lease, Service};
use crate::message::{Body, RequestHead};
use crate::policy::Permit;
use crate::policy::retry::{Tries, hedge};
use crate::telemetry::Record;
use crate::timer::Timer;
use crate::upstream::{Answer, Failure, Interim, Reuse};
use crate::{balance, upstream};

use super::Context;
use super::part::Deaf;

type Sent = Result<Answer, Failure>;

/// A request that may be under way twice.
pub(super) struct Race<'r, 'a> {
    pub(super) context: Context<'a>,
    pub(super) permit: &'r Permit<'a>,
    pub(super) service: &'a Arc<Service>,
    pub(super) asked: &'r Asked,
    pub(super) head: &'r RequestHead,
    pub(super) interim: &'r dyn Interim,
    /// When the second endpoint is asked.
    pub(super) at: Instant,
}

/// What came of it: by which of the two, and what the other came to.
struct Finish {
    sent: Option<Sent>,
    second: bool,
    other: Option<Sent>,
}

impl Race<'_, '_> {
    /// Sends it by this lease, and perhaps by another one; gives what one of them came to, with its lease. `None`
    /// is nothing within the deadline.
    pub(super) async fn run(
        self,
        tries: &Tries<'_>,
        lease: Lease,
        timer: &mut Timer,
        record: &mut Record<'_>,
    ) -> (Option<Sent>, Lease) {
        let second = OnceCell::new();
        let finish = self.both(tries, &lease, &second, timer).await;
        let Some(other) = second.into_inner() else {
            return (finish.sent, lease);
        };
        record.hedged = Some(finish.second);
        let (winner, loser) = if finish.second {
            (other, lease)
        } else {
            (lease, other)
        };
        record.tries(&winner, tries.count());
        hedge::lose(loser, finish.other, self.context.worker.now());
        (finish.sent, winner)
    }

    async fn both(
        &self,
        tries: &Tries<'_>,
        lease: &Lease,
        second: &OnceCell<Lease>,
        timer: &mut Timer,
    ) -> Finish {
        let worker = self.context.worker;
        let until = tries.deadline();
        let mut first = pin!(self.send(lease, self.head, self.interim, tries.reuse()));
        let early = until.map_or(self.at, |until| until.min(self.at));
        if let Some(sent) = timer.within(Some(early), first.as_mut()).await {
            return Finish::only(Some(sent));
        }
        let now = worker.now();
        let late = until.is_some_and(|until| until <= now);
        let other = if late { None } else { self.second(lease, now) };
        let Some((other, _room)) = other.and_then(|other| Some((other, tries.hedge(now)?))) else {
            return Finish::only(timer.within(until, first).await);
        };
        let mut head = self.head.clone();
        Tries::mark_hedge(&other, &mut head.fields);
        let other = second.get_or_init(|| other);
        let mut again = pin!(self.send(other, &head, &Deaf, Reuse::Any));
        let (mut one, mut two) = (None, None);
        poll_fn(|cx| {
            if one.is_none()
                && let Poll::Ready(sent) = first.as_mut().poll(cx)
            {
                let settled = hedge::settles(&sent);
                one = Some(sent);
                if settled {
                    return Poll::Ready(());
                }
            }
            if two.is_none()
                && let Poll::Ready(sent) = again.as_mut().poll(cx)
            {
                let settled = hedge::settles(&sent);
                two = Some(sent);
                if settled {
                    return Poll::Ready(());
                }
            }
            if one.is_some() && two.is_some() {
                return Poll::Ready(());
            }
            timer.poll_maybe(cx, until)
        })
        .await;
        Finish::of(one, two)
    }

    /// Another endpoint than this one.
    fn second(&self, first: &Lease, now: Instant) -> Option<Lease> {
        let (service, tried) = (self.service, first.endpoint().id);
        let onward = self.context.downstream.onward.as_ref();
        let lease = balance::pick(self.permit, service, onward, self.asked, Some(tried), now);
        lease.ok().filter(|lease| lease.endpoint().id != tried)
    }

    fn send<'s>(
        &'s self,
        lease: &'s Lease,
        head: &'s RequestHead,
        interim: &'s dyn Interim,
        reuse: Reuse,
    ) -> impl Future<Output = Sent> + 's {
        let (worker, client) = (self.context.worker, self.context.downstream);
        upstream::send(worker, lease, head, Body::Empty, interim, client, reuse)
    }
}

impl Finish {
    const fn only(sent: Option<Sent>) -> Self {
        Self {
            sent,
            second: false,
            other: None,
        }
    }

    /// The one that settles it, or else the first that there is.
    fn of(one: Option<Sent>, two: Option<Sent>) -> Self {
        let settled = |sent: &Option<Sent>| sent.as_ref().is_some_and(hedge::settles);
        let second = !settled(&one) && (settled(&two) || one.is_none());
        let (sent, other) = if second { (two, one) } else { (one, two) };
        Self {
            sent,
            second,
            other,
        }
    }
}
