//! Part of stage 6, policy: bytes that are no requests, between two proxies of the mesh. All that is
//! known of them is whose they are.

use std::sync::Arc;

use crate::accept::{Downstream, ListenerPlan};
use crate::error::{Error, ErrorKind};
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
        return Ok(Standing {
            rule: rule.clone(),
            audited: None,
        });
    }
    Err(ErrorKind::Denied)
}

/// The permit of what a peer of the mesh sends in, judged by who it is and which port it calls. Policies that ask for more do not let it in:
/// what allows does not hold, what denies does, and all others look at requests.
///
/// # Errors
/// [`ErrorKind::Denied`].
pub fn inward(
    rule: &Arc<Rule>,
    plan: &ListenerPlan,
    downstream: &Downstream,
) -> Result<Standing, Error> {
    let peer = downstream.peer_id().ok_or(ErrorKind::Denied)?;
    if downstream.federated && !names_callers(rule, plan) {
        return Err(ErrorKind::Denied.into());
    }
    let mut audited = None;
    for guard in rule.guards.iter().chain(&plan.guards) {
        match guard {
            Guard::Allow(access) | Guard::Deny(access) => access.check_bytes(downstream, peer)?,
            Guard::Audit(audit) => {
                if audit.looks_at_bytes(downstream, peer) {
                    audited.get_or_insert_with(|| audit.name.clone());
                }
            }
            // It is about requests, and refuses nobody.
            Guard::Fault(_) => {}
            _ => {
                let why = "a policy of this port asks for more than is known of bytes";
                return Err(Error::with(ErrorKind::Denied, why));
            }
        }
    }
    Ok(Standing {
        rule: rule.clone(),
        audited,
    })
}
