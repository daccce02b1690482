//! Policies of the configuration by which a service decides.

use std::sync::Arc;
use std::time::Duration;

use selvedge_contract::config::ExtAuthz as ExtAuthzSpec;
use selvedge_contract::defaults::policy as defaults;

use crate::policy::ext_authz::ExtAuthz;

use super::policies::Policies;
use super::routes;
use super::services::Services;
use super::{At, Compiler, Pass};

impl Compiler {
    /// An `extAuthz` policy.
    pub(super) fn ext_authz(
        &mut self,
        pass: &mut Pass<'_>,
        at: &At,
        name: &str,
        spec: &ExtAuthzSpec,
        services: &Services,
    ) -> Option<ExtAuthz> {
        let prefix = spec.path_prefix.trim_end_matches('/');
        if !prefix.is_empty() && !prefix.starts_with('/') {
            let message = format!("`{prefix}` is not a path");
            pass.error(&at.then("pathPrefix"), message, "begin it with `/`");
        }
        for (key, list) in [
            ("headers", &spec.headers),
            ("upstreamHeaders", &spec.upstream_headers),
        ] {
            for (nth, header) in list.iter().enumerate() {
                pass.header_name(&at.then(key).nth(nth), header);
            }
        }
        pass.check_asked(at, &spec.service);
        let Some((_, service)) = services.get(&spec.service) else {
            // One that exists but has errors was reported where it stands.
            if !pass.config.services.contains_key(&spec.service) {
                let known = pass.config.services.keys().map(String::as_str);
                pass.dangling(&at.then("service"), "service", &spec.service, known);
            }
            return None;
        };
        let timeout = spec.timeout.map_or(defaults::VERDICT, |d| d.0);
        let rule = format!("policy/{name}");
        let (plain, retry) = (Policies::default(), routes::default_retry());
        // A policy that has changed must not go by what it was told before.
        self.tokens += 1;
        Some(ExtAuthz {
            name: Arc::from(name),
            id: self.tokens,
            rule: self.simple_rule(&rule, service, plain, timeout, retry),
            prefix: prefix.to_owned(),
            fail_open: spec.fail_open,
            timeout,
            headers: spec.headers.clone(),
            upstream_headers: spec.upstream_headers.clone(),
            cache: spec.cache.map_or(Duration::ZERO, |d| d.0),
        })
    }
}
