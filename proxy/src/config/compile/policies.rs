//! Policies and header edits of the configuration.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::Method;
use selvedge_contract::config::{HeaderEdits, Policy};
use selvedge_gateway::authorize::Sense;

use crate::message::Known;
use crate::policy::guard::{Guard, Headers};
use crate::policy::treatment::Treatment;
use crate::protocol::http1::parse::{is_token, is_value};
use crate::route::Edits;

use super::services::Services;
use super::{At, Compiler, Pass};

/// What the policies of a rule come to.
#[derive(Debug, Default, Clone)]
pub(super) struct Policies {
    pub(super) request_edits: Edits,
    pub(super) response_edits: Edits,
    pub(super) guards: Vec<Guard>,
    pub(super) treatment: Treatment,
    /// Some of the edits are of `headers` policies.
    pub(super) headers: bool,
}

impl Policies {
    /// These, and of each kind that they do not have the outer ones.
    pub(super) fn within(mut self, outer: &Self) -> Self {
        let has: Vec<u8> = self.guards.iter().map(Guard::order).collect();
        let others = outer.guards.iter().filter(|g| !has.contains(&g.order()));
        self.guards.extend(others.cloned());
        self.guards.sort_by_key(Guard::order);
        self.treatment = self.treatment.within(&outer.treatment);
        if !self.headers && outer.headers {
            self.request_edits = outer.request_edits.clone();
            self.response_edits = outer.response_edits.clone();
            self.headers = true;
        }
        self
    }
}

impl Compiler {
    /// Checks every policy, used or not, and makes guards of those that are. A limit that has not
    /// changed since the last snapshot goes on counting.
    pub(super) fn check_policies(&mut self, pass: &mut Pass<'_>, services: &Services) {
        let mut limits = BTreeMap::new();
        for (name, policy) in &pass.config.policies {
            pass.check_policy(name, policy);
            pass.treats(name, policy);
            self.cache(pass, name, policy);
            let at = At::key("policies").then(name);
            if let Some(spec) = &policy.address {
                let list = pass.addresses(&at.then("address"), name, spec);
                pass.guard(name, Guard::Address(Arc::new(list)));
            }
            if let Some(spec) = &policy.cors {
                let cors = pass.cors(&at.then("cors"), spec);
                pass.guard(name, Guard::Cors(Arc::new(cors)));
            }
            if let Some(spec) = &policy.ext_authz {
                let asked = self.ext_authz(pass, &at.then("extAuthz"), name, spec, services);
                if let Some(asked) = asked {
                    pass.guard(name, Guard::Ask(Arc::new(asked)));
                }
            }
            if let Some(spec) = &policy.csrf {
                let csrf = pass.csrf(&at.then("csrf"), name, spec);
                pass.guard(name, Guard::Csrf(Arc::new(csrf)));
            }
            if let Some(spec) = &policy.security {
                let security = pass.security(&at.then("security"), spec);
                pass.guard(name, Guard::Security(Arc::new(security)));
            }
            if let Some(spec) = &policy.version {
                let version = self.version(pass, &at.then("version"), name, spec);
                pass.guard(name, Guard::Version(version));
            }
            if let Some(list) = &policy.error_pages {
                let pages = pass.pages(&at.then("errorPages"), list);
                pass.guard(name, Guard::Pages(Arc::new(pages)));
            }
            if let Some(spec) = &policy.rate_limit {
                let limit = match self.limits.get(name) {
                    Some((before, limit)) if before == spec && pass.same_store(limit, spec) => {
                        limit.clone()
                    }
                    _ => Arc::new(pass.limit(&at.then("rateLimit"), name, spec)),
                };
                limits.insert(name.clone(), (spec.clone(), limit.clone()));
                pass.guard(name, Guard::of_limit(limit));
            }
            if let Some(spec) = &policy.concurrency {
                let at = at.then("concurrency");
                let crowd = pass.concurrency(&at, name, spec, &self.crowds);
                pass.guard(name, Guard::of_concurrency(crowd));
            }
            if let Some(spec) = &policy.bandwidth {
                let bandwidth = pass.bandwidth(&at.then("bandwidth"), spec);
                pass.guard(name, Guard::of_bandwidth(Arc::new(bandwidth)));
            }
            pass.check_proofs(&at, name, policy, &self.basics);
            if let Some(spec) = &policy.oidc {
                let oidc = self.oidc(pass, &at.then("oidc"), name, spec);
                if let Some(oidc) = oidc {
                    pass.guard(name, Guard::Oidc(Arc::new(oidc)));
                }
            }
            if let Some(spec) = &policy.jwt {
                let jwt = self.jwt(pass, &at.then("jwt"), name, spec);
                if let Some(jwt) = jwt {
                    pass.guard(name, Guard::Jwt(Arc::new(jwt)));
                }
            }
        }
        // Once all others are known.
        for (name, policy) in &pass.config.policies {
            if let Some(ways) = &policy.any_of {
                let at = At::key("policies").then(name).then("anyOf");
                let any_of = pass.any_of(&at, name, ways);
                pass.guard(name, Guard::AnyOf(Arc::new(any_of)));
            }
        }
        pass.limits = limits;
    }
}

impl Pass<'_> {
    fn check_policy(&mut self, name: &str, policy: &Policy) {
        let at = At::key("policies").then(name);
        // It is told to clients, in quotes.
        if !name
            .bytes()
            .all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\'))
        {
            let remedy = "expected letters, digits and `-`";
            self.error(&at, format!("`{name}` is no name for a policy"), remedy);
        }
        let set = [
            policy.allow.is_some(),
            policy.deny.is_some(),
            policy.audit.is_some(),
            policy.headers.is_some(),
            policy.address.is_some(),
            policy.rate_limit.is_some(),
            policy.cors.is_some(),
            policy.jwt.is_some(),
            policy.oidc.is_some(),
            policy.introspection.is_some(),
            policy.api_key.is_some(),
            policy.basic.is_some(),
            policy.client_certificate.is_some(),
            policy.signature.is_some(),
            policy.any_of.is_some(),
            policy.concurrency.is_some(),
            policy.bandwidth.is_some(),
            policy.fault.is_some(),
            policy.compression.is_some(),
            policy.cache.is_some(),
            policy.csrf.is_some(),
            policy.transform.is_some(),
            policy.ext_authz.is_some(),
            policy.security.is_some(),
            policy.version.is_some(),
            policy.error_pages.is_some(),
        ];
        if set.iter().filter(|set| **set).count() != 1 {
            let remedy = "set exactly one of `allow`, `deny`, `audit`, `headers`, `address`, `rateLimit`, `cors`, `jwt`, `oidc`, `introspection`, `apiKey`, `basic`, `clientCertificate`, `signature`, `anyOf`, `concurrency`, `bandwidth`, `fault`, `compression`, `cache`, `transform`, `extAuthz`, `csrf`, `security`, `version`, `errorPages`";
            self.error(&at, format!("policy `{name}` must do one thing"), remedy);
        }
        for (key, list, sense) in [
            ("deny", &policy.deny, Sense::Deny),
            ("allow", &policy.allow, Sense::Allow),
        ] {
            if let Some(list) = list {
                let access = Arc::new(self.access(&at.then(key), name, sense, list));
                self.guard(name, Guard::of_access(access));
            }
        }
        if let Some(spec) = &policy.audit {
            let audit = self.audit(&at.then("audit"), name, spec);
            self.guard(name, Guard::Audit(Arc::new(audit)));
        }
        if let Some(spec) = &policy.fault {
            let fault = self.fault(&at.then("fault"), name, spec);
            self.guard(name, Guard::Fault(Arc::new(fault)));
        }
        if let Some(headers) = &policy.headers {
            let mut edits = Edits::default();
            let at = at.then("headers");
            for (key, spec) in [
                ("request", &headers.request),
                ("response", &headers.response),
            ] {
                if let Some(spec) = spec {
                    self.edits(&at.then(key), spec, &mut edits);
                }
            }
        }
    }

    pub(super) fn guard(&mut self, name: &str, guard: Guard) {
        self.guards.insert(name.to_owned(), guard);
    }

    /// What a list of names brings for all of a listener.
    pub(super) fn around(&mut self, at: &At, names: &[String]) -> (Vec<Guard>, Treatment) {
        let mut policies = self.policies(at, names);
        if policies.headers {
            policies.guards.push(Guard::Headers(Arc::new(Headers {
                request: policies.request_edits,
                response: policies.response_edits,
            })));
        }
        policies.guards.sort_by_key(Guard::order);
        (policies.guards, policies.treatment)
    }

    /// Whether the services' policies are there.
    pub(super) fn check_service_policies(&mut self) {
        for (name, service) in &self.config.services {
            let at = At::key("services").then(name).then("policies");
            self.policies(&at, &service.policies);
        }
    }

    /// The policies of a list whose names have been checked.
    pub(super) fn known_policies(&mut self, names: &[String]) -> Policies {
        let checked = self.found.len();
        let policies = self.policies(&At::default(), names);
        self.found.truncate(checked);
        policies
    }

    /// What is to ask this service cannot be held to its policies.
    pub(super) fn check_asked(&mut self, at: &At, name: &str) {
        let service = self.config.services.get(name);
        if service.is_some_and(|service| !service.policies.is_empty()) {
            let message = format!("the policies of `{name}` are for requests that are forwarded");
            let remedy = "name them at the rules instead, or make a service without policies";
            self.error(&at.then("service"), message, remedy);
        }
    }

    /// The policies that a list of names means. Their content has been checked.
    pub(super) fn policies(&mut self, at: &At, names: &[String]) -> Policies {
        let mut policies = Policies::default();
        for (index, name) in names.iter().enumerate() {
            let Some(policy) = self.config.policies.get(name) else {
                let known = self.config.policies.keys().map(String::as_str);
                self.dangling(&at.nth(index), "policy", name, known);
                continue;
            };
            policies.guards.extend(self.guards.get(name).cloned());
            if let Some(treat) = self.treats.get(name) {
                if policies.treatment.has(treat) {
                    let remedy = "name one of them: of a kind, only the last would count";
                    let message = format!("`{name}` takes the place of one before it");
                    self.error(&at.nth(index), message, remedy);
                } else {
                    policies.treatment.put(treat.clone());
                }
            }
            let checked = self.found.len();
            let here = At::key("policies").then(name);
            if let Some(headers) = &policy.headers {
                policies.headers = true;
                if let Some(spec) = &headers.request {
                    self.edits(&here, spec, &mut policies.request_edits);
                }
                if let Some(spec) = &headers.response {
                    self.edits(&here, spec, &mut policies.response_edits);
                }
            }
            // What is wrong with it was said where it stands.
            self.found.truncate(checked);
        }
        policies
    }

    /// A method, in capitals.
    pub(super) fn method(&mut self, at: &At, text: &str) -> Option<Method> {
        let fine = !text.bytes().any(|b| b.is_ascii_lowercase());
        match Method::from_bytes(text.as_bytes()) {
            Ok(method) if fine => Some(method),
            _ => {
                let remedy = format!("did you mean `{}`?", text.to_ascii_uppercase());
                self.error(at, format!("`{text}` is not a method"), remedy);
                None
            }
        }
    }

    /// Header edits, added to those that came before.
    pub(super) fn edits(&mut self, at: &At, spec: &HeaderEdits, edits: &mut Edits) {
        for (key, list) in [("set", &spec.set), ("add", &spec.add)] {
            for (index, header) in list.iter().enumerate() {
                let at = at.then(key).nth(index);
                let named = self.header_name(&at.then("name"), &header.name);
                if !is_value(header.value.as_bytes()) || header.value.trim() != header.value {
                    let remedy = "visible characters, without white space around them";
                    self.error(
                        &at.then("value"),
                        "not a header value",
                        format!("expected {remedy}"),
                    );
                } else if named && key == "set" {
                    edits.push_set(&header.name, &header.value);
                } else if named {
                    edits.push_add(&header.name, &header.value);
                }
            }
        }
        for (index, name) in spec.remove.iter().enumerate() {
            if self.header_name(&at.then("remove").nth(index), name) {
                edits.push_remove(name);
            }
        }
    }

    /// Whether a header may be edited.
    pub(super) fn header_name(&mut self, at: &At, name: &str) -> bool {
        if !is_token(name.as_bytes()) {
            let remedy = "expected letters, digits and `-`";
            self.error(at, format!("`{name}` is not a header name"), remedy);
            return false;
        }
        let known = Known::classify(name.as_bytes());
        if known.is_hop_by_hop() || matches!(known, Known::ContentLength | Known::Host) {
            let remedy = "use `URLRewrite` for the host; framing is not yours to edit";
            self.error(at, format!("`{name}` belongs to the connection"), remedy);
            return false;
        }
        true
    }
}
