//! Control plane: who still comes without mutual TLS, as JSON and as metrics.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use serde::{Deserialize, Serialize};

use crate::accept::ListenerSecurity;
use crate::accept::spoken::PortReport;
use crate::config::Snapshot;

/// A listener that speaks mutual TLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ListenerReport {
    /// Its name.
    pub(crate) listener: String,
    /// Whether plaintext is let in.
    pub(crate) permissive: bool,
    /// What came, where it is; of a strict one nothing else can.
    pub(crate) ports: Vec<PortReport>,
}

/// Of every listener that speaks mutual TLS.
#[must_use]
pub(super) fn report(snapshot: &Snapshot) -> Vec<ListenerReport> {
    let mut reports = Vec::new();
    for plan in &snapshot.listeners {
        if let ListenerSecurity::Mesh { permissive, .. } = &plan.security {
            let ports = permissive.as_ref().map(|spoken| spoken.report());
            reports.push(ListenerReport {
                listener: plan.name.to_string(),
                permissive: permissive.is_some(),
                ports: ports.unwrap_or_default(),
            });
        }
    }
    reports
}

/// See there.
pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>, snapshot: &Snapshot) -> fmt::Result {
    let help = "Connections to permissive ports, by port and by whether they were mutual TLS";
    let kind = MetricType::Counter;
    let mut family = encoder.encode_descriptor("permissive_connections", help, None, kind)?;
    for listener in report(snapshot) {
        for port in listener.ports {
            let number = port.port.to_string();
            for (security, count) in [("mtls", port.mtls), ("plaintext", port.plaintext)] {
                let labels = [
                    ("listener", listener.listener.as_str()),
                    ("port", &number),
                    ("security", security),
                ];
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
    }
    Ok(())
}
