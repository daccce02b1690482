//! Discovery in a cluster: services that the configuration names, and those that the application
//! calls, followed for as long as they are wanted.
//!
//! All of it runs on the control thread. The path sees endpoint sets, which are swapped in place, and
//! snapshots, which the application wires anew when a service comes or goes.

mod called;
mod feed;
mod identity;
pub mod lines;
mod lookup;
pub mod mesh_ports;
mod news;
pub mod objects;
mod raw;
pub mod rules;
mod source;
mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use selvedge_contract::config::{Kubernetes, PortRef};
use selvedge_contract::defaults::kubernetes::{IDLE, LOOKUPS};
use tokio::sync::{Notify, mpsc};

use crate::balance::Service;
use crate::config::{Mode, Snapshot};
use crate::kubernetes::{Api, ApiError};
use crate::telemetry::metrics::Metrics;
use crate::tls::IdentityStore;

use super::demand::{Demand, Name};
use feed::Query;
use identity::Identities;
use objects::Kind;
use source::{Feed, Source};
use state::{Pods, Tracked};

/// See the module.
pub struct Cluster {
    state: Mutex<State>,
    source: Source,
    demand: Arc<Demand>,
    /// Services have come, gone, or changed: the snapshot is to be made anew.
    changed: Notify,
    /// Whole namespaces are looked at, not single services.
    whole: bool,
    zone: Option<String>,
    idle: Duration,
    metrics: Arc<Metrics>,
    tasks: Mutex<Vec<Feed>>,
}

#[derive(Default)]
struct State {
    tracked: BTreeMap<Name, Tracked>,
    scopes: BTreeMap<String, Scope>,
    identities: Identities,
    lookups: lookup::Lookups,
    /// What the snapshot in force has of those that were asked for.
    dynamic: BTreeSet<String>,
}

/// A namespace that is looked at as a whole.
#[derive(Default)]
struct Scope {
    pods: Pods,
    pods_feed: Option<Feed>,
    feeds: Vec<Feed>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("whole", &self.whole)
            .finish_non_exhaustive()
    }
}

/// A port, what is called there, and whether the configuration names it.
type Live<'s> = (Option<PortRef>, &'s Arc<Service>, bool);

/// Whom a feed tells.
#[derive(Debug, Clone)]
enum Origin {
    Service(Name),
    Namespace(String),
}

impl Cluster {
    /// Begins: nothing is asked until something is wanted. Must run inside the control runtime.
    ///
    /// # Errors
    /// [`ApiError`]: there is no way to the API.
    pub fn start(
        spec: &Kubernetes,
        mode: Mode,
        store: Option<Arc<IdentityStore>>,
        metrics: &Arc<Metrics>,
    ) -> Result<Arc<Self>, ApiError> {
        let (asks, asked) = mpsc::channel(LOOKUPS);
        let domain = spec.cluster_domain.as_deref().unwrap_or("cluster.local");
        let demand = Arc::new(Demand::new(&super::home(spec), domain, asks));
        let mut tasks = Vec::new();
        let source = match &spec.manifests {
            Some(directory) => {
                let (source, task) = source::files(Path::new(directory), demand.clone());
                tasks.push(task);
                source
            }
            None => Source::Api(Api::of(spec)?.client()?),
        };
        let this = Arc::new(Self {
            state: Mutex::new(State {
                identities: Identities::new(store),
                ..State::default()
            }),
            source,
            demand,
            changed: Notify::new(),
            whole: mode == Mode::Gateway,
            zone: spec.zone.clone(),
            idle: spec.idle.map_or(IDLE, |idle| idle.0),
            metrics: metrics.clone(),
            tasks: Mutex::default(),
        });
        tasks.push(Feed::of(lookup::answer(Arc::downgrade(&this), asked)));
        tasks.push(Feed::of(called::sweep(Arc::downgrade(&this), this.idle)));
        *this.tasks.lock().unwrap_or_else(PoisonError::into_inner) = tasks;
        Ok(this)
    }

    /// What the path asks by.
    #[must_use]
    pub const fn demand(&self) -> &Arc<Demand> {
        &self.demand
    }

    /// Waits until another snapshot is due. Safe to cancel.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows what a snapshot names, and fills what is known already. Before the snapshot is in
    /// force, so that nobody meets a service without the endpoints that are known.
    pub fn attach(self: &Arc<Self>, snapshot: &Snapshot, dynamic: BTreeSet<String>) {
        let mut state = self.lock();
        let mut live: BTreeMap<Name, Vec<Live<'_>>> = BTreeMap::new();
        for (key, service) in &snapshot.services {
            if let Some(target) = &service.spec.kubernetes {
                let pinned = !dynamic.contains(key);
                let entry = live
                    .entry(Name::new(&target.namespace, &target.service))
                    .or_default();
                entry.push((target.port.clone(), service, pinned));
            }
        }
        state.dynamic = dynamic;
        for (name, tracked) in &mut state.tracked {
            if !live.contains_key(name) {
                tracked.pinned = false;
                tracked.live.clear();
            }
        }
        state
            .tracked
            .retain(|_, tracked| tracked.pinned || tracked.asked);
        let mut anew = BTreeSet::new();
        for (name, ports) in live {
            if !state.tracked.contains_key(&name) {
                anew.insert(name.namespace.clone());
                self.track(&mut state, &name);
            }
            if let Some(tracked) = state.tracked.get_mut(&name) {
                tracked.pinned = ports.iter().any(|(_, _, pinned)| *pinned);
                let weak = ports
                    .iter()
                    .map(|(port, service, _)| (port.clone(), Arc::downgrade(service)));
                tracked.live = weak.collect();
            }
            self.publish(&mut state, &name);
        }
        if self.whole {
            let wanted: BTreeSet<String> =
                state.tracked.keys().map(|n| n.namespace.clone()).collect();
            state
                .scopes
                .retain(|namespace, _| wanted.contains(namespace));
            for namespace in anew {
                self.look_at(&mut state, &namespace);
            }
        }
    }

    /// Begins to follow a service.
    fn track(self: &Arc<Self>, state: &mut State, name: &Name) {
        let mut tracked = Tracked::default();
        if !self.whole {
            let origin = Origin::Service(name.clone());
            for query in [source::by_name(name), source::slices_of(name)] {
                tracked.feeds.push(self.follow(&origin, query));
            }
        }
        state.tracked.insert(name.clone(), tracked);
    }

    /// Looks at a namespace as a whole, from the beginning.
    fn look_at(self: &Arc<Self>, state: &mut State, namespace: &str) {
        let origin = Origin::Namespace(namespace.to_owned());
        let query = |kind| Query {
            kind,
            namespace: Some(namespace.to_owned()),
            labels: String::new(),
            fields: String::new(),
        };
        let scope = state.scopes.entry(namespace.to_owned()).or_default();
        scope.feeds = vec![
            self.follow(&origin, query(Kind::Service)),
            self.follow(&origin, query(Kind::Slice)),
        ];
        if state.identities.are_there() && scope.pods_feed.is_none() {
            scope.pods_feed = Some(self.follow(&origin, query(Kind::Pod)));
        }
    }

    fn follow(self: &Arc<Self>, origin: &Origin, query: Query) -> Feed {
        let (this, origin, kind) = (Arc::downgrade(self), origin.clone(), query.kind);
        let tell = move |told| {
            if let Some(this) = Weak::upgrade(&this) {
                this.told(&origin, kind, told);
            }
        };
        self.source.follow(query, self.demand.clone(), tell)
    }

    fn publish(&self, state: &mut State, name: &Name) {
        let State {
            tracked,
            scopes,
            identities,
            ..
        } = state;
        let Some(tracked) = tracked.get_mut(name) else {
            return;
        };
        let zone = self.zone.as_deref();
        let own = std::mem::take(&mut tracked.pods);
        let none = Pods::default();
        let pods = if self.whole {
            scopes
                .get(&name.namespace)
                .map_or(&none, |scope| &scope.pods)
        } else {
            &own
        };
        let pods = identities.are_there().then_some(pods);
        tracked.publish(name, zone, pods, identities);
        tracked.pods = own;
    }
}

impl State {
    fn in_namespace(&self, namespace: &str) -> Vec<Name> {
        let names = self.tracked.keys();
        names
            .filter(|name| name.namespace == namespace)
            .cloned()
            .collect()
    }

    /// The pods by which a service's endpoints are judged; `None` where none are needed.
    fn pods_of<'s>(
        &'s self,
        cluster: &Cluster,
        name: &Name,
        tracked: &'s Tracked,
    ) -> Option<&'s Pods> {
        if !self.identities.are_there() {
            return None;
        }
        if cluster.whole {
            return self.scopes.get(&name.namespace).map(|scope| &scope.pods);
        }
        Some(&tracked.pods)
    }

    fn is_complete(&self, cluster: &Cluster, name: &Name) -> bool {
        let tracked = self.tracked.get(name);
        tracked
            .is_some_and(|t| t.service.is_some() && t.is_complete(self.pods_of(cluster, name, t)))
    }
}
