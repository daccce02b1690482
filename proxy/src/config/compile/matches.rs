//! The parts of a rule: hosts, matches, redirects, path edits, retries, each checked where it stands.

use std::time::Duration;

use regex::{Regex, RegexBuilder};
use selvedge_contract::config::{
    Match, MatchType, PathMatch, PathMatchSpec, PathMatchType, PathModifier, PathModifierType,
    Redirect as RedirectSpec, RetrySpec, Route, Rule as RuleSpec,
};
use selvedge_contract::defaults::upstream as defaults;
use selvedge_gateway::hostname::Pattern;
use selvedge_gateway::redirect::Redirect;
use selvedge_gateway::rewrite::PathEdit;

use crate::route::matcher::Value;
use crate::route::table::Path;
use crate::route::{Matcher, RetryPolicy};

use super::routes::default_retry;
use super::{At, Pass};

/// Compiled size of one user pattern, in bytes: bounds memory and time of matching.
const REGEX_LIMIT: usize = 1 << 20;

impl Pass<'_> {
    pub(super) fn hosts(&mut self, at: &At, route: &Route) -> Vec<Pattern> {
        let mut hosts = Vec::new();
        for (index, text) in route.hostnames.iter().enumerate() {
            hosts.extend(self.parse::<Pattern>(&at.then("hostnames").nth(index), text));
        }
        hosts
    }

    pub(super) fn matches(&mut self, at: &At, spec: &RuleSpec) -> Vec<(Path, Matcher, At)> {
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

    pub(super) fn redirect(
        &mut self,
        at: &At,
        spec: &RedirectSpec,
        rule: &RuleSpec,
    ) -> Option<Redirect> {
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

    pub(super) fn path_edit(
        &mut self,
        at: &At,
        spec: &PathModifier,
        rule: &RuleSpec,
    ) -> Option<PathEdit> {
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

    pub(super) fn retry(&mut self, at: &At, spec: Option<&RetrySpec>) -> RetryPolicy {
        let Some(retry) = spec else {
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
            grpc: retry
                .grpc
                .iter()
                .fold(0, |all, code| all | 1 << code.number()),
            backoff,
            backoff_max: defaults::BACKOFF_MAX.max(backoff * 10),
            hedge: retry.hedge.map_or(Duration::ZERO, |d| d.0),
        }
    }
}
