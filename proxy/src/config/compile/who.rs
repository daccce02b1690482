//! Warnings of policies that look at who calls where nothing finds that out.

use std::collections::BTreeMap;

use crate::policy::access::Access;
use crate::policy::by::{By, Part};
use crate::policy::guard::Guard;

use super::routes::CompiledRule;
use super::{At, Pass};

/// What is known of a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Known {
    /// The claims of a token.
    Token,
    /// A name, and perhaps a plan.
    Consumer,
    /// A certificate of the client.
    Certificate,
}

/// Policies and what they look at, and whether any rule finds that out for them.
#[derive(Debug, Default)]
pub(super) struct Looks(BTreeMap<(String, Known), bool>);

impl Looks {
    /// Notes the rules of a listener, each with the listener's guards that it leaves in force.
    ///
    /// `shown` says whether its clients show certificates.
    pub(super) fn note(
        &mut self,
        listener: &str,
        shown: bool,
        outer: &[Guard],
        rules: &[CompiledRule],
    ) {
        let attached = |rule: &&CompiledRule| {
            rule.parents.is_empty() || rule.parents.iter().any(|p| p == listener)
        };
        for compiled in rules.iter().filter(attached) {
            let own = &compiled.rule.guards;
            let left = outer
                .iter()
                .filter(|guard| !own.iter().any(|g| g.order() == guard.order()));
            let guards: Vec<&Guard> = own.iter().chain(left).collect();
            for guard in &guards {
                for (name, wanted) in looks_at(guard) {
                    let found = match wanted {
                        Known::Certificate => shown,
                        _ => guards.iter().any(|guard| finds(guard, wanted)),
                    };
                    *self.0.entry((name.to_owned(), wanted)).or_default() |= found;
                }
            }
        }
    }
}

impl Pass<'_> {
    /// Warns of those that look in vain wherever they are named.
    pub(super) fn check_looks(&mut self, looks: &Looks) {
        for ((name, wanted), found) in &looks.0 {
            if *found {
                continue;
            }
            let (message, remedy) = match wanted {
                Known::Token => (
                    format!("`{name}` looks at a token, and nothing beside it reads one"),
                    "name an `oidc`, `jwt` or `introspection` policy at the same rules",
                ),
                Known::Certificate => (
                    format!(
                        "`{name}` asks for a certificate, and no listener that it is for takes one"
                    ),
                    "add `clientCertificates` to the `tls` of the listener",
                ),
                Known::Consumer => (
                    format!(
                        "`{name}` looks at a caller's name or plan, and nothing beside it finds one"
                    ),
                    "name an `apiKey`, `basic`, `clientCertificate` or `signature` policy at the same rules",
                ),
            };
            self.warning(&At::key("policies").then(name), message, remedy);
        }
    }
}

fn looks_at(guard: &Guard) -> Vec<(&str, Known)> {
    let (name, token, consumer) = match guard {
        Guard::Limit(limit) | Guard::IdentityLimit(limit) => {
            let (token, consumer) = counts_by(&limit.by);
            let planned = !limit.plans.is_empty();
            let by_claim = limit.plan.is_some();
            (
                &limit.name,
                token || by_claim,
                consumer || planned && !by_claim,
            )
        }
        Guard::Concurrency(policy) | Guard::IdentityConcurrency(policy) => {
            let (token, consumer) = counts_by(&policy.by);
            let planned = !policy.plans.is_empty();
            let by_claim = policy.plan.is_some();
            (
                &policy.name,
                token || by_claim,
                consumer || planned && !by_claim,
            )
        }
        Guard::Allow(access) | Guard::Deny(access) => {
            let (token, consumer) = asks_for(access);
            (&access.name, token, consumer)
        }
        Guard::Audit(audit) => {
            let asked: Vec<_> = audit.lists.iter().map(asks_for).collect();
            let any = |of: fn(&(bool, bool)) -> bool| asked.iter().any(of);
            (&audit.name, any(|asked| asked.0), any(|asked| asked.1))
        }
        Guard::ClientCertificate(policy) => return vec![(&policy.name, Known::Certificate)],
        Guard::AnyOf(several) => return several.ways.iter().flat_map(looks_at).collect(),
        _ => return Vec::new(),
    };
    let all = [(token, Known::Token), (consumer, Known::Consumer)];
    let wanted = all.into_iter().filter(|(wanted, _)| *wanted);
    wanted.map(|(_, known)| (&**name, known)).collect()
}

fn counts_by(by: &By) -> (bool, bool) {
    let token = by.0.iter().any(|part| matches!(part, Part::Claim(_)));
    (token, by.0.contains(&Part::ApiKey))
}

fn asks_for(access: &Access) -> (bool, bool) {
    let mut conditions = access.conditions.iter();
    let token = conditions
        .clone()
        .any(|c| !c.scopes.is_empty() || !c.roles.is_empty() || !c.claims.is_empty());
    (
        token,
        conditions.any(|c| !c.consumers.is_empty() || !c.plans.is_empty()),
    )
}

fn finds(guard: &Guard, wanted: Known) -> bool {
    match (guard, wanted) {
        (Guard::AnyOf(several), _) => several.ways.iter().any(|way| finds(way, wanted)),
        (Guard::Oidc(_) | Guard::Jwt(_) | Guard::Introspection(_), Known::Token) => true,
        (
            Guard::ApiKey(_) | Guard::Basic(_) | Guard::ClientCertificate(_) | Guard::Signature(_),
            Known::Consumer,
        ) => true,
        _ => false,
    }
}
