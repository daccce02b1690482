//! Injector: what namespaces say of sidecars, kept at hand by a watch.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace as Object;
use kube::api::{Api, ObjectMeta, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Client, ResourceExt};
use selvedge_injector::pods::options::PREFIX;
use selvedge_injector::pods::workload::Namespace;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_stream::StreamExt;

/// How long a question about one namespace may take: the API server waits for ours meanwhile.
const ASK: Duration = Duration::from_secs(2);
/// Questions about single namespaces at a time.
const QUESTIONS: usize = 16;
/// Namespaces by page of a list.
const PAGE: u32 = 500;

/// See the module. The last good state stays while the API is away.
pub(super) struct Namespaces {
    client: Client,
    /// Questions at a time: who asks us must not make us ask others without end.
    questions: Semaphore,
    known: RwLock<Option<HashMap<String, Arc<Namespace>>>>,
}

impl fmt::Debug for Namespaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Namespaces")
    }
}

/// Why nothing is known of a namespace.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unknown {
    /// The API says that there is none.
    #[error("there is no namespace of this name")]
    Missing,
    /// It could not be asked.
    #[error("the Kubernetes API: {0}")]
    Api(String),
}

impl Namespaces {
    /// Starts to watch; ends with the runtime.
    pub(super) fn watch(client: Client) -> Arc<Self> {
        let namespaces = Arc::new(Self {
            client,
            questions: Semaphore::new(QUESTIONS),
            known: RwLock::new(None),
        });
        tokio::spawn(follow(namespaces.clone()));
        namespaces
    }

    /// Whether every namespace has been seen once.
    pub(super) fn is_known(&self) -> bool {
        self.read().is_some()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Option<HashMap<String, Arc<Namespace>>>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of a namespace; asked for where it is newer than the watch.
    ///
    /// # Errors
    /// [`Unknown`].
    pub(super) async fn find(&self, name: &str) -> Result<Arc<Namespace>, Unknown> {
        let known = self.read().as_ref().and_then(|all| all.get(name).cloned());
        if let Some(known) = known {
            return Ok(known);
        }
        let api = Api::<Object>::all(self.client.clone());
        let asked = timeout(ASK, async {
            let _place = self.questions.acquire().await;
            api.get_metadata_opt(name).await
        });
        match asked.await {
            Err(_) => Err(Unknown::Api("no answer in 2 s".to_owned())),
            Ok(Err(error)) => Err(Unknown::Api(error.to_string())),
            Ok(Ok(None)) => Err(Unknown::Missing),
            Ok(Ok(Some(object))) => Ok(Arc::new(reduced(&object.metadata))),
        }
    }
}

/// Of labels and annotations, only ours: a cluster's namespaces are many, and others write novels.
fn reduced(of: &ObjectMeta) -> Namespace {
    let ours = |texts: &Option<BTreeMap<String, String>>| {
        let all = texts.iter().flatten();
        let ours = all.filter(|(name, _)| name.starts_with(PREFIX));
        ours.map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    };
    Namespace {
        name: of.name.clone().unwrap_or_default(),
        labels: ours(&of.labels),
        annotations: ours(&of.annotations),
    }
}

async fn follow(namespaces: Arc<Namespaces>) {
    let api = Api::<PartialObjectMeta<Object>>::all(namespaces.client.clone());
    let config = Config::default().page_size(PAGE);
    let mut events = pin!(watcher(api, config).default_backoff());
    // A new list takes the place of the old one when it is whole.
    let mut fresh = HashMap::new();
    while let Some(event) = events.next().await {
        let mut known = namespaces
            .known
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        match event {
            Ok(Event::Init) => fresh.clear(),
            Ok(Event::InitApply(object)) => {
                fresh.insert(object.name_any(), Arc::new(reduced(&object.metadata)));
            }
            Ok(Event::InitDone) => *known = Some(std::mem::take(&mut fresh)),
            Ok(Event::Apply(object)) => {
                let all = known.get_or_insert_default();
                all.insert(object.name_any(), Arc::new(reduced(&object.metadata)));
            }
            Ok(Event::Delete(object)) => {
                known.get_or_insert_default().remove(&object.name_any());
            }
            Err(error) => {
                tracing::warn!(%error, "namespaces cannot be watched; what is known stays");
            }
        }
    }
}
