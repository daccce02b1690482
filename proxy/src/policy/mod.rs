//! Stage 6, policy: whether a request may pass. The answer is a [`Permit`], and without one
//! nothing can be sent.

pub mod api_key;
pub mod client;
pub mod cors;
pub mod document;
pub mod flights;
pub mod forwarded;
pub mod guard;
pub mod introspection;
pub mod jwt;
pub mod keys;
pub mod limit;
pub mod oidc;
pub mod retry;
pub mod shared;
pub mod treatment;

use std::sync::Arc;

use http::Method;

use crate::accept::{Downstream, ListenerPlan};
use crate::error::ErrorKind;
use crate::message::RequestHead;
use crate::route::Rule;
use crate::route::aggregate::Call;

use guard::{Guard, Notes, Seen, Stop};

/// Proof that policy let a request through to a rule's backends. Made only by [`check`].
#[derive(Debug)]
pub struct Permit<'a> {
    rule: &'a Arc<Rule>,
}

impl<'a> Permit<'a> {
    /// The rule.
    #[must_use]
    pub const fn rule(&self) -> &'a Arc<Rule> {
        self.rule
    }

    /// For a call that is part of this rule's answer.
    #[must_use]
    pub const fn part<'b>(&self, call: &'b Call) -> Permit<'b> {
        Permit { rule: &call.rule }
    }

    /// For work on behalf of the same request that goes on when it has been answered.
    #[must_use]
    pub fn standing(&self) -> Standing {
        Standing {
            rule: self.rule.clone(),
        }
    }
}

/// A permit that outlives its request.
#[derive(Debug)]
pub struct Standing {
    rule: Arc<Rule>,
}

impl Standing {
    /// The permit.
    #[must_use]
    pub const fn permit(&self) -> Permit<'_> {
        Permit { rule: &self.rule }
    }
}

/// One `allow` policy: any of its entries lets a request in.
#[derive(Debug, Clone)]
pub struct Access {
    /// Name of the policy, for the log.
    pub name: Arc<str>,
    /// Entries.
    pub entries: Vec<AllowEntry>,
}

/// What one entry asks for; an empty list asks for nothing.
#[derive(Debug, Clone, Default)]
pub struct AllowEntry {
    /// Peers.
    pub principals: Vec<Principal>,
    /// Methods.
    pub methods: Vec<Method>,
    /// Path prefixes by whole segments, without a final slash.
    pub paths: Vec<String>,
}

/// Peers by SPIFFE ID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// This one.
    Exact(String),
    /// Every one below this prefix, which ends in `/`.
    Below(String),
}

impl Access {
    fn lets_in(&self, peer: Option<&str>, head: &RequestHead) -> bool {
        self.entries.iter().any(|entry| entry.lets_in(peer, head))
    }
}

impl AllowEntry {
    fn lets_in(&self, peer: Option<&str>, head: &RequestHead) -> bool {
        let principal = self.principals.is_empty()
            || peer.is_some_and(|peer| {
                self.principals.iter().any(|p| match p {
                    Principal::Exact(id) => id == peer,
                    Principal::Below(prefix) => peer.starts_with(prefix.as_str()),
                })
            });
        let method = self.methods.is_empty() || self.methods.contains(&head.method);
        let path = self.paths.is_empty()
            || self.paths.iter().any(|prefix| {
                let rest = head.target.path().strip_prefix(prefix.as_str());
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', ';']))
            });
        principal && method && path
    }
}

/// Whether a rule lets a request in.
///
/// # Errors
/// [`ErrorKind::Denied`].
pub fn admit(rule: &Rule, downstream: &Downstream, head: &RequestHead) -> Result<(), ErrorKind> {
    let peer = downstream.peer_id();
    match rule.access.iter().find(|a| !a.lets_in(peer, head)) {
        None => Ok(()),
        Some(refused) => {
            tracing::debug!(policy = %refused.name, peer, "refused");
            Err(ErrorKind::Denied)
        }
    }
}

/// Passes a request by the guards of its listener and its rule; of a kind that both have, the
/// rule's. What they leave for the response is in `notes`, also where they stop the request. Called
/// again after [`Stop::Wait`], it goes on where it was.
///
/// # Errors
/// [`Stop`].
pub fn guard(
    rule: &Rule,
    plan: &ListenerPlan,
    seen: &mut Seen<'_>,
    notes: &mut Notes,
) -> Result<(), Stop> {
    let own = |order: u8| rule.guards.iter().any(|g| g.order() == order);
    let outer = plan.guards.iter().filter(|g| !own(g.order()));
    // Both lists are in order, and short: the listener's go first where that is the same.
    let mut outer = outer.peekable();
    let mut at = 0;
    let mut pass = |guard: &Guard| {
        if at >= seen.passed {
            guard.check(seen, notes)?;
            seen.passed += 1;
        }
        at += 1;
        Ok(())
    };
    for guard in &rule.guards {
        while let Some(first) = outer.next_if(|g| g.order() < guard.order()) {
            pass(first)?;
        }
        pass(guard)?;
    }
    outer.try_for_each(pass)
}

/// Checks a request against its rule, and brings its head into the form in which it is sent.
///
/// # Errors
/// [`ErrorKind::Denied`].
pub fn check<'a>(
    rule: &'a Arc<Rule>,
    downstream: &Downstream,
    head: &mut RequestHead,
) -> Result<Permit<'a>, ErrorKind> {
    admit(rule, downstream, head)?;
    forwarded::stamp(downstream, head);
    rule.request_edits.apply(&mut head.fields);
    if let Some(path) = &rule.rewrite_path {
        head.target = head.target.with_path(&path.apply(head.target.path()));
    }
    if let Some(host) = &rule.rewrite_host
        && let Ok(host) = crate::message::Host::parse(host.clone().into())
    {
        head.host = host;
    }
    Ok(Permit { rule })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::target::EncodedSlash;
    use crate::message::{Fields, Host, Target, Version};

    fn head(method: Method, path: &'static str) -> RequestHead {
        RequestHead {
            method,
            target: Target::parse(path.into(), EncodedSlash::Refuse).unwrap(),
            host: Host::default(),
            version: Version::Http11,
            fields: Fields::new(),
            upgrade: None,
        }
    }

    #[test]
    fn every_list_that_is_set_must_fit() {
        let entry = AllowEntry {
            principals: vec![
                Principal::Exact("spiffe://d/ns/a/sa/web".into()),
                Principal::Below("spiffe://d/ns/b/".into()),
            ],
            methods: vec![Method::GET],
            paths: vec!["/orders".into()],
        };
        let get = |path| head(Method::GET, path);
        let web = Some("spiffe://d/ns/a/sa/web");
        assert!(entry.lets_in(web, &get("/orders/1")));
        assert!(entry.lets_in(Some("spiffe://d/ns/b/sa/x"), &get("/orders")));
        assert!(!entry.lets_in(web, &get("/ordersx")));
        assert!(!entry.lets_in(web, &head(Method::POST, "/orders")));
        assert!(!entry.lets_in(Some("spiffe://d/ns/a/sa/web2"), &get("/orders")));
        assert!(!entry.lets_in(None, &get("/orders")));
        assert!(AllowEntry::default().lets_in(None, &get("/")));
    }
}
