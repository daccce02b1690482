//! Routes of the configuration: each rule compiled once, each of its matches put into the table
//! of every listener it is attached to.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use regex::{Regex, RegexBuilder};
use selvedge_contract::config::{
    Filter, Match, MatchType, PathMatch, PathMatchSpec, PathMatchType, PathModifier,
    PathModifierType, Redirect as RedirectSpec, Route, Rule as RuleSpec,
};
use selvedge_contract::defaults::{Limits, upstream as defaults};
use selvedge_gateway::hostname::Pattern;
use selvedge_gateway::redirect::Redirect;
use selvedge_gateway::rewrite::PathEdit;

use crate::route::matcher::Value;
use crate::route::table::Path;
use crate::route::{Backend, Edits, Matcher, RetryPolicy, Rule, Table};

use super::policies::Policies;
use super::services::Services;
use super::{At, Compiler, Pass};

/// Compiled size of one user pattern, in bytes: bounds memory and time of matching.
const REGEX_LIMIT: usize = 1 << 20;
/// Weights of Gateway API.
const MAX_WEIGHT: u32 = 1_000_000;

/// A rule with everything the tables need to know.
pub(super) struct CompiledRule {
    pub(super) hosts: Vec<Pattern>,
    pub(super) parents: Vec<String>,
    pub(super) matches: Vec<(Path, Matcher, At)>,
    pub(super) rule: Arc<Rule>,
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
            for (nth, spec) in route.rules.iter().enumerate() {
                let at = at.then("rules").nth(nth);
                let part = spec.name.clone().unwrap_or_else(|| nth.to_string());
                let name = format!("{name}/{part}");
                let matches = pass.matches(&at, spec);
                let rule = self.rule(pass, &at, &name, spec, services, limits);
                rules.push(CompiledRule {
                    hosts: hosts.clone(),
                    parents: route.parent_refs.iter().map(|p| p.name.clone()).collect(),
                    matches,
                    rule: Arc::new(rule),
                });
            }
        }
        rules
    }

    fn rule(
        &mut self,
        pass: &mut Pass<'_>,
        at: &At,
        name: &str,
        spec: &RuleSpec,
        services: &Services,
        limits: &Limits,
    ) -> Rule {
        let Policies {
            access,
            mut request_edits,
            mut response_edits,
        } = pass.policies(&at.then("policies"), &spec.policies);
        let mut redirect = None;
        let mut rewrite = (None, None);
        for (index, filter) in spec.filters.iter().enumerate() {
            let at = at.then("filters").nth(index);
            match filter {
                Filter::RequestHeaderModifier {
                    request_header_modifier: edits,
                } => {
                    pass.edits(&at.then("requestHeaderModifier"), edits, &mut request_edits);
                }
                Filter::ResponseHeaderModifier {
                    response_header_modifier: edits,
                } => {
                    pass.edits(
                        &at.then("responseHeaderModifier"),
                        edits,
                        &mut response_edits,
                    );
                }
                Filter::RequestRedirect { request_redirect } => {
                    redirect = pass.redirect(&at.then("requestRedirect"), request_redirect, spec);
                }
                Filter::UrlRewrite { url_rewrite } => {
                    let at = at.then("urlRewrite");
                    if let Some(host) = &url_rewrite.hostname {
                        let _: Option<Pattern> = pass.parse(&at.then("hostname"), host);
                        rewrite.0 = Some(host.to_ascii_lowercase());
                    }
                    if let Some(path) = &url_rewrite.path {
                        rewrite.1 = pass.path_edit(&at.then("path"), path, spec);
                    }
                }
            }
        }
        if redirect.is_some() && !spec.backend_refs.is_empty() {
            pass.error(
                at,
                "a rule redirects or forwards, not both",
                "remove `backendRefs` or the redirect",
            );
        }
        let backends = self.backends(pass, at, name, spec, services);
        let timeouts = spec.timeouts.clone().unwrap_or_default();
        Rule {
            name: self.name(name),
            access,
            request_edits,
            response_edits,
            redirect,
            rewrite_host: rewrite.0,
            rewrite_path: rewrite.1,
            backends,
            request_timeout: timeouts.request.map_or(limits.request, |d| d.0),
            try_timeout: timeouts.backend_request.map_or(Duration::ZERO, |d| d.0),
            retry: pass.retry(&at.then("retry"), spec),
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
                    Filter::RequestRedirect { .. } | Filter::UrlRewrite { .. } => {
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

/// The retries that a rule without `retry` has.
pub(super) const fn default_retry() -> RetryPolicy {
    RetryPolicy {
        attempts: defaults::ATTEMPTS,
        codes: Vec::new(),
        backoff: defaults::BACKOFF,
        backoff_max: defaults::BACKOFF_MAX,
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

impl Pass<'_> {
    fn hosts(&mut self, at: &At, route: &Route) -> Vec<Pattern> {
        let mut hosts = Vec::new();
        for (index, text) in route.hostnames.iter().enumerate() {
            hosts.extend(self.parse::<Pattern>(&at.then("hostnames").nth(index), text));
        }
        hosts
    }

    fn matches(&mut self, at: &At, spec: &RuleSpec) -> Vec<(Path, Matcher, At)> {
        if spec.matches.is_empty() {
            return vec![(Path::Prefix(String::new()), Matcher::default(), at.clone())];
        }
        let mut matches = Vec::new();
        for (index, one) in spec.matches.iter().enumerate() {
            let at = at.then("matches").nth(index);
            let path = self.path(&at.then("path"), one);
            let matcher = self.matcher(&at, one);
            matches.extend(path.map(|path| (path, matcher, at)));
        }
        matches
    }

    fn path(&mut self, at: &At, one: &Match) -> Option<Path> {
        let full = match &one.path {
            None => return Some(Path::Prefix(String::new())),
            Some(PathMatch::Prefix(value)) => PathMatchSpec {
                kind: PathMatchType::PathPrefix,
                value: value.clone(),
            },
            Some(PathMatch::Full(spec)) => spec.clone(),
        };
        if full.kind == PathMatchType::RegularExpression {
            return self
                .regex(at, &full.value)
                .map(|r| Path::Regex(Box::new(r)));
        }
        let value = full.value;
        let odd = value.contains("//") || value.contains("/./") || value.contains("/../");
        if !value.starts_with('/')
            || odd
            || value.contains(['?', '#', ';'])
            || value.contains("%2f")
        {
            let remedy = "expected a path in normal form: it begins with `/`, and has no `//`, `.`, `..`, `?`, `#` or `;`";
            self.error(at, format!("`{value}` is not a path"), remedy);
            return None;
        }
        Some(match full.kind {
            PathMatchType::Exact => Path::Exact(value),
            _ => Path::Prefix(value.trim_end_matches('/').to_owned()),
        })
    }

    fn regex(&mut self, at: &At, text: &str) -> Option<Regex> {
        let whole = format!("^(?:{text})$");
        match RegexBuilder::new(&whole)
            .size_limit(REGEX_LIMIT)
            .dfa_size_limit(REGEX_LIMIT)
            .build()
        {
            Ok(regex) => Some(regex),
            Err(error) => {
                let error = error.to_string();
                let why = error.lines().last().unwrap_or_default();
                let remedy = "expected a regular expression in RE2 syntax";
                self.error(
                    at,
                    format!("`{text}` is not a regular expression: {why}"),
                    remedy,
                );
                None
            }
        }
    }

    fn matcher(&mut self, at: &At, one: &Match) -> Matcher {
        let mut matcher = Matcher::default();
        if let Some(text) = &one.method {
            matcher.method = self.method(&at.then("method"), text);
        }
        for (index, header) in one.headers.iter().enumerate() {
            let at = at.then("headers").nth(index).then("value");
            let value = self.value(&at, header.kind, &header.value);
            matcher
                .headers
                .extend(value.map(|v| (header.name.to_ascii_lowercase(), v)));
        }
        for (index, query) in one.query_params.iter().enumerate() {
            let at = at.then("queryParams").nth(index).then("value");
            let value = self.value(&at, query.kind, &query.value);
            matcher.query.extend(value.map(|v| (query.name.clone(), v)));
        }
        matcher
    }

    fn value(&mut self, at: &At, kind: MatchType, text: &str) -> Option<Value> {
        match kind {
            MatchType::Exact => Some(Value::Exact(text.to_owned())),
            MatchType::RegularExpression => self
                .regex(at, text)
                .map(|regex| Value::Regex(Box::new(regex))),
        }
    }

    fn redirect(&mut self, at: &At, spec: &RedirectSpec, rule: &RuleSpec) -> Option<Redirect> {
        let scheme = match spec.scheme.as_deref() {
            None => None,
            Some("http") => Some("http"),
            Some("https") => Some("https"),
            Some(other) => {
                self.error(
                    &at.then("scheme"),
                    format!("`{other}` is not a scheme"),
                    "expected `http` or `https`",
                );
                return None;
            }
        };
        let status = spec.status_code.unwrap_or(302);
        if !matches!(status, 301 | 302 | 303 | 307 | 308) {
            let remedy = "expected 301, 302, 303, 307 or 308";
            self.error(
                &at.then("statusCode"),
                format!("{status} is not a redirect"),
                remedy,
            );
        }
        if let Some(host) = &spec.hostname {
            let _: Option<Pattern> = self.parse(&at.then("hostname"), host);
        }
        let path = match &spec.path {
            Some(path) => self.path_edit(&at.then("path"), path, rule),
            None => None,
        };
        Some(Redirect {
            scheme,
            hostname: spec.hostname.clone(),
            port: spec.port,
            path,
            status,
        })
    }

    fn path_edit(&mut self, at: &At, spec: &PathModifier, rule: &RuleSpec) -> Option<PathEdit> {
        match (
            spec.kind,
            &spec.replace_full_path,
            &spec.replace_prefix_match,
        ) {
            (PathModifierType::ReplaceFullPath, Some(path), None) if path.starts_with('/') => {
                Some(PathEdit::Full(path.clone()))
            }
            (PathModifierType::ReplacePrefixMatch, None, Some(replacement)) => {
                let prefix = match rule.matches.as_slice() {
                    [] => Some("/".to_owned()),
                    [only] => match &only.path {
                        None => Some("/".to_owned()),
                        Some(PathMatch::Prefix(prefix)) => Some(prefix.clone()),
                        Some(PathMatch::Full(full)) if full.kind == PathMatchType::PathPrefix => {
                            Some(full.value.clone())
                        }
                        Some(PathMatch::Full(_)) => None,
                    },
                    _ => None,
                };
                let Some(prefix) = prefix else {
                    let remedy = "give the rule one match, of type `PathPrefix`";
                    self.error(at, "`ReplacePrefixMatch` needs a prefix to replace", remedy);
                    return None;
                };
                Some(PathEdit::Prefix {
                    prefix,
                    replacement: replacement.clone(),
                })
            }
            (kind, ..) => {
                let key = match kind {
                    PathModifierType::ReplaceFullPath => "replaceFullPath",
                    PathModifierType::ReplacePrefixMatch => "replacePrefixMatch",
                };
                self.error(
                    at,
                    "the path does not fit its `type`",
                    format!("set `{key}`, beginning with `/`, and nothing else"),
                );
                None
            }
        }
    }

    fn retry(&mut self, at: &At, spec: &RuleSpec) -> RetryPolicy {
        let Some(retry) = &spec.retry else {
            return default_retry();
        };
        for (index, code) in retry.codes.iter().enumerate() {
            if !(400..600).contains(code) {
                let remedy = "expected a status from 400 to 599";
                self.error(
                    &at.then("codes").nth(index),
                    format!("{code} cannot be retried"),
                    remedy,
                );
            }
        }
        let backoff = retry.backoff.map_or(defaults::BACKOFF, |d| d.0);
        RetryPolicy {
            attempts: retry.attempts.unwrap_or(defaults::ATTEMPTS).min(10),
            codes: retry.codes.clone(),
            backoff,
            backoff_max: defaults::BACKOFF_MAX.max(backoff * 10),
        }
    }
}
