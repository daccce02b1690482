//! Admin: metrics of calls of gRPC, by method.

use std::fmt;
use std::sync::Arc;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::registry::Unit;

use crate::telemetry::calls::{Method, STATUSES};
use crate::telemetry::metrics::{Lone, RouteMetrics};

use super::exposition::histogram;

/// A route's method.
type Called<'a> = (&'a RouteMetrics, Arc<Method>);

/// Writes them. Where nobody has called there is nothing.
pub(super) fn encode(
    encoder: &mut DescriptorEncoder<'_>,
    routes: &[Arc<RouteMetrics>],
) -> fmt::Result {
    let all = routes.iter().flat_map(|route| {
        let methods = route.methods.all().into_iter();
        methods.map(|method| (&**route, method))
    });
    let all: Vec<Called<'_>> = all.collect();
    if all.is_empty() {
        return Ok(());
    }
    let help = "Calls of gRPC, by method and by what they came to";
    let kind = MetricType::Counter;
    let mut family = encoder.encode_descriptor("grpc_requests", help, None, kind)?;
    for (route, method) in &all {
        let [a, b, c, d] = labels(route, method);
        for (at, status) in STATUSES.into_iter().enumerate() {
            let shards = method.shards.iter().filter_map(|s| s.status.get(at));
            let value: u64 = shards.map(Lone::value).sum();
            if value > 0 {
                let labels = [a, b, c, d, ("grpc_status", status)];
                ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
            }
        }
    }
    let help = "From the head of a call to the last byte of its answer";
    let (unit, kind) = (Unit::Seconds, MetricType::Histogram);
    let name = "grpc_request_duration";
    let mut family = encoder.encode_descriptor(name, help, Some(&unit), kind)?;
    for (route, method) in &all {
        let parts = method.shards.iter().map(|shard| &shard.durations);
        histogram(&mut family, &labels(route, method), parts)?;
    }
    Ok(())
}

fn labels<'a>(route: &'a RouteMetrics, method: &'a Method) -> [(&'static str, &'a str); 4] {
    [
        ("route", &*route.route),
        ("service", &*route.service),
        ("grpc_service", &*method.service),
        ("grpc_method", &*method.name),
    ]
}
