//! Admin: what mirrors answer otherwise than the services that clients call, as JSON and as metrics.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use serde_json::{Map, Value, json};

use crate::config::Snapshot;
use crate::telemetry::comparisons::{Bodies, Comparisons, Difference, Outcome};

use super::time;

/// What `/mirrors` shows.
pub(super) fn shown(snapshot: &Snapshot) -> Value {
    let mirrors = snapshot.compared.iter();
    let mirrors = mirrors.map(|compared| (compared.rule.to_string(), mirror(compared)));
    mirrors.collect::<Map<_, _>>().into()
}

fn mirror(compared: &Comparisons) -> Value {
    let outcomes = Outcome::ALL.map(|outcome| {
        let count = compared.of(outcome);
        (outcome.label().to_owned(), Value::from(count))
    });
    let last: Vec<_> = compared.last().iter().map(difference).collect();
    json!({
        "service": &*compared.service,
        "outcomes": outcomes.into_iter().collect::<Map<_, _>>(),
        "differences": last,
    })
}

fn difference(it: &Difference) -> Value {
    let mut shown = json!({
        "at": time(it.at),
        "method": it.method,
        "path": it.path,
    });
    if let Some((client, mirror)) = it.status {
        shown["status"] = json!({ "client": client, "mirror": mirror });
    }
    if !it.headers.is_empty() {
        shown["headers"] = json!(it.headers);
    }
    match &it.bodies {
        Bodies::Same => {}
        Bodies::Bytes => shown["body"] = json!("bytes"),
        Bodies::Members(paths) => shown["body"] = json!(paths),
        Bodies::NotCompared => shown["body"] = json!("not compared"),
    }
    shown
}

/// See there.
pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>, snapshot: &Snapshot) -> fmt::Result {
    if snapshot.compared.is_empty() {
        return Ok(());
    }
    let help = "Answers of mirrors that were compared with what clients got, by what came of it";
    let kind = MetricType::Counter;
    let mut family = encoder.encode_descriptor("mirror_comparisons", help, None, kind)?;
    for compared in &snapshot.compared {
        for outcome in Outcome::ALL {
            let labels = [
                ("route", &*compared.rule),
                ("service", &*compared.service),
                ("outcome", outcome.label()),
            ];
            let count = compared.of(outcome);
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}
