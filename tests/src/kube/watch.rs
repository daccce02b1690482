//! Test API server: watches, one line a change.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc::Sender;
use tokio::time::{Instant, sleep_until};

use super::answer::{Asked, Form};
use super::body::{Response, lines, respond};
use super::refusal::{Answer, Refusal};
use super::{Shared, Watching};

/// A bookmark this long after the last line, where there is something newer to tell.
const BOOKMARK: Duration = Duration::from_millis(500);
/// Longest life of a watch.
const LONGEST: Duration = Duration::from_secs(1800);

type Lines = Sender<io::Result<Bytes>>;

/// Why a watch ends.
enum End {
    /// Nobody reads it any more.
    Left,
    Cut,
    Over,
}

struct Watch {
    shared: Arc<Shared>,
    asked: Asked,
    lines: Lines,
    /// Told up to here.
    version: u64,
    bookmarks: bool,
}

/// Begins a watch.
pub(super) fn begin(shared: &Arc<Shared>, asked: Asked) -> Answer<Response> {
    let bookmarks = asked.flag("allowWatchBookmarks");
    let initial = asked.query("sendInitialEvents").map(|v| v == "true");
    if initial == Some(true)
        && (!bookmarks || asked.query("resourceVersionMatch") != Some("NotOlderThan"))
    {
        let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided with allowWatchBookmarks";
        return Err(Refusal::new(422, "Invalid", why));
    }
    let given = asked
        .query("resourceVersion")
        .unwrap_or_default()
        .to_owned();
    let newest = shared.store.lock().unwrap().version();
    let from = match given.as_str() {
        "" | "0" => None,
        text => Some(
            text.parse::<u64>()
                .map_err(|_| Refusal::bad(format!("invalid resource version {text:?}")))?,
        ),
    };
    if from.is_some_and(|from| from > newest) {
        let mut late = Refusal::new(504, "Timeout", "Too large resource version");
        late.causes = vec![(
            "ResourceVersionTooLarge",
            "Too large resource version".into(),
            String::new(),
        )];
        return Err(late);
    }
    let by_status = shared.faults.lock().unwrap().gone_by_status;
    if let (Some(from), true) = (from, by_status) {
        shared.store.lock().unwrap().since(from)?;
    }
    let seconds = asked.query("timeoutSeconds").and_then(|s| s.parse().ok());
    let end = Instant::now() + seconds.map_or(LONGEST, Duration::from_secs);
    let (sender, body) = lines();
    // Where all there is comes first, a version only says how new it has to be.
    let all = initial.unwrap_or(from.is_none());
    let watch = Watch {
        shared: shared.clone(),
        asked,
        lines: sender,
        version: if all { newest } else { from.unwrap_or(newest) },
        bookmarks,
    };
    tokio::spawn(watch.run(all, initial == Some(true), end));
    Ok(respond(200, body))
}

impl Watch {
    async fn run(mut self, all: bool, mark: bool, end: Instant) {
        let mut cut = self.shared.cut.subscribe();
        let mut changes = self.shared.version.subscribe();
        let number = self.shared.begin_watch(Watching {
            resource: self.asked.kind.plural.to_owned(),
            namespace: self.asked.namespace.clone(),
            labels: self
                .asked
                .query("labelSelector")
                .unwrap_or_default()
                .to_owned(),
            fields: self
                .asked
                .query("fieldSelector")
                .unwrap_or_default()
                .to_owned(),
        });
        cut.borrow_and_update();
        let ended = self.tell(all, mark, end, &mut cut, &mut changes).await;
        self.shared.end_watch(number);
        if matches!(ended, Err(End::Cut)) {
            let _ = self.lines.send(Err(io::Error::other("cut"))).await;
        }
    }

    async fn tell(
        &mut self,
        all: bool,
        mark: bool,
        end: Instant,
        cut: &mut tokio::sync::watch::Receiver<u64>,
        changes: &mut tokio::sync::watch::Receiver<u64>,
    ) -> Result<(), End> {
        if all {
            let (kind, namespace) = (self.asked.kind, self.asked.namespace.clone());
            let there =
                self.shared
                    .store
                    .lock()
                    .unwrap()
                    .list(kind, namespace.as_deref(), self.version);
            for object in there.unwrap_or_default() {
                if self.asked.selector.takes(&object) {
                    self.line("ADDED", &object).await?;
                }
            }
            if mark {
                self.bookmark(true).await?;
            }
        }
        let mut quiet = Instant::now() + BOOKMARK;
        let mut told = self.version;
        loop {
            changes.borrow_and_update();
            let news = self.shared.store.lock().unwrap().since(self.version);
            let news = match news {
                Ok(news) => news,
                Err(gone) => {
                    let _ = self.send("ERROR", gone.status()).await;
                    return Err(End::Over);
                }
            };
            for change in news {
                self.version = change.version;
                if self.change(&change).await? {
                    quiet = Instant::now() + BOOKMARK;
                    told = self.version;
                }
            }
            // Each branch only waits; what is not seen now is seen the next time round.
            tokio::select! {
                () = self.lines.closed() => return Err(End::Left),
                _ = cut.changed() => return Err(End::Cut),
                () = sleep_until(end) => return Err(End::Over),
                () = sleep_until(quiet) => {
                    if self.bookmarks && told != self.version {
                        self.bookmark(false).await?;
                        told = self.version;
                    }
                    quiet = Instant::now() + BOOKMARK;
                }
                _ = changes.changed() => {}
            }
        }
    }

    async fn change(&mut self, change: &super::store::Change) -> Result<bool, End> {
        let here = self
            .asked
            .namespace
            .as_ref()
            .is_none_or(|n| *n == change.key.1);
        if change.key.0 != self.asked.kind.index() || !here {
            return Ok(false);
        }
        let taken = |object: &Option<Arc<Value>>| {
            object
                .as_ref()
                .is_some_and(|o| self.asked.selector.takes(o))
        };
        let (before, after) = (taken(&change.before), taken(&change.after));
        match (before, after, &change.before, &change.after) {
            (false, true, _, Some(object)) => self.line("ADDED", object).await?,
            (true, true, _, Some(object)) => self.line("MODIFIED", object).await?,
            (true, false, Some(object), _) => {
                let mut last = (**object).clone();
                last["metadata"]["resourceVersion"] = json!(change.version.to_string());
                self.line("DELETED", &last).await?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    async fn bookmark(&mut self, first: bool) -> Result<(), End> {
        let (kind, name) = match self.asked.form {
            Form::Full => (self.asked.kind.api_version(), self.asked.kind.name),
            Form::Metadata => ("meta.k8s.io/v1".to_owned(), "PartialObjectMetadata"),
        };
        let mut object = json!({
            "kind": name, "apiVersion": kind,
            "metadata": { "resourceVersion": self.version.to_string(), "creationTimestamp": null },
        });
        if first {
            object["metadata"]["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        }
        self.send("BOOKMARK", object).await
    }

    async fn line(&self, what: &str, object: &Value) -> Result<(), End> {
        self.send(what, self.asked.form.of(object)).await
    }

    async fn send(&self, what: &str, object: Value) -> Result<(), End> {
        let mut line = json!({ "type": what, "object": object }).to_string();
        line.push('\n');
        self.lines
            .send(Ok(line.into()))
            .await
            .map_err(|_| End::Left)
    }
}
