//! Policies of the configuration by which a service decides.

use std::sync::Arc;
use std::time::Duration;

use selvedge_contract::config::{AuthzProtocol, ExtAuthz as ExtAuthzSpec, Service as ServiceSpec};
use selvedge_contract::defaults::policy as defaults;

use crate::balance::service::Speaks;
use crate::message::Host;
use crate::policy::ext_authz::{ExtAuthz, Form, Grpc};

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
        let grpc = spec.protocol == AuthzProtocol::Grpc;
        if grpc && !prefix.is_empty() {
            let remedy = "leave it out, or set `protocol: http`";
            pass.error(
                &at.then("pathPrefix"),
                "a call over gRPC has its own path",
                remedy,
            );
        }
        if !grpc && !spec.context.is_empty() {
            let remedy = "leave it out, or set `protocol: grpc`";
            pass.error(
                &at.then("context"),
                "`context` is told over gRPC only",
                remedy,
            );
        }
        let Some((service_spec, service)) = services.get(&spec.service) else {
            // One that exists but has errors was reported where it stands.
            if !pass.config.services.contains_key(&spec.service) {
                let known = pass.config.services.keys().map(String::as_str);
                pass.dangling(&at.then("service"), "service", &spec.service, known);
            }
            return None;
        };
        if grpc && service.spec.speaks != Speaks::Http2 {
            let message = format!("gRPC needs HTTP/2, and `{}` speaks HTTP/1", spec.service);
            let remedy = format!("set `protocol: http2` at `services.{}`", spec.service);
            pass.error(&at.then("service"), message, remedy);
        }
        let form = if grpc {
            Form::Grpc(Grpc {
                host: called(&spec.service, service_spec),
                context: spec.context.clone(),
            })
        } else {
            Form::Http(prefix.to_owned())
        };
        let timeout = spec.timeout.map_or(defaults::VERDICT, |d| d.0);
        let rule = format!("policy/{name}");
        let (plain, retry) = (Policies::default(), routes::default_retry());
        // A policy that has changed must not go by what it was told before.
        self.tokens += 1;
        Some(ExtAuthz {
            name: Arc::from(name),
            id: self.tokens,
            rule: self.simple_rule((&rule, &rule), service, plain, timeout, retry),
            form,
            fail_open: spec.fail_open,
            timeout,
            headers: spec.headers.clone(),
            upstream_headers: spec.upstream_headers.clone(),
            cache: spec.cache.map_or(Duration::ZERO, |d| d.0),
        })
    }
}

/// How a service is called: the name in its certificate, or its own. One that is no host is called by
/// its endpoint's address.
fn called(name: &str, spec: &ServiceSpec) -> Host {
    let tls = spec.tls.as_ref().and_then(|tls| tls.server_name.as_deref());
    let dns = spec.dns.as_deref().filter(|dns| !dns.starts_with('_'));
    let dns = dns.map(|dns| dns.trim_end_matches('.'));
    let text = tls.or(dns).unwrap_or(name).to_owned();
    Host::parse(text.into()).unwrap_or_default()
}
