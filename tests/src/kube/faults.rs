//! Test API server: what goes wrong at a test's word, and what is counted.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use super::refusal::{Answer, Refusal};
use super::{KubeApi, Shared};
use crate::PATIENCE;

/// A watch that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watching {
    /// Plural name of the kind.
    pub resource: String,
    /// `None` is all namespaces.
    pub namespace: Option<String>,
    /// Label selector, as given.
    pub labels: String,
    /// Field selector, as given.
    pub fields: String,
}

#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) delay: Duration,
    /// Resource (or `*`), answers left to spoil, status.
    pub(super) failures: Vec<(String, usize, u16)>,
    pub(super) gone_by_status: bool,
}

impl Shared {
    pub(super) async fn delay(&self) {
        let delay = self.faults.lock().unwrap().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
    }

    pub(super) fn count(&self, verb: &str, resource: &str) {
        let key = (verb.to_owned(), resource.to_owned());
        *self.counts.lock().unwrap().entry(key).or_default() += 1;
    }

    pub(super) fn refuse_as_told(&self, resource: &str) -> Answer<()> {
        let mut faults = self.faults.lock().unwrap();
        let due =
            |(r, left, _): &&mut (String, usize, u16)| *left > 0 && (r == "*" || r == resource);
        let Some((_, left, code)) = faults.failures.iter_mut().find(due) else {
            return Ok(());
        };
        *left -= 1;
        let reason = match *code {
            429 => "TooManyRequests",
            503 => "ServiceUnavailable",
            _ => "InternalError",
        };
        Err(Refusal::new(*code, reason, "as the test has asked for"))
    }
}

impl KubeApi {
    /// Refuses connections and cuts those there are. Objects stay.
    pub fn go_away(&self) {
        self.here.lock().unwrap().send_replace(false);
        let deadline = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(self.address).is_ok() {
            assert!(Instant::now() < deadline, "the server is still there");
        }
    }

    /// Is there again, at the same address.
    pub fn come_back(&self) {
        self.come_back_on(TcpListener::bind(self.address).unwrap());
    }

    /// The same on this socket, for a network namespace.
    pub fn come_back_on(&self, listener: TcpListener) {
        self.listen(listener);
    }

    /// Cuts every watch in the middle.
    pub fn drop_watches(&self) {
        self.shared.cut.send_modify(|count| *count += 1);
    }

    /// Forgets every version but the newest: whoever goes on from an older one is told 410.
    pub fn compact(&self) {
        self.shared.store.lock().unwrap().compact();
    }

    /// Whether a watch from such a version is refused by its status, instead of by its first line.
    pub fn gone_by_status(&self, whether: bool) {
        self.shared.faults.lock().unwrap().gone_by_status = whether;
    }

    /// Holds every answer back for this long.
    pub fn delay(&self, delay: Duration) {
        self.shared.faults.lock().unwrap().delay = delay;
    }

    /// Answers the next so many requests for a resource (or `*`) with this status: 429, 500, 503.
    pub fn fail(&self, resource: &str, count: usize, status: u16) {
        let failure = (resource.to_owned(), count, status);
        self.shared.faults.lock().unwrap().failures.push(failure);
    }

    /// How often something was asked for: `get`, `list`, `watch`, `create`, `update`, `patch`,
    /// `delete`, of a plural name, or of one with `/status`.
    #[must_use]
    pub fn requests(&self, verb: &str, resource: &str) -> usize {
        let key = (verb.to_owned(), resource.to_owned());
        let counts = self.shared.counts.lock().unwrap();
        counts.get(&key).copied().unwrap_or_default()
    }

    /// All of it, for messages of a test that fails.
    #[must_use]
    pub fn all_requests(&self) -> Vec<(String, String, usize)> {
        let counts = self.shared.counts.lock().unwrap();
        counts
            .iter()
            .map(|((verb, what), n)| (verb.clone(), what.clone(), *n))
            .collect()
    }

    /// The watches that are open.
    #[must_use]
    pub fn watches(&self) -> Vec<Watching> {
        self.shared
            .open
            .lock()
            .unwrap()
            .1
            .values()
            .cloned()
            .collect()
    }

    /// Waits until the watches that are open are as wanted.
    ///
    /// # Panics
    /// When they are not within [`PATIENCE`].
    pub fn wait_for_watches(&self, wanted: impl Fn(&[Watching]) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let open = self.watches();
            if wanted(&open) {
                return;
            }
            assert!(Instant::now() < deadline, "open are {open:#?}");
            std::thread::yield_now();
        }
    }
}
