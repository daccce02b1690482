//! Discovery in a cluster: which endpoints a port of a service has, as a pure function of its slices.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use selvedge_contract::defaults::kubernetes::ENDPOINTS;

use super::objects::{Candidate, PortFacts, ServiceFacts, SliceFacts};

/// An endpoint that is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where.
    pub address: SocketAddr,
    /// Name and UID of its pod.
    pub pod: Option<(Box<str>, Box<str>)>,
}

/// The endpoints of a port, each once, in a stable order.
///
/// Those that are ready are called; where there are none, those that end but still answer. Hints of
/// zones count only where every one that could be called has some: half of them would send all
/// traffic to the half that has.
#[must_use]
pub fn endpoints<'s>(
    service: &ServiceFacts,
    slices: impl Iterator<Item = &'s SliceFacts>,
    port: &PortFacts,
    zone: Option<&str>,
) -> Vec<Found> {
    if service.external.is_some() {
        return Vec::new();
    }
    let mut all: BTreeMap<SocketAddr, &Candidate> = BTreeMap::new();
    for slice in slices {
        // The number may differ from slice to slice: pods of two versions name their ports alike.
        for (_, number) in slice.ports.iter().filter(|(name, _)| *name == port.name) {
            for candidate in &slice.endpoints {
                let address = SocketAddr::new(candidate.address, *number);
                let better = |now: &&Candidate| rank(service, candidate) > rank(service, now);
                // While an endpoint moves between slices it is in both, perhaps one of them old.
                if all.get(&address).is_none_or(better) {
                    all.insert(address, candidate);
                }
            }
        }
    }
    let best = all.values().map(|c| rank(service, c)).max().unwrap_or(0);
    if best == 0 {
        return Vec::new();
    }
    all.retain(|_, candidate| rank(service, candidate) == best);
    if let Some(zone) = zone {
        near(&mut all, zone);
    }
    once_a_pod(service, &mut all);
    let found = all
        .into_iter()
        .take(ENDPOINTS)
        .map(|(address, candidate)| Found {
            address,
            pod: candidate.pod.clone(),
        });
    found.collect()
}

/// 2: it is called; 1: it is called where nothing else is there; 0: it is not called.
fn rank(service: &ServiceFacts, candidate: &Candidate) -> u8 {
    if candidate.ready || service.not_ready_too {
        2
    } else {
        u8::from(candidate.serving && candidate.terminating)
    }
}

fn near(all: &mut BTreeMap<SocketAddr, &Candidate>, zone: &str) {
    let mine = |candidate: &Candidate| candidate.zones.iter().any(|z| **z == *zone);
    let hinted = all.values().all(|candidate| !candidate.zones.is_empty());
    if hinted && all.values().any(|candidate| mine(candidate)) {
        all.retain(|_, candidate| mine(candidate));
    }
}

/// Of a pod with addresses of both families, the one of the service's own: twice in the list it
/// would get twice its share.
fn once_a_pod(service: &ServiceFacts, all: &mut BTreeMap<SocketAddr, &Candidate>) {
    let own = |address: &SocketAddr| address.is_ipv6() == service.prefers_v6;
    let preferred: std::collections::BTreeSet<&str> = all
        .iter()
        .filter(|(address, _)| own(address))
        .filter_map(|(_, candidate)| Some(&*candidate.pod.as_ref()?.1))
        .filter(|uid| !uid.is_empty())
        .collect();
    let twice = |address: &SocketAddr, candidate: &Candidate| {
        let pod = candidate.pod.as_ref();
        !own(address) && pod.is_some_and(|(_, uid)| preferred.contains(&**uid))
    };
    let gone: Vec<SocketAddr> = all
        .iter()
        .filter(|(address, candidate)| twice(address, candidate))
        .map(|(address, _)| *address)
        .collect();
    drop(preferred);
    for address in gone {
        all.remove(&address);
    }
}

#[cfg(test)]
mod tests;
