//! Part of stage 6, policy: who may do what, and who may not.

use std::sync::Arc;

use selvedge_gateway::authorize::{Condition, Facts, Sense};
use selvedge_gateway::geo::Geo;

use crate::accept::Downstream;
use crate::error::{Error, ErrorKind};

use super::client;
use super::decisions::{Decision, Decisions};
use super::guard::{Notes, Seen, Stop};

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
    /// How often it has let in and kept out.
    pub decisions: Arc<Decisions>,
}

/// An `audit` policy: what its lists would refuse is counted, and passes.
#[derive(Debug)]
pub struct Audit {
    /// Name of the policy.
    pub name: Arc<str>,
    /// Its lists.
    pub lists: Vec<Access>,
    /// How often it would have kept out.
    pub decisions: Arc<Decisions>,
}

impl Audit {
    /// Looks at a request, and lets it pass.
    pub fn look(&self, seen: &Seen<'_>, notes: &mut Notes) {
        if self.lists.iter().all(|list| list.passes(seen)) {
            return self.decisions.count(Decision::Passed);
        }
        self.decisions.count(Decision::Audited);
        notes.audited.get_or_insert_with(|| self.name.clone());
    }

    /// The same of bytes that are no request. Whether it would have kept them out.
    #[must_use]
    pub fn looks_at_bytes(&self, downstream: &Downstream, peer: &str) -> bool {
        let mut lists = self.lists.iter();
        let passed = lists.all(|list| list.passes_bytes(downstream, peer));
        self.decisions.count(match passed {
            true => Decision::Passed,
            false => Decision::Audited,
        });
        !passed
    }
}

impl Access {
    /// Checks a request.
    ///
    /// # Errors
    /// [`ErrorKind::Denied`], with the policy's name.
    pub fn check(&self, seen: &Seen<'_>) -> Result<(), Stop> {
        if self.passes(seen) {
            self.decisions.count(Decision::Passed);
            return Ok(());
        }
        Err(Stop::Refused(self.refusal()))
    }

    /// Checks bytes that are no request.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn check_bytes(&self, downstream: &Downstream, peer: &str) -> Result<(), Error> {
        if self.passes_bytes(downstream, peer) {
            self.decisions.count(Decision::Passed);
            return Ok(());
        }
        Err(self.refusal())
    }

    fn refusal(&self) -> Error {
        self.decisions.count(Decision::Refused);
        Error::with(ErrorKind::Denied, format!("by policy `{}`", self.name))
    }

    fn passes_bytes(&self, downstream: &Downstream, peer: &str) -> bool {
        let mut conditions = self.about(downstream);
        let port = downstream.local_port;
        let holds = conditions.any(|c| c.holds_of_bytes(peer, port, self.sense));
        holds == (self.sense == Sense::Allow)
    }

    /// Conditions that may be about this caller: whoever is of another trust domain is let in by its name
    /// only, not as anybody.
    fn about(&self, downstream: &Downstream) -> impl Iterator<Item = &Condition> {
        let strangers = downstream.federated && self.sense == Sense::Allow;
        let conditions = self.conditions.iter();
        conditions.filter(move |condition| !strangers || condition.names_callers())
    }

    fn passes(&self, seen: &Seen<'_>) -> bool {
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
            port: downstream.local_port,
            claims: seen.token.as_ref().map(|token| &token.claims),
            consumer: seen.consumer.as_ref(),
            address: &address,
            country: &|| self.geo.as_ref()?.country(address()),
        };
        let holds = |facts: &Facts<'_>| {
            let mut conditions = self.about(downstream);
            conditions.any(|condition| condition.holds(facts, self.sense))
        };
        // A slash that is kept encoded (`%2F`) is one to many applications: whoever is kept out is kept
        // out of either path, and whoever is let in must be of both.
        let plain = with_slashes(&path);
        let other = plain.as_deref().map(|path| holds(&Facts { path, ..facts }));
        let fits = match (self.sense, other) {
            (_, None) => holds(&facts),
            (Sense::Allow, Some(other)) => other && holds(&facts),
            (Sense::Deny, Some(other)) => other || holds(&facts),
        };
        fits == (self.sense == Sense::Allow)
    }
}

/// A path with its encoded slashes as slashes, if it has any.
fn with_slashes(path: &str) -> Option<String> {
    let encoded = ["%2F", "%2f", "%5C", "%5c"];
    if !encoded.iter().any(|code| path.contains(code)) {
        return None;
    }
    let path = encoded
        .iter()
        .fold(path.to_owned(), |path, code| path.replace(code, "/"));
    let mut steps: Vec<&str> = Vec::new();
    for step in path.split('/') {
        match step {
            "" | "." => {}
            ".." => {
                steps.pop();
            }
            step => steps.push(step),
        }
    }
    Some(format!("/{}", steps.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_slashes_are_slashes() {
        assert_eq!(with_slashes("/a/b"), None);
        for (path, want) in [
            ("/secret%2f", "/secret"),
            ("/a%2F..%2fsecret", "/secret"),
            ("/a%5Cb", "/a/b"),
            ("/a%2F%2Fb/./c", "/a/b/c"),
        ] {
            assert_eq!(with_slashes(path).as_deref(), Some(want), "{path}");
        }
    }
}
