//! Admin: metrics of services, as they stand when they are asked for.

use std::borrow::Cow;
use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::balance::outcomes::Ejected;
use crate::balance::{CheckResult, Service};
use crate::config::Snapshot;

/// Name, help, and how to read it off a service.
type ServiceGauge = (&'static str, &'static str, fn(&Service) -> u64);

const GAUGES: [ServiceGauge; 7] = [
    ("service_endpoints", "Endpoints", |s| {
        s.endpoints.load().all.len() as u64
    }),
    (
        "service_endpoints_ejected",
        "Endpoints that are ejected",
        |s| s.endpoints.load().ejected() as u64,
    ),
    (
        "service_endpoints_unhealthy",
        "Endpoints that health checks have found failing",
        |s| {
            let set = s.endpoints.load();
            set.all.iter().filter(|e| e.is_unhealthy()).count() as u64
        },
    ),
    (
        "service_breaker",
        "Breaker: 0 closed, 1 open, 2 half-open",
        |s| s.breaker.state() as u64,
    ),
    (
        "service_retry_budget",
        "Retries that the budget allows now",
        |s| s.budget.left(),
    ),
    (
        "service_adaptive_limit",
        "Requests without an answer that the service bears, as far as is known; 0: not looked for",
        |s| s.adaptive.as_ref().map_or(0, |a| a.limit().into()),
    ),
    (
        "service_adaptive_waiting",
        "Requests without an answer that count against it",
        |s| s.adaptive.as_ref().map_or(0, |a| a.waiting().into()),
    ),
];

/// Writes them.
pub(super) fn encode(snapshot: &Snapshot, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    for (name, help, value) in GAUGES {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (service, live) in snapshot.all_services() {
            let labels = [("service", Cow::Borrowed(service))];
            ConstGauge::new(value(live).cast_signed()).encode(family.encode_family(&labels)?)?;
        }
    }
    let counted: [(_, _, Counted); 2] = [
        (
            "service_ejections",
            "Ejections of endpoints, by reason",
            |s| ("reason", s.ejections.counts(Ejected::ALL, Ejected::name)),
        ),
        (
            "service_health_checks",
            "Active health checks, by result",
            |s| {
                (
                    "result",
                    s.checks.counts(CheckResult::ALL, CheckResult::name),
                )
            },
        ),
    ];
    for (name, help, counts) in counted {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (service, live) in snapshot.all_services() {
            let (key, counts) = counts(live);
            for (value, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
                let labels = [
                    ("service", Cow::Borrowed(service)),
                    (key, Cow::Borrowed(value)),
                ];
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
    }
    Ok(())
}

/// A label, and counts by its values.
type Counted = fn(&Service) -> (&'static str, Vec<(&'static str, u64)>);
