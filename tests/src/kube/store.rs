//! Test API server: objects, their versions, and what has happened to them so far.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::{Value, json};

use super::kinds::Kind;
use super::refusal::{Answer, Refusal};

/// Changes that are remembered: an older version is gone.
const HISTORY: usize = 50_000;

/// Kind, namespace, name.
pub(super) type Key = (usize, String, String);

/// One change of one object.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) version: u64,
    pub(super) key: Key,
    pub(super) before: Option<Arc<Value>>,
    pub(super) after: Option<Arc<Value>>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Store {
    objects: BTreeMap<Key, Arc<Value>>,
    history: VecDeque<Change>,
    version: u64,
    /// Nothing before it is known any more.
    compacted: u64,
    uids: u64,
    addresses: u32,
}

impl Store {
    pub(super) fn new() -> Self {
        Self {
            objects: BTreeMap::new(),
            history: VecDeque::new(),
            // Versions are opaque: none of a real cluster begins at 1.
            version: 1000,
            compacted: 1000,
            uids: 0,
            addresses: 0,
        }
    }

    /// The newest version.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Forgets all that has been.
    pub(super) fn compact(&mut self) {
        self.history.clear();
        self.compacted = self.version;
    }

    pub(super) fn object(&self, kind: &Kind, namespace: &str, name: &str) -> Option<&Arc<Value>> {
        let key = (kind.index(), namespace.to_owned(), name.to_owned());
        self.objects.get(&key)
    }

    /// The objects of a kind as they were at a version; `None` is all namespaces.
    pub(super) fn list(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        at: u64,
    ) -> Answer<Vec<Arc<Value>>> {
        if at < self.compacted {
            return Err(Refusal::expired(at, self.compacted));
        }
        let index = kind.index();
        let first = (
            index,
            namespace.unwrap_or_default().to_owned(),
            String::new(),
        );
        let own = |key: &Key| key.0 == index && namespace.is_none_or(|n| key.1 == n);
        let range = self.objects.range(first..).take_while(|(key, _)| own(key));
        if at == self.version {
            return Ok(range.map(|(_, object)| object.clone()).collect());
        }
        let mut then: BTreeMap<Key, Arc<Value>> = range
            .map(|(key, object)| (key.clone(), object.clone()))
            .collect();
        // Backwards, each change undone.
        for change in self.history.iter().rev().take_while(|c| c.version > at) {
            if !own(&change.key) {
                continue;
            }
            match &change.before {
                Some(before) => then.insert(change.key.clone(), before.clone()),
                None => then.remove(&change.key),
            };
        }
        Ok(then.into_values().collect())
    }

    /// What has happened after a version.
    pub(super) fn since(&self, version: u64) -> Answer<Vec<Change>> {
        if version < self.compacted {
            return Err(Refusal::expired(version, self.compacted));
        }
        let start = usize::try_from(version - self.compacted).unwrap();
        Ok(self
            .history
            .range(start.min(self.history.len())..)
            .cloned()
            .collect())
    }

    /// Writes an object as it is now to be. The same again is no change.
    pub(super) fn write(&mut self, kind: &Kind, mut object: Value) -> Arc<Value> {
        let text = |field: &str| {
            object["metadata"][field]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        let key = (kind.index(), text("namespace"), text("name"));
        let before = self.objects.get(&key).cloned();
        if let Some(before) = &before {
            object["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"].clone();
            if object == **before {
                return before.clone();
            }
        } else {
            self.begin(kind, &mut object);
        }
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let after = Arc::new(object);
        self.objects.insert(key.clone(), after.clone());
        self.remember(key, before, Some(after.clone()));
        after
    }

    /// What an object gets when it is new.
    fn begin(&mut self, kind: &Kind, object: &mut Value) {
        self.uids += 1;
        let uid = format!("5e1f0000-0000-4000-8000-{:012x}", self.uids);
        let now = jiff::Timestamp::now()
            .strftime("%Y-%m-%dT%H:%M:%SZ")
            .to_string();
        object["metadata"]["uid"] = json!(uid);
        object["metadata"]["creationTimestamp"] = json!(now);
        if kind.plural == "namespaces" {
            let name = object["metadata"]["name"].clone();
            object["metadata"]["labels"]["kubernetes.io/metadata.name"] = name;
            object["status"]["phase"] = json!("Active");
        }
        if kind.plural == "services" && object["spec"]["type"] != "ExternalName" {
            let spec = &mut object["spec"];
            if spec["type"].is_null() {
                spec["type"] = json!("ClusterIP");
            }
            if spec["clusterIP"].as_str().is_none_or(str::is_empty) {
                self.addresses += 1;
                let [_, b, c, d] = self.addresses.to_be_bytes();
                spec["clusterIP"] = json!(format!("10.{}.{c}.{d}", 96 + b));
            }
            if spec["clusterIPs"].is_null() {
                spec["clusterIPs"] = json!([spec["clusterIP"]]);
            }
        }
        if ![
            "endpointslices",
            "configmaps",
            "secrets",
            "leases",
            "events",
        ]
        .contains(&kind.plural)
        {
            return;
        }
        // These count no generations, but for slices.
        if kind.plural == "endpointslices" {
            object["metadata"]["generation"] = json!(1);
        }
    }

    /// Removes an object and gives what it was last.
    pub(super) fn remove(
        &mut self,
        kind: &Kind,
        namespace: &str,
        name: &str,
    ) -> Option<Arc<Value>> {
        let key = (kind.index(), namespace.to_owned(), name.to_owned());
        let before = self.objects.remove(&key)?;
        self.version += 1;
        self.remember(key, Some(before.clone()), None);
        Some(before)
    }

    fn remember(&mut self, key: Key, before: Option<Arc<Value>>, after: Option<Arc<Value>>) {
        self.history.push_back(Change {
            version: self.version,
            key,
            before,
            after,
        });
        if self.history.len() > HISTORY {
            let gone = self.history.pop_front().unwrap();
            self.compacted = gone.version;
        }
    }
}
