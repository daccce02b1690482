//! CA: its roots in a ConfigMap of every namespace, where sidecars find them.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{Api, PartialObjectMeta, Patch, PatchParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Client, ResourceExt};
use selvedge_ca::Bundle;
use tokio::sync::watch;
use tokio_stream::StreamExt;

/// Who owns the ConfigMaps' contents.
const MANAGER: &str = "selvedge-ca";
/// The key of the bundle.
const KEY: &str = "ca.pem";
/// What could not be written is tried again after this.
const AGAIN: Duration = Duration::from_secs(10);
/// Objects by page of a list.
const PAGE: u32 = 500;

/// What there is, and what there is to do.
#[derive(Debug, Default)]
struct Ledger {
    namespaces: BTreeSet<String>,
    /// Those whose ConfigMap says what it should.
    good: BTreeSet<String>,
    /// Those where it could not be written a moment ago.
    failed: BTreeSet<String>,
}

impl Ledger {
    fn missing(&self) -> Vec<String> {
        let missing = self.namespaces.difference(&self.good);
        missing
            .filter(|name| !self.failed.contains(*name))
            .cloned()
            .collect()
    }

    fn namespace(&mut self, event: Event<PartialObjectMeta<Namespace>>) {
        let lives =
            |object: &PartialObjectMeta<Namespace>| object.metadata.deletion_timestamp.is_none();
        match event {
            Event::Init => self.namespaces.clear(),
            Event::InitApply(object) | Event::Apply(object) if lives(&object) => {
                self.namespaces.insert(object.name_any());
            }
            Event::InitApply(object) | Event::Apply(object) | Event::Delete(object) => {
                self.namespaces.remove(&object.name_any());
            }
            Event::InitDone => {}
        }
    }

    fn config_map(&mut self, event: Event<ConfigMap>, bundle: &str) {
        let says = |map: &ConfigMap| {
            let data = map.data.as_ref().and_then(|data| data.get(KEY));
            data.is_some_and(|data| data == bundle)
        };
        match event {
            Event::Init => self.good.clear(),
            Event::InitApply(map) | Event::Apply(map) if says(&map) => {
                self.good.insert(map.namespace().unwrap_or_default());
            }
            Event::InitApply(map) | Event::Apply(map) | Event::Delete(map) => {
                self.good.remove(&map.namespace().unwrap_or_default());
            }
            Event::InitDone => {}
        }
    }
}

/// Writes the bundle in force to the ConfigMap `name` of every namespace and keeps it there; ends with the
/// runtime. What others write into it is put right again.
pub async fn publish(client: Client, name: String, mut bundles: watch::Receiver<Bundle>) {
    let mut bundle = bundles.borrow_and_update().pem.clone();
    let config = Config::default().page_size(PAGE);
    let named = config.clone().fields(&format!("metadata.name={name}"));
    let namespaces = Api::<PartialObjectMeta<Namespace>>::all(client.clone());
    let mut namespaces = pin!(watcher(namespaces, config).default_backoff());
    let maps = Api::<ConfigMap>::all(client.clone());
    let mut maps = pin!(watcher(maps, named).default_backoff());
    let mut ledger = Ledger::default();
    // Until both lists are whole, nothing is known to be missing.
    let (mut all, mut listed) = (false, false);
    let mut again = tokio::time::interval(AGAIN);
    loop {
        let failed = |error| {
            tracing::warn!(%error, "trust: the Kubernetes API");
        };
        tokio::select! {
            Some(event) = namespaces.next() => match event {
                Ok(event) => {
                    all = !matches!(event, Event::Init) && (all || matches!(event, Event::InitDone));
                    ledger.namespace(event);
                }
                Err(error) => failed(error),
            },
            Some(event) = maps.next() => match event {
                Ok(event) => {
                    listed = !matches!(event, Event::Init)
                        && (listed || matches!(event, Event::InitDone));
                    ledger.config_map(event, &bundle);
                }
                Err(error) => failed(error),
            },
            _ = again.tick() => ledger.failed.clear(),
            Ok(()) = bundles.changed() => {
                bundle = bundles.borrow_and_update().pem.clone();
                // All of them say what was right before.
                ledger.good.clear();
                ledger.failed.clear();
            }
        }
        if all && listed {
            write(&client, &name, &bundle, &mut ledger).await;
        }
    }
}

/// Writes what is missing. What fails stays missing.
async fn write(client: &Client, name: &str, bundle: &str, ledger: &mut Ledger) {
    let missing: Vec<String> = ledger
        .namespaces
        .difference(&ledger.good)
        .cloned()
        .collect();
    for namespace in missing {
        let map = ConfigMap {
            metadata: kube::api::ObjectMeta {
                name: Some(name.to_owned()),
                labels: Some(BTreeMap::from([(
                    "app.kubernetes.io/managed-by".to_owned(),
                    MANAGER.to_owned(),
                )])),
                ..Default::default()
            },
            data: Some(BTreeMap::from([(KEY.to_owned(), bundle.to_owned())])),
            ..ConfigMap::default()
        };
        let maps = Api::<ConfigMap>::namespaced(client.clone(), &namespace);
        let params = PatchParams::apply(MANAGER).force();
        match maps.patch(name, &params, &Patch::Apply(&map)).await {
            Ok(_) => {
                ledger.good.insert(namespace);
            }
            // Its own affair: it is going or gone, or something there forbids it.
            Err(kube::Error::Api(status)) if !matches!(status.code, 401 | 429 | 500..) => {
                tracing::warn!(%namespace, reason = %status.message, "trust not written");
                ledger.failed.insert(namespace);
            }
            Err(error) => {
                tracing::warn!(%namespace, %error, "trust not written");
                // The API is away: the others would fail too.
                ledger.failed.extend(ledger.missing());
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn map(namespace: &str, text: &str) -> ConfigMap {
        let map =
            json!({ "metadata": { "name": "t", "namespace": namespace }, "data": { KEY: text } });
        serde_json::from_value(map).unwrap()
    }

    fn namespace(name: &str, going: bool) -> PartialObjectMeta<Namespace> {
        let mut metadata = json!({ "name": name });
        if going {
            metadata["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        serde_json::from_value(json!({ "metadata": metadata })).unwrap()
    }

    #[test]
    fn what_is_missing_or_wrong_is_known() {
        let mut ledger = Ledger::default();
        for name in ["shop", "blog"] {
            ledger.namespace(Event::InitApply(namespace(name, false)));
        }
        ledger.namespace(Event::Apply(namespace("going", true)));
        ledger.config_map(Event::Apply(map("shop", "roots")), "roots");
        ledger.config_map(Event::Apply(map("blog", "others")), "roots");
        assert_eq!(ledger.missing(), ["blog"]);
        ledger.config_map(Event::Apply(map("shop", "tampered")), "roots");
        assert_eq!(ledger.missing(), ["blog", "shop"]);
        ledger.config_map(Event::Apply(map("shop", "roots")), "roots");
        ledger.config_map(Event::Delete(map("shop", "roots")), "roots");
        ledger.namespace(Event::Apply(namespace("blog", true)));
        assert_eq!(ledger.missing(), ["shop"]);
    }
}
