//! Discovery in a cluster: services that an application calls and nobody has named: what the compiler
//! gets of them, and when they are forgotten.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use selvedge_contract::config::{KubernetesService, PortRef, Service as Spec, UpstreamProtocol};
use selvedge_contract::defaults::kubernetes::SERVICES;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use crate::discover::demand::{Discovered, Name};
use crate::telemetry::metrics::Metrics;

use super::{Cluster, State};

impl Cluster {
    /// What applications have asked for and is there, for the compiler.
    #[must_use]
    pub fn discovered(&self) -> BTreeMap<String, Discovered> {
        let state = self.lock();
        let mut all = BTreeMap::new();
        for (name, tracked) in state.tracked.iter().filter(|(_, t)| t.asked) {
            let pods = state.pods_of(self, name, tracked);
            if let Some(service) = &tracked.service
                && tracked.is_complete(pods)
            {
                let ports = &service.ports;
                for port in ports {
                    let mut called: Vec<u16> = vec![port.port];
                    // A name of a headless service leads to its pods, at their own ports.
                    let target = port.target.filter(|_| service.addresses.is_empty());
                    called.extend(target.filter(|target| *target != port.port));
                    let spec =
                        self.spec(name, Some(port.port), tracked.addresses(port), port.http2);
                    let key = format!("{}/{}:{}", name.namespace, name.name, port.port);
                    let alone = ports.len() == 1;
                    let port_name = port.name.clone();
                    all.insert(
                        key,
                        Discovered {
                            spec,
                            ports: called,
                            port_name,
                            alone,
                        },
                    );
                }
                if ports.is_empty() && service.external.is_some() {
                    let spec = self.spec(name, None, Vec::new(), false);
                    let key = format!("{}/{}", name.namespace, name.name);
                    let found = Discovered {
                        spec,
                        ports: vec![80],
                        port_name: String::new(),
                        alone: true,
                    };
                    all.insert(key, found);
                }
            }
        }
        all
    }

    fn spec(
        &self,
        name: &Name,
        port: Option<u16>,
        addresses: Vec<SocketAddr>,
        http2: bool,
    ) -> Spec {
        Spec {
            kubernetes: Some(KubernetesService {
                service: name.name.clone(),
                namespace: Some(name.namespace.clone()),
                port: port.map(PortRef::Number),
            }),
            hostnames: self.demand.hosts(name),
            addresses: addresses.iter().map(ToString::to_string).collect(),
            protocol: if http2 {
                UpstreamProtocol::Http2
            } else {
                UpstreamProtocol::Http1
            },
            ..Default::default()
        }
    }

    /// The snapshot with what was found is in force: nobody need wait for it any more.
    pub fn settled(&self) {
        let mut state = self.lock();
        let State {
            tracked,
            scopes,
            identities,
            ..
        } = &mut *state;
        for (name, tracked) in tracked {
            let scope = scopes.get(&name.namespace).map(|scope| &scope.pods);
            let pods = if self.whole {
                scope
            } else {
                Some(&tracked.pods)
            };
            if tracked.is_complete(pods.filter(|_| identities.are_there())) {
                tracked.waiting.clear();
            }
        }
    }

    /// Follows a service because it is called; whoever waits is told when it is in force. Says whether
    /// there is room for it.
    pub(super) fn want(
        self: &Arc<Self>,
        state: &mut State,
        name: &Name,
        waiting: Vec<oneshot::Sender<()>>,
    ) -> bool {
        let asked = state.tracked.values().filter(|t| t.asked).count();
        if !state.tracked.contains_key(name) {
            if asked >= SERVICES {
                tracing::warn!(
                    most = SERVICES,
                    "more services are called than are held; the rest passes as it is"
                );
                return false;
            }
            self.track(state, name);
        }
        let Some(tracked) = state.tracked.get_mut(name) else {
            return false;
        };
        let known = std::mem::replace(&mut tracked.asked, true);
        tracked.waiting.extend(waiting);
        if state.is_complete(self, name) {
            if known {
                // In force since long: this is all there is to say of it.
                if let Some(tracked) = state.tracked.get_mut(name) {
                    tracked.waiting.clear();
                }
            } else {
                self.changed.notify_one();
            }
        }
        true
    }

    /// Forgets what nobody has called for long.
    pub(super) fn drop_idle(&self) {
        let now = Instant::now();
        let mut state = self.lock();
        let State {
            tracked, dynamic, ..
        } = &mut *state;
        let mut gone = false;
        for (name, tracked) in tracked.iter_mut().filter(|(_, t)| t.asked) {
            let own = format!("{}/{}", name.namespace, name.name);
            let of = |key: &&String| {
                let rest = key.strip_prefix(&own);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
            };
            let keys = dynamic.iter().filter(of);
            let count = keys.map(|key| requests(&self.metrics, key)).sum::<u64>();
            let live = tracked
                .live
                .iter()
                .filter_map(|(_, service)| service.upgrade());
            let busy = live
                .map(|service| u64::from(service.in_flight()))
                .sum::<u64>()
                > 0;
            match tracked.used {
                Some((since, seen)) if seen == count && !busy => {
                    if now.saturating_duration_since(since) >= self.idle
                        && tracked.waiting.is_empty()
                    {
                        tracing::info!(service = own, "not called for long; forgotten");
                        tracked.asked = false;
                        gone = true;
                    }
                }
                _ => tracked.used = Some((now, count)),
            }
        }
        state
            .tracked
            .retain(|_, tracked| tracked.pinned || tracked.asked);
        if gone {
            self.changed.notify_one();
        }
    }
}

/// Requests that were ever for a service by its rule.
fn requests(metrics: &Metrics, key: &str) -> u64 {
    let route = metrics.route(&format!("outbound/{key}"), key);
    let shards = route.shards().iter();
    shards
        .flat_map(|shard| shard.class.iter())
        .map(|count| count.value())
        .sum()
}

/// Looks for what is idle, eight times in that time.
pub(super) async fn sweep(cluster: Weak<Cluster>, idle: Duration) {
    let pause = (idle / 8).max(Duration::from_millis(50));
    loop {
        sleep(pause).await;
        let Some(cluster) = cluster.upgrade() else {
            return;
        };
        cluster.drop_idle();
    }
}
