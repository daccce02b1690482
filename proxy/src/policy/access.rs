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
        let holds = |facts: &Facts<'_>| {
            // Who is of another trust domain is let in by its name only, not as anybody.
            let strangers = downstream.federated && self.sense == Sense::Allow;
            let conditions = self.conditions.iter();
            let mut conditions = conditions.filter(|c| !strangers || !c.principals.is_empty());
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
        if fits == (self.sense == Sense::Allow) {
            return Ok(());
        }
        tracing::debug!(policy = %self.name, peer = facts.peer, "refused");
        Err(ErrorKind::Denied.into())
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
