//! Policies of the configuration that ask an issuer who a caller is.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use selvedge_contract::config::{Claim, IntrospectionPolicy, OidcPolicy, OneOrMany};
use selvedge_contract::defaults::policy::{self as defaults, ISSUER, SECRET_BYTES, SESSION, SKEW};
use selvedge_gateway::authorize::ROLES;
use selvedge_gateway::jwt::Expect;
use selvedge_gateway::oidc::cookie::NAME;
use selvedge_gateway::oidc::{ClientAuth, Names, is_plain, is_safe};
use selvedge_gateway::seal::Ring;
use tokio::sync::Semaphore;

use crate::message::Host;
use crate::policy::flights::Flights;
use crate::policy::introspection::Introspection;
use crate::policy::oidc::Oidc;
use crate::policy::oidc::issuer::Issuer;
use crate::protocol::http1::parse::is_token;
use crate::tls::connect::server_client;

use super::{At, Compiler, Pass};

/// Issuers that live, by address and CA file.
pub(super) type IssuersOfUsers =
    std::collections::BTreeMap<(String, Option<String>), std::sync::Weak<Issuer>>;

/// The values of a claim that will do.
pub(super) fn values(one: &OneOrMany) -> Vec<String> {
    match one {
        OneOrMany::One(value) => vec![value.clone()],
        OneOrMany::Many(values) => values.clone(),
    }
}

/// Claims and their headers.
pub(super) fn told(claims: &[Claim]) -> Vec<(String, String)> {
    let pairs = claims.iter();
    pairs.map(|c| (c.claim.clone(), c.header.clone())).collect()
}

impl Compiler {
    /// An `oidc` policy. What is known of its issuer stays.
    pub(super) fn oidc(
        &mut self,
        pass: &mut Pass<'_>,
        at: &At,
        name: &str,
        spec: &OidcPolicy,
    ) -> Option<Oidc> {
        let before = pass.found.len();
        pass.check_oidc(at, spec);
        pass.check_told(at, &spec.claims_to_headers);
        let ring = pass.ring(&at.then("sessionKeyFile"), &spec.session_key_file);
        let secret = match &spec.client_secret_file {
            None => Some(None),
            Some(file) => pass.secret(&at.then("clientSecretFile"), file).map(Some),
        };
        let tls = pass.issuer_tls(&at.then("issuerCa"), spec.issuer_ca.as_deref());
        let (ring, secret, tls) = (ring?, secret?, tls?);
        if pass.found.len() > before {
            return None;
        }
        let mut scopes = spec.scopes.clone();
        if !scopes.iter().any(|s| s == "openid") {
            scopes.insert(0, "openid".to_owned());
        }
        let skew = spec.skew.map_or(SKEW, |d| d.0).as_secs();
        let path = |path: &Option<String>, default: &str| {
            path.clone().unwrap_or_else(|| default.to_owned())
        };
        let public = spec.public_url.as_deref();
        let cookie = path(&spec.cookie, "selvedge_session");
        Some(Oidc {
            name: Arc::from(name),
            issuer: self.issuer_of_users(spec, tls)?,
            client: ClientAuth {
                id: spec.client_id.clone(),
                secret,
            },
            scopes: scopes.join(" "),
            public: public.map(|url| url.trim_end_matches('/').to_ascii_lowercase()),
            callback: path(&spec.callback, "/oauth2/callback"),
            logout: path(&spec.logout, "/oauth2/logout"),
            after_logout: path(&spec.after_logout, "/"),
            https: Names::new(&cookie, true),
            http: Names::new(&cookie, false),
            cookie,
            ring,
            life: spec.session_life.map_or(SESSION, |d| d.0).as_secs(),
            kept: pass.kept_claims(spec),
            id: Expect {
                issuer: spec.issuer.clone(),
                audiences: vec![spec.client_id.clone()],
                skew,
                ..Expect::default()
            },
            expect: Expect {
                required: spec.required.clone(),
                claims: spec
                    .claims
                    .iter()
                    .map(|(k, v)| (k.clone(), values(v)))
                    .collect(),
                headers: told(&spec.claims_to_headers),
                ..Expect::default()
            },
            timeout: spec.timeout.map_or(ISSUER, |d| d.0),
        })
    }

    fn issuer_of_users(
        &mut self,
        spec: &OidcPolicy,
        tls: Arc<ClientConfig>,
    ) -> Option<Arc<Issuer>> {
        if self.dry {
            return Some(Issuer::idle(tls));
        }
        let key = (spec.issuer.clone(), spec.issuer_ca.clone());
        let known = self.users.get(&key).and_then(std::sync::Weak::upgrade);
        // That it is an address was checked.
        let issuer = match known {
            Some(issuer) => issuer,
            None => Issuer::remote(&spec.issuer, tls).ok()?,
        };
        self.users.insert(key, Arc::downgrade(&issuer));
        Some(issuer)
    }
}

impl Pass<'_> {
    /// An `introspection` policy.
    pub(super) fn introspection(
        &mut self,
        at: &At,
        name: &str,
        spec: &IntrospectionPolicy,
    ) -> Option<Introspection> {
        let before = self.found.len();
        if !is_safe(&spec.endpoint, true) {
            let message = format!("`{}` is not an endpoint for this", spec.endpoint);
            let remedy = "expected `https://`, or `http://` on loopback";
            self.error(&at.then("endpoint"), message, remedy);
        }
        for (index, scope) in spec.scopes.iter().enumerate() {
            self.check_scope(&at.then("scopes").nth(index), scope);
        }
        self.check_told(at, &spec.claims_to_headers);
        let endpoint = self.parse(&at.then("endpoint"), &spec.endpoint);
        let secret = self.secret(&at.then("clientSecretFile"), &spec.client_secret_file);
        let tls = self.issuer_tls(&at.then("endpointCa"), spec.endpoint_ca.as_deref());
        let mut random = [0; 32];
        if aws_lc_rs::rand::fill(&mut random).is_err() {
            self.error(at, "the system gives no random bytes", "look at the system");
        }
        let (endpoint, secret, tls) = (endpoint?, secret?, tls?);
        if self.found.len() > before {
            return None;
        }
        Some(Introspection {
            name: Arc::from(name),
            endpoint,
            tls,
            client: ClientAuth {
                id: spec.client_id.clone(),
                secret: Some(secret),
            },
            expect: Expect {
                issuer: spec.issuer.clone().unwrap_or_default(),
                audiences: spec.audiences.clone(),
                required: spec.required.clone(),
                claims: spec
                    .claims
                    .iter()
                    .map(|(k, v)| (k.clone(), values(v)))
                    .collect(),
                scopes: spec.scopes.clone(),
                headers: told(&spec.claims_to_headers),
                skew: spec.skew.map_or(SKEW, |d| d.0).as_secs(),
            },
            forward: spec.forward.unwrap_or(true),
            cache: spec.cache.map_or(defaults::INTROSPECTED, |d| d.0),
            timeout: spec.timeout.map_or(defaults::INTROSPECTION, |d| d.0),
            places: Semaphore::new(defaults::ISSUER_QUESTIONS),
            secret: random,
            asked: Flights::new(defaults::INTROSPECTIONS),
        })
    }

    fn check_oidc(&mut self, at: &At, spec: &OidcPolicy) {
        if !is_safe(&spec.issuer, is_plain(&spec.issuer)) || spec.issuer.contains('?') {
            let message = format!("`{}` is not the address of an issuer", spec.issuer);
            let remedy = "expected `https://`, or `http://` on loopback";
            self.error(&at.then("issuer"), message, remedy);
        }
        if spec.client_id.is_empty() {
            let remedy = "expected the name that the issuer has given out";
            self.error(&at.then("clientId"), "no client", remedy);
        }
        for (index, scope) in spec.scopes.iter().enumerate() {
            self.check_scope(&at.then("scopes").nth(index), scope);
        }
        if let Some(url) = &spec.public_url {
            let host = url.split_once("://").and_then(|(scheme, host)| {
                let known = matches!(scheme, "http" | "https");
                Host::parse(host.trim_end_matches('/').to_owned().into())
                    .ok()
                    .filter(|_| known)
            });
            if host.is_none() {
                let message = format!("`{url}` is not an origin");
                let remedy = "expected scheme and host, such as `https://shop.example.com`";
                self.error(&at.then("publicUrl"), message, remedy);
            }
        }
        let paths = [
            ("callback", &spec.callback),
            ("logout", &spec.logout),
            ("afterLogout", &spec.after_logout),
        ];
        for (key, path) in paths {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"/-_.~".contains(&b);
            let path = path.as_deref().unwrap_or("/");
            let normal = !path.contains("//") && !path.split('/').any(|s| s == "." || s == "..");
            if !path.starts_with('/') || !path.bytes().all(plain) || !normal {
                let remedy = "expected one such as `/oauth2/callback`, of letters, digits, `-`, `_`, `.`, `~`";
                self.error(
                    &at.then(key),
                    format!("`{path}` is not a path for this"),
                    remedy,
                );
            }
        }
        let default = |key: &str| match key {
            "callback" => spec.callback.as_deref().unwrap_or("/oauth2/callback"),
            _ => spec.logout.as_deref().unwrap_or("/oauth2/logout"),
        };
        if default("callback") == default("logout") {
            let remedy = "expected another path than `callback`";
            self.error(&at.then("logout"), "one path for two things", remedy);
        }
        if let Some(cookie) = &spec.cookie
            && (!is_token(cookie.as_bytes()) || cookie.starts_with("__") || cookie.len() > NAME)
        {
            let message = format!("`{cookie}` is not a name for this");
            let remedy =
                "expected up to 64 letters, digits, `-` and `_`; the prefix is put before it";
            self.error(&at.then("cookie"), message, remedy);
        }
        if spec.session_life.is_some_and(|d| d.0.as_secs() == 0) {
            let remedy = "expected a second or more";
            self.error(
                &at.then("sessionLife"),
                "nobody would stay logged in",
                remedy,
            );
        }
    }

    /// A scope (RFC 6749 section 3.3).
    fn check_scope(&mut self, at: &At, scope: &str) {
        let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\');
        if scope.is_empty() || !scope.bytes().all(plain) {
            let remedy = "expected one word each, such as `email`";
            self.error(at, format!("`{scope}` is not a scope"), remedy);
        }
    }

    /// What is read from a file with a secret: bounded, and never shown.
    fn secret_file(&mut self, at: &At, file: &str) -> Option<String> {
        let read = std::fs::File::open(file).and_then(|open| {
            let mut text = String::new();
            open.take(SECRET_BYTES).read_to_string(&mut text)?;
            Ok(text)
        });
        match read {
            Ok(text) => Some(text),
            Err(error) => {
                let message = format!("`{file}`: {error}");
                self.error(at, message, "expected a file that can be read");
                None
            }
        }
    }

    /// A secret: the file without the white space around it.
    pub(super) fn secret(&mut self, at: &At, file: &str) -> Option<String> {
        let text = self.secret_file(at, file)?;
        let secret = text.trim();
        if secret.is_empty() {
            let remedy = "expected a file with the secret in it";
            self.error(at, format!("`{file}` is empty"), remedy);
            return None;
        }
        Some(secret.to_owned())
    }

    fn ring(&mut self, at: &At, file: &str) -> Option<Ring> {
        let text = self.secret_file(at, file)?;
        match Ring::read(&text) {
            Ok(ring) => Some(ring),
            Err(error) => {
                let remedy = "make a key by `openssl rand -base64 32`";
                self.error(at, format!("`{file}`: {error}"), remedy);
                None
            }
        }
    }

    pub(super) fn issuer_tls(&mut self, at: &At, ca: Option<&str>) -> Option<Arc<ClientConfig>> {
        match server_client(ca.map(Path::new), false) {
            Ok(tls) => Some(tls),
            Err(error) => {
                let remedy = "expected a file with CA certificates in PEM";
                self.error(at, error.to_string(), remedy);
                None
            }
        }
    }

    /// Claims that a session keeps: those of the policy, and those that limits count by.
    fn kept_claims(&self, spec: &OidcPolicy) -> Vec<String> {
        let mut kept: Vec<String> = spec.required.clone();
        kept.extend(spec.claims.keys().cloned());
        kept.extend(spec.claims_to_headers.iter().map(|c| c.claim.clone()));
        let limits = self.config.policies.values();
        for limit in limits.filter_map(|p| p.rate_limit.as_ref()) {
            let keys = limit.key.iter().flat_map(values).chain(limit.plan.clone());
            kept.extend(keys.filter_map(|key| Some(key.strip_prefix("jwt.")?.to_owned())));
        }
        let policies = self.config.policies.values();
        for access in policies
            .flat_map(|p| p.allow.iter().chain(&p.deny))
            .flatten()
        {
            kept.extend(access.claims.keys().cloned());
            if !access.roles.is_empty() {
                kept.extend(ROLES.map(str::to_owned));
            }
            if !access.scopes.is_empty() {
                kept.extend(["scope".to_owned(), "scp".to_owned()]);
            }
            kept.extend(access.when.iter().flat_map(|when| claims_in(when)));
        }
        let policies = self.config.policies.values();
        for transform in policies.filter_map(|p| p.transform.as_ref()) {
            let text = serde_json::to_string(transform).unwrap_or_default();
            kept.extend(claims_in(&text));
        }
        let rules = self.config.routes.iter().flat_map(|route| &route.rules);
        for aggregate in rules.filter_map(|rule| rule.aggregate.as_ref()) {
            let text = serde_json::to_string(aggregate).unwrap_or_default();
            kept.extend(claims_in(&text));
        }
        kept.sort();
        kept.dedup();
        kept
    }
}

/// Names that stand behind `claims` in a text: `claims.tier`, `claims['tier']`, `claims["tier"]`.
fn claims_in(text: &str) -> Vec<String> {
    let name = |c: char| c.is_alphanumeric() || c == '_';
    let parts = text.split("claims").skip(1);
    let named = parts.filter_map(|rest| {
        let rest = rest.trim_start();
        if let Some(rest) = rest.strip_prefix('.') {
            let end = rest.find(|c| !name(c)).unwrap_or(rest.len());
            return rest.get(..end);
        }
        let quoted = rest.strip_prefix('[')?.trim_start_matches([' ', '\\']);
        let quote = quoted.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
        quoted.get(1..)?.split([quote, '\\']).next()
    });
    named.filter(|n| !n.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_found_where_they_are_named() {
        let text = "has(claims.groups) && 'a' in claims['x-y'] && claims[\\\"z\\\"] == claims . q";
        assert_eq!(claims_in(text), ["groups", "x-y", "z"]);
    }
}
