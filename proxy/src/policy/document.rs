//! Beside stage 6, policy: a document of an issuer, fetched before it is needed, fetched again when
//! somebody misses something in it, kept while the issuer cannot be reached.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use rustls::ClientConfig;
use selvedge_contract::defaults::policy as defaults;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::fetch::{Address, fetch};

/// What one address holds, shared by every policy that names it.
pub struct Document<T> {
    content: ArcSwapOption<T>,
    /// Moves on when the content has changed: what was judged by it before is judged again.
    generation: AtomicU64,
    /// How often it was fetched, with success or not.
    tries: watch::Sender<u64>,
    wanted: Notify,
}

impl<T> fmt::Debug for Document<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Document(generation {})", self.generation())
    }
}

impl<T> Document<T> {
    /// One that is here.
    #[must_use]
    pub fn fixed(content: T) -> Arc<Self> {
        let document = Self::empty();
        document.content.store(Some(Arc::new(content)));
        Arc::new(document)
    }

    /// One that never comes.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            content: ArcSwapOption::empty(),
            generation: AtomicU64::new(0),
            tries: watch::Sender::new(0),
            wanted: Notify::new(),
        }
    }

    /// The content, once there is any.
    #[must_use]
    pub fn load(&self) -> Option<Arc<T>> {
        self.content.load_full()
    }

    /// Which content it is.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Asks for it to be fetched again, and waits for that, or for as long as a request may wait for
    /// it.
    pub async fn again(&self) {
        let mut tries = self.tries.subscribe();
        tries.borrow_and_update();
        self.wanted.notify_one();
        // Cancelled by its time-out, or with the request; nothing is held.
        let _ = tokio::time::timeout(defaults::JWKS_WAIT, tries.changed()).await;
    }
}

impl<T: Send + Sync + 'static> Document<T> {
    /// A document that a task fetches, now and again, for as long as somebody holds it. Must be
    /// called on a runtime. `what` names it in the log.
    #[must_use]
    pub fn remote(
        what: &'static str,
        address: Address,
        tls: Arc<ClientConfig>,
        read: impl FnMut(&[u8]) -> Result<T, String> + Send + 'static,
    ) -> Arc<Self> {
        let document = Arc::new(Self::empty());
        let kept = Arc::downgrade(&document);
        tokio::spawn(keep_fresh(kept, what, address, tls, read));
        document
    }
}

/// Fetches again every five minutes, and when asked, though not twice in ten seconds.
async fn keep_fresh<T: Send + Sync + 'static>(
    document: Weak<Document<T>>,
    what: &'static str,
    address: Address,
    tls: Arc<ClientConfig>,
    mut read: impl FnMut(&[u8]) -> Result<T, String> + Send + 'static,
) {
    let mut last: Vec<u8> = Vec::new();
    let mut failures = 0u32;
    loop {
        let begun = Instant::now();
        let fetched = fetch(&address, &tls, defaults::JWKS_BYTES).await;
        let Some(document) = document.upgrade() else {
            return;
        };
        let found = match fetched {
            Ok(text) if failures == 0 && last == text => Ok(None),
            Ok(text) => read(&text).map(|content| Some((text, content))),
            Err(error) => Err(error.to_string()),
        };
        match found {
            Ok(None) => {}
            Ok(Some((text, content))) => {
                failures = 0;
                if last != text {
                    tracing::info!(%address, "{what} of an issuer");
                    document.content.store(Some(Arc::new(content)));
                    document.generation.fetch_add(1, Ordering::AcqRel);
                    last = text.to_vec();
                }
            }
            Err(error) => {
                failures += 1;
                tracing::warn!(%address, error, "{what} of an issuer not fetched; those it had stay");
            }
        }
        document.tries.send_modify(|tries| *tries += 1);
        // While there is nothing at all, every request that needs it waits: try sooner.
        let pause = match failures {
            0 => defaults::JWKS_LIFE,
            n => defaults::JWKS_AGAIN.min(Duration::from_millis(500) * (1 << n.min(6))),
        };
        let earliest = begun + defaults::JWKS_AGAIN.min(pause);
        let wanted = async {
            document.wanted.notified().await;
            tokio::time::sleep_until(earliest).await;
        };
        tokio::select! {
            () = wanted => {}
            () = tokio::time::sleep_until(begun + pause) => {}
        }
    }
}
