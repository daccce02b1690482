//! Beside stage 6, policy: the servers of a cluster that counts, and which of them keeps which slot.
//!
//! A task of the control runtime asks for the map: at the start, when a redirect or a lost server
//! tells that it is old, and now and again. Workers read it, and correct single slots by redirects.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use redis::{Client, ConnectionAddr, Script, Value};
use selvedge_contract::defaults::policy as defaults;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::link::Link;
use super::slots::{self, Address, Range, SLOTS};

/// Nobody keeps it.
const NOBODY: u16 = u16::MAX;

/// A cluster.
#[derive(Debug)]
pub(super) struct Cluster {
    store: Arc<str>,
    /// Servers of the configuration: asked for the map, whether they keep slots or not.
    seeds: Vec<Arc<Link>>,
    /// What all connections have in common.
    model: Client,
    map: ArcSwapOption<Map>,
    /// The map is old.
    stale: Arc<Notify>,
    /// Servers that redirects have named and the map does not: new ones, before they have a slot.
    learned: Mutex<Vec<(Address, Instant)>>,
    /// That there is no map was said.
    said: AtomicBool,
    script: Arc<Script>,
    timeout: Duration,
}

/// Which server keeps which slot.
#[derive(Debug)]
pub(super) struct Map {
    links: Vec<Arc<Link>>,
    /// For each slot, a place in `links`.
    owners: Box<[AtomicU16]>,
}

impl Map {
    fn new(links: Vec<Arc<Link>>, ranges: &[Range]) -> Self {
        let owners: Box<[AtomicU16]> = (0..SLOTS).map(|_| AtomicU16::new(NOBODY)).collect();
        let places = links.iter().map(|link| &link.address).zip(0..NOBODY);
        let places: BTreeMap<&Address, u16> = places.collect();
        for (first, last, address) in ranges {
            let place = places.get(address).copied().unwrap_or(NOBODY);
            let slots = usize::from(*first)..=usize::from(*last);
            for owner in owners.get(slots).unwrap_or_default() {
                owner.store(place, Relaxed);
            }
        }
        Self { links, owners }
    }

    fn place(&self, address: &Address) -> Option<u16> {
        let place = self.links.iter().position(|l| l.address == *address)?;
        u16::try_from(place).ok()
    }

    /// Who keeps a slot.
    pub(super) fn owner(&self, slot: u16) -> Option<&Arc<Link>> {
        let place = self.owners.get(usize::from(slot))?.load(Relaxed);
        self.links.get(usize::from(place))
    }

    fn is_whole(&self) -> bool {
        let kept = |owner: &AtomicU16| owner.load(Relaxed) != NOBODY;
        self.owners.iter().all(kept) && self.links.iter().all(|link| link.is_live())
    }
}

/// What came of asking for the map.
enum Fetched {
    Map,
    /// No server is connected. That is said for each of them.
    Nobody,
    Failed(String),
}

impl Cluster {
    /// A cluster that a task asks for its map for as long as somebody holds it. Must be called on a
    /// runtime.
    pub(super) fn start(
        store: Arc<str>,
        clients: Vec<Client>,
        script: Arc<Script>,
        timeout: Duration,
    ) -> Option<Arc<Self>> {
        let stale = Arc::new(Notify::new());
        let model = clients.first()?.clone();
        let seeds = clients.into_iter().map(|client| {
            let address = super::address(&client);
            let (store, script) = (store.clone(), script.clone());
            let link = Link::idle(store, address, script, timeout, stale.clone());
            link.keep(client);
            link
        });
        let cluster = Arc::new(Self {
            seeds: seeds.collect(),
            store,
            model,
            map: ArcSwapOption::empty(),
            stale,
            learned: Mutex::default(),
            said: AtomicBool::new(false),
            script,
            timeout,
        });
        tokio::spawn(keep_mapped(Arc::downgrade(&cluster)));
        Some(cluster)
    }

    /// The map, once one is there.
    pub(super) fn map(&self) -> Option<Arc<Map>> {
        self.map.load_full()
    }

    /// Whether there is one.
    pub(super) fn is_mapped(&self) -> bool {
        self.map.load().is_some()
    }

    /// The map is asked for anew.
    pub(super) fn distrust(&self) {
        self.stale.notify_one();
    }

    /// The server that a redirect names; from now on a slot is its, if that `moved`. One that is not
    /// known is sought, and known a little later.
    pub(super) fn redirected(
        &self,
        map: &Map,
        address: &Address,
        slot: u16,
        moved: bool,
    ) -> Option<Arc<Link>> {
        let Some(place) = map.place(address) else {
            self.learn(address);
            return None;
        };
        if moved {
            if let Some(owner) = map.owners.get(usize::from(slot)) {
                owner.store(place, Relaxed);
            }
            self.distrust();
        }
        map.links.get(usize::from(place)).cloned()
    }

    #[cold]
    fn learn(&self, address: &Address) {
        let mut learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        let known = learned.iter().any(|(known, _)| known == address);
        if !known && learned.len() < defaults::STORE_LEARNED {
            learned.push((address.clone(), Instant::now()));
            self.distrust();
        }
    }

    /// Asks for the map whoever is there, another one first each time.
    async fn fetch(&self) -> Fetched {
        let map = self.map();
        let known = map.iter().flat_map(|map| &map.links);
        let mut asked: Vec<&Arc<Link>> = known.chain(&self.seeds).collect();
        let first = fastrand::usize(..asked.len().max(1));
        asked.rotate_left(first);
        let mut last = Fetched::Nobody;
        for link in asked {
            let Some(mut connection) = link.live() else {
                continue;
            };
            let mut command = redis::cmd("CLUSTER");
            command.arg("SLOTS");
            let answer = command.query_async::<Value>(&mut connection);
            match tokio::time::timeout(self.timeout, answer).await {
                Ok(Ok(answer)) => match slots::read(&answer, &link.address) {
                    Some(ranges) if !ranges.is_empty() => {
                        self.publish(&ranges);
                        return Fetched::Map;
                    }
                    _ => last = Fetched::Failed(format!("{} has no map", link.address)),
                },
                Ok(Err(error)) => last = Fetched::Failed(format!("{}: {error}", link.address)),
                Err(_) => {
                    link.suspect();
                    last = Fetched::Failed(format!("{} does not answer", link.address));
                }
            }
        }
        last
    }

    /// Takes a map. Servers that stay keep their connections.
    fn publish(&self, ranges: &[Range]) {
        let before = self.map();
        let mut known: BTreeMap<&Address, &Arc<Link>> = BTreeMap::new();
        let links = before.iter().flat_map(|map| &map.links);
        for link in self.seeds.iter().chain(links) {
            known.insert(&link.address, link);
        }
        let mut wanted: Vec<&Address> = ranges.iter().map(|(_, _, address)| address).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let mut learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        learned.retain(|(address, since)| {
            since.elapsed() < defaults::STORE_LEARNED_FOR && wanted.binary_search(&address).is_err()
        });
        wanted.extend(learned.iter().map(|(address, _)| address));
        wanted.truncate(defaults::STORE_NODES);
        let links = wanted.into_iter().filter_map(|address| {
            if let Some(link) = known.get(address) {
                return Some((*link).clone());
            }
            let client = toward(&self.model, address).ok()?;
            let link = Link::idle(
                self.store.clone(),
                address.clone(),
                self.script.clone(),
                self.timeout,
                self.stale.clone(),
            );
            link.keep(client);
            Some(link)
        });
        let map = Map::new(links.collect(), ranges);
        drop(learned);
        self.map.store(Some(Arc::new(map)));
    }
}

/// Another server of the same cluster: reached as the first is.
fn toward(model: &Client, address: &Address) -> redis::RedisResult<Client> {
    let info = model.get_connection_info();
    let (host, port) = (address.host.clone(), address.port);
    let addr = match info.addr() {
        ConnectionAddr::TcpTls {
            insecure,
            tls_params,
            ..
        } => ConnectionAddr::TcpTls {
            host,
            port,
            insecure: *insecure,
            tls_params: tls_params.clone(),
        },
        _ => ConnectionAddr::Tcp(host, port),
    };
    Client::open(info.clone().set_addr(addr))
}

/// Asks for the map when that is due, no more often than a lost server is tried again.
async fn keep_mapped(cluster: Weak<Cluster>) {
    loop {
        let Some(held) = cluster.upgrade() else {
            return;
        };
        let begun = Instant::now();
        let fetched = held.fetch().await;
        let pause = match &fetched {
            Fetched::Map => {
                if held.said.swap(false, Relaxed) {
                    tracing::info!(store = %held.store, "the cluster that counts has a map again");
                }
                let whole = held.map().is_some_and(|map| map.is_whole());
                if whole {
                    defaults::STORE_MAP
                } else {
                    defaults::STORE_LOOK
                }
            }
            Fetched::Nobody => defaults::STORE_LOOK,
            Fetched::Failed(why) => {
                if !held.said.swap(true, Relaxed) {
                    tracing::warn!(store = %held.store, why, "no map of the cluster that counts");
                }
                defaults::STORE_LOOK
            }
        };
        let stale = held.stale.clone();
        drop(held);
        let _ = tokio::time::timeout(pause, stale.notified()).await;
        if !matches!(fetched, Fetched::Nobody) {
            tokio::time::sleep_until(begun + defaults::STORE_AGAIN).await;
        }
    }
}
