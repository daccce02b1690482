//! Part of stage 1, accept: who comes to a permissive port without mutual TLS: what stands between it and
//! strictness.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Most ports that are told apart; connections to others are counted for port 0.
const PORTS: usize = 256;
/// Most addresses of a process that are remembered; connections of others are counted.
const CLIENTS: usize = 1_000;

/// What came to a permissive listener. Kept through reloads. Locked for a moment by each connection, never
/// by a request.
#[derive(Debug, Default)]
pub struct Spoken(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    ports: BTreeMap<u16, Port>,
    /// Addresses of all ports.
    remembered: usize,
}

#[derive(Debug, Default)]
struct Port {
    mtls: u64,
    plaintext: u64,
    clients: HashMap<IpAddr, Client>,
    /// Plaintext connections of addresses beyond those that are remembered.
    others: u64,
}

#[derive(Debug, Clone, Copy)]
struct Client {
    first: u64,
    last: u64,
    connections: u64,
}

/// One port, for whoever asks. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortReport {
    /// Port that clients call; 0 for all beyond those that are told apart.
    pub port: u16,
    /// Connections by mutual TLS.
    pub mtls: u64,
    /// Connections without.
    pub plaintext: u64,
    /// Addresses that came without, those that came last first.
    pub clients: Vec<ClientReport>,
    /// Plaintext connections of addresses beyond those that are remembered.
    pub others: u64,
}

/// One address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientReport {
    /// Which.
    pub address: IpAddr,
    /// When it first came.
    pub first: u64,
    /// When it last came.
    pub last: u64,
    /// How often.
    pub connections: u64,
}

impl Spoken {
    /// A connection by mutual TLS.
    pub fn mutual(&self, port: u16) {
        self.inner().port(port).mtls += 1;
    }

    /// A connection without, from this address.
    pub fn plain(&self, port: u16, client: IpAddr, now: SystemTime) {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut inner = self.inner();
        let room = inner.remembered < CLIENTS;
        let port = inner.port(port);
        port.plaintext += 1;
        let client = client.to_canonical();
        if let Some(client) = port.clients.get_mut(&client) {
            client.last = now;
            client.connections += 1;
        } else if room {
            let (first, last, connections) = (now, now, 1);
            port.clients.insert(
                client,
                Client {
                    first,
                    last,
                    connections,
                },
            );
            inner.remembered += 1;
        } else {
            port.others += 1;
        }
    }

    /// What came so far, by port.
    #[must_use]
    pub fn report(&self) -> Vec<PortReport> {
        let inner = self.inner();
        let ports = inner.ports.iter().map(|(number, port)| {
            let mut clients: Vec<_> = port
                .clients
                .iter()
                .map(|(address, client)| ClientReport {
                    address: *address,
                    first: client.first,
                    last: client.last,
                    connections: client.connections,
                })
                .collect();
            clients.sort_by_key(|client| (std::cmp::Reverse(client.last), client.address));
            PortReport {
                port: *number,
                mtls: port.mtls,
                plaintext: port.plaintext,
                clients,
                others: port.others,
            }
        });
        ports.collect()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn port(&mut self, number: u16) -> &mut Port {
        let known = self.ports.len() < PORTS || self.ports.contains_key(&number);
        self.ports
            .entry(if known { number } else { 0 })
            .or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn clients_are_remembered_by_port_and_address() {
        let spoken = Spoken::default();
        let [a, b] = [[10, 0, 0, 1], [10, 0, 0, 2]].map(IpAddr::from);
        spoken.mutual(80);
        spoken.plain(80, a, at(5));
        spoken.plain(80, b, at(6));
        spoken.plain(80, "::ffff:10.0.0.1".parse().unwrap(), at(7));
        spoken.plain(90, a, at(8));
        let report = spoken.report();
        assert_eq!(report.len(), 2);
        let first = &report[0];
        assert_eq!((first.port, first.mtls, first.plaintext), (80, 1, 3));
        let told = first.clients.iter();
        let told: Vec<_> = told
            .map(|c| (c.address, c.first, c.last, c.connections))
            .collect();
        assert_eq!(told, [(a, 5, 7, 2), (b, 6, 6, 1)]);
        assert_eq!((report[1].port, report[1].plaintext), (90, 1));
    }

    #[test]
    fn memory_is_bounded() {
        let spoken = Spoken::default();
        for n in 0..1_200_u32 {
            let port = u16::try_from(n % 300 + 1).unwrap();
            spoken.plain(port, IpAddr::from(n.to_be_bytes()), at(1));
        }
        let report = spoken.report();
        assert_eq!(report.len(), PORTS + 1);
        let clients: usize = report.iter().map(|port| port.clients.len()).sum();
        let others: u64 = report.iter().map(|port| port.others).sum();
        assert_eq!((clients, others), (CLIENTS, 200));
    }
}
