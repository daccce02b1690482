//! `selvedge check --explain`: which policies are in force for each rule, in the order in which a
//! request meets them, and where each of them is named.

use std::fmt::Write;

use selvedge_contract::config::{Config, OneOrMany, Policy, Route, Rule};
use serde_json::Value;

/// Kinds in the order of the checks (docs/policies.md). A limit by who calls is a kind of its own.
const ORDER: [&str; 28] = [
    "security",
    "errorPages",
    "version",
    "cors",
    "csrf",
    "address",
    "rateLimit",
    "concurrency",
    "bandwidth",
    "oidc",
    "clientCertificate",
    "jwt",
    "introspection",
    "apiKey",
    "basic",
    "signature",
    "anyOf",
    "rateLimit by who calls",
    "concurrency by who calls",
    "bandwidth by who calls",
    "deny",
    "allow",
    "extAuthz",
    "headers",
    "transform",
    "cache",
    "aggregate",
    "compression",
];

/// What a policy does: its one key.
fn kind(policy: &Policy) -> String {
    let who = |key: &Option<OneOrMany>| {
        let keys = match key {
            None => Vec::new(),
            Some(OneOrMany::One(key)) => vec![key.as_str()],
            Some(OneOrMany::Many(keys)) => keys.iter().map(String::as_str).collect(),
        };
        keys.iter()
            .any(|key| *key == "apiKey" || key.starts_with("jwt."))
    };
    let limit = policy.rate_limit.as_ref();
    if limit.is_some_and(|limit| !limit.plans.is_empty() || who(&limit.key)) {
        return "rateLimit by who calls".to_owned();
    }
    let crowd = policy.concurrency.as_ref();
    if crowd.is_some_and(|crowd| !crowd.plans.is_empty() || who(&crowd.key)) {
        return "concurrency by who calls".to_owned();
    }
    let pace = policy.bandwidth.as_ref();
    if pace.is_some_and(|pace| who(&pace.key)) {
        return "bandwidth by who calls".to_owned();
    }
    let value = serde_json::to_value(policy).unwrap_or_default();
    let keys = value.as_object().into_iter().flatten();
    let mut set = keys.filter(|(_, value)| **value != Value::Null);
    set.next().map(|(key, _)| key.clone()).unwrap_or_default()
}

/// A policy: its kind, its name, and where it is named.
type InForce<'c> = (String, &'c str, &'static str);

/// The policies of one rule at one listener: kind, name, and where it is named.
fn in_force<'c>(
    config: &'c Config,
    listener: &'c [String],
    route: &'c Route,
    rule: &'c Rule,
) -> Vec<InForce<'c>> {
    let service = rule.backend_refs.first();
    let service = service.and_then(|backend| config.services.get(&backend.service));
    named(
        config,
        &[
            (
                "service",
                service.map_or(&[][..], |service| &service.policies),
            ),
            ("rule", &rule.policies[..]),
            ("route", &route.policies),
            ("listener", listener),
        ],
    )
}

/// The policies of these lists, the nearest first, in the order in which a request meets them.
fn named<'c>(config: &'c Config, lists: &[(&'static str, &'c [String])]) -> Vec<InForce<'c>> {
    let mut found: Vec<InForce<'c>> = Vec::new();
    for (place, names) in lists {
        let nearer: Vec<String> = found.iter().map(|(kind, ..)| kind.clone()).collect();
        for name in *names {
            let kind = config.policies.get(name).map(kind).unwrap_or_default();
            if !nearer.contains(&kind) {
                found.push((kind, name, place));
            }
        }
    }
    let place = |kind: &str| ORDER.iter().position(|k| *k == kind);
    found.sort_by_key(|(kind, ..)| place(kind));
    found
}

/// One paragraph for each rule at each listener it is attached to, for each service that a sidecar's
/// application may call by its name, and for each port behind which an application is.
pub(super) fn explain(config: &Config) -> String {
    let mut out = String::new();
    for listener in config.listeners.iter().filter(|l| l.protocol.is_http()) {
        routes(config, &listener.name, &listener.policies, &mut out);
    }
    if config.outbound.is_some() {
        routes(config, "outbound", &[], &mut out);
        for (name, service) in &config.services {
            let _ = writeln!(out, "outbound/{name} at outbound");
            list(named(config, &[("service", &service.policies)]), &mut out);
        }
    }
    for inbound in &config.inbound {
        let _ = writeln!(out, "inbound-{}", inbound.port);
        list(named(config, &[("port", &inbound.policies)]), &mut out);
    }
    out
}

fn routes(config: &Config, listener: &str, policies: &[String], out: &mut String) {
    for (index, route) in config.routes.iter().enumerate() {
        let parents = &route.parent_refs;
        if !parents.is_empty() && !parents.iter().any(|p| p.name == listener) {
            continue;
        }
        let name = route
            .name
            .clone()
            .unwrap_or_else(|| format!("route-{index}"));
        for (nth, rule) in route.rules.iter().enumerate() {
            let part = rule.name.clone().unwrap_or_else(|| nth.to_string());
            let _ = writeln!(out, "{name}/{part} at {listener}");
            list(in_force(config, policies, route, rule), out);
        }
    }
}

fn list(policies: Vec<InForce<'_>>, out: &mut String) {
    if policies.is_empty() {
        out.push_str("    no policies\n");
    }
    for (kind, policy, place) in policies {
        let _ = writeln!(out, "    {kind:24}{policy:24}{place}");
    }
}
