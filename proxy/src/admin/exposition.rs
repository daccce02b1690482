//! Metrics as text: adds up the shards of the workers when somebody asks.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use crate::error::ErrorKind;
use crate::protocol::http2::Abuse;
use crate::telemetry::metrics::{BUCKETS, Durations, Lone, RouteMetrics, RouteShard, WorkerShard};
use crate::worker::Shared;

use super::{calls, discovery, mirrors, mtls, policies, services, trust};

/// OpenMetrics text of everything.
pub(super) fn encode(shared: &Arc<Shared>) -> String {
    let mut registry = Registry::with_prefix("selvedge");
    registry.register_collector(Box::new(Snapshot(shared.clone())));
    let mut out = String::new();
    match prometheus_client::encoding::text::encode(&mut out, &registry) {
        Ok(()) => out,
        Err(error) => format!("# {error}\n"),
    }
}

#[derive(Debug)]
struct Snapshot(Arc<Shared>);

const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

fn sum<T>(shards: &[T], field: impl Fn(&T) -> &Lone) -> u64 {
    shards
        .iter()
        .map(|shard| field(shard).value())
        .fold(0, u64::wrapping_add)
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let routes = self.0.metrics.routes();
        requests(&mut encoder, &routes)?;
        ends(&mut encoder, &routes)?;
        durations(&mut encoder, &routes)?;
        calls::encode(&mut encoder, &routes)?;
        for (name, help, field) in ROUTE_COUNTERS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for route in &routes {
                let value = sum(route.shards(), field);
                if value > 0 {
                    let labels = [("route", &*route.route), ("service", &*route.service)];
                    ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
                }
            }
        }
        let mut family = encoder.encode_descriptor(
            "requests_in_flight",
            "Requests in flight",
            None,
            MetricType::Gauge,
        )?;
        for route in &routes {
            let value = sum(route.shards(), |s| &s.in_flight).cast_signed();
            let labels = [("route", &*route.route), ("service", &*route.service)];
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
        connections(&mut encoder, self.0.metrics.workers())?;
        services::encode(&self.0.snapshot(), &mut encoder)?;
        let snapshot = self.0.snapshot();
        policies::caches(&mut encoder, &snapshot)?;
        policies::versions(&mut encoder, &snapshot)?;
        policies::limits(&mut encoder, &snapshot)?;
        policies::crowds(&mut encoder, &snapshot)?;
        policies::decisions(&mut encoder, &snapshot)?;
        mtls::encode(&mut encoder, &snapshot)?;
        mirrors::encode(&mut encoder, &snapshot)?;
        policies::issuers(&mut encoder, &snapshot)?;
        self.process(&mut encoder)?;
        self.memory(&mut encoder)?;
        trust::encode(&mut encoder, &self.0.metrics)?;
        discovery::encode(&mut encoder, &self.0)
    }
}

type RouteField = fn(&RouteShard) -> &Lone;

const ROUTE_COUNTERS: [(&str, &str, RouteField); 5] = [
    ("retries", "Tries after the first", |s| &s.retries),
    (
        "hedges",
        "Requests for which a second endpoint was asked as the first was late",
        |s| &s.hedges,
    ),
    (
        "hedges_won",
        "Those of them that the second endpoint answered first",
        |s| &s.hedges_won,
    ),
    (
        "request_body_bytes",
        "Body bytes received from clients",
        |s| &s.received,
    ),
    ("response_body_bytes", "Body bytes sent to clients", |s| {
        &s.sent
    }),
];

fn requests(encoder: &mut DescriptorEncoder<'_>, routes: &[Arc<RouteMetrics>]) -> fmt::Result {
    let help = "Requests by response class";
    let mut family = encoder.encode_descriptor("requests", help, None, MetricType::Counter)?;
    for route in routes {
        for (at, class) in CLASSES.iter().enumerate() {
            let shards = route.shards().iter().filter_map(|s| s.class.get(at));
            let value: u64 = shards.map(Lone::value).sum();
            if value > 0 {
                let labels = [
                    ("route", &*route.route),
                    ("service", &*route.service),
                    ("class", *class),
                ];
                ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
            }
        }
    }
    Ok(())
}

fn ends(encoder: &mut DescriptorEncoder<'_>, routes: &[Arc<RouteMetrics>]) -> fmt::Result {
    let help = "Requests that did not end well, by end code and cause";
    let mut family =
        encoder.encode_descriptor("request_failures", help, None, MetricType::Counter)?;
    for route in routes {
        for kind in ErrorKind::ALL {
            let shards = route
                .shards()
                .iter()
                .filter_map(|s| s.end.get(kind as usize + 1));
            let value: u64 = shards.map(Lone::value).sum();
            if value > 0 {
                let cause = format!("{kind:?}");
                let labels = [
                    ("route", &*route.route),
                    ("service", &*route.service),
                    ("end", kind.row().end),
                    ("cause", cause.as_str()),
                ];
                ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
            }
        }
    }
    Ok(())
}

fn durations(encoder: &mut DescriptorEncoder<'_>, routes: &[Arc<RouteMetrics>]) -> fmt::Result {
    let help = "From the head of a request to the last byte of its response";
    let unit = Unit::Seconds;
    let mut family =
        encoder.encode_descriptor("request_duration", help, Some(&unit), MetricType::Histogram)?;
    for route in routes {
        let labels = [("route", &*route.route), ("service", &*route.service)];
        let parts = route.shards().iter().map(|shard| &shard.durations);
        histogram(&mut family, &labels, parts)?;
    }
    Ok(())
}

/// Adds up these, unless they are empty.
#[expect(
    clippy::cast_precision_loss,
    reason = "bounds and sums are far below 2^52"
)]
pub(super) fn histogram<'d>(
    family: &mut MetricEncoder<'_>,
    labels: &[(&str, &str)],
    parts: impl Iterator<Item = &'d Durations> + Clone,
) -> fmt::Result {
    let count_of = |at: usize| -> u64 {
        let counts = parts.clone().filter_map(|part| part.bucket.get(at));
        counts.map(Lone::value).sum()
    };
    // Upper bound in seconds, bucket count.
    let mut buckets: Vec<(f64, u64)> = BUCKETS
        .iter()
        .enumerate()
        .map(|(at, bound)| (*bound as f64 / 1e6, count_of(at)))
        .collect();
    buckets.push((f64::MAX, count_of(BUCKETS.len())));
    let count: u64 = buckets.iter().map(|(_, n)| n).sum();
    if count == 0 {
        return Ok(());
    }
    let sums = parts.map(|part| part.sum.value());
    let total = sums.fold(0, u64::wrapping_add) as f64 / 1e6;
    let mut encoder: MetricEncoder<'_> = family.encode_family(&labels)?;
    encoder.encode_histogram::<[(&str, &str); 0]>(total, count, &buckets, None)
}

type WorkerField = fn(&WorkerShard) -> &Lone;

const WORKER_COUNTERS: [(&str, &str, WorkerField); 10] = [
    (
        "connections_accepted",
        "Downstream connections accepted",
        |s| &s.accepted,
    ),
    ("connections_closed", "Downstream connections closed", |s| {
        &s.closed
    }),
    (
        "mirrors_lost",
        "Copies of requests that were not sent: too many under way, or too long a body",
        |s| &s.mirrors_lost,
    ),
    (
        "datagrams_lost",
        "Datagrams that went nowhere: over a cap of sessions, too long, or nobody took them",
        |s| &s.datagrams_lost,
    ),
    (
        "connections_refused",
        "Downstream connections over a cap",
        |s| &s.refused,
    ),
    ("accept_errors", "Failed accepts", |s| &s.accept_errors),
    (
        "handshake_errors",
        "Failed TLS handshakes with clients",
        |s| &s.handshake_errors,
    ),
    ("upstream_connections", "Upstream connections opened", |s| {
        &s.connected
    }),
    (
        "upstream_connect_errors",
        "Upstream connects that failed",
        |s| &s.connect_errors,
    ),
    (
        "upstream_connections_reused",
        "Times a pooled connection was used again",
        |s| &s.reused,
    ),
];

fn connections(encoder: &mut DescriptorEncoder<'_>, workers: &[WorkerShard]) -> fmt::Result {
    for (name, help, field) in WORKER_COUNTERS {
        counter(encoder, name, help, sum(workers, field))?;
    }
    abuses(encoder, workers)
}

fn abuses(encoder: &mut DescriptorEncoder<'_>, workers: &[WorkerShard]) -> fmt::Result {
    let help = "Connections ended for an HTTP/2 abuse, by kind";
    let mut family = encoder.encode_descriptor("http2_abuse", help, None, MetricType::Counter)?;
    for kind in Abuse::ALL {
        let shards = workers
            .iter()
            .filter_map(|w| w.http2_abuse.get(kind as usize));
        let value = shards.map(Lone::value).fold(0, u64::wrapping_add);
        let labels = [("kind", kind.word())];
        ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

pub(super) fn counter(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: u64,
) -> fmt::Result {
    let metric = ConstCounter::new(value);
    metric.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)
}

pub(super) fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: u64,
) -> fmt::Result {
    let metric = ConstGauge::new(value.cast_signed());
    metric.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
}

impl Snapshot {
    fn process(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let process = &self.0.metrics.process;
        gauge(
            encoder,
            "config_generation",
            "Generation in force",
            process.generation.load(Relaxed),
        )?;
        counter(
            encoder,
            "config_reloads",
            "Reloads that took effect",
            process.reloads.load(Relaxed),
        )?;
        counter(
            encoder,
            "config_reload_failures",
            "Reloads refused",
            process.reload_failures.load(Relaxed),
        )?;
        counter(
            encoder,
            "access_log_drops",
            "Access-log lines dropped",
            process.log_drops.load(Relaxed),
        )?;
        counter(
            encoder,
            "span_drops",
            "Spans dropped",
            process.span_drops.load(Relaxed),
        )?;
        counter(
            encoder,
            "certificate_renewals",
            "Certificates obtained",
            process.renewals.load(Relaxed),
        )?;
        counter(
            encoder,
            "certificate_failures",
            "Certificates not obtained",
            process.renewal_failures.load(Relaxed),
        )?;
        let expiry = process.certificate_expiry.load(Relaxed);
        gauge(
            encoder,
            "certificate_expiry_seconds",
            "End of the certificate's life, Unix time",
            expiry,
        )
    }

    fn memory(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let process = &self.0.metrics.process;
        let ceiling = process.memory_ceiling.load(Relaxed);
        if ceiling > 0 {
            let used = process.memory_used.load(Relaxed);
            gauge(encoder, "memory_used_bytes", "Memory in use", used)?;
            let help = "Memory that may be used";
            gauge(encoder, "memory_ceiling_bytes", help, ceiling)?;
        }
        let help = "What is given up for want of memory: 0 nothing, 1 idle connections, \
                    2 requests, 3 connections";
        let pressure = process.memory_pressure.load(Relaxed);
        gauge(encoder, "memory_pressure", help, pressure)
    }
}
