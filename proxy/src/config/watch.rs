//! Watches files for changes: their directories, since a Kubernetes volume changes by swapping a
//! symbolic link. Where the system gives no watches, a look every five seconds.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use selvedge_contract::defaults::process::RELOAD_DEBOUNCE;
use tokio::sync::mpsc;

/// How often files are looked at where there are no watches.
const POLL: Duration = Duration::from_secs(5);

/// Tells of changes.
#[derive(Debug)]
pub struct Watch {
    changes: mpsc::Receiver<()>,
    _watcher: Option<RecommendedWatcher>,
    paths: Vec<PathBuf>,
    seen: Vec<Option<SystemTime>>,
}

impl Watch {
    /// Begins to watch. Paths may be files or directories, and need not exist yet.
    #[must_use]
    pub fn start(paths: Vec<PathBuf>) -> Self {
        let (sender, changes) = mpsc::channel(1);
        let on_event = move |event: notify::Result<Event>| {
            let read_only = matches!(
                event,
                Ok(Event {
                    kind: EventKind::Access(_),
                    ..
                })
            );
            if !read_only {
                // Full means that a change is waiting to be seen already.
                let _ = sender.try_send(());
            }
        };
        let watcher = notify::recommended_watcher(on_event).and_then(|mut watcher| {
            for directory in directories(&paths) {
                watcher.watch(&directory, RecursiveMode::NonRecursive)?;
            }
            Ok(watcher)
        });
        let watcher = match watcher {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::warn!(%error, every = ?POLL, "no file watches; files are looked at instead");
                None
            }
        };
        Self {
            seen: times(&paths),
            changes,
            _watcher: watcher,
            paths,
        }
    }

    /// Waits for a change that has settled: none further for 200 ms.
    pub async fn changed(&mut self) {
        loop {
            // Both are safe to cancel: a change not taken stays in the channel or on disk.
            tokio::select! {
                Some(()) = self.changes.recv() => self.settle().await,
                () = tokio::time::sleep(POLL) => {}
            }
            let now = times(&self.paths);
            if now != self.seen {
                self.seen = now;
                return;
            }
        }
    }

    async fn settle(&mut self) {
        while tokio::time::timeout(RELOAD_DEBOUNCE, self.changes.recv())
            .await
            .is_ok()
        {}
    }
}

fn directories(paths: &[PathBuf]) -> BTreeSet<PathBuf> {
    paths
        .iter()
        .map(|path| {
            if path.is_dir() {
                path.clone()
            } else {
                let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
                parent.unwrap_or_else(|| Path::new(".")).to_owned()
            }
        })
        .filter(|directory| directory.is_dir())
        .collect()
}

/// When each file last changed, links followed; a directory stands for its files.
fn times(paths: &[PathBuf]) -> Vec<Option<SystemTime>> {
    let time = |path: &Path| std::fs::metadata(path).and_then(|m| m.modified()).ok();
    paths
        .iter()
        .flat_map(|path| super::load::files_of(path).unwrap_or_default())
        .map(|file| time(&file))
        .collect()
}
