//! Discovery in a cluster: where objects come from: the API, or a directory of manifests.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use kube::Client;
use selvedge_contract::defaults::kubernetes::{ANSWER, MANIFESTS, PODS, SERVICES, SLICES};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::load::files_of;
use crate::config::tree::documents;
use crate::config::watch::Watch;
use crate::discover::demand::Demand;

use super::feed::{self, FeedError, Query, Told};
use super::objects::{Item, Kind, Name, ServiceFacts, read_any};

/// See the module.
#[derive(Clone)]
pub(super) enum Source {
    Api(Client),
    Files(watch::Receiver<Arc<Vec<Item>>>),
}

/// A task that ends when this is dropped.
#[derive(Debug)]
pub(super) struct Feed(JoinHandle<()>);

impl Drop for Feed {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Feed {
    pub(super) fn of(task: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(task))
    }
}

impl Source {
    /// Tells what a query asks for, and what becomes of it, until the feed is dropped.
    pub(super) fn follow(
        &self,
        query: Query,
        demand: Arc<Demand>,
        tell: impl Fn(Told) + Send + Sync + 'static,
    ) -> Feed {
        match self {
            Self::Api(client) => {
                let most = match query.kind {
                    Kind::Pod => PODS,
                    Kind::Slice if query.labels.is_empty() => PODS,
                    Kind::Slice => SLICES,
                    Kind::Service => PODS,
                };
                let client = client.clone();
                Feed::of(async move { feed::follow(client, query, most, demand, tell).await })
            }
            Self::Files(items) => {
                let mut items = items.clone();
                Feed::of(async move {
                    loop {
                        let now = items.borrow_and_update().clone();
                        demand.status.heard();
                        let taken = now.iter().filter(|item| takes(&query, item));
                        tell(Told::All(taken.cloned().collect()));
                        if items.changed().await.is_err() {
                            return;
                        }
                    }
                })
            }
        }
    }

    /// The service that is called at an address.
    pub(super) async fn at(&self, address: IpAddr) -> Result<Option<Name>, FeedError> {
        match self {
            Self::Api(_) => {
                let query = Query {
                    kind: Kind::Service,
                    namespace: None,
                    labels: String::new(),
                    fields: format!("spec.clusterIP={address}"),
                };
                let found = self.services(&query).await?;
                Ok(found.into_iter().map(|s| s.name).next())
            }
            Self::Files(_) => {
                let mut all = self.services(&everything()).await?.into_iter();
                Ok(all.find(|s| s.addresses.contains(&address)).map(|s| s.name))
            }
        }
    }

    /// Whether there is this service.
    pub(super) async fn named(&self, name: &Name) -> Result<bool, FeedError> {
        let query = by_name(name);
        let found = self.services(&query).await?;
        Ok(found.iter().any(|service| service.name == *name))
    }

    /// Which services these addresses are of, by one look at all of them.
    pub(super) async fn scan(&self, wanted: &[IpAddr]) -> Result<Vec<(IpAddr, Name)>, FeedError> {
        let mut found = Vec::new();
        let look = |item| {
            let Item::Service(service) = item else {
                return;
            };
            let name = service.name;
            let own = service.addresses.into_iter().filter(|a| wanted.contains(a));
            found.extend(own.map(|address| (address, name.clone())));
        };
        match self {
            // What is not wanted is dropped piece by piece: a cluster's services are many, and others'.
            Self::Api(client) => {
                let query = everything();
                let all = feed::each(client, &query, SERVICES, look);
                let all = tokio::time::timeout(ANSWER, all).await;
                all.map_err(|_| FeedError::Lost("no answer".to_owned()))??;
            }
            Self::Files(items) => items.borrow().iter().cloned().for_each(look),
        }
        Ok(found)
    }

    async fn services(&self, query: &Query) -> Result<Vec<ServiceFacts>, FeedError> {
        let items = match self {
            Self::Api(client) => {
                let list = feed::list(client, query, PODS);
                let list = tokio::time::timeout(ANSWER, list).await;
                list.map_err(|_| FeedError::Lost("no answer".to_owned()))??
                    .0
            }
            Self::Files(items) => {
                let now = items.borrow().clone();
                now.iter()
                    .filter(|item| takes(query, item))
                    .cloned()
                    .collect()
            }
        };
        let service = |item| match item {
            Item::Service(service) => Some(service),
            _ => None,
        };
        Ok(items.into_iter().filter_map(service).collect())
    }
}

/// The query for one service.
pub(super) fn by_name(name: &Name) -> Query {
    Query {
        kind: Kind::Service,
        namespace: Some(name.namespace.clone()),
        labels: String::new(),
        fields: format!("metadata.name={}", name.name),
    }
}

/// The query for the slices of one service.
pub(super) fn slices_of(name: &Name) -> Query {
    Query {
        kind: Kind::Slice,
        namespace: Some(name.namespace.clone()),
        labels: format!("kubernetes.io/service-name={}", name.name),
        fields: String::new(),
    }
}

fn everything() -> Query {
    Query {
        kind: Kind::Service,
        namespace: None,
        labels: String::new(),
        fields: String::new(),
    }
}

/// Whether a manifest is asked for. Pods are all taken: which are of a service, its slices say.
fn takes(query: &Query, item: &Item) -> bool {
    let kind = match item {
        Item::Service(_) => Kind::Service,
        Item::Slice(_) => Kind::Slice,
        Item::Pod(_) => Kind::Pod,
    };
    let name = item.name();
    let named = query.fields.strip_prefix("metadata.name=");
    let of = query.labels.strip_prefix("kubernetes.io/service-name=");
    kind == query.kind
        && query
            .namespace
            .as_ref()
            .is_none_or(|n| *n == name.namespace)
        && named.is_none_or(|wanted| wanted == name.name)
        && match item {
            Item::Slice(slice) => of.is_none_or(|service| service == slice.service),
            _ => true,
        }
}

/// Reads a directory of manifests, and again whenever it changes. What cannot be read changes
/// nothing, and is said in the log and in `/ready`.
pub(super) fn files(directory: &Path, demand: Arc<Demand>) -> (Source, Feed) {
    let directory = directory.to_owned();
    // Before they are read: a change between the two must not be missed.
    let mut changes = Watch::start(vec![directory.clone()]);
    let first = read(&directory, &demand).unwrap_or_default();
    let (sender, items) = watch::channel(Arc::new(first));
    let task = Feed::of(async move {
        loop {
            changes.changed().await;
            if let Some(items) = read(&directory, &demand) {
                tracing::info!(directory = %directory.display(), objects = items.len(), "manifests read");
                sender.send_replace(Arc::new(items));
            }
        }
    });
    (Source::Files(items), task)
}

fn read(directory: &Path, demand: &Demand) -> Option<Vec<Item>> {
    match read_all(directory) {
        Ok(items) => {
            demand.status.lists.fetch_add(1, Relaxed);
            let _ = demand.status.note("manifests", None);
            Some(items)
        }
        Err(error) => {
            demand.status.failures.fetch_add(1, Relaxed);
            tracing::error!("manifests: {error}; what was known before holds");
            let _ = demand.status.note("manifests", Some(error.clone()));
            None
        }
    }
}

/// Every object of use in the files of a directory.
///
/// # Errors
/// The first file that is wrong, and how.
fn read_all(directory: &Path) -> Result<Vec<Item>, String> {
    let mut items = Vec::new();
    let mut left = MANIFESTS;
    let files = files_of(directory).map_err(|e| format!("{}: {e}", directory.display()))?;
    for file in files {
        let wrong = |what: String| format!("{}: {what}", file.display());
        let size = std::fs::metadata(&file)
            .map_err(|e| wrong(e.to_string()))?
            .len();
        left = left
            .checked_sub(size)
            .ok_or_else(|| wrong(format!("the files are larger than {MANIFESTS} bytes")))?;
        let text = std::fs::read_to_string(&file).map_err(|e| wrong(e.to_string()))?;
        for object in documents(&text).map_err(wrong)? {
            let list = object.get("items").and_then(|items| items.as_array());
            let each = list.map_or(std::slice::from_ref(&object), Vec::as_slice);
            for object in each {
                items.extend(read_any(object).map_err(|e| wrong(e.to_string()))?);
            }
        }
    }
    if items.len() > PODS + SERVICES {
        return Err(format!("more than {PODS} objects"));
    }
    Ok(items)
}
