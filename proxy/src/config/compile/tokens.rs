//! Policies of the configuration that ask for a token.

use std::path::Path;
use std::sync::Arc;

use selvedge_contract::config::{Claim, JwtPolicy};
use selvedge_contract::defaults::policy::SKEW;
use selvedge_gateway::jwt::{Expect, Keys};

use crate::fetch::Address;
use crate::message::Known;
use crate::policy::jwt::{Jwt, Place};
use crate::policy::keys::{self, KeySource};
use crate::protocol::http1::parse::is_token;
use crate::tls::connect::server_client;

use super::logins::{told, values};
use super::{At, Compiler, Pass};

impl Compiler {
    /// A `jwt` policy. Keys that are fetched already stay.
    pub(super) fn jwt(
        &mut self,
        pass: &mut Pass<'_>,
        at: &At,
        name: &str,
        spec: &JwtPolicy,
    ) -> Option<Jwt> {
        pass.check_jwt(at, spec);
        let source = self.key_source(pass, at, spec)?;
        let claims = spec.claims.iter().map(|(k, v)| (k.clone(), values(v)));
        let place = match (&spec.header, &spec.cookie) {
            (None, None) => Place::Bearer,
            (Some(name), _) if name.eq_ignore_ascii_case("authorization") => Place::Bearer,
            (Some(name), _) => Place::Header(name.clone()),
            (None, Some(name)) => Place::Cookie(name.clone()),
        };
        // A policy that has changed must not know tokens again that it has never judged.
        self.tokens += 1;
        Some(Jwt {
            name: Arc::from(name),
            id: self.tokens,
            place,
            expect: Expect {
                issuer: spec.issuer.clone(),
                audiences: spec.audiences.clone(),
                required: spec.required.clone(),
                claims: claims.collect(),
                scopes: spec.scopes.clone(),
                headers: told(&spec.claims_to_headers),
                skew: spec.skew.map_or(SKEW, |d| d.0).as_secs(),
            },
            forward: spec.forward.unwrap_or(true),
            source,
        })
    }

    fn key_source(
        &mut self,
        pass: &mut Pass<'_>,
        at: &At,
        spec: &JwtPolicy,
    ) -> Option<Arc<KeySource>> {
        if !spec.jwks.contains("://") {
            let read = std::fs::read(&spec.jwks).map_err(|e| e.to_string());
            let keys = read.and_then(|text| Keys::read(&text).map_err(|e| e.to_string()));
            return match keys {
                Ok(keys) => Some(KeySource::fixed(keys)),
                Err(error) => {
                    let message = format!("`{}`: {error}", spec.jwks);
                    pass.error(&at.then("jwks"), message, "expected a JSON Web Key set");
                    None
                }
            };
        }
        let address: Address = pass.parse(&at.then("jwks"), &spec.jwks)?;
        let tls = match server_client(spec.jwks_ca.as_deref().map(Path::new), false) {
            Ok(tls) => tls,
            Err(error) => {
                let remedy = "expected a file with CA certificates in PEM";
                pass.error(&at.then("jwksCa"), error.to_string(), remedy);
                return None;
            }
        };
        if self.dry {
            return Some(KeySource::fixed(Keys::default()));
        }
        let key = (spec.jwks.clone(), spec.jwks_ca.clone());
        let known = self.sources.get(&key).and_then(std::sync::Weak::upgrade);
        let source = known.unwrap_or_else(|| keys::remote(address, tls));
        self.sources.insert(key, Arc::downgrade(&source));
        Some(source)
    }
}

impl Pass<'_> {
    fn check_jwt(&mut self, at: &At, spec: &JwtPolicy) {
        if spec.audiences.is_empty() {
            let message = "without an audience, tokens for anybody would do";
            self.error(
                &at.then("audiences"),
                message,
                "add the name that `aud` has for you",
            );
        }
        if spec.header.is_some() && spec.cookie.is_some() {
            let message = "a token stands in a header or in a cookie";
            self.error(at, message, "remove `header` or `cookie`");
        }
        if let Some(name) = &spec.header {
            self.check_told_name(&at.then("header"), name);
        }
        self.check_told(at, &spec.claims_to_headers);
    }

    /// The headers of `claimsToHeaders`.
    pub(super) fn check_told(&mut self, at: &At, claims: &[Claim]) {
        for (index, claim) in claims.iter().enumerate() {
            self.check_told_name(&at.then("claimsToHeaders").nth(index), &claim.header);
        }
    }

    /// A header by which applications are told something.
    pub(super) fn check_told_name(&mut self, at: &At, name: &str) {
        let known = Known::classify(name.as_bytes());
        let framing = known.is_hop_by_hop()
            || matches!(known, Known::Host | Known::ContentLength | Known::Expect);
        if !is_token(name.as_bytes()) || framing {
            let message = format!("`{name}` is not a header for this");
            self.error(at, message, "expected a name such as `X-User`");
        }
    }
}
