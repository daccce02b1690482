//! What is trusted: how much of it there is, why handshakes fail, what ends with a change of it.

use std::fmt;
use std::sync::atomic::Ordering::Relaxed;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use serde_json::{Map, Value, json};

use crate::telemetry::metrics::{Lone, Metrics};
use crate::tls::IdentityStore;
use crate::tls::reason::Reason;

use super::exposition::{counter, gauge};
use super::time;

/// By how many roots each trust domain is verified, and by how many lists of what was revoked.
pub(super) fn shown(store: &IdentityStore) -> Value {
    let trust = store.trust();
    let others = trust.others.iter();
    let others = others.map(|(domain, roots)| (domain.clone(), roots.len().into()));
    let others: Map<String, Value> = others.collect();
    json!({
        "trustDomain": store.trust_domain().as_str(),
        "roots": trust.own.len(),
        "federation": others,
        "revocationLists": trust.revoked.count(),
        "nextUpdate": trust.revoked.next_update().map(time),
    })
}

/// All metrics of it.
pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>, metrics: &Metrics) -> fmt::Result {
    let help = "Failed TLS handshakes with clients, by reason";
    let name = "handshake_failures";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for reason in Reason::ALL {
        let workers = metrics.workers().iter();
        let shards = workers.filter_map(|w| w.handshake.get(reason as usize));
        let value: u64 = shards.map(Lone::value).sum();
        if value > 0 {
            let labels = [("reason", reason.word())];
            ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
        }
    }
    let process = &metrics.process;
    let help = "Connections that were ended beside their requests, by reason";
    let name = "connections_ended";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    let labels = [("reason", "untrusted")];
    let ended = process.distrusted.load(Relaxed);
    ConstCounter::new(ended).encode(family.encode_family(&labels)?)?;
    counter(
        encoder,
        "trust_changes",
        "Changes of what peers in the mesh are verified by",
        process.trust_changes.load(Relaxed),
    )?;
    counter(
        encoder,
        "federation_failures",
        "Bundles of other trust domains that were not obtained",
        process.bundle_failures.load(Relaxed),
    )?;
    gauge(
        encoder,
        "revocation_list_expiry_seconds",
        "When the first list of revoked certificates ends, Unix time; 0 without one",
        process.lists_end.load(Relaxed),
    )
}
