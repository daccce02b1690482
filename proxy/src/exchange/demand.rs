//! Part of stage 4, the spine: before a request takes its snapshot, what nobody here knows yet is asked
//! for. A request to what is known asks nothing, and waits for nobody.

use std::rc::Rc;

use crate::accept::{Downstream, ListenerRole};
use crate::config::Snapshot;
use crate::discover::demand::{Demand, Question};
use crate::message::RequestHead;
use crate::worker::{Cached, Worker};

/// What the cluster might know of a request, by where it is going or by whom it names, and this
/// snapshot does not.
#[must_use]
pub fn unknown<'w>(
    worker: &'w Worker,
    snapshot: &Snapshot,
    downstream: &Downstream,
    head: &RequestHead,
) -> Option<(&'w Demand, Question)> {
    let demand = &**worker.shared.demand.get()?;
    if downstream.listener.role != ListenerRole::Outbound {
        return None;
    }
    let own = &downstream.listener;
    let plan = snapshot.listener(&own.name).unwrap_or(own);
    let to = downstream.local;
    if let Some(onward) = &plan.onward
        && onward.by_address.contains_key(&to)
    {
        return None;
    }
    let onward = || plan.onward.as_ref()?.service(head, to);
    let known = plan.table.find(head).or_else(onward);
    if known.or_else(|| plan.named.find(head)).is_some() {
        return None;
    }
    let named = demand.service(head.host.name()).map(Question::Service);
    let called = plan.onward.as_ref().map(|_| Question::Address(to.ip()));
    let mut all = called.into_iter().chain(named);
    let question = all.find(|question| !demand.is_known_to_be_none(question))?;
    Some((demand, question))
}

/// Questions of one request: by where it is going, by whom it names, and once more where an answer
/// has put another in its place.
const QUESTIONS: usize = 3;

/// Asks, and gives the snapshot that has the answers, or the present one where none came in time. To
/// be boxed, so that requests to what is known do not carry it along; it ends soon by itself.
pub async fn settle(worker: &Worker, downstream: &Downstream, head: &RequestHead) -> Rc<Cached> {
    for _ in 0..QUESTIONS {
        let snapshot = worker.snapshot();
        let Some((demand, question)) = unknown(worker, &snapshot, downstream, head) else {
            return snapshot;
        };
        if !demand.ask(question).await {
            break;
        }
    }
    worker.snapshot()
}
