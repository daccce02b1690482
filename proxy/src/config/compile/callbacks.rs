//! Warnings of logins whose users could never come back.

use std::sync::Arc;

use crate::policy::guard::Guard;
use crate::policy::oidc::Oidc;
use crate::route::table::Path;

use super::routes::CompiledRule;
use super::{At, Pass};

impl Pass<'_> {
    /// Warns of rules whose users could never come back: nothing of their route that has the same
    /// policy takes the callback.
    pub(super) fn check_callbacks(&mut self, at: &At, rules: &[CompiledRule]) {
        let mut seen: Vec<Arc<Oidc>> = Vec::new();
        for policy in rules.iter().filter_map(|rule| oidc(&rule.rule.guards)) {
            if !seen.iter().any(|other| Arc::ptr_eq(other, policy)) {
                seen.push(policy.clone());
            }
        }
        for policy in seen {
            let same = |rule: &&CompiledRule| {
                oidc(&rule.rule.guards).is_some_and(|other| Arc::ptr_eq(other, &policy))
            };
            self.check_callback(at, &policy, rules.iter().filter(same));
        }
    }

    /// The same for the policy of a listener and the rules that leave it in force.
    pub(super) fn check_listener_callback(
        &mut self,
        at: &At,
        guards: &[Guard],
        rules: &[CompiledRule],
    ) {
        if let Some(policy) = oidc(guards) {
            let policy = policy.clone();
            let free = rules
                .iter()
                .filter(|rule| oidc(&rule.rule.guards).is_none());
            self.check_callback(at, &policy, free);
        }
    }

    fn check_callback<'r>(
        &mut self,
        at: &At,
        policy: &Oidc,
        rules: impl Iterator<Item = &'r CompiledRule>,
    ) {
        let mut matches = rules.flat_map(|rule| &rule.matches);
        let taken = matches.any(|(path, matcher, _)| {
            let method = matcher.method.as_ref();
            method.is_none_or(|m| *m == http::Method::GET) && takes(path, &policy.callback)
        });
        if !taken {
            let message = format!(
                "no rule under `{}` takes `{}`, where its users come back",
                policy.name, policy.callback
            );
            let remedy =
                "add a match for that path, or set the policy's `callback` to one that is taken";
            self.warning(at, message, remedy);
        }
    }
}

/// The login among guards.
fn oidc(guards: &[Guard]) -> Option<&Arc<Oidc>> {
    guards.iter().find_map(Guard::login)
}

/// Whether a match takes a path.
fn takes(path: &Path, wanted: &str) -> bool {
    match path {
        Path::Exact(path) => path == wanted,
        Path::Prefix(prefix) => wanted
            .strip_prefix(prefix.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        Path::Regex(regex) => regex.is_match(wanted),
    }
}
