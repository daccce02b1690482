//! `selvedge check --explain`: which policies are in force for each rule, in the order in which a
//! request meets them, and where each of them is named.

use std::fmt::Write;

use selvedge_contract::config::{Config, OneOrMany, Policy, Route, Rule};
use serde_json::Value;

/// Kinds in the order of the checks (docs/policies.md). A limit by who calls is a kind of its own.
const ORDER: [&str; 26] = [
    "security",
    "errorPages",
    "version",
    "cors",
    "csrf",
    "address",
    "rateLimit",
    "oidc",
    "clientCertificate",
    "jwt",
    "introspection",
    "apiKey",
    "basic",
    "signature",
    "anyOf",
    "rateLimit by who calls",
    "concurrency",
    "bandwidth",
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
    let by_who = policy.rate_limit.as_ref().is_some_and(|limit| {
        let keys = match &limit.key {
            None => Vec::new(),
            Some(OneOrMany::One(key)) => vec![key.as_str()],
            Some(OneOrMany::Many(keys)) => keys.iter().map(String::as_str).collect(),
        };
        let who = |key: &&str| *key == "apiKey" || key.starts_with("jwt.");
        !limit.plans.is_empty() || keys.iter().any(who)
    });
    if by_who {
        return "rateLimit by who calls".to_owned();
    }
    let value = serde_json::to_value(policy).unwrap_or_default();
    let keys = value.as_object().into_iter().flatten();
    let mut set = keys.filter(|(_, value)| **value != Value::Null);
    set.next().map(|(key, _)| key.clone()).unwrap_or_default()
}

/// The policies of one rule at one listener: kind, name, and where it is named.
fn in_force<'c>(
    config: &'c Config,
    listener: &'c [String],
    route: &'c Route,
    rule: &'c Rule,
) -> Vec<(String, &'c str, &'static str)> {
    let mut found: Vec<(String, &str, &'static str)> = Vec::new();
    let service = rule.backend_refs.first();
    let service = service.and_then(|backend| config.services.get(&backend.service));
    for (place, names) in [
        (
            "service",
            service.map_or(&[][..], |service| &service.policies),
        ),
        ("rule", &rule.policies[..]),
        ("route", &route.policies),
        ("listener", listener),
    ] {
        let nearer: Vec<String> = found.iter().map(|(kind, ..)| kind.clone()).collect();
        for name in names {
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

/// One paragraph for each rule at each listener it is attached to.
pub(super) fn explain(config: &Config) -> String {
    let mut out = String::new();
    for listener in &config.listeners {
        for (index, route) in config.routes.iter().enumerate() {
            let parents = &route.parent_refs;
            if !parents.is_empty() && !parents.iter().any(|p| p.name == listener.name) {
                continue;
            }
            let name = route
                .name
                .clone()
                .unwrap_or_else(|| format!("route-{index}"));
            for (nth, rule) in route.rules.iter().enumerate() {
                let part = rule.name.clone().unwrap_or_else(|| nth.to_string());
                let _ = writeln!(out, "{name}/{part} at {}", listener.name);
                let policies = in_force(config, &listener.policies, route, rule);
                if policies.is_empty() {
                    out.push_str("    no policies\n");
                }
                for (kind, policy, place) in policies {
                    let _ = writeln!(out, "    {kind:24}{policy:24}{place}");
                }
            }
        }
    }
    out
}
