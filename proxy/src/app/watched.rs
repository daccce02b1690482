//! Before the stages: the files that a configuration names, whose change asks for a reload.

use std::path::PathBuf;

use selvedge_contract::config::{Config, Policy};

/// Every file that is read when this configuration is compiled.
pub(super) fn files(source: &Config) -> Vec<PathBuf> {
    let mut files: Vec<&String> = Vec::new();
    for tls in source.listeners.iter().filter_map(|l| l.tls.as_ref()) {
        for pair in &tls.certificates {
            files.extend([&pair.certificate, &pair.key]);
            files.extend(&pair.ocsp);
        }
        if let Some(clients) = &tls.client_certificates {
            files.push(&clients.ca);
            files.extend(&clients.crl);
        }
    }
    for policy in source.policies.values() {
        of_policy(policy, &mut files);
    }
    files.extend(source.geo.iter().map(|geo| &geo.database));
    for store in source.redis.values() {
        files.extend(store.password_file.iter().chain(&store.ca));
    }
    if let Some(identity) = &source.identity {
        files.push(&identity.bundle);
        files.extend(identity.certificate.iter().chain(&identity.key));
        files.extend(&identity.crl);
        for other in &identity.federation {
            files.extend(other.bundle.iter().chain(&other.ca));
        }
    }
    files.into_iter().map(PathBuf::from).collect()
}

fn of_policy<'a>(policy: &'a Policy, files: &mut Vec<&'a String>) {
    let jwks = policy.jwt.iter().map(|jwt| &jwt.jwks);
    files.extend(jwks.filter(|jwks| !jwks.contains("://")));
    files.extend(policy.api_key.iter().map(|keys| &keys.file));
    files.extend(policy.basic.iter().map(|basic| &basic.file));
    if let Some(signature) = &policy.signature {
        files.extend(&signature.secret_files);
        files.extend(signature.keys.values().map(|key| &key.secret_file));
    }
    let pages = policy.error_pages.iter().flatten();
    files.extend(pages.filter_map(|page| page.html.as_ref()));
    if let Some(oidc) = &policy.oidc {
        files.push(&oidc.session_key_file);
        files.extend(&oidc.client_secret_file);
    }
    let asked = policy.introspection.iter();
    files.extend(asked.map(|asked| &asked.client_secret_file));
}
