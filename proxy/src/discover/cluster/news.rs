//! Discovery in a cluster: what feeds tell, and what follows from it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::feed::{Query, Told};
use super::objects::{Item, Kind, Name};
use super::state::{Effect, Tracked};
use super::{Cluster, Origin, State};

impl Cluster {
    /// Takes what a feed tells.
    pub(super) fn told(self: &Arc<Self>, origin: &Origin, kind: Kind, told: Told) {
        let mut state = self.lock();
        match origin {
            Origin::Service(name) => self.told_of(&mut state, name, kind, told),
            Origin::Namespace(namespace) if kind == Kind::Pod => {
                self.told_of_pods(&mut state, namespace, told);
            }
            Origin::Namespace(namespace) => {
                let names: Vec<Name> = state.in_namespace(namespace);
                match told {
                    Told::All(items) => {
                        let mut parts: BTreeMap<Name, Vec<Item>> = BTreeMap::new();
                        for item in items {
                            parts.entry(owner(&item)).or_default().push(item);
                        }
                        for name in names {
                            let part = parts.remove(&name).unwrap_or_default();
                            self.told_of(&mut state, &name, kind, Told::All(part));
                        }
                    }
                    Told::Put(item) => {
                        for name in names {
                            let holds = |t: &Tracked| t.slices.contains_key(&item.name().name);
                            let had =
                                kind == Kind::Slice && state.tracked.get(&name).is_some_and(holds);
                            if had || owner(&item) == name {
                                self.told_of(&mut state, &name, kind, Told::Put(item.clone()));
                            }
                        }
                    }
                    Told::Gone(item) => {
                        self.told_of(&mut state, &owner(&item), kind, Told::Gone(item))
                    }
                }
            }
        }
    }

    fn told_of_pods(&self, state: &mut State, namespace: &str, told: Told) {
        let pod = match &told {
            Told::Put(item) => Some(item.name().name.clone()),
            _ => None,
        };
        let State {
            scopes, identities, ..
        } = state;
        let Some(scope) = scopes.get_mut(namespace) else {
            return;
        };
        if !scope.pods.take(told, identities) {
            return;
        }
        for name in state.in_namespace(namespace) {
            let of = |tracked: &Tracked| pod.as_ref().is_none_or(|pod| tracked.has(pod));
            if state.tracked.get(&name).is_some_and(of) {
                self.publish(state, &name);
            }
        }
    }

    fn told_of(self: &Arc<Self>, state: &mut State, name: &Name, kind: Kind, told: Told) {
        let State {
            tracked,
            identities,
            ..
        } = state;
        let Some(tracked) = tracked.get_mut(name) else {
            return;
        };
        let was = (tracked.service.is_some(), tracked.is_complete(None));
        let effect = match kind {
            Kind::Service => tracked.take_service(name, told),
            Kind::Slice => tracked.take_slices(name, told),
            Kind::Pod => Effect {
                endpoints: tracked.pods.take(told, identities),
                shape: false,
            },
        };
        if !effect.endpoints {
            return;
        }
        if tracked.asked && was.0 && tracked.service.is_none() {
            if tracked.pinned {
                tracked.asked = false;
            } else {
                state.tracked.remove(name);
            }
            self.changed.notify_one();
            return;
        }
        self.look_after_pods(state, name);
        self.publish(state, name);
        let complete = state.is_complete(self, name);
        // What is asked for is first seen whole here, or has another shape.
        if complete
            && state
                .tracked
                .get(name)
                .is_some_and(|t| t.asked && (effect.shape || !t.waiting.is_empty()))
        {
            self.changed.notify_one();
        }
    }

    /// Follows the pods of a service by its selector.
    fn look_after_pods(self: &Arc<Self>, state: &mut State, name: &Name) {
        if self.whole || !state.identities.are_there() {
            return;
        }
        let Some(tracked) = state.tracked.get_mut(name) else {
            return;
        };
        let Some(service) = &tracked.service else {
            return;
        };
        let pairs = service
            .selector
            .iter()
            .map(|(key, value)| format!("{key}={value}"));
        let labels = pairs.collect::<Vec<_>>().join(",");
        if labels.is_empty() && !tracked.has_pods() {
            // Somebody else writes its slices, of what are no pods.
            tracked.pods.listed |= tracked.slices_listed;
            return;
        }
        if tracked.pods_by.as_ref() == Some(&labels) {
            return;
        }
        let query = Query {
            kind: Kind::Pod,
            namespace: Some(name.namespace.clone()),
            labels: labels.clone(),
            fields: String::new(),
        };
        tracked.pods_by = Some(labels);
        tracked.pods_feed = Some(self.follow(&Origin::Service(name.clone()), query));
    }
}

/// The service that an object is about.
fn owner(item: &Item) -> Name {
    match item {
        Item::Slice(slice) => Name::new(&slice.name.namespace, &slice.service),
        other => other.name().clone(),
    }
}
