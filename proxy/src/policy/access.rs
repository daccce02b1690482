//! Part of stage 6, policy: who may do what, and who may not.

use std::sync::Arc;

use selvedge_gateway::authorize::{Condition, Facts, Sense};
use selvedge_gateway::geo::Geo;

use crate::error::ErrorKind;

use super::client;
use super::guard::{Seen, Stop};

/// One `allow` or `deny` policy: any of its conditions lets a request in, or keeps it out.
#[derive(Debug)]
pub struct Access {
    /// Name of the policy, for the log.
    pub name: Arc<str>,
    /// What it does.
    pub sense: Sense,
    /// Conditions.
    pub conditions: Vec<Condition>,
    /// Where addresses are.
    pub geo: Option<Arc<Geo>>,
}

impl Access {
    /// Checks a request.
    ///
    /// # Errors
    /// [`ErrorKind::Denied`].
    pub fn check(&self, seen: &Seen<'_>) -> Result<(), Stop> {
        let (head, downstream) = (seen.head, seen.downstream);
        let path = head.target.bare_path();
        let address = || client::address(downstream, &head.fields);
        let facts = Facts {
            method: head.method.as_str(),
            host: head.host.name(),
            path: &path,
            query: head.target.query(),
            fields: &|each| head.fields.iter().for_each(|f| each(f.name, f.value)),
            peer: downstream.peer_id(),
            claims: seen.token.as_ref().map(|token| &token.claims),
            consumer: seen.consumer.as_ref(),
            address: &address,
            country: &|| self.geo.as_ref()?.country(address()),
        };
        let mut conditions = self.conditions.iter();
        let fits = conditions.any(|condition| condition.holds(&facts, self.sense));
        if fits == (self.sense == Sense::Allow) {
            return Ok(());
        }
        tracing::debug!(policy = %self.name, peer = facts.peer, "refused");
        Err(ErrorKind::Denied.into())
    }
}
