//! Beside stage 6, policy: an issuer's keys, fetched before they are needed, fetched again when a
//! token names one that is not there, kept while the issuer cannot be reached.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use rustls::ClientConfig;
use selvedge_contract::defaults::policy as defaults;
use selvedge_gateway::jwt::Keys;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::fetch::{Address, fetch};

/// Keys of one issuer, shared by every policy that names it.
#[derive(Debug)]
pub struct KeySource {
    keys: ArcSwapOption<Keys>,
    /// Moves on when the keys have changed: what was verified before is verified again.
    generation: AtomicU64,
    /// How often they were fetched, with success or not.
    tries: watch::Sender<u64>,
    wanted: Notify,
}

impl KeySource {
    /// Keys that are here.
    #[must_use]
    pub fn fixed(keys: Keys) -> Arc<Self> {
        let source = Self::empty();
        source.keys.store(Some(Arc::new(keys)));
        Arc::new(source)
    }

    fn empty() -> Self {
        Self {
            keys: ArcSwapOption::empty(),
            generation: AtomicU64::new(0),
            tries: watch::Sender::new(0),
            wanted: Notify::new(),
        }
    }

    /// Keys that a task fetches, now and again, for as long as somebody holds the source. Must be
    /// called on a runtime.
    #[must_use]
    pub fn remote(address: Address, tls: Arc<ClientConfig>) -> Arc<Self> {
        let source = Arc::new(Self::empty());
        tokio::spawn(keep_fresh(Arc::downgrade(&source), address, tls));
        source
    }

    /// The keys, once there are any.
    #[must_use]
    pub fn keys(&self) -> Option<Arc<Keys>> {
        self.keys.load_full()
    }

    /// Which keys they are.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Asks for the keys to be fetched again, and waits for that, or for as long as a request may
    /// wait for it.
    pub async fn again(&self) {
        let mut tries = self.tries.subscribe();
        tries.borrow_and_update();
        self.wanted.notify_one();
        // Cancelled by its time-out, or with the request; nothing is held.
        let _ = tokio::time::timeout(defaults::JWKS_WAIT, tries.changed()).await;
    }
}

/// Fetches again every five minutes, and when asked, though not twice in ten seconds.
async fn keep_fresh(source: std::sync::Weak<KeySource>, address: Address, tls: Arc<ClientConfig>) {
    let mut last: Vec<u8> = Vec::new();
    let mut failures = 0u32;
    loop {
        let begun = Instant::now();
        let fetched = fetch(&address, &tls, defaults::JWKS_BYTES).await;
        let Some(source) = source.upgrade() else {
            return;
        };
        match fetched.map_err(|e| e.to_string()).and_then(|text| {
            let keys = Keys::read(&text).map_err(|e| e.to_string())?;
            Ok((text, keys))
        }) {
            Ok((text, keys)) => {
                failures = 0;
                if last != text {
                    tracing::info!(%address, keys = keys.len(), "keys of an issuer");
                    source.keys.store(Some(Arc::new(keys)));
                    source.generation.fetch_add(1, Ordering::AcqRel);
                    last = text.to_vec();
                }
            }
            Err(error) => {
                failures += 1;
                tracing::warn!(%address, error, "keys of an issuer not fetched; those it had stay");
            }
        }
        source.tries.send_modify(|tries| *tries += 1);
        // While there are no keys at all, every request with a token waits: try sooner.
        let pause = match failures {
            0 => defaults::JWKS_LIFE,
            n => defaults::JWKS_AGAIN.min(Duration::from_millis(500) * (1 << n.min(6))),
        };
        let earliest = begun + defaults::JWKS_AGAIN.min(pause);
        let wanted = async {
            source.wanted.notified().await;
            tokio::time::sleep_until(earliest).await;
        };
        tokio::select! {
            () = wanted => {}
            () = tokio::time::sleep_until(begun + pause) => {}
        }
    }
}
