//! Part of stage 4, the spine: a request whose endpoint is late goes to a second one too, and the first answer
//! counts. What is given up closes its connection, or resets its stream.

use std::cell::OnceCell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
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
        hedge::lose(loser, finish.other, self.context.worker);
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
        // First whether there is room: who is only looked for is counted, too.
        let room = if late { None } else { tries.hedge(now) };
        let second_lease = room.and_then(|room| Some((self.second(lease, now)?, room)));
        let Some((other, _room)) = second_lease else {
            return Finish::only(timer.within(until, first).await);
        };
        let mut head = self.head.clone();
        Tries::mark_hedge(&other, &mut head.fields);
        let other = second.get_or_init(|| other);
        let mut again = pin!(self.send(other, &head, &Deaf, Reuse::Any));
        let (mut one, mut two) = (None, None);
        let mut patience = until;
        poll_fn(|cx| {
            let settled = step(cx, first.as_mut(), &mut one) || step(cx, again.as_mut(), &mut two);
            if settled || (one.is_some() && two.is_some()) {
                return Poll::Ready(());
            }
            if (one.is_some() || two.is_some()) && patience == until {
                // A failure that is there is not held back for long: it may be tried again.
                let soon = worker.now() + self.permit.rule().retry.hedge;
                patience = Some(until.map_or(soon, |until| until.min(soon)));
            }
            timer.poll_maybe(cx, patience)
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

    /// The one that settles it, or else the first that there is; where there is none, it is the first that had
    /// all the time.
    fn of(one: Option<Sent>, two: Option<Sent>) -> Self {
        let settled = |sent: &Option<Sent>| sent.as_ref().is_some_and(hedge::settles);
        let second = !settled(&one) && (settled(&two) || (one.is_none() && two.is_some()));
        let (sent, other) = if second { (two, one) } else { (one, two) };
        Self {
            sent,
            second,
            other,
        }
    }
}

/// Goes on with one of the two until it is there; says whether it settles the matter.
fn step(
    cx: &mut std::task::Context<'_>,
    sending: Pin<&mut impl Future<Output = Sent>>,
    sent: &mut Option<Sent>,
) -> bool {
    if sent.is_some() {
        return false;
    }
    let Poll::Ready(done) = sending.poll(cx) else {
        return false;
    };
    let settles = hedge::settles(&done);
    *sent = Some(done);
    settles
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    /// The second was charged with what the first had all the time for.
    #[test]
    fn where_neither_is_there_the_first_is_to_blame() {
        assert!(!Finish::of(None, None).second);
        let failed = || {
            Some(Err(Failure::untouched(
                ErrorKind::UpstreamReset,
                Body::Empty,
            )))
        };
        assert!(!Finish::of(failed(), None).second);
        assert!(Finish::of(None, failed()).second);
        assert!(!Finish::of(failed(), failed()).second);
    }
}
