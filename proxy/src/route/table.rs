//! The route table of a listener: host, then path, then the rest, by Gateway API's precedence.
//!
//! Lookup cost does not grow with the number of hosts, exact paths or prefixes: each is one hash
//! lookup, prefixes one for each segment of the request's path. Only regular expressions, which
//! have no order, are tried one by one.

use std::sync::Arc;

use regex::Regex;
use selvedge_gateway::hostname::Pattern;

use crate::message::RequestHead;
use crate::message::hash::Table as Quick;

use super::{Matcher, Rule};

/// How a path is matched.
#[derive(Debug, Clone)]
pub enum Path {
    /// The whole path.
    Exact(String),
    /// Whole segments; without a final slash, so `/` is empty.
    Prefix(String),
    /// The whole path, by regular expression.
    Regex(Box<Regex>),
}

/// One match with the rule it leads to.
#[derive(Debug, Clone)]
struct Candidate {
    matcher: Matcher,
    rule: Arc<Rule>,
}

#[derive(Debug, Default)]
struct HostTable {
    exact: Quick<String, Vec<Candidate>>,
    prefix: Quick<String, Vec<Candidate>>,
    regex: Vec<(Regex, Candidate)>,
}

/// The routes of one listener.
#[derive(Debug, Default)]
pub struct Table {
    hosts: Quick<String, HostTable>,
    /// By suffix with its leading dot.
    suffixes: Quick<String, HostTable>,
    any: HostTable,
}

impl Table {
    /// Adds a match. `host` of `None` takes every host. Earlier matches win where all else is
    /// equal.
    pub fn add(&mut self, host: Option<&Pattern>, path: &Path, matcher: Matcher, rule: &Arc<Rule>) {
        let table = match host {
            None => &mut self.any,
            Some(Pattern::Exact(name)) => self.hosts.entry(name.clone()).or_default(),
            Some(Pattern::Suffix(suffix)) => self.suffixes.entry(suffix.clone()).or_default(),
        };
        let candidate = Candidate {
            matcher,
            rule: rule.clone(),
        };
        match path {
            Path::Exact(path) => insert(table.exact.entry(path.clone()).or_default(), candidate),
            Path::Prefix(path) => insert(table.prefix.entry(path.clone()).or_default(), candidate),
            Path::Regex(regex) => table.regex.push((regex.as_ref().clone(), candidate)),
        }
    }

    /// The rule for a request: the most specific host that has one that fits, then exact path,
    /// regular expression, longest prefix; among equals method, number of headers, of query
    /// parameters.
    #[must_use]
    pub fn find(&self, head: &RequestHead) -> Option<&Arc<Rule>> {
        let path = head.target.bare_path();
        let host = head.host.name();
        if let Some(table) = self.hosts.get(host)
            && let Some(rule) = table.find(&path, head)
        {
            return Some(rule);
        }
        if !self.suffixes.is_empty() {
            // From the longest suffix to the shortest: `.b.example`, then `.example`.
            for (at, _) in host.match_indices('.').filter(|(at, _)| *at > 0) {
                if let Some(table) = self.suffixes.get(host.get(at..).unwrap_or_default())
                    && let Some(rule) = table.find(&path, head)
                {
                    return Some(rule);
                }
            }
        }
        self.any.find(&path, head)
    }
}

/// Keeps candidates of one path in order of precedence.
fn insert(candidates: &mut Vec<Candidate>, new: Candidate) {
    let at = candidates.partition_point(|c| c.matcher.rank() >= new.matcher.rank());
    candidates.insert(at, new);
}

impl HostTable {
    fn find(&self, path: &str, head: &RequestHead) -> Option<&Arc<Rule>> {
        let among =
            |candidates: &'_ [Candidate]| candidates.iter().position(|c| c.matcher.fits(head));
        if let Some(list) = self.exact.get(path)
            && let Some(at) = among(list)
        {
            return list.get(at).map(|c| &c.rule);
        }
        if !self.regex.is_empty() {
            let best = self
                .regex
                .iter()
                .enumerate()
                .filter(|(_, (regex, c))| regex.is_match(path) && c.matcher.fits(head))
                // The first of the most specific: later ones must be strictly better.
                .max_by_key(|(at, (_, c))| (c.matcher.rank(), std::cmp::Reverse(*at)));
            if let Some((_, (_, candidate))) = best {
                return Some(&candidate.rule);
            }
        }
        // `OPTIONS *` is for the server as a whole: a rule for everything takes it.
        let mut prefix = if path == "*" {
            ""
        } else {
            path.trim_end_matches('/')
        };
        loop {
            if let Some(list) = self.prefix.get(prefix)
                && let Some(at) = among(list)
            {
                return list.get(at).map(|c| &c.rule);
            }
            prefix = prefix.get(..prefix.rfind('/')?).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests;
