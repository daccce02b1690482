//! The CA's health, readiness and metrics, for probes and scrapers; and what it publishes: its trust bundle.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use selvedge_ca::CaService;
use selvedge_ca::status::{ALARMS, Status};

use crate::admin::listen::{self, Answer, text};

/// Serves until the runtime ends.
pub(super) async fn serve(address: SocketAddr, service: CaService) -> io::Result<()> {
    listen::serve(address, "health of the CA", service, answer).await
}

async fn answer(service: CaService, request: Request<Incoming>) -> Answer {
    match request.uri().path() {
        "/livez" => text(StatusCode::OK, "live\n"),
        "/ready" => ready(&service.status(SystemTime::now())),
        "/metrics" => {
            let status = service.status(SystemTime::now());
            listen::metrics(exposition(&service, &status))
        }
        "/jwks" => json(service.jwks()),
        "/bundle" => json(service.bundle_document()),
        _ => {
            let told = "try /ready, /livez, /metrics, /jwks or /bundle\n";
            text(StatusCode::NOT_FOUND, told)
        }
    }
}

fn json(document: String) -> Answer {
    listen::with_type(StatusCode::OK, "application/json", document)
}

/// Ready as long as there is something to sign with.
fn ready(status: &Status) -> Answer {
    let ended = |name: &str| {
        let mut all = status.certificates.iter();
        all.any(|certificate| certificate.name == name && certificate.used >= 100)
    };
    if ended("root") || ended("intermediate") {
        let told = "the signing certificate has ended\n";
        return text(StatusCode::SERVICE_UNAVAILABLE, told);
    }
    text(StatusCode::OK, "ready\n")
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Named {
    certificate: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Alarm {
    certificate: String,
    percent: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Phase {
    phase: String,
}

/// All there is to count, in the form of OpenMetrics.
fn exposition(service: &CaService, status: &Status) -> String {
    let mut registry = Registry::with_prefix("selvedge_ca");
    let tally = service.tally();
    let count = |cell: &AtomicU64| ConstCounter::new(cell.load(Relaxed));
    let requests = Family::<Outcome, Counter>::default();
    for (outcome, cell) in [
        ("issued", &tally.issued),
        ("unattested", &tally.unattested),
        ("refused", &tally.refused),
        ("limited", &tally.limited),
        ("failed", &tally.failed),
    ] {
        requests
            .get_or_create(&Outcome { outcome })
            .inc_by(cell.load(Relaxed));
    }
    let help = "Certificate requests by their outcome";
    registry.register("requests", help, requests);
    let help = "JWT-SVIDs that were given to workloads";
    registry.register("tokens", help, count(&tally.minted));
    certificates(&mut registry, status);
    let gauge = |n: usize| {
        let gauge: Gauge = Gauge::default();
        gauge.set(i64::try_from(n).unwrap_or(i64::MAX));
        gauge
    };
    let help = "Connections beyond what one address may have at a time";
    registry.register("connections_refused", help, count(&tally.turned_away));
    let followers = usize::try_from(tally.followers.load(Relaxed)).unwrap_or(usize::MAX);
    let help = "Proxies that follow the trust bundle at this moment";
    registry.register("followers", help, gauge(followers));
    let help = "Proxies with a certificate that has not ended";
    registry.register("proxies", help, gauge(status.proxies));
    let help = "Proxies that have not acknowledged the trust bundle";
    registry.register("proxies_waiting", help, gauge(status.waiting));
    let phases = Family::<Phase, Gauge>::default();
    for phase in ["steady", "prepared", "activated"] {
        let labels = Phase {
            phase: phase.to_owned(),
        };
        let here = status.rotation.phase == phase;
        phases.get_or_create(&labels).set(i64::from(here));
    }
    let help = "Where the rotation of the root stands";
    registry.register("rotation", help, phases);
    let mut text = String::new();
    // Writing to a `String` cannot fail.
    let _ = encode(&mut text, &registry);
    text
}

fn certificates(registry: &mut Registry, status: &Status) {
    let expiry = Family::<Named, Gauge>::default();
    let used = Family::<Named, Gauge>::default();
    let alarms = Family::<Alarm, Gauge>::default();
    for certificate in &status.certificates {
        let named = Named {
            certificate: certificate.name.clone(),
        };
        let ends = i64::try_from(certificate.not_after).unwrap_or(i64::MAX);
        expiry.get_or_create(&named).set(ends);
        used.get_or_create(&named).set(certificate.used.into());
        for percent in ALARMS {
            let labels = Alarm {
                certificate: certificate.name.clone(),
                percent: percent.to_string(),
            };
            let raised = certificate.used >= percent;
            alarms.get_or_create(&labels).set(raised.into());
        }
    }
    let help = "When a certificate of the CA ends, in seconds since 1970";
    registry.register_with_unit("certificate_expiry", help, Unit::Seconds, expiry);
    let help = "How much of a certificate's life is over, in percent";
    registry.register("certificate_life_used_percent", help, used);
    let help = "Whether so much of a certificate's life is over";
    registry.register("certificate_alarm", help, alarms);
}
