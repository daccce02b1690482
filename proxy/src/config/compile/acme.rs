//! The `acme` section: checked, and its issuers opened where a listener uses them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use selvedge_contract::config::{Acme, AcmeChallenge, ListenerProtocol};

use crate::acme::{Issuer, external_key};
use crate::fetch::Address;
use crate::tls::connect::server_client;

use super::{At, Compiler, Pass};

/// Issuers by name; `None` where nothing may be opened.
pub(super) type Opened = BTreeMap<String, Option<Arc<Issuer>>>;

impl Compiler {
    /// Every entry. One that has not changed keeps its state.
    pub(super) fn issuers(&mut self, pass: &mut Pass<'_>) {
        let config = pass.config;
        let listeners = &config.listeners;
        let used: BTreeSet<&str> = listeners
            .iter()
            .filter_map(|l| l.tls.as_ref()?.acme.as_deref())
            .collect();
        for (name, spec) in &config.acme {
            let at = At::key("acme").then(name);
            let right = pass.check_acme(&at, spec);
            if !used.contains(name.as_str()) {
                let remedy = "name it in a listener's `tls.acme`, or remove it";
                pass.warning(&at, format!("no listener uses `{name}`"), remedy);
                continue;
            }
            let plain = |l: &&_| matches!(l, ListenerProtocol::Http);
            let protocols = listeners.iter().map(|l| &l.protocol);
            if spec.challenge == AcmeChallenge::Http01 && protocols.filter(plain).count() == 0 {
                // Not an error: a replica that shares the store may have port 80.
                let remedy =
                    "add a listener with `protocol: HTTP` where port 80 of the names leads to";
                let message = "nobody answers the challenge: there is no HTTP listener";
                pass.warning(&at.then("challenge"), message, remedy);
            }
            let issuer = if self.dry || !right {
                None
            } else {
                self.open_issuer(pass, &at, name, spec)
            };
            pass.issuers.insert(name.clone(), issuer);
        }
    }

    fn open_issuer(
        &mut self,
        pass: &mut Pass<'_>,
        at: &At,
        name: &str,
        spec: &Acme,
    ) -> Option<Arc<Issuer>> {
        if let Some(known) = self.issuers.get(name)
            && known.spec == *spec
        {
            return Some(known.clone());
        }
        match Issuer::open(&self.name(name), spec, &self.metrics) {
            Ok(issuer) => Some(issuer),
            Err(error) => {
                let message = format!("`{}`: {error}", spec.store);
                let remedy = "expected a directory that can be made and written";
                pass.error(&at.then("store"), message, remedy);
                None
            }
        }
    }
}

impl Pass<'_> {
    /// The issuer that a listener names, if there is one.
    pub(super) fn issuer(&mut self, at: &At, name: &str) -> Option<Arc<Issuer>> {
        if !self.config.acme.contains_key(name) {
            let known: Vec<&str> = self.config.acme.keys().map(String::as_str).collect();
            self.dangling(at, "ACME entry", name, known.into_iter());
            return None;
        }
        self.issuers.get(name).cloned().flatten()
    }

    /// Whether an entry is right by itself.
    fn check_acme(&mut self, at: &At, spec: &Acme) -> bool {
        let before = self.found.len();
        let directory: Option<Address> = self.parse(&at.then("directory"), &spec.directory);
        if directory.is_some_and(|address| !address.is_https()) {
            let message = format!("`{}` is not https", spec.directory);
            self.error(
                &at.then("directory"),
                message,
                "expected an `https://` address",
            );
        }
        if let Some(ca) = &spec.directory_ca
            && let Err(error) = server_client(Some(Path::new(ca)), false)
        {
            let remedy = "expected a file with CA certificates in PEM";
            self.error(&at.then("directoryCa"), error.to_string(), remedy);
        }
        for (index, contact) in spec.contact.iter().enumerate() {
            let mail = contact.strip_prefix("mailto:");
            if !mail.is_some_and(|mail| mail.contains('@') && !mail.contains([' ', ',', '?'])) {
                let message = format!("`{contact}` is not a contact");
                let remedy = "expected `mailto:` and one mail address";
                self.error(&at.then("contact").nth(index), message, remedy);
            }
        }
        if spec.store.is_empty() {
            let remedy = "expected a directory that outlives the process";
            self.error(&at.then("store"), "no store", remedy);
        }
        if let Some(external) = &spec.external_account
            && let Err(error) = external_key(&external.key_file)
        {
            let remedy = "expected a file with the key as the directory's owner gave it out";
            let at = at.then("externalAccount").then("keyFile");
            self.error(&at, error, remedy);
        }
        self.check_names(&at.then("names"), &spec.names);
        self.found.len() == before
    }

    fn check_names(&mut self, at: &At, names: &[String]) {
        if names.is_empty() {
            self.error(at, "no name to get a certificate for", "add a DNS name");
        }
        let mut seen = BTreeSet::new();
        for (index, name) in names.iter().enumerate() {
            let at = at.nth(index);
            if name.starts_with("*.") {
                let message = format!("`{name}`: neither challenge can prove a wildcard");
                self.error(
                    &at,
                    message,
                    "list each name by itself, or use `certificates`",
                );
            } else if !is_host_name(name) {
                let message = format!("`{name}` is not a DNS host name");
                self.error(&at, message, "expected a name such as `shop.example.com`");
            } else if !seen.insert(name.to_ascii_lowercase()) {
                self.error(&at, format!("`{name}` is there twice"), "remove one");
            }
        }
    }
}

/// A host name as public certificates may carry it (RFC 5280 section 4.2.1.6): letters, digits and
/// inner hyphens; no address.
fn is_host_name(name: &str) -> bool {
    let label = |label: &str| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        (1..=63).contains(&label.len())
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= 253
        && name.split('.').all(label)
        && !last.bytes().all(|b| b.is_ascii_digit())
        && name.parse::<IpAddr>().is_err()
}

#[cfg(test)]
mod tests {
    use super::is_host_name;

    #[test]
    fn host_names() {
        for good in [
            "a",
            "shop.example.com",
            "xn--mnchen-3ya.example",
            "3.a1",
            "Shop.Example",
        ] {
            assert!(is_host_name(good), "{good}");
        }
        let long = format!("{}.example", "a".repeat(64));
        for bad in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "a_b.example",
            "-a.example",
            "a-.example",
            "a b",
            "a:80",
            "10.0.0.1",
            "::1",
            "[::1]",
            "*.example",
            "a/../b",
            "m\u{fc}nchen.example",
            &long,
        ] {
            assert!(!is_host_name(bad), "{bad}");
        }
    }
}
