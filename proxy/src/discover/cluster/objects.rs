//! Discovery in a cluster: what is read of its objects, and nothing else of them.
//!
//! An object of the API has kilobytes that nobody here asks for; these types skip them while they
//! are read, so that what is held is a fraction of what was sent.

use super::mesh_ports::MeshPorts;
use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;

pub use crate::discover::demand::Name;

use super::raw::{RawPod, RawService, RawSlice};

/// Most endpoints of one slice: the API's own limit.
pub const SLICE_ENDPOINTS: usize = 1000;
/// Most ports of a slice or a service: the API's own limit of slices.
pub const PORTS: usize = 100;

/// The kinds that are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Services.
    Service,
    /// Slices of their endpoints.
    Slice,
    /// Pods.
    Pod,
}

/// What is read of one object.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// A service.
    Service(ServiceFacts),
    /// A slice.
    Slice(SliceFacts),
    /// A pod.
    Pod(PodFacts),
}

impl Item {
    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &Name {
        match self {
            Self::Service(service) => &service.name,
            Self::Slice(slice) => &slice.name,
            Self::Pod(pod) => &pod.name,
        }
    }
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceFacts {
    /// Its name.
    pub name: Name,
    /// Addresses by which it is called; none where it is headless.
    pub addresses: Vec<IpAddr>,
    /// Its TCP ports.
    pub ports: Vec<PortFacts>,
    /// Labels of its pods; empty where somebody else writes its slices.
    pub selector: BTreeMap<String, String>,
    /// Endpoints are called before they are ready.
    pub not_ready_too: bool,
    /// Name elsewhere, of an `ExternalName` service.
    pub external: Option<String>,
    /// Whether its first address is IPv6: of pods that have both, that one is called.
    pub prefers_v6: bool,
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortFacts {
    /// Its name; empty where it is the only one.
    pub name: String,
    /// Its number at the service's own addresses.
    pub port: u16,
    /// Its number at the pods, where it is one and not a name.
    pub target: Option<u16>,
    /// Whether it speaks HTTP/2.
    pub http2: bool,
}

/// A slice of a service's endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceFacts {
    /// Its name.
    pub name: Name,
    /// The service that it is of.
    pub service: String,
    /// Its TCP ports: name and number.
    pub ports: Vec<(String, u16)>,
    /// Its endpoints.
    pub endpoints: Vec<Candidate>,
}

/// An endpoint of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its address.
    pub address: IpAddr,
    /// Whether new requests may go there.
    pub ready: bool,
    /// Whether it answers, though it may be ending.
    pub serving: bool,
    /// Whether it is ending.
    pub terminating: bool,
    /// Name and UID of its pod.
    pub pod: Option<(Box<str>, Box<str>)>,
    /// Zones that should call it; none is no hint.
    pub zones: Vec<Box<str>>,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFacts {
    /// Its name.
    pub name: Name,
    /// Its unique name.
    pub uid: String,
    /// Its service account, and at which ports it speaks the mesh's TLS, where it has a sidecar of ours;
    /// elsewhere it is called in plaintext.
    pub meshed: Option<(String, MeshPorts)>,
}

/// Reads an object of this kind. `Ok(None)`: one that says nothing to anybody here.
///
/// # Errors
/// What is wrong with it.
pub fn read(kind: Kind, text: &[u8]) -> Result<Option<Item>, serde_json::Error> {
    Ok(match kind {
        Kind::Service => Some(Item::Service(
            serde_json::from_slice::<RawService>(text)?.into(),
        )),
        Kind::Slice => serde_json::from_slice::<RawSlice>(text)?
            .facts()
            .map(Item::Slice),
        Kind::Pod => Some(Item::Pod(serde_json::from_slice::<RawPod>(text)?.into())),
    })
}

/// The same of an object that says itself what it is; `Ok(None)` also for kinds that are of no use.
///
/// # Errors
/// See [`read`].
pub fn read_any(object: &Value) -> Result<Option<Item>, serde_json::Error> {
    let kind = match (object.get("apiVersion"), object.get("kind")) {
        (Some(version), Some(kind)) => match (version.as_str(), kind.as_str()) {
            (Some("v1"), Some("Service")) => Kind::Service,
            (Some("v1"), Some("Pod")) => Kind::Pod,
            (Some("discovery.k8s.io/v1"), Some("EndpointSlice")) => Kind::Slice,
            _ => return Ok(None),
        },
        _ => return Ok(None),
    };
    read(kind, object.to_string().as_bytes())
}
