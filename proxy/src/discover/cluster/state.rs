//! Discovery in a cluster: what is known of each service that somebody asked for.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};

use selvedge_contract::config::PortRef;
use selvedge_contract::defaults::kubernetes::{PODS, SLICES};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::balance::{Service, Wanted};
use crate::upstream::Security;

use super::feed::Told;
use super::identity::Identities;
use super::mesh_ports::MeshPorts;
use super::objects::{Item, Name, PodFacts, PortFacts, ServiceFacts, SliceFacts};
use super::rules::{self, Found};
use super::source::Feed;

/// What a pod says of the mesh: its account, and the ports.
type Meshed = (Arc<str>, Arc<MeshPorts>);

/// Pods by name: UID, and what they say of the mesh.
#[derive(Debug, Default)]
pub(super) struct Pods {
    pub(super) all: HashMap<String, (String, Option<Meshed>)>,
    pub(super) listed: bool,
}

/// One service.
#[derive(Debug, Default)]
pub(super) struct Tracked {
    pub(super) service: Option<ServiceFacts>,
    pub(super) service_listed: bool,
    pub(super) slices: BTreeMap<String, SliceFacts>,
    pub(super) slices_listed: bool,
    /// Its own; where a gateway looks at whole namespaces, they are there.
    pub(super) pods: Pods,
    /// What `pods` were asked by.
    pub(super) pods_by: Option<String>,
    /// Its tasks, which end with it: the last two of them, pods apart.
    pub(super) feeds: Vec<Feed>,
    pub(super) pods_feed: Option<Feed>,
    /// What is called, by port.
    pub(super) live: Vec<(Option<PortRef>, Weak<Service>)>,
    /// Who was seen to be in the mesh, with the UID of the pod.
    seen: HashMap<SocketAddr, (Box<str>, Arc<Security>)>,
    /// Named by the configuration, and not dropped.
    pub(super) pinned: bool,
    /// An application has asked for it.
    pub(super) asked: bool,
    /// When it was last seen in use, and the requests until then.
    pub(super) used: Option<(Instant, u64)>,
    /// Who waits for it to be in force.
    pub(super) waiting: Vec<oneshot::Sender<()>>,
    told_why: bool,
}

/// What follows from news.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Effect {
    /// Its endpoints may be others.
    pub(super) endpoints: bool,
    /// Its ports or addresses may be.
    pub(super) shape: bool,
}

impl Pods {
    /// Takes news; says whether it is any.
    pub(super) fn take(&mut self, told: Told, accounts: &mut Identities) -> bool {
        let mut entry = |pod: PodFacts| {
            let meshed = pod.meshed;
            let meshed = meshed.map(|(a, ports)| (accounts.account(&a), Arc::new(ports)));
            (pod.name.name, (pod.uid, meshed))
        };
        match told {
            Told::All(items) => {
                let pods = items.into_iter().filter_map(pod).take(PODS).map(&mut entry);
                let all: HashMap<_, _> = pods.collect();
                let news = !self.listed || all != self.all;
                self.all = all;
                self.listed = true;
                news
            }
            Told::Put(item) => {
                let Some((name, facts)) = pod(item).map(&mut entry) else {
                    return false;
                };
                if self.all.len() >= PODS && !self.all.contains_key(&name) {
                    return false;
                }
                self.all.insert(name, facts.clone()).as_ref() != Some(&facts)
            }
            // Nothing is called because its pod is gone: its slice says so.
            Told::Gone(item) => {
                self.all.remove(&item.name().name);
                false
            }
        }
    }
}

fn pod(item: Item) -> Option<PodFacts> {
    match item {
        Item::Pod(pod) => Some(pod),
        _ => None,
    }
}

impl Tracked {
    /// Takes news of the service itself.
    pub(super) fn take_service(&mut self, name: &Name, told: Told) -> Effect {
        let now = match told {
            Told::All(items) => items.into_iter().find(|item| item.name() == name),
            Told::Put(item) if item.name() == name => Some(item),
            Told::Gone(item) if item.name() == name => None,
            _ => return Effect::default(),
        };
        let now = now.and_then(|item| match item {
            Item::Service(service) => Some(service),
            _ => None,
        });
        let first = !std::mem::replace(&mut self.service_listed, true);
        if now == self.service && !first {
            return Effect::default();
        }
        self.service = now;
        Effect {
            endpoints: true,
            shape: true,
        }
    }

    /// Takes news of its slices.
    pub(super) fn take_slices(&mut self, name: &Name, told: Told) -> Effect {
        let mine = |item: Item| match item {
            Item::Slice(slice) if slice.service == name.name => Some(slice),
            _ => None,
        };
        let changed = match told {
            Told::All(items) => {
                let slices = items.into_iter().filter_map(mine).take(SLICES);
                let all: BTreeMap<_, _> = slices.map(|s| (s.name.name.clone(), s)).collect();
                let news = !self.slices_listed || all != self.slices;
                self.slices = all;
                self.slices_listed = true;
                news
            }
            Told::Put(item) => {
                let key = item.name().name.clone();
                match mine(item) {
                    Some(slice) if self.slices.len() < SLICES || self.slices.contains_key(&key) => {
                        let old = self.slices.insert(key, slice.clone());
                        old.is_none_or(|old| old != slice)
                    }
                    Some(_) => false,
                    // It is another service's now.
                    None => self.slices.remove(&key).is_some(),
                }
            }
            Told::Gone(item) => self.slices.remove(&item.name().name).is_some(),
        };
        Effect {
            endpoints: changed,
            shape: false,
        }
    }

    /// The port that a reference means.
    pub(super) fn port(&self, wanted: Option<&PortRef>) -> Option<&PortFacts> {
        let ports = &self.service.as_ref()?.ports;
        match wanted {
            None => ports.first().filter(|_| ports.len() == 1),
            Some(PortRef::Number(number)) => ports.iter().find(|p| p.port == *number),
            Some(PortRef::Name(name)) => ports.iter().find(|p| p.name == *name),
        }
    }

    /// Whether all that is needed to call it has been told.
    pub(super) fn is_complete(&self, pods: Option<&Pods>) -> bool {
        let external = self.service.as_ref().is_some_and(|s| s.external.is_some());
        self.service_listed
            && (external || (self.slices_listed && pods.is_none_or(|pods| pods.listed)))
    }

    /// Puts what is known in force. `pods` is `None` where nothing of them is needed.
    pub(super) fn publish(
        &mut self,
        name: &Name,
        zone: Option<&str>,
        pods: Option<&Pods>,
        identities: &mut Identities,
    ) {
        self.live.retain(|(_, service)| service.strong_count() > 0);
        if !self.is_complete(pods) {
            return;
        }
        let live: Vec<_> = self
            .live
            .iter()
            .filter_map(|(port, s)| Some((port.clone(), s.upgrade()?)))
            .collect();
        for (port, service) in live {
            let facts = self.service.as_ref();
            service.refuse_external(facts.is_some_and(|s| s.external.is_some()));
            let found = match (facts, self.port(port.as_ref())) {
                (Some(facts), Some(port)) => {
                    rules::endpoints(facts, self.slices.values(), port, zone)
                }
                _ => {
                    self.say_why(name, port.as_ref());
                    Vec::new()
                }
            };
            let count = found.len();
            let wanted: Vec<Wanted> = found
                .into_iter()
                .filter_map(|found| self.wanted(name, found, pods, identities))
                .collect();
            // Pods that are not known yet are held back, but never all that there is.
            if wanted.is_empty() && count > 0 {
                continue;
            }
            if service.replace_endpoints(&wanted) {
                tracing::debug!(service = %service.name(), count = wanted.len(), "endpoints by the cluster");
            }
        }
        let here: HashSet<IpAddr> = self
            .slices
            .values()
            .flat_map(|slice| slice.endpoints.iter().map(|e| e.address))
            .collect();
        self.seen.retain(|at, _| here.contains(&at.ip()));
    }

    fn say_why(&mut self, name: &Name, port: Option<&PortRef>) {
        if std::mem::replace(&mut self.told_why, true) {
            return;
        }
        let Name { namespace, name } = name;
        match (&self.service, port) {
            (None, _) => tracing::warn!("there is no service {name} in {namespace}"),
            (Some(_), None) => tracing::warn!(
                "service {name} in {namespace} has several ports or none: `port` says which"
            ),
            (Some(_), Some(port)) => {
                tracing::warn!(?port, "service {name} in {namespace} has no such port")
            }
        }
    }

    /// How an endpoint is called; `None` while its pod is not known.
    ///
    /// What was seen in the mesh stays there for as long as the pod is the same: an annotation that
    /// is gone must not make plaintext of it.
    fn wanted(
        &mut self,
        name: &Name,
        found: Found,
        pods: Option<&Pods>,
        identities: &mut Identities,
    ) -> Option<Wanted> {
        let security = match pods {
            None => None,
            Some(pods) => self.security(name, &found, pods, identities)?,
        };
        Some(Wanted {
            security,
            ..(found.address, 1).into()
        })
    }

    #[expect(
        clippy::option_option,
        reason = "not known yet, plaintext, and the mesh are three answers"
    )]
    fn security(
        &mut self,
        name: &Name,
        found: &Found,
        pods: &Pods,
        identities: &mut Identities,
    ) -> Option<Option<Arc<Security>>> {
        let at = found.address;
        let seen = self.seen.get(&at);
        let Some((pod, uid)) = &found.pod else {
            return Some(seen.map(|(_, security)| security.clone()));
        };
        let same = seen
            .filter(|(of, _)| of == uid)
            .map(|(_, security)| security.clone());
        match pods.all.get(&**pod) {
            Some((known, meshed)) if uid.is_empty() || *known == **uid => match meshed {
                Some((account, ports)) if ports.has(at.port()) => {
                    let security = identities.of(&name.namespace, account);
                    match security {
                        Some(security) => {
                            self.seen.insert(at, (uid.clone(), security.clone()));
                            Some(Some(security))
                        }
                        // An identity that cannot be: it is called by nobody rather than by anybody.
                        None => None,
                    }
                }
                _ => Some(same),
            },
            _ => same.map(Some),
        }
    }

    /// Whether an endpoint is this pod.
    pub(super) fn has(&self, pod: &str) -> bool {
        let mut endpoints = self.slices.values().flat_map(|slice| &slice.endpoints);
        endpoints.any(|e| e.pod.as_ref().is_some_and(|(name, _)| **name == *pod))
    }

    /// Whether any endpoint is a pod.
    pub(super) fn has_pods(&self) -> bool {
        let mut endpoints = self.slices.values().flat_map(|slice| &slice.endpoints);
        endpoints.any(|e| e.pod.is_some())
    }

    /// Addresses of all its ports, as applications call them.
    pub(super) fn addresses(&self, port: &PortFacts) -> Vec<SocketAddr> {
        let service = self.service.as_ref();
        let own = service.map(|s| s.addresses.as_slice()).unwrap_or_default();
        own.iter()
            .map(|ip| SocketAddr::new(*ip, port.port))
            .collect()
    }
}
