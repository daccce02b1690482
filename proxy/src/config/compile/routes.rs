//! Routes of the configuration: each rule compiled once, each of its matches put into the table
//! of every listener it is attached to.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use selvedge_contract::config::{Filter, Priority, Route, Rule as RuleSpec};
use selvedge_contract::defaults::{Limits, upstream as defaults};
use selvedge_gateway::hostname::Pattern;
use selvedge_gateway::limit::Fingerprint;
use selvedge_gateway::redirect::Redirect;
use selvedge_gateway::rewrite::PathEdit;

use crate::balance::Class;
use crate::route::table::Path;
use crate::route::{Backend, Edits, Matcher, RetryPolicy, Rule, Table};

use super::policies::Policies;
use super::services::Services;
use super::{At, Compiler, Pass};

/// Weights of Gateway API.
pub(super) const MAX_WEIGHT: u32 = 1_000_000;

/// A rule with everything the tables need to know.
pub(super) struct CompiledRule {
    pub(super) hosts: Vec<Pattern>,
    pub(super) parents: Vec<String>,
    pub(super) matches: Vec<(Path, Matcher, At)>,
    pub(super) rule: Arc<Rule>,
}

/// What the rules of a route have in common.
struct Around<'a> {
    services: &'a Services,
    limits: &'a Limits,
    policies: Policies,
    /// The route.
    route: &'a Route,
}

impl Compiler {
    /// Every rule of every route.
    pub(super) fn rules(
        &mut self,
        pass: &mut Pass<'_>,
        services: &Services,
        limits: &Limits,
    ) -> Vec<CompiledRule> {
        let mut rules = Vec::new();
        for (index, route) in pass.config.routes.iter().enumerate() {
            let at = At::key("routes").nth(index);
            let name = route
                .name
                .clone()
                .unwrap_or_else(|| format!("route-{index}"));
            let hosts = pass.hosts(&at, route);
            if route.rules.is_empty() {
                pass.error(&at, "a route without rules does nothing", "add `rules`");
            }
            let policies = pass.policies(&at.then("policies"), &route.policies);
            let around = Around {
                services,
                limits,
                policies,
                route,
            };
            let first = rules.len();
            for (nth, spec) in route.rules.iter().enumerate() {
                let at = at.then("rules").nth(nth);
                let part = spec.name.clone().unwrap_or_else(|| nth.to_string());
                let name = format!("{name}/{part}");
                let matches = pass.matches(&at, spec);
                let rule = self.rule(pass, &at, &name, spec, &around);
                rules.push(CompiledRule {
                    hosts: hosts.clone(),
                    parents: route.parent_refs.iter().map(|p| p.name.clone()).collect(),
                    matches,
                    rule: Arc::new(rule),
                });
            }
            pass.check_callbacks(&at, rules.get(first..).unwrap_or_default());
        }
        rules
    }

    fn rule(
        &mut self,
        pass: &mut Pass<'_>,
        at: &At,
        name: &str,
        spec: &RuleSpec,
        around: &Around<'_>,
    ) -> Rule {
        let Policies {
            mut request_edits,
            mut response_edits,
            guards,
            treatment,
            headers,
        } = pass
            .service_policies(at, spec, around.services)
            .within(&pass.policies(&at.then("policies"), &spec.policies))
            .within(&around.policies);
        let Filtered {
            redirect,
            rewrite_host,
            rewrite_path,
        } = pass.filters(at, spec, &mut request_edits, &mut response_edits);
        if redirect.is_some() && spec.filters.iter().any(is_mirror) {
            let remedy = "remove `requestMirror` or the redirect";
            pass.error(
                at,
                "what is redirected goes nowhere, nor do copies of it",
                remedy,
            );
        }
        if redirect.is_some() && !spec.backend_refs.is_empty() {
            pass.error(
                at,
                "a rule redirects or forwards, not both",
                "remove `backendRefs` or the redirect",
            );
        }
        let backends = self.backends(pass, at, name, spec, around.services);
        let aggregate = match &spec.aggregate {
            None => None,
            Some(_) if !spec.backend_refs.is_empty() || redirect.is_some() => {
                let remedy = "remove `backendRefs`, the redirect or `aggregate`";
                pass.error(at, "a rule forwards, redirects or aggregates", remedy);
                None
            }
            Some(spec) => {
                let at = at.then("aggregate");
                self.aggregate(pass, &at, name, spec, around.services)
            }
        };
        let mirrors = self.mirrors(pass, at, name, spec, around.services);
        let timeouts = spec.timeouts.clone().unwrap_or_default();
        Rule {
            name: self.name(name),
            tag: tag(pass, spec, around).into(),
            guards,
            treatment,
            headers,
            request_edits,
            response_edits,
            redirect,
            rewrite_host,
            rewrite_path,
            aggregate,
            backends,
            mirrors,
            request_timeout: timeouts.request.map_or(around.limits.request, |d| d.0),
            try_timeout: timeouts.backend_request.map_or(Duration::ZERO, |d| d.0),
            retry: pass.retry(&at.then("retry"), spec.retry.as_ref()),
            class: spec.priority.map(class),
            metrics: self.metrics.route(name, ""),
        }
    }

    fn backends(
        &mut self,
        pass: &mut Pass<'_>,
        at: &At,
        name: &str,
        spec: &RuleSpec,
        services: &Services,
    ) -> Vec<Backend> {
        let mut backends = Vec::new();
        let mut cumulated: u32 = 0;
        for (index, reference) in spec.backend_refs.iter().enumerate() {
            let at = at.then("backendRefs").nth(index);
            if reference.weight > MAX_WEIGHT {
                let remedy = format!("expected 0 to {MAX_WEIGHT}");
                pass.error(
                    &at.then("weight"),
                    format!("{} is out of range", reference.weight),
                    remedy,
                );
            }
            let mut edits = (Edits::default(), Edits::default());
            for (nth, filter) in reference.filters.iter().enumerate() {
                let at = at.then("filters").nth(nth);
                match filter {
                    Filter::RequestHeaderModifier {
                        request_header_modifier: spec,
                    } => {
                        pass.edits(&at.then("requestHeaderModifier"), spec, &mut edits.0);
                    }
                    Filter::ResponseHeaderModifier {
                        response_header_modifier: spec,
                    } => {
                        pass.edits(&at.then("responseHeaderModifier"), spec, &mut edits.1);
                    }
                    Filter::RequestRedirect { .. }
                    | Filter::UrlRewrite { .. }
                    | Filter::RequestMirror { .. } => {
                        pass.error(
                            &at,
                            "not possible for one backend",
                            "move this filter to the rule",
                        );
                    }
                }
            }
            let Some((_, service)) = services.get(&reference.service) else {
                // One that exists but has errors was reported where it stands.
                if !pass.config.services.contains_key(&reference.service) {
                    let known = pass.config.services.keys().map(String::as_str);
                    pass.dangling(&at.then("service"), "service", &reference.service, known);
                }
                continue;
            };
            cumulated = cumulated.saturating_add(reference.weight);
            backends.push(Backend {
                service: service.clone(),
                cumulated,
                request_edits: edits.0,
                response_edits: edits.1,
                metrics: self.metrics.route(name, &reference.service),
            });
        }
        backends
    }
}

/// What a rule is made of: its own text, its route's hosts, the policies and services that it names.
/// What was cached for it is for nothing else.
fn tag(pass: &Pass<'_>, spec: &RuleSpec, around: &Around<'_>) -> String {
    let mut hash = Fingerprint::default();
    let mut give = |text: serde_json::Result<Vec<u8>>| hash.give(&text.unwrap_or_default());
    give(serde_json::to_vec(spec));
    give(serde_json::to_vec(&around.route.hostnames));
    for name in spec.policies.iter().chain(&around.route.policies) {
        give_policy(pass, name, &mut give);
    }
    let calls = spec.aggregate.iter().flat_map(|a| a.calls.values());
    let services = calls.map(|call| &call.service);
    for name in services.chain(spec.backend_refs.iter().map(|b| &b.service)) {
        let service = pass.config.services.get(name);
        give(serde_json::to_vec(&service));
        for policy in service.iter().flat_map(|service| &service.policies) {
            give_policy(pass, policy, &mut give);
        }
    }
    hash.finish()
}

/// Text of what something is made of.
type Text = serde_json::Result<Vec<u8>>;

/// A policy, and the ways that it names.
fn give_policy(pass: &Pass<'_>, name: &str, give: &mut dyn FnMut(Text)) {
    let policy = pass.config.policies.get(name);
    give(serde_json::to_vec(&policy));
    for way in policy
        .iter()
        .filter_map(|policy| policy.any_of.as_ref())
        .flatten()
    {
        give(serde_json::to_vec(&pass.config.policies.get(way)));
    }
}

/// The same for a rule that is nothing but a service, or an application behind an inbound port.
pub(super) fn simple_tag(
    pass: &Pass<'_>,
    name: &str,
    service: Text,
    policies: &[String],
) -> String {
    let mut hash = Fingerprint::default();
    let mut give = |text: Text| hash.give(&text.unwrap_or_default());
    give(serde_json::to_vec(name));
    give(service);
    for name in policies {
        give_policy(pass, name, &mut give);
    }
    hash.finish()
}

/// What the filters of a rule come to, beside edits of headers.
#[derive(Default)]
struct Filtered {
    redirect: Option<Redirect>,
    rewrite_host: Option<String>,
    rewrite_path: Option<PathEdit>,
}

impl Pass<'_> {
    /// The policies of the services that a rule forwards to. Which of several a request goes to is
    /// known only when it has passed, so all must have the same.
    fn service_policies(&mut self, at: &At, spec: &RuleSpec, services: &Services) -> Policies {
        let mut lists = Vec::new();
        for (index, reference) in spec.backend_refs.iter().enumerate() {
            if let Some((service, _)) = services.get(&reference.service) {
                lists.push((index, &reference.service, &service.policies));
            }
        }
        let Some((_, first, names)) = lists.first() else {
            return Policies::default();
        };
        for (index, other, others) in &lists {
            if others != names {
                let message = format!("`{first}` and `{other}` have other policies");
                let remedy = "name the same policies at both, or name them at the rule";
                self.error(&at.then("backendRefs").nth(*index), message, remedy);
            }
        }
        self.known_policies(names)
    }

    fn filters(
        &mut self,
        at: &At,
        spec: &RuleSpec,
        request_edits: &mut Edits,
        response_edits: &mut Edits,
    ) -> Filtered {
        let mut filtered = Filtered::default();
        for (index, filter) in spec.filters.iter().enumerate() {
            let at = at.then("filters").nth(index);
            match filter {
                Filter::RequestHeaderModifier {
                    request_header_modifier: edits,
                } => {
                    self.edits(&at.then("requestHeaderModifier"), edits, request_edits);
                }
                Filter::ResponseHeaderModifier {
                    response_header_modifier: edits,
                } => {
                    self.edits(&at.then("responseHeaderModifier"), edits, response_edits);
                }
                // They need services, see `mirrors.rs`.
                Filter::RequestMirror { .. } => {}
                Filter::RequestRedirect { request_redirect } => {
                    filtered.redirect =
                        self.redirect(&at.then("requestRedirect"), request_redirect, spec);
                }
                Filter::UrlRewrite { url_rewrite } => {
                    let at = at.then("urlRewrite");
                    if let Some(host) = &url_rewrite.hostname {
                        let _: Option<Pattern> = self.parse(&at.then("hostname"), host);
                        filtered.rewrite_host = Some(host.to_ascii_lowercase());
                    }
                    if let Some(path) = &url_rewrite.path {
                        filtered.rewrite_path = self.path_edit(&at.then("path"), path, spec);
                    }
                }
            }
        }
        filtered
    }
}

const fn class(priority: Priority) -> Class {
    match priority {
        Priority::Health => Class::Health,
        Priority::Interactive => Class::Interactive,
        Priority::Batch => Class::Batch,
    }
}

/// The retries that a rule without `retry` has.
pub(super) const fn default_retry() -> RetryPolicy {
    RetryPolicy {
        attempts: defaults::ATTEMPTS,
        codes: Vec::new(),
        grpc: 0,
        backoff: defaults::BACKOFF,
        backoff_max: defaults::BACKOFF_MAX,
        hedge: Duration::ZERO,
    }
}

/// Puts rules into a listener's table, by Gateway API's rule for hosts: a route takes part with
/// what its hosts and the listener's have in common. Warns of rules that can never match.
pub(super) fn fill(
    pass: &mut Pass<'_>,
    table: &mut Table,
    listener: &str,
    own: Option<&Pattern>,
    rules: &[CompiledRule],
) {
    let mut seen: HashSet<String> = HashSet::new();
    let attached = |rule: &&CompiledRule| {
        rule.parents.is_empty() || rule.parents.iter().any(|p| p == listener)
    };
    for compiled in rules.iter().filter(attached) {
        let hosts: Vec<Option<Pattern>> = match (own, compiled.hosts.as_slice()) {
            (own, []) => vec![own.cloned()],
            (None, hosts) => hosts.iter().cloned().map(Some).collect(),
            (Some(own), hosts) => hosts
                .iter()
                .filter_map(|h| h.intersect(own))
                .map(Some)
                .collect(),
        };
        for (path, matcher, at) in &compiled.matches {
            let mut shadowed = !hosts.is_empty();
            for host in &hosts {
                let key = format!("{host:?} {path:?} {matcher:?}");
                shadowed &= !seen.insert(key);
                table.add(host.as_ref(), path, matcher.clone(), &compiled.rule);
            }
            if shadowed {
                let remedy = "an earlier rule has the same match and wins; remove one of them";
                pass.warning(at, "this match is never reached", remedy);
            }
        }
    }
}

const fn is_mirror(filter: &Filter) -> bool {
    matches!(filter, Filter::RequestMirror { .. })
}
