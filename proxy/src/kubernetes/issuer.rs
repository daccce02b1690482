//! CA: its intermediate in a Secret of the cluster, whose root is kept elsewhere.

use std::path::Path;
use std::pin::pin;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Config, Event, watcher};
use selvedge_ca::{AuthorityError, CaService, DiskError, Given, Replaced};
use tokio_stream::StreamExt;
use zeroize::Zeroizing;

/// Between the first time that proxies are told of another root and the first signature under it, as with files.
const LOOK: Duration = Duration::from_secs(2);

/// Why a Secret cannot be signed with.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// The API did not give it.
    #[error("Secret {0}: {1}")]
    Api(String, kube::Error),
    /// What is in it.
    #[error("Secret {0}")]
    Content(#[from] AuthorityError),
}

/// Reads the Secret once.
///
/// # Errors
/// When the API does not give it, or it has neither form.
pub async fn read(client: &Client, namespace: &str, name: &str) -> Result<Given, IssuerError> {
    let secrets = Api::<Secret>::namespaced(client.clone(), namespace);
    let secret = secrets.get(name).await;
    let place = format!("{namespace}/{name}");
    let secret = secret.map_err(|error| IssuerError::Api(place.clone(), error))?;
    Ok(given(&place, &secret)?)
}

fn given(place: &str, secret: &Secret) -> Result<Given, AuthorityError> {
    Given::take(Path::new(place), |part| {
        let Some(bytes) = secret.data.as_ref().and_then(|data| data.get(part)) else {
            return Ok(None);
        };
        let text = std::str::from_utf8(&bytes.0).map_err(|_| DiskError::NotText {
            path: Path::new(place).join(part),
        })?;
        Ok(Some(Zeroizing::new(text.to_owned())))
    })
}

/// Has `service` sign with what the Secret says from when it says it; ends with the runtime. What is
/// not usable, or a Secret that is gone, changes nothing.
pub async fn follow(client: Client, namespace: String, name: String, service: CaService) {
    let secrets = Api::<Secret>::namespaced(client, &namespace);
    let config = Config::default().fields(&format!("metadata.name={name}"));
    let mut events = pin!(watcher(secrets, config).default_backoff());
    let place = format!("{namespace}/{name}");
    // What was not taken to its end: first a root is trusted, then what it has signed signs.
    let mut begun: Option<Secret> = None;
    let mut last = Replaced::Nothing;
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = tokio::time::sleep(LOOK), if begun.is_some() => begun.take().map(|s| Ok(Event::Apply(s))),
        };
        let Some(event) = event else {
            return;
        };
        match event {
            Ok(Event::Apply(secret) | Event::InitApply(secret)) => {
                let replaced = given(&place, &secret)
                    .and_then(|given| service.take(&given, SystemTime::now()));
                begun = None;
                match replaced {
                    Ok(Replaced::Nothing) => last = Replaced::Nothing,
                    Ok(replaced) => {
                        replaced.tell(last);
                        last = replaced;
                        begun = Some(secret);
                    }
                    Err(error) => tracing::error!(%error, "intermediate not replaced"),
                }
            }
            Ok(Event::Delete(_)) => {
                tracing::error!(%place, "the Secret is gone; its content signs on")
            }
            Ok(Event::Init | Event::InitDone) => {}
            Err(error) => tracing::warn!(%error, "issuer: the Kubernetes API"),
        }
    }
}
