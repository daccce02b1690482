//! Watches files for changes: their directories, since a Kubernetes volume changes by swapping a
//! symbolic link. Where the system gives no watches, a look every five seconds.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use selvedge_contract::defaults::process::RELOAD_DEBOUNCE;
use tokio::sync::mpsc;

/// How often files are looked at where there are no watches.
const POLL: Duration = Duration::from_secs(5);

/// When each file last changed, links followed; `None` is one that is not there.
type Times = BTreeMap<PathBuf, Option<SystemTime>>;

/// Tells of changes.
#[derive(Debug)]
pub struct Watch {
    changes: mpsc::Receiver<()>,
    watcher: Option<RecommendedWatcher>,
    directories: BTreeSet<PathBuf>,
    paths: Vec<PathBuf>,
    seen: Times,
}

impl Watch {
    /// Begins to watch, before the files are read: a change between the two must not be missed.
    /// Paths may be files or directories, and need not exist yet.
    #[must_use]
    pub fn start(paths: Vec<PathBuf>) -> Self {
        let (sender, changes) = mpsc::channel(1);
        let on_event = move |event: notify::Result<Event>| {
            let kind = event.map(|event| event.kind);
            if !matches!(kind, Ok(EventKind::Access(_))) {
                // Full means that a change is waiting to be seen already.
                let _ = sender.try_send(());
            }
        };
        let watcher = match notify::recommended_watcher(on_event) {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::warn!(%error, every = ?POLL, "no file watches; files are looked at instead");
                None
            }
        };
        let mut watch = Self {
            changes,
            watcher,
            directories: BTreeSet::new(),
            paths: Vec::new(),
            seen: Times::new(),
        };
        watch.set_paths(paths);
        watch
    }

    /// Watches these paths from now on. What was watched before keeps what was seen of it.
    pub fn set_paths(&mut self, paths: Vec<PathBuf>) {
        let wanted = directories(&paths);
        if let Some(watcher) = &mut self.watcher {
            for gone in self.directories.difference(&wanted) {
                let _ = watcher.unwatch(gone);
            }
            for new in wanted.difference(&self.directories) {
                if let Err(error) = watcher.watch(new, RecursiveMode::NonRecursive) {
                    tracing::warn!(directory = %new.display(), %error, every = ?POLL, "looked at instead of watched");
                }
            }
        }
        for (file, time) in times(&paths) {
            self.seen.entry(file).or_insert(time);
        }
        self.directories = wanted;
        self.paths = paths;
    }

    /// Waits for a change that has settled: none further for 200 ms.
    pub async fn changed(&mut self) {
        loop {
            // What has changed since it was last looked at, also before anybody waited.
            let now = times(&self.paths);
            let changed = now
                .iter()
                .any(|(file, time)| self.seen.get(file) != Some(time))
                || self
                    .seen
                    .iter()
                    .any(|(file, time)| time.is_some() && !now.contains_key(file));
            if changed {
                self.seen = now;
                return;
            }
            // Both are safe to cancel: a change not taken stays in the channel or on disk.
            tokio::select! {
                Some(()) = self.changes.recv() => self.settle().await,
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }

    /// Waits for quiet, but not for ever: somebody else may write into the directory all day.
    async fn settle(&mut self) {
        let quiet = async {
            while tokio::time::timeout(RELOAD_DEBOUNCE, self.changes.recv())
                .await
                .is_ok()
            {}
        };
        let _ = tokio::time::timeout(RELOAD_DEBOUNCE * 10, quiet).await;
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

fn times(paths: &[PathBuf]) -> Times {
    let time = |path: &Path| std::fs::metadata(path).and_then(|m| m.modified()).ok();
    paths
        .iter()
        .flat_map(|path| super::load::files_of(path).unwrap_or_default())
        .map(|file| {
            let time = time(&file);
            (file, time)
        })
        .collect()
}
