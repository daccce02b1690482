//! Discovery in a cluster: objects as the API writes them, with the little of them that is read.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::mesh_ports::MeshPorts;
use super::objects::{
    Candidate, Name, PORTS, PodFacts, PortFacts, SLICE_ENDPOINTS, ServiceFacts, SliceFacts,
};

/// A list as the API sends it, piece by piece.
#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "T: Deserialize<'de>"))]
pub(super) struct RawList<T> {
    #[serde(default)]
    pub(super) metadata: RawListMeta,
    #[serde(default = "Vec::new", deserialize_with = "or_default")]
    pub(super) items: Vec<T>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RawListMeta {
    pub(super) resource_version: String,
    #[serde(rename = "continue", deserialize_with = "or_default")]
    pub(super) go_on: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RawMeta {
    name: String,
    #[serde(deserialize_with = "or_default")]
    namespace: String,
    pub(super) resource_version: String,
    uid: String,
    #[serde(deserialize_with = "or_default")]
    labels: Labels,
    #[serde(deserialize_with = "or_default")]
    annotations: Notes,
}

/// Labels that count; others are not kept.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Labels {
    #[serde(rename = "kubernetes.io/service-name")]
    service: Option<String>,
}

/// Annotations that count: what the injector leaves in a pod that has a sidecar.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Notes {
    #[serde(rename = "selvedge.dev/status")]
    status: Option<String>,
}

impl RawMeta {
    fn name(&mut self) -> Name {
        let namespace = std::mem::take(&mut self.namespace);
        Name {
            namespace: if namespace.is_empty() {
                "default".to_owned()
            } else {
                namespace
            },
            name: std::mem::take(&mut self.name),
        }
    }
}

/// Lists and texts that the API may send as `null`.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawService {
    metadata: RawMeta,
    spec: RawServiceSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawServiceSpec {
    #[serde(rename = "type", deserialize_with = "or_default")]
    kind: String,
    #[serde(rename = "clusterIP", deserialize_with = "or_default")]
    cluster_ip: String,
    #[serde(rename = "clusterIPs", deserialize_with = "or_default")]
    cluster_ips: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    ports: Vec<RawServicePort>,
    #[serde(deserialize_with = "or_default")]
    selector: BTreeMap<String, String>,
    publish_not_ready_addresses: bool,
    #[serde(deserialize_with = "or_default")]
    ip_families: Vec<String>,
    external_name: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawServicePort {
    #[serde(deserialize_with = "or_default")]
    name: String,
    // Wide, so that a number that is no port spoils one entry and not its list.
    port: i64,
    target_port: Value,
    #[serde(deserialize_with = "or_default")]
    protocol: String,
    #[serde(deserialize_with = "or_default")]
    app_protocol: String,
}

fn is_tcp(protocol: &str) -> bool {
    protocol.is_empty() || protocol == "TCP"
}

impl From<RawService> for ServiceFacts {
    fn from(mut raw: RawService) -> Self {
        let spec = raw.spec;
        let first = std::iter::once(&spec.cluster_ip);
        let mut addresses: Vec<IpAddr> = Vec::new();
        for address in first
            .chain(&spec.cluster_ips)
            .filter_map(|text| text.parse().ok())
        {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses.truncate(2);
        let family = spec.ip_families.first().map(String::as_str);
        let ports = spec
            .ports
            .into_iter()
            .filter(|p| is_tcp(&p.protocol) && (1..=65535).contains(&p.port));
        Self {
            name: raw.metadata.name(),
            prefers_v6: match addresses.first() {
                Some(first) => first.is_ipv6(),
                None => family == Some("IPv6"),
            },
            addresses,
            ports: ports.take(PORTS).map(PortFacts::from).collect(),
            selector: spec.selector,
            not_ready_too: spec.publish_not_ready_addresses,
            external: (spec.kind == "ExternalName").then(|| spec.external_name.unwrap_or_default()),
        }
    }
}

impl From<RawServicePort> for PortFacts {
    fn from(raw: RawServicePort) -> Self {
        let named = |prefix: &str| {
            let rest = raw.name.strip_prefix(prefix);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        };
        let http2 = match raw.app_protocol.as_str() {
            "" => named("grpc") || named("http2") || named("h2c"),
            said => matches!(said, "kubernetes.io/h2c" | "h2c" | "http2" | "grpc"),
        };
        Self {
            target: raw
                .target_port
                .as_u64()
                .and_then(|port| u16::try_from(port).ok()),
            http2,
            name: raw.name,
            port: u16::try_from(raw.port).unwrap_or(0),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RawSlice {
    metadata: RawMeta,
    #[serde(deserialize_with = "or_default")]
    address_type: String,
    #[serde(deserialize_with = "or_default")]
    endpoints: Vec<RawEndpoint>,
    #[serde(deserialize_with = "or_default")]
    ports: Vec<RawSlicePort>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawEndpoint {
    #[serde(deserialize_with = "or_default")]
    addresses: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    conditions: RawConditions,
    target_ref: Option<RawReference>,
    #[serde(deserialize_with = "or_default")]
    hints: RawHints,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawConditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawReference {
    kind: String,
    name: String,
    uid: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawHints {
    #[serde(deserialize_with = "or_default")]
    for_zones: Vec<RawZone>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawZone {
    name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawSlicePort {
    #[serde(deserialize_with = "or_default")]
    name: String,
    port: Option<i64>,
    #[serde(deserialize_with = "or_default")]
    protocol: String,
}

impl RawSlice {
    /// `None` for a slice of no service, and for one of names, which have no meaning.
    pub(super) fn facts(mut self) -> Option<SliceFacts> {
        let service = self.metadata.labels.service.take()?;
        if !["IPv4", "IPv6"].contains(&self.address_type.as_str()) {
            return None;
        }
        let ports = self.ports.into_iter().filter(|port| is_tcp(&port.protocol));
        let ports = ports.filter_map(|port| {
            let number = u16::try_from(port.port?).ok().filter(|p| *p != 0)?;
            Some((port.name, number))
        });
        let endpoints = self.endpoints.into_iter().take(SLICE_ENDPOINTS);
        Some(SliceFacts {
            name: self.metadata.name(),
            service,
            ports: ports.take(PORTS).collect(),
            endpoints: endpoints.filter_map(RawEndpoint::candidate).collect(),
        })
    }
}

impl RawEndpoint {
    fn candidate(self) -> Option<Candidate> {
        // Further addresses of an endpoint have no meaning: the API says to use the first.
        let address = self.addresses.first()?.parse().ok()?;
        let terminating = self.conditions.terminating.unwrap_or(false);
        let ready = self.conditions.ready.unwrap_or(true);
        let pod = self.target_ref.filter(|at| at.kind == "Pod");
        let zones = self.hints.for_zones.into_iter().take(8);
        Some(Candidate {
            address,
            ready,
            serving: self.conditions.serving.unwrap_or(true),
            terminating,
            pod: pod.map(|at| (at.name.into(), at.uid.into())),
            zones: zones.map(|zone| zone.name.into()).collect(),
        })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawPod {
    metadata: RawMeta,
    spec: RawPodSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawPodSpec {
    #[serde(deserialize_with = "or_default")]
    service_account_name: String,
    host_network: bool,
    #[serde(deserialize_with = "or_default")]
    containers: Vec<RawContainer>,
    #[serde(deserialize_with = "or_default")]
    init_containers: Vec<RawContainer>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawContainer {
    name: String,
}

/// The name of the sidecar's container, as the injector gives it.
const SIDECAR: &str = "selvedge-proxy";

impl From<RawPod> for PodFacts {
    fn from(mut raw: RawPod) -> Self {
        let account = match raw.spec.service_account_name {
            none if none.is_empty() => "default".to_owned(),
            account => account,
        };
        // Pods on the network of their node share its address: it says nothing of who answers.
        let mut containers = raw.spec.containers.iter().chain(&raw.spec.init_containers);
        // An annotation may have been copied from another pod; a container is there or not.
        let has_one = !raw.spec.host_network && containers.any(|c| c.name == SIDECAR);
        let status = raw.metadata.annotations.status.take().filter(|_| has_one);
        let ports = status.and_then(|status| MeshPorts::read(&status));
        Self {
            name: raw.metadata.name(),
            uid: std::mem::take(&mut raw.metadata.uid),
            meshed: ports.map(|ports| (account, ports)),
        }
    }
}
