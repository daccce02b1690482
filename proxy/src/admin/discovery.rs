//! Metrics of discovery in a cluster.

use std::fmt;
use std::sync::atomic::Ordering::Relaxed;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::worker::Shared;

use super::exposition::{counter, gauge};

/// Nothing where there is no discovery.
pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>, shared: &Shared) -> fmt::Result {
    let Some(demand) = shared.demand.get() else {
        return Ok(());
    };
    let status = &demand.status;
    let open = status.watches.load(Relaxed);
    gauge(encoder, "discovery_watches", "Watches that are open", open)?;
    let begun = status.begun.load(Relaxed);
    counter(
        encoder,
        "discovery_watches_begun",
        "Watches that were begun, restarts with them",
        begun,
    )?;
    let lists = status.lists.load(Relaxed);
    counter(
        encoder,
        "discovery_lists",
        "Lists that were read: one to begin, one whenever versions were gone",
        lists,
    )?;
    let failures = status.failures.load(Relaxed);
    counter(
        encoder,
        "discovery_failures",
        "Requests to the API that failed",
        failures,
    )?;
    let help = "Look-ups of what was not known, by outcome";
    let mut family =
        encoder.encode_descriptor("discovery_lookups", help, None, MetricType::Counter)?;
    let outcomes = [
        ("found", &status.found),
        ("unknown", &status.unknown),
        ("unanswered", &status.unanswered),
    ];
    for (outcome, count) in outcomes {
        let labels = [("outcome", outcome)];
        ConstCounter::new(count.load(Relaxed)).encode(family.encode_family(&labels)?)?;
    }
    if let Some(silence) = status.silence() {
        let help = "Time since the API, or the manifests, last said something, in seconds";
        let metric = ConstGauge::new(silence.as_secs_f64());
        let name = "discovery_silence_seconds";
        metric.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
    }
    Ok(())
}
