//! Policies of the configuration that ask for proof of who calls: passwords, certificates,
//! signatures, any of several.

use std::collections::BTreeMap;
use std::sync::Arc;

use selvedge_contract::config::{
    BasicPolicy, ClientCertificatePolicy, Policy, SignatureForm, SignaturePolicy,
};
use selvedge_contract::defaults::policy as defaults;
use selvedge_gateway::basic::Users;
use selvedge_gateway::signature::{Form, Secret};

use crate::policy::any_of::AnyOf;
use crate::policy::basic::Basic;
use crate::policy::client_certificate::{ClientCertificates, Name};
use crate::policy::flights::Flights;
use crate::policy::guard::Guard;
use crate::policy::signature::{Signature, Signer};
use crate::protocol::http1::parse::is_token;

use super::{At, Pass};

/// What applications are told a caller's name by.
const NAME_HEADER: &str = "X-Consumer";

/// Policies by passwords, with what they were made from.
pub(super) type Basics = BTreeMap<String, (BasicPolicy, String, Arc<Basic>)>;

impl Pass<'_> {
    /// A policy that asks for proof of who calls, and remembers nothing of the last snapshot.
    pub(super) fn check_proofs(&mut self, at: &At, name: &str, policy: &Policy, before: &Basics) {
        if let Some(spec) = &policy.api_key {
            let keys = self.api_key(&at.then("apiKey"), name, spec);
            if let Some(keys) = keys {
                self.guard(name, Guard::ApiKey(Arc::new(keys)));
            }
        }
        if let Some(spec) = &policy.basic {
            let basic = self.basic(&at.then("basic"), name, spec, before);
            if let Some(basic) = basic {
                self.guard(name, Guard::Basic(basic));
            }
        }
        if let Some(spec) = &policy.client_certificate {
            let at = at.then("clientCertificate");
            let certificates = self.client_certificate(&at, name, spec);
            self.guard(name, Guard::ClientCertificate(Arc::new(certificates)));
        }
        if let Some(spec) = &policy.signature {
            let signature = self.signature(&at.then("signature"), name, spec);
            if let Some(signature) = signature {
                self.guard(name, Guard::Signature(Arc::new(signature)));
            }
        }
        if let Some(spec) = &policy.introspection {
            let asked = self.introspection(&at.then("introspection"), name, spec);
            if let Some(asked) = asked {
                self.guard(name, Guard::Introspection(Arc::new(asked)));
            }
        }
    }

    fn name_header(&mut self, at: &At, spec: Option<&String>) -> String {
        if let Some(name) = spec {
            self.check_told_name(&at.then("nameHeader"), name);
        }
        spec.map_or_else(|| NAME_HEADER.to_owned(), Clone::clone)
    }

    /// A `basic` policy. What it has verified it goes on to know while its file stays as it is.
    pub(super) fn basic(
        &mut self,
        at: &At,
        name: &str,
        spec: &BasicPolicy,
        before: &Basics,
    ) -> Option<Arc<Basic>> {
        let name_header = self.name_header(at, spec.name_header.as_ref());
        let realm = spec.realm.as_deref().unwrap_or(name);
        if realm.contains(|c: char| !matches!(c, ' '..='~') || matches!(c, '"' | '\\')) {
            let remedy = "expected visible characters without quotes";
            self.error(&at.then("realm"), "not a realm", remedy);
        }
        let mut secret = [0; 32];
        if aws_lc_rs::rand::fill(&mut secret).is_err() {
            self.error(at, "the system gives no random bytes", "look at the system");
        }
        let read = std::fs::read_to_string(&spec.file).map_err(|e| e.to_string());
        let users = read.and_then(|text| match before.get(name) {
            Some((same, known, basic)) if same == spec && *known == text => {
                Ok((basic.clone(), text))
            }
            _ => {
                let users = Users::read(&text, secret).map_err(|e| e.to_string())?;
                let basic = Basic {
                    name: Arc::from(name),
                    challenge: format!("Basic realm=\"{realm}\", charset=\"UTF-8\""),
                    name_header,
                    forward: spec.forward.unwrap_or(false),
                    users: Arc::new(users),
                    secret,
                    verified: Flights::new(defaults::PASSWORDS),
                };
                Ok((Arc::new(basic), text))
            }
        });
        match users {
            Ok((basic, text)) => {
                let kept = (spec.clone(), text, basic.clone());
                self.basics.insert(name.to_owned(), kept);
                Some(basic)
            }
            Err(error) => {
                let remedy = "make it by `selvedge password --file FILE --name USER`";
                let message = format!("`{}`: {error}", spec.file);
                self.error(&at.then("file"), message, remedy);
                None
            }
        }
    }

    /// A `clientCertificate` policy.
    pub(super) fn client_certificate(
        &mut self,
        at: &At,
        name: &str,
        spec: &ClientCertificatePolicy,
    ) -> ClientCertificates {
        let mut names = Vec::new();
        for (index, text) in spec.names.iter().enumerate() {
            match Name::read(text) {
                Some(name) => names.push(name),
                None => {
                    let remedy = "expected `dns:`, `uri:`, `email:` or `cn:` and a name, with one `*` at an end";
                    let at = at.then("names").nth(index);
                    self.error(&at, format!("`{text}` is no name of a certificate"), remedy);
                }
            }
        }
        let mut fingerprints = Vec::new();
        for (index, text) in spec.fingerprints.iter().enumerate() {
            let digits = text.replace(':', "").to_ascii_lowercase();
            if digits.len() != 64 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
                let remedy = "expected 64 hexadecimal digits, of SHA-256";
                let at = at.then("fingerprints").nth(index);
                self.error(&at, format!("`{text}` is no fingerprint"), remedy);
            }
            fingerprints.push(digits.into());
        }
        ClientCertificates {
            name: Arc::from(name),
            names,
            fingerprints,
            name_header: self.name_header(at, spec.name_header.as_ref()),
        }
    }

    /// A `signature` policy.
    pub(super) fn signature(
        &mut self,
        at: &At,
        name: &str,
        spec: &SignaturePolicy,
    ) -> Option<Signature> {
        let before = self.found.len();
        let name_header = self.name_header(at, spec.name_header.as_ref());
        for (index, header) in spec.headers.iter().enumerate() {
            if !is_token(header.as_bytes()) {
                let at = at.then("headers").nth(index);
                let remedy = "expected letters, digits and `-`";
                self.error(&at, format!("`{header}` is not a header name"), remedy);
            }
        }
        let signers = self.signers(at, spec);
        if self.found.len() > before {
            return None;
        }
        let largest = spec.max_body.map_or(defaults::SIGNED_BYTES, |size| {
            usize::try_from(size.0).unwrap_or(usize::MAX)
        });
        Some(Signature {
            name: Arc::from(name),
            form: form(spec.form),
            signers,
            cover: spec
                .headers
                .iter()
                .map(|h| h.to_ascii_lowercase())
                .collect(),
            age: spec
                .max_age
                .map_or(defaults::SIGNATURE_AGE, |d| d.0)
                .as_secs(),
            largest,
            name_header,
        })
    }

    fn signers(&mut self, at: &At, spec: &SignaturePolicy) -> Vec<Signer> {
        let message = spec.form == SignatureForm::Message;
        let (wanted, other, set, unset) = match message {
            true => (
                "keys",
                "secretFiles",
                !spec.keys.is_empty(),
                spec.secret_files.is_empty(),
            ),
            false => (
                "secretFiles",
                "keys",
                !spec.secret_files.is_empty(),
                spec.keys.is_empty(),
            ),
        };
        if !set {
            self.error(at, "nobody could sign", format!("add `{wanted}`"));
        }
        if !unset {
            let message = format!("`{other}` is not of this form");
            self.error(&at.then(other), message, format!("use `{wanted}`"));
        }
        if !message && !spec.headers.is_empty() {
            let remedy = "remove it: these webhooks sign their body";
            self.error(&at.then("headers"), "`headers` is not of this form", remedy);
        }
        if !message {
            let files = spec.secret_files.iter().enumerate();
            let secrets = files.filter_map(|(index, file)| {
                self.signing_secret(&at.then("secretFiles").nth(index), spec.form, file)
            });
            let secrets = secrets.collect();
            return vec![Signer {
                name: String::new(),
                plan: None,
                secrets,
            }];
        }
        let mut signers = Vec::new();
        for (id, key) in &spec.keys {
            let at = at.then("keys").then(id);
            if id.is_empty() || !id.bytes().all(|b| b.is_ascii_graphic()) {
                let remedy = "expected visible characters";
                self.error(&at, format!("`{id}` is no `keyid`"), remedy);
            }
            let secret = self.signing_secret(&at.then("secretFile"), spec.form, &key.secret_file);
            signers.push(Signer {
                name: id.clone(),
                plan: key.plan.clone(),
                secrets: secret.into_iter().collect(),
            });
        }
        signers
    }

    fn signing_secret(&mut self, at: &At, spec: SignatureForm, file: &str) -> Option<Secret> {
        let text = self.secret(at, file)?;
        match Secret::read(form(spec), &text) {
            Ok(secret) => Some(secret),
            Err(error) => {
                let remedy = "make one by `openssl rand -base64 32`";
                self.error(at, format!("`{file}`: {error}"), remedy);
                None
            }
        }
    }

    /// An `anyOf` policy. What is wrong with its ways was said where they stand.
    pub(super) fn any_of(&mut self, at: &At, name: &str, spec: &[String]) -> AnyOf {
        let mut ways = Vec::new();
        for (index, way) in spec.iter().enumerate() {
            let at = at.nth(index);
            let known = self.config.policies.contains_key(way);
            match self.guards.get(way) {
                Some(guard) if guard.asks_who() => ways.push(guard.clone()),
                None if !known => {
                    let known = self.config.policies.keys().map(String::as_str);
                    self.dangling(&at, "policy", way, known);
                }
                None if self.asks_who(way) => {}
                _ => {
                    let remedy = "expected `oidc`, `clientCertificate`, `jwt`, `introspection`, `apiKey`, `basic` or `signature`";
                    self.error(&at, format!("`{way}` does not ask who calls"), remedy);
                }
            }
        }
        let logins = ways.iter().filter(|way| matches!(way, Guard::Oidc(_)));
        if logins.count() > 1 {
            let remedy = "name one `oidc`: users can be sent to one issuer only";
            self.error(at, "two logins", remedy);
        }
        if spec.len() < 2 {
            let remedy = "name two policies or more, or name the one at the rule";
            self.error(at, "nothing to choose from", remedy);
        }
        ways.sort_by_key(|way| match way {
            Guard::Oidc(_) => 2,
            // Others need not hold the body.
            Guard::Signature(_) => 1,
            _ => 0,
        });
        AnyOf {
            name: Arc::from(name),
            ways,
        }
    }

    /// Whether a policy that could not be compiled would ask who calls.
    fn asks_who(&self, name: &str) -> bool {
        self.config.policies.get(name).is_some_and(|policy| {
            policy.oidc.is_some()
                || policy.jwt.is_some()
                || policy.introspection.is_some()
                || policy.api_key.is_some()
                || policy.basic.is_some()
                || policy.signature.is_some()
        })
    }
}

const fn form(spec: SignatureForm) -> Form {
    match spec {
        SignatureForm::Message => Form::Message,
        SignatureForm::StandardWebhooks => Form::StandardWebhooks,
        SignatureForm::GitHub => Form::GitHub,
        SignatureForm::Stripe => Form::Stripe,
    }
}
