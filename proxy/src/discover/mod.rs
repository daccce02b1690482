//! Endpoints that are found while the proxy runs: DNS, with its TTLs honoured within bounds, and
//! the last good answer kept while servers fail; a cluster's in [`cluster`].

#[cfg(feature = "kubernetes")]
pub mod cluster;
pub mod demand;

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::{RData, RecordType};
use selvedge_contract::config::Kubernetes;
use selvedge_contract::defaults::upstream::{DNS_CEILING, DNS_ENDPOINTS, DNS_FLOOR};
use tokio::time::Instant;

use crate::balance::service::DnsName;
use crate::balance::{Service, Wanted};

/// Longest pause after failures in a row.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Where a pod finds the name of its namespace.
const NAMESPACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// The workload's own namespace: as configured, else the pod's, else `default`.
#[must_use]
pub fn home(spec: &Kubernetes) -> String {
    let beside = |token: &String| std::path::Path::new(token).with_file_name("namespace");
    let file = spec.token.as_ref().map_or_else(|| NAMESPACE.into(), beside);
    let read = || std::fs::read_to_string(file).ok();
    let given = spec.namespace.clone().or_else(read);
    let given = given.map(|text| text.trim().to_owned());
    given
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "default".to_owned())
}

/// Starts to resolve a service's name, unless it has none or is being resolved already. Ends when
/// the service is gone. Must run inside the control runtime.
pub fn watch(service: &Arc<Service>) {
    if let Some(name) = &service.spec.dns
        && !service.begin_discovery()
    {
        tokio::spawn(resolve_forever(Arc::downgrade(service), name.clone()));
    }
}

async fn resolve_forever(service: Weak<Service>, name: DnsName) {
    let resolver = match TokioResolver::builder_tokio().and_then(|mut builder| {
        // We ask when an answer is over or a pause is: an answer that is kept beyond that, as one that
        // the name does not exist may be for a day, would only hide that it has changed.
        let options = builder.options_mut();
        options.positive_max_ttl = Some(DNS_CEILING);
        options.negative_max_ttl = Some(DNS_FLOOR);
        builder.build()
    }) {
        Ok(resolver) => resolver,
        Err(error) => {
            tracing::error!(%error, "no DNS configuration");
            return;
        }
    };
    let mut failures: u32 = 0;
    while service.strong_count() > 0 {
        let answer = resolve(&resolver, &name).await;
        let Some(service) = service.upgrade() else {
            return;
        };
        let wait = match answer {
            Ok((endpoints, ttl)) => {
                failures = 0;
                update(&service, &endpoints);
                ttl.clamp(DNS_FLOOR, DNS_CEILING)
            }
            Err(error) => {
                failures = failures.saturating_add(1);
                tracing::warn!(service = %service.name(), name = %name.name, %error, failures,
                    "DNS failed; the last good answer stays");
                (DNS_FLOOR * 2u32.saturating_pow(failures.min(5))).min(LONGEST_PAUSE)
            }
        };
        drop(service);
        tokio::time::sleep(wait).await;
    }
}

fn update(service: &Service, found: &[Wanted]) {
    if service.replace_endpoints(found) {
        tracing::info!(service = %service.name(), count = found.len(), "endpoints by DNS");
    }
}

type Answer = (Vec<Wanted>, Duration);

/// One look-up: endpoints in a stable order, and how long they hold.
async fn resolve(resolver: &TokioResolver, name: &DnsName) -> Result<Answer, String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let mut endpoints = Vec::new();
    let ttl = match name.port {
        Some(port) => {
            let answer = resolver
                .lookup_ip(name.name.as_str())
                .await
                .map_err(|e| text(&e))?;
            endpoints.extend(answer.iter().map(|ip| (SocketAddr::new(ip, port), 1, 0)));
            answer
                .valid_until()
                .saturating_duration_since(Instant::now().into_std())
        }
        None => {
            let answer = resolver
                .lookup(name.name.as_str(), RecordType::SRV)
                .await
                .map_err(|e| text(&e))?;
            for record in answer.answers() {
                let RData::SRV(srv) = &record.data else {
                    continue;
                };
                let target = srv.target.to_string();
                let ips = match resolver.lookup_ip(target.as_str()).await {
                    Ok(ips) => ips,
                    // That there is no such machine is an answer; that a server fails is none.
                    Err(error) if error.is_no_records_found() => continue,
                    Err(error) => return Err(text(&error)),
                };
                let weight = u32::from(srv.weight).max(1);
                let at = |ip| SocketAddr::new(ip, srv.port);
                endpoints.extend(ips.iter().map(|ip| (at(ip), weight, srv.priority)));
            }
            answer
                .valid_until()
                .saturating_duration_since(Instant::now().into_std())
        }
    };
    if endpoints.is_empty() {
        return Err("the answer has no address".into());
    }
    endpoints.sort_unstable();
    endpoints.dedup();
    endpoints.truncate(DNS_ENDPOINTS);
    let found = endpoints
        .into_iter()
        .map(|(address, weight, priority)| Wanted {
            priority,
            ..(address, weight).into()
        });
    Ok((found.collect(), ttl))
}
