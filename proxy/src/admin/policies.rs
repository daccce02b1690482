//! Metrics of policies and of public certificates, as text.

use std::fmt;
use std::sync::atomic::Ordering::Relaxed;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::cache::Cache;
use crate::config::Snapshot;
use crate::policy::decisions::Decision;

/// Name, help, and how to read it off a cache.
type CacheGauge = (&'static str, &'static str, fn(&Cache) -> u64);

/// See there.
pub(super) fn limits(encoder: &mut DescriptorEncoder<'_>, snapshot: &Snapshot) -> fmt::Result {
    let help = "Requests that were too many, and those that a lost store did not count";
    let kind = MetricType::Counter;
    let mut family = encoder.encode_descriptor("rate_limit", help, None, kind)?;
    for limit in &snapshot.limits {
        let lost = limit.shared.as_ref().map(|shared| &shared.lost);
        let refused = if limit.shadow { "shadow" } else { "refused" };
        for (outcome, count) in [(refused, Some(&limit.refused)), ("uncounted", lost)] {
            if let Some(count) = count {
                let labels = [("policy", &*limit.name), ("outcome", outcome)];
                let value = count.load(Relaxed);
                ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
            }
        }
    }
    Ok(())
}

/// See there.
pub(super) fn crowds(encoder: &mut DescriptorEncoder<'_>, snapshot: &Snapshot) -> fmt::Result {
    let help = "Requests that were too many at a time, and those of too many clients to count";
    let kind = MetricType::Counter;
    let mut family = encoder.encode_descriptor("concurrency_limit", help, None, kind)?;
    for crowd in &snapshot.crowds {
        for (outcome, count) in [("refused", &crowd.refused), ("uncounted", &crowd.uncounted)] {
            let labels = [("policy", &*crowd.name), ("outcome", outcome)];
            let value = count.load(Relaxed);
            ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

/// See there.
pub(super) fn decisions(encoder: &mut DescriptorEncoder<'_>, snapshot: &Snapshot) -> fmt::Result {
    let help = "Requests and connections of bytes, by what a policy that says who may has decided";
    let kind = MetricType::Counter;
    let mut family = encoder.encode_descriptor("authorization_decisions", help, None, kind)?;
    for (name, decisions) in &snapshot.decided {
        for decision in Decision::ALL {
            let labels = [("policy", name.as_str()), ("decision", decision.label())];
            let value = decisions.of(decision);
            ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

/// See there.
pub(super) fn versions(encoder: &mut DescriptorEncoder<'_>, snapshot: &Snapshot) -> fmt::Result {
    let help = "Requests by version of an API";
    let kind = MetricType::Counter;
    let mut family = encoder.encode_descriptor("version_requests", help, None, kind)?;
    for version in &snapshot.versions {
        let labels = [("policy", &*version.policy), ("version", &*version.name)];
        let value = version.requests.load(Relaxed);
        ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

/// See there.
pub(super) fn caches(encoder: &mut DescriptorEncoder<'_>, snapshot: &Snapshot) -> fmt::Result {
    if snapshot.caches.is_empty() {
        return Ok(());
    }
    let help = "Requests that met a cache, by what became of them";
    let kind = MetricType::Counter;
    let mut family = encoder.encode_descriptor("cache_requests", help, None, kind)?;
    for cache in &snapshot.caches {
        let counts = &cache.counts;
        for (outcome, count) in [
            ("hit", &counts.hits),
            ("stale", &counts.stale),
            ("miss", &counts.misses),
            ("wait", &counts.collapsed),
            ("pass", &counts.passed),
        ] {
            let labels = [("policy", &*cache.name), ("outcome", outcome)];
            let value = count.load(Relaxed);
            ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
        }
    }
    let sizes: [CacheGauge; 2] = [
        ("cache_bytes", "Bytes that a cache holds", Cache::bytes),
        ("cache_addresses", "Addresses that a cache knows", |c| {
            c.len() as u64
        }),
    ];
    for (name, help, value) in sizes {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for cache in &snapshot.caches {
            let labels = [("policy", &*cache.name)];
            let value = value(cache).cast_signed();
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

/// See there.
pub(super) fn issuers(encoder: &mut DescriptorEncoder<'_>, snapshot: &Snapshot) -> fmt::Result {
    let issuers = &snapshot.issuers.0;
    let names = || {
        issuers
            .iter()
            .flat_map(|i| i.names.iter().map(|n| (&*i.name, n)))
    };
    let help = "End of the life of a certificate by ACME, Unix time; 0 = none yet";
    let mut family = encoder.encode_descriptor(
        "acme_certificate_expiry_seconds",
        help,
        None,
        MetricType::Gauge,
    )?;
    for (acme, name) in names() {
        let labels = [("acme", acme), ("name", &*name.name)];
        let end = name.counters.not_after.load(Relaxed).cast_signed();
        ConstGauge::new(end).encode(family.encode_family(&labels)?)?;
    }
    let help = "Orders of certificates by ACME, by outcome";
    let mut family = encoder.encode_descriptor("acme_orders", help, None, MetricType::Counter)?;
    for (acme, name) in names() {
        let counters = &name.counters;
        for (outcome, value) in [("issued", &counters.issued), ("failed", &counters.failed)] {
            let labels = [("acme", acme), ("name", &*name.name), ("outcome", outcome)];
            ConstCounter::new(value.load(Relaxed)).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}
