//! Part of stage 5, route: connections that are not looked into, by nothing but the listener they came to
//! and the name that their client asked for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use selvedge_contract::config::ListenerProtocol;
use selvedge_gateway::hostname::Pattern;

use super::Rule;

/// Where such connections go, and how long they may be silent.
#[derive(Debug)]
pub struct StreamRule {
    /// Its backends; it has no policies, as those look at requests.
    pub rule: Arc<Rule>,
    /// Longest silence in both directions; zero = any.
    pub idle: Duration,
    /// Bytes of the longest datagram.
    pub most: usize,
}

/// The routes of a listener that looks into nothing.
#[derive(Debug)]
pub struct Streams {
    /// What the access log calls what comes: `TCP`, `TLS`, `UDP`.
    pub protocol: &'static str,
    /// They are told apart by the name in the first message of TLS.
    pub by_name: bool,
    /// What comes are datagrams.
    pub datagrams: bool,
    exact: HashMap<Box<str>, Arc<StreamRule>>,
    /// By what follows the first label or labels, with its leading dot.
    suffix: HashMap<Box<str>, Arc<StreamRule>>,
    any: Option<Arc<StreamRule>>,
}

impl Streams {
    /// Without any route yet.
    #[must_use]
    pub fn new(protocol: ListenerProtocol) -> Self {
        Self {
            protocol: protocol.as_str(),
            by_name: protocol == ListenerProtocol::Tls,
            datagrams: protocol == ListenerProtocol::Udp,
            exact: HashMap::new(),
            suffix: HashMap::new(),
            any: None,
        }
    }

    /// Adds a route for a name, or for all that have no other. Gives `false` where there is one already.
    pub fn add(&mut self, host: Option<&Pattern>, rule: &Arc<StreamRule>) -> bool {
        let before = match host {
            None => self.any.replace(rule.clone()),
            Some(Pattern::Exact(name)) => self.exact.insert(name.as_str().into(), rule.clone()),
            Some(Pattern::Suffix(name)) => self.suffix.insert(name.as_str().into(), rule.clone()),
        };
        before.is_none()
    }

    /// The route for a name in lower case: the name itself before the longest wildcard, that before the
    /// route for any. As many look-ups as the name has labels.
    #[must_use]
    pub fn find(&self, name: Option<&str>) -> Option<&Arc<StreamRule>> {
        let named = name.and_then(|name| {
            let dots = name
                .match_indices('.')
                .map(|(at, _)| at)
                .filter(|at| *at > 0);
            let mut suffixes = dots.filter_map(|at| self.suffix.get(name.get(at..)?));
            self.exact.get(name).or_else(|| suffixes.next())
        });
        named.or(self.any.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Metrics;

    fn rule(metrics: &Metrics) -> Arc<StreamRule> {
        let rule = Rule {
            name: "r".into(),
            tag: "".into(),
            guards: Vec::new(),
            treatment: Default::default(),
            headers: false,
            request_edits: Default::default(),
            response_edits: Default::default(),
            redirect: None,
            rewrite_host: None,
            rewrite_path: None,
            aggregate: None,
            backends: Vec::new(),
            mirrors: Vec::new(),
            request_timeout: Duration::ZERO,
            try_timeout: Duration::ZERO,
            retry: crate::route::RetryPolicy {
                attempts: 0,
                codes: Vec::new(),
                grpc: 0,
                backoff: Duration::ZERO,
                backoff_max: Duration::ZERO,
                hedge: Duration::ZERO,
            },
            class: None,
            metrics: metrics.route("r", ""),
        };
        Arc::new(StreamRule {
            rule: Arc::new(rule),
            idle: Duration::ZERO,
            most: 0,
        })
    }

    #[test]
    fn exact_before_the_longest_wildcard_before_any() {
        let metrics = Metrics::new(1);
        let rules: Vec<_> = (0..4).map(|_| rule(&metrics)).collect();
        let mut streams = Streams::new(ListenerProtocol::Tls);
        let hosts = ["*.example", "*.a.example", "b.a.example"];
        for (host, rule) in hosts.iter().zip(&rules) {
            assert!(streams.add(Some(&host.parse().unwrap()), rule));
            assert!(!streams.add(Some(&host.parse().unwrap()), rule));
        }
        let found = |streams: &Streams, name: Option<&str>| {
            let found = streams.find(name)?;
            rules.iter().position(|rule| Arc::ptr_eq(rule, found))
        };
        for (name, at) in [
            ("b.a.example", Some(2)),
            ("c.b.a.example", Some(1)),
            ("c.a.example", Some(1)),
            ("a.example", Some(0)),
            ("example", None),
            (".example", None),
            ("other", None),
            ("", None),
        ] {
            assert_eq!(found(&streams, Some(name)), at, "{name}");
        }
        assert_eq!(found(&streams, None), None);
        assert!(streams.add(None, &rules[3]));
        assert_eq!(found(&streams, Some("other")), Some(3));
        assert_eq!(found(&streams, None), Some(3));
    }
}
