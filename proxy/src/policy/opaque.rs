//! Part of stage 6, policy: bytes that are no requests, between two proxies of the mesh. All that is
//! known of them is whose they are.

use std::sync::Arc;

use selvedge_gateway::authorize::Sense;

use crate::accept::{Downstream, ListenerPlan};
use crate::error::ErrorKind;
use crate::route::Rule;

use super::guard::Guard;
use super::{Standing, names_callers};

/// The permit of what an application sends out to a service of the mesh. There is nothing to judge:
/// the application is this proxy's own. So where something is to be judged, there is no permit.
///
/// # Errors
/// [`ErrorKind::Denied`]: the service has policies, and those look at requests.
pub fn outward(rule: &Arc<Rule>, plan: &ListenerPlan) -> Result<Standing, ErrorKind> {
    if rule.guards.is_empty() && plan.guards.is_empty() {
        return Ok(Standing { rule: rule.clone() });
    }
    Err(ErrorKind::Denied)
}

/// The permit of what a peer of the mesh sends in, judged by who it is. Policies that ask for more do
/// not let it in: what allows does not hold, what denies does, and all others look at requests.
///
/// # Errors
/// [`ErrorKind::Denied`].
pub fn inward(
    rule: &Arc<Rule>,
    plan: &ListenerPlan,
    downstream: &Downstream,
) -> Result<Standing, ErrorKind> {
    let peer = downstream.peer_id().ok_or(ErrorKind::Denied)?;
    if downstream.federated && !names_callers(rule, plan) {
        return Err(ErrorKind::Denied);
    }
    let passes = |guard: &Guard| match guard {
        Guard::Allow(access) | Guard::Deny(access) => {
            let strangers = downstream.federated && access.sense == Sense::Allow;
            let conditions = access.conditions.iter();
            let mut conditions = conditions.filter(|c| !strangers || !c.principals.is_empty());
            let holds = conditions.any(|c| c.holds_of_bytes(peer, access.sense));
            holds == (access.sense == Sense::Allow)
        }
        _ => false,
    };
    if rule.guards.iter().chain(&plan.guards).all(passes) {
        return Ok(Standing { rule: rule.clone() });
    }
    Err(ErrorKind::Denied)
}
