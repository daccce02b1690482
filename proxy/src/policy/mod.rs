//! Stage 6, policy: whether a request may pass. The answer is a [`Permit`], and without one
//! nothing can be sent.

pub mod access;
pub mod any_of;
pub mod api_key;
pub mod bandwidth;
pub mod basic;
pub mod brought;
pub mod by;
pub mod client;
pub mod client_certificate;
pub mod concurrency;
pub mod cors;
pub mod deadline;
pub mod decisions;
pub mod document;
pub mod ext_authz;
pub mod fault;
pub mod flights;
pub mod forwarded;
pub mod guard;
pub mod introspection;
pub mod jwt;
pub mod keys;
pub mod limit;
pub mod manners;
pub mod notes;
pub mod oidc;
pub mod opaque;
pub mod retry;
pub mod shared;
pub mod signature;
pub mod transform;
pub mod treatment;

use std::rc::Rc;
use std::sync::Arc;

use selvedge_gateway::apikey::Consumer;
use selvedge_gateway::jwt::Verified;

use crate::accept::{Downstream, ListenerPlan, ListenerRole};
use crate::balance::{Class, Service};
use crate::error::ErrorKind;
use crate::message::{Fields, Known, RequestHead};
use crate::route::Rule;
use crate::route::aggregate::Call;
use crate::route::mirror::Mirror;

use ext_authz::ExtAuthz;
use guard::{Guard, Headers, Notes, Seen, Stop};

/// Proof that policy let a request through to a rule's backends. Made by [`permit`] for what clients
/// ask, and by [`opaque`] for bytes that are no requests.
#[derive(Debug)]
pub struct Permit<'a> {
    rule: &'a Arc<Rule>,
    own: bool,
    class: Class,
}

impl<'a> Permit<'a> {
    /// The rule.
    #[must_use]
    pub const fn rule(&self) -> &'a Arc<Rule> {
        self.rule
    }

    /// How much the request matters.
    #[must_use]
    pub const fn class(&self) -> Class {
        self.class
    }

    /// What a body of it may have, where a client's may have this much: what this proxy has written
    /// itself is no client's.
    #[must_use]
    pub const fn body_limit(&self, of_clients: u64) -> u64 {
        if self.own { 0 } else { of_clients }
    }

    /// For the question whether another request may pass.
    #[must_use]
    pub const fn to_ask(policy: &ExtAuthz) -> Permit<'_> {
        Permit {
            rule: &policy.rule,
            own: true,
            class: Class::Interactive,
        }
    }

    /// For a copy of a request that had its own.
    #[must_use]
    pub const fn to_mirror(mirror: &Mirror) -> Permit<'_> {
        Permit {
            rule: &mirror.rule,
            own: true,
            class: Class::Batch,
        }
    }

    /// For a call that is part of this rule's answer.
    #[must_use]
    pub const fn part<'b>(&self, call: &'b Call) -> Permit<'b> {
        Permit {
            rule: &call.rule,
            own: false,
            class: self.class,
        }
    }

    /// For work on behalf of the same request that goes on when it has been answered.
    #[must_use]
    pub fn standing(&self) -> Standing {
        Standing {
            rule: self.rule.clone(),
            audited: None,
        }
    }
}

/// A permit that outlives its request, or is for bytes without one.
#[derive(Debug)]
pub struct Standing {
    rule: Arc<Rule>,
    /// The policy on trial that would have refused it.
    audited: Option<Arc<str>>,
}

impl Standing {
    /// The permit.
    #[must_use]
    pub const fn permit(&self) -> Permit<'_> {
        Permit {
            rule: &self.rule,
            own: false,
            class: Class::Interactive,
        }
    }

    /// The rule.
    #[must_use]
    pub const fn rule(&self) -> &Arc<Rule> {
        &self.rule
    }

    /// One of its services, by their shares.
    ///
    /// # Errors
    /// [`ErrorKind::NoBackend`].
    pub fn service(&self) -> Result<Arc<Service>, ErrorKind> {
        let backend = self.rule.backend(fastrand::u32(..));
        Ok(backend.ok_or(ErrorKind::NoBackend)?.service.clone())
    }

    /// The policy on trial that would have refused it.
    #[must_use]
    pub const fn audited(&self) -> Option<&Arc<str>> {
        self.audited.as_ref()
    }
}

/// Who calls, as far as guards have found out.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    /// The claims of its token.
    pub token: Option<Rc<Verified>>,
    /// Whose key it brought.
    pub consumer: Option<Consumer>,
    /// It has proven who it is, or tried to: by a token, a key, mutual TLS, or `Authorization`.
    pub authorized: bool,
}

impl Caller {
    /// What the connection and the head say.
    #[must_use]
    pub fn of(downstream: &Downstream, head: &RequestHead) -> Self {
        let tried = head.fields.known(Known::Authorization).is_some();
        Self {
            authorized: tried || downstream.peer_id().is_some() || downstream.client.is_some(),
            ..Self::default()
        }
    }
}

/// Proof that a request has passed the guards of its listener and its rule, with the edits of headers
/// that its listener asks for.
#[derive(Debug)]
pub struct Passed(Option<Arc<Headers>>);

/// The proof where there is nothing to pass, and the caller is no stranger.
#[must_use]
pub fn unguarded(rule: &Rule, plan: &ListenerPlan, downstream: &Downstream) -> Option<Passed> {
    let none = rule.guards.is_empty() && plan.guards.is_empty();
    (none && !downstream.federated).then_some(Passed(None))
}

/// Whether any policy says who is let in: without one, everybody of the own trust domain is, and nobody
/// of others.
fn names_callers(rule: &Rule, plan: &ListenerPlan) -> bool {
    let mut guards = rule.guards.iter().chain(&plan.guards);
    guards.any(|guard| matches!(guard, Guard::Allow(_)))
}

/// How a listener's policies mark what no rule takes: its pages and its headers are for all answers.
pub fn mark(plan: &ListenerPlan, notes: &mut Notes) {
    for guard in &plan.guards {
        match guard {
            Guard::Security(security) => notes.security = Some(security.clone()),
            Guard::Pages(pages) => notes.pages = Some(pages.clone()),
            _ => {}
        }
    }
}

/// Whether a request brings a login's code.
#[must_use]
pub fn is_callback(rule: &Rule, plan: &ListenerPlan, head: &RequestHead) -> bool {
    let path = head.target.path();
    let mut all = rule.guards.iter().chain(&plan.guards);
    all.any(|guard| guard.login().is_some_and(|oidc| oidc.callback == path))
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
) -> Result<Passed, Stop> {
    if seen.downstream.federated && !names_callers(rule, plan) {
        return Err(ErrorKind::Denied.into());
    }
    let own = |order: u8| {
        let headers = order == Guard::HEADERS && rule.headers;
        headers || rule.guards.iter().any(|g| g.order() == order)
    };
    let outer = plan.guards.iter().filter(|g| !own(g.order()));
    // Both lists are in order, and short: the listener's go first where that is the same.
    let mut outer = outer.peekable();
    let mut at = 0;
    let mut pass = |guard: &Guard| -> Result<(), Stop> {
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
    outer.try_for_each(pass)?;
    Ok(Passed(notes.headers.clone()))
}

/// Brings the head of a request that has passed its guards into the form in which it is sent.
pub fn permit<'a>(
    rule: &'a Arc<Rule>,
    Passed(headers): Passed,
    downstream: &Downstream,
    head: &mut RequestHead,
) -> Permit<'a> {
    forwarded::stamp(downstream, head);
    if let Some(headers) = headers {
        headers.request.apply(&mut head.fields);
    }
    rule.request_edits.apply(&mut head.fields);
    if let Some(path) = &rule.rewrite_path {
        head.target = head.target.with_path(&path.apply(head.target.path()));
    }
    if let Some(host) = &rule.rewrite_host
        && let Ok(host) = crate::message::Host::parse(host.clone().into())
    {
        head.host = host;
    }
    let class = rule.class.or_else(|| said(downstream, &head.fields));
    Permit {
        rule,
        own: false,
        class: class.unwrap_or_default(),
    }
}

/// How much a request matters by the word of who passes it on: a proxy of the mesh, or the own application.
/// Others have had it taken away.
fn said(downstream: &Downstream, fields: &Fields) -> Option<Class> {
    let believed =
        downstream.identity.is_some() || downstream.listener.role == ListenerRole::Outbound;
    let value = fields
        .known(Known::XSelvedgePriority)
        .filter(|_| believed)?;
    Class::read(value)
}
