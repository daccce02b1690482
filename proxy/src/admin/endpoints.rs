//! Admin: services and their endpoints, whether each is used, and if not, why.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::balance::endpoint::millis;
use crate::balance::plan::{Plan, Strategy};
use crate::balance::{Endpoint, Failing, Finding};
use crate::config::Snapshot;

use super::time;

/// What `/endpoints` shows.
pub(super) fn shown(snapshot: &Snapshot) -> Value {
    let services = snapshot.all_services().map(|(name, service)| {
        let set = service.endpoints.load();
        let (plan, now) = (service.plan(), millis(Instant::now()));
        let endpoints: Vec<_> = set.all.iter().map(|e| endpoint(e, plan, now)).collect();
        let breaker = format!("{:?}", service.breaker.state()).to_lowercase();
        let mut shown = json!({
            "balance": plan.strategy.name(),
            "breaker": breaker,
            "inFlight": service.in_flight(),
            "endpoints": endpoints,
        });
        if let Some(adaptive) = &service.adaptive {
            shown["adaptive"] = json!({
                "limit": adaptive.limit(),
                "waiting": adaptive.waiting(),
                "unloadedMs": adaptive.unloaded().map(|took| took.as_secs_f64() * 1000.0),
            });
        }
        (name.to_owned(), shown)
    });
    services.collect::<serde_json::Map<_, _>>().into()
}

/// In words whether it is used. What keeps it out most comes first.
fn state(e: &Endpoint, warmth: f32) -> &'static str {
    if e.is_unhealthy() {
        "unhealthy"
    } else if e.is_on_trial() {
        "onTrial"
    } else if e.is_ejected() {
        "ejected"
    } else if e.is_degraded() {
        "degraded"
    } else if warmth < 1.0 {
        "slowStart"
    } else {
        "available"
    }
}

/// What is known of an endpoint; figures that its service does not go by are not kept.
fn endpoint(e: &Endpoint, plan: &Plan, now: u64) -> Value {
    let warmth = e.warmth(plan.slow_start, now);
    // Three digits: what is behind them was not measured.
    let rounded = |figure: f32| (f64::from(figure) * 1000.0).round() / 1000.0;
    let mut shown = json!({
        "address": e.address.to_string(),
        "weight": e.weight,
        "inFlight": e.in_flight(),
        "state": state(e, warmth),
        "share": rounded(warmth),
        "priority": e.priority,
        "zone": e.zone.as_deref(),
    });
    if let Some((what, at)) = e.last_failure() {
        let ago = Duration::from_millis(now.saturating_sub(at));
        let at = SystemTime::now().checked_sub(ago).map(time);
        shown["lastFailure"] = json!({ "at": at, "what": in_words(what) });
    }
    if let Some(check) = e.last_check() {
        shown["lastCheck"] = checked(&check);
    }
    match plan.strategy {
        Strategy::ResponseTime => shown["ewmaMs"] = json!(rounded(e.latency(now) / 1000.0)),
        Strategy::Bandwidth => shown["bytesPerSecond"] = json!(rounded(e.bandwidth(now))),
        Strategy::ReportedLoad => shown["reportedLoad"] = json!(e.reported(now).map(rounded)),
        _ => {}
    }
    shown
}

fn checked(check: &Finding) -> Value {
    json!({ "at": time(check.at), "result": check.result.name(), "what": check.text })
}

/// A status, or what the error's row says of it.
fn in_words(what: Failing) -> String {
    match what {
        Failing::Status(status) => format!("answered {status}"),
        Failing::Error(kind) => kind.row().text.to_owned(),
    }
}
