//! Policies of the configuration that say who may do what.

use std::collections::BTreeMap;
use std::sync::Arc;

use regex::bytes::Regex;
use selvedge_contract::config::{Allow, Audit as AuditSpec, HeaderTest, HeaderTestType, OneOrMany};
use selvedge_contract::identity::{SpiffeId, TrustDomain};
use selvedge_gateway::address::{Range, Ranges};
use selvedge_gateway::authorize::{Condition, Principal, Sense, Test};
use selvedge_gateway::expression::Expression;
use selvedge_gateway::geo::Country;

use crate::policy::access::{Access, Audit};
use crate::policy::decisions::Decisions;
use crate::policy::guard::Guard;
use crate::protocol::http1::parse::is_token;

use super::{At, Pass};

/// Counters of policies that say who may, by name.
pub(super) type Decided = BTreeMap<String, Arc<Decisions>>;

impl Pass<'_> {
    /// An `audit` policy.
    pub(super) fn audit(&mut self, at: &At, name: &str, spec: &AuditSpec) -> Audit {
        let mut lists = Vec::new();
        for (key, list, sense) in [
            ("deny", &spec.deny, Sense::Deny),
            ("allow", &spec.allow, Sense::Allow),
        ] {
            if let Some(list) = list {
                lists.push(self.access(&at.then(key), name, sense, list));
            }
        }
        if lists.is_empty() {
            let remedy = "add `allow` or `deny`";
            self.error(at, "nothing would ever be refused", remedy);
        }
        Audit {
            name: Arc::from(name),
            decisions: self.decisions(name),
            lists,
        }
    }

    /// The counters of a policy; those that it had before, if it had any.
    fn decisions(&mut self, name: &str) -> Arc<Decisions> {
        let decided = self.decided.entry(name.to_owned());
        let before = self.decided_before.get(name);
        let kept = decided.or_insert_with(|| before.cloned().unwrap_or_default());
        kept.clone()
    }

    /// An `allow` or `deny` list.
    pub(super) fn access(&mut self, at: &At, name: &str, sense: Sense, list: &[Allow]) -> Access {
        let conditions = list.iter().enumerate();
        let conditions = conditions.map(|(index, spec)| self.condition(&at.nth(index), spec));
        Access {
            conditions: conditions.collect(),
            geo: self.geo.clone(),
            decisions: self.decisions(name),
            name: Arc::from(name),
            sense,
        }
    }

    fn condition(&mut self, at: &At, spec: &Allow) -> Condition {
        self.check_empty(at);
        let mut condition = Condition {
            scopes: spec.scopes.clone(),
            roles: spec.roles.clone(),
            consumers: spec.consumers.clone(),
            plans: spec.plans.clone(),
            ..Condition::default()
        };
        for (nth, text) in spec.principals.iter().enumerate() {
            let at = at.then("principals").nth(nth);
            condition.principals.extend(self.principal(&at, text));
        }
        condition.places = self.places(at, spec);
        condition.ports = self.ports(at, &spec.ports);
        for (nth, text) in spec.methods.iter().enumerate() {
            let method = self.method(&at.then("methods").nth(nth), text);
            condition
                .methods
                .extend(method.map(|m| m.as_str().to_owned()));
        }
        for (nth, text) in spec.paths.iter().enumerate() {
            if text.starts_with('/') {
                condition.paths.push(text.trim_end_matches('/').to_owned());
            } else {
                let at = at.then("paths").nth(nth);
                self.error(&at, format!("`{text}` is not a path"), "begin it with `/`");
            }
        }
        for (nth, test) in spec.headers.iter().enumerate() {
            let at = at.then("headers").nth(nth);
            condition.headers.extend(self.header_test(&at, test));
        }
        for (claim, values) in &spec.claims {
            let values = match values {
                OneOrMany::One(value) => vec![value.clone()],
                OneOrMany::Many(values) => values.clone(),
            };
            condition.claims.push((claim.clone(), values));
        }
        if !spec.addresses.is_empty() {
            let mut ranges = Ranges::default();
            for (nth, text) in spec.addresses.iter().enumerate() {
                let range: Option<Range> = self.parse(&at.then("addresses").nth(nth), text);
                if let Some(range) = range {
                    let _ = ranges.insert(range, ());
                }
            }
            condition.addresses = Some(ranges);
        }
        for (nth, text) in spec.countries.iter().enumerate() {
            let at = at.then("countries").nth(nth);
            let country: Option<Country> = self.parse(&at, text);
            condition.countries.extend(country);
        }
        if !spec.countries.is_empty() {
            self.check_geo(&at.then("countries"));
        }
        if let Some(source) = &spec.when {
            match Expression::new(source) {
                Ok(expression) => {
                    if source.contains("source.country") {
                        self.check_geo(&at.then("when"));
                    }
                    condition.when = Some(expression);
                }
                Err(error) => {
                    let remedy = "expected CEL such as `request.method == \'GET\'`";
                    self.error(&at.then("when"), error.to_string(), remedy);
                }
            }
        }
        condition
    }

    /// A list without anything in it would ask for nothing, and let everybody in.
    fn check_empty(&mut self, at: &At) {
        for key in [
            "principals",
            "namespaces",
            "trustDomains",
            "ports",
            "methods",
            "paths",
            "headers",
            "scopes",
            "roles",
            "claims",
            "consumers",
            "plans",
            "addresses",
            "countries",
        ] {
            let at = at.then(key);
            if self.is_empty_at(&at) {
                let message = format!("an empty `{key}` asks for nothing, and fits everybody");
                self.error(&at, message, "leave it out, or say what must be there");
            }
        }
        if self.is_empty_at(at) {
            let remedy = "add what callers or requests must have";
            self.warning(at, "this fits every request", remedy);
        }
    }

    fn header_test(&mut self, at: &At, spec: &HeaderTest) -> Option<(String, Test)> {
        if !is_token(spec.name.as_bytes()) {
            let message = format!("`{}` is not a header name", spec.name);
            self.error(
                &at.then("name"),
                message,
                "expected letters, digits and `-`",
            );
            return None;
        }
        let test = match spec.kind {
            HeaderTestType::Exact => Test::Exact(spec.value.as_bytes().into()),
            HeaderTestType::Present => Test::Present,
            HeaderTestType::Absent => Test::Absent,
            HeaderTestType::RegularExpression => match Regex::new(&spec.value) {
                Ok(regex) => Test::Matches(regex),
                Err(error) => {
                    let told = error.to_string();
                    let told = told.lines().last().unwrap_or_default().to_owned();
                    self.error(&at.then("value"), told, "expected a regular expression");
                    return None;
                }
            },
        };
        let name = spec.name.to_ascii_lowercase().replace('_', "-");
        Some((name, test))
    }

    /// Callers in plaintext have no identity: what keeps some identities out keeps nobody out who leaves his
    /// at home.
    pub(super) fn check_permissive(&mut self, at: &At, guards: &[Guard]) {
        for guard in guards {
            if let Guard::Deny(access) = guard
                && access.conditions.iter().any(Condition::names_callers)
            {
                let message = format!(
                    "`{}` denies identities, and a permissive port lets in callers without one",
                    access.name
                );
                let remedy = "set `mtls: strict`, or `allow` those who may call";
                self.warning(at, message, remedy);
            }
        }
    }

    fn check_geo(&mut self, at: &At) {
        if self.config.geo.is_none() {
            let remedy = "add `geo: { database: FILE }`";
            self.error(at, "nothing says where addresses are", remedy);
        }
    }

    fn ports(&mut self, at: &At, ports: &[u16]) -> Vec<u16> {
        for (nth, port) in ports.iter().enumerate() {
            if *port == 0 {
                let at = at.then("ports").nth(nth);
                self.error(&at, "nobody calls port 0", "expected 1 to 65535");
            }
        }
        ports.to_vec()
    }

    /// Where peers must belong: below each of the namespaces, in each of the trust domains.
    fn places(&mut self, at: &At, spec: &Allow) -> Vec<Principal> {
        let mut domains = Vec::new();
        for (nth, text) in spec.trust_domains.iter().enumerate() {
            let at = at.then("trustDomains").nth(nth);
            let domain: Option<TrustDomain> = self.parse(&at, text);
            domains.extend(domain.map(|domain| domain.uri()));
        }
        if spec.namespaces.is_empty() {
            let all = domains.into_iter();
            return all.map(|uri| Principal::Below(uri + "/")).collect();
        }
        if spec.trust_domains.is_empty() {
            match &self.config.identity {
                Some(own) => domains.push(format!("spiffe://{}", own.trust_domain)),
                None => {
                    let remedy = "add `identity`, or name `trustDomains` beside it";
                    let at = at.then("namespaces");
                    self.error(&at, "nothing says of which trust domain", remedy);
                }
            }
        }
        let mut places = Vec::new();
        for (nth, name) in spec.namespaces.iter().enumerate() {
            let at = at.then("namespaces").nth(nth);
            for domain in &domains {
                let below = format!("{domain}/ns/{name}");
                // As it stands in an ID: nothing in a name can end the segment or go beyond it.
                if !name.contains('/') && below.parse::<SpiffeId>().is_ok() {
                    places.push(Principal::Below(below + "/"));
                } else {
                    let remedy = "expected a name such as `shop`";
                    self.error(&at, format!("`{name}` is no namespace"), remedy);
                    break;
                }
            }
        }
        places
    }

    fn principal(&mut self, at: &At, text: &str) -> Option<Principal> {
        if let Some(prefix) = text.strip_suffix("/*") {
            let domain = prefix.strip_prefix("spiffe://").unwrap_or_default();
            let whole = !domain.contains('/') && domain.parse::<TrustDomain>().is_ok();
            if whole || prefix.parse::<SpiffeId>().is_ok() {
                return Some(Principal::Below(format!("{prefix}/")));
            }
        }
        let id: SpiffeId = self.parse(at, text)?;
        Some(Principal::Exact(id.as_str().to_owned()))
    }
}
