//! What the application beside a sidecar is given: a certificate with a key of its own, obtained once
//! somebody asks and renewed from then on, and tokens.
//!
//! It says the same identity as the proxy's. The proxy's own key is given to nobody.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::sign::CertifiedKey;
use rustls_pki_types::UnixTime;
use selvedge_contract::defaults::process::RENEW_BACKOFF;
use selvedge_contract::defaults::workload::{MINTING, TOKENS};
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;
use tokio::time::sleep;
use tonic::{Code, Status};
use zeroize::Zeroizing;

use crate::tls::published::TokenKeys;
use crate::tls::trust::Role;
use crate::tls::{Identity, IdentityStore};

use super::ca_client::Caller;
use super::renewal::time_to_renewal;
use super::request::new_exported_key;
use super::{IdentityError, identity_of, is_member, shown_of};

/// Before the proxy has a certificate there is nothing to prove the application's by.
const LOOK: Duration = Duration::from_millis(200);
/// The shortest pause after a failure.
const FIRST: Duration = Duration::from_secs(1);

/// A certificate of the application's.
pub struct Svid {
    /// The chain, and what it says.
    pub identity: Identity,
    /// The key as PKCS#8, DER.
    pub key: Zeroizing<Vec<u8>>,
}

/// Asks for what the application is given. Renewal ends when this is dropped.
pub struct Applicant {
    caller: Caller,
    asked: AtomicBool,
    svid: watch::Sender<Option<Arc<Svid>>>,
    renewal: Mutex<Option<AbortHandle>>,
    tokens: Mutex<HashMap<Vec<String>, Token>>,
    places: Semaphore,
}

/// A token that was given before.
#[derive(Clone)]
struct Token {
    text: Arc<str>,
    /// When half of its life is over.
    until: SystemTime,
    /// Those that were in force when it was signed: with others it may be good no longer.
    keys: Option<Arc<TokenKeys>>,
}

impl std::fmt::Debug for Applicant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Applicant").finish_non_exhaustive()
    }
}

impl Drop for Applicant {
    fn drop(&mut self) {
        if let Some(task) = self.renewal().take() {
            task.abort();
        }
    }
}

impl Applicant {
    pub(super) fn new(caller: Caller) -> Arc<Self> {
        Arc::new(Self {
            caller,
            asked: AtomicBool::new(false),
            svid: watch::Sender::new(None),
            renewal: Mutex::new(None),
            tokens: Mutex::default(),
            places: Semaphore::new(MINTING),
        })
    }

    /// What is trusted.
    #[must_use]
    pub fn store(&self) -> &Arc<IdentityStore> {
        &self.caller.store
    }

    /// The application's certificate, now and whenever there is another. Somebody asks now: it is
    /// obtained, and renewed from then on.
    pub fn svids(&self) -> watch::Receiver<Option<Arc<Svid>>> {
        if !self.asked.swap(true, Relaxed) {
            let renewal = Renewal {
                caller: self.caller.clone(),
                svid: self.svid.clone(),
            };
            // Aborted when nobody can ask any longer.
            let task = tokio::spawn(renewal.forever());
            *self.renewal() = Some(task.abort_handle());
        }
        self.svid.subscribe()
    }

    /// A JWT-SVID for these audiences, which have been looked at: one that was given before and has
    /// half of its life left, or a new one.
    ///
    /// # Errors
    /// What the CA says.
    pub async fn token(&self, mut audience: Vec<String>) -> Result<Arc<str>, Status> {
        audience.sort_unstable();
        audience.dedup();
        if let Some(known) = self.known(&audience) {
            return Ok(known);
        }
        let _place = self.places.acquire().await;
        // Somebody else may have asked for the same meanwhile.
        if let Some(known) = self.known(&audience) {
            return Ok(known);
        }
        let (keys, asked) = (self.keys(), SystemTime::now());
        let minted = self.caller.mint(audience.clone()).await.map_err(|status| {
            tracing::warn!(%status, "no token for the application");
            match status.code() {
                Code::InvalidArgument | Code::ResourceExhausted => status,
                Code::Unimplemented => Status::unimplemented("this CA has no JWT-SVIDs"),
                _ => Status::unavailable("the CA gives no token now"),
            }
        })?;
        let life = minted.expires.saturating_sub(minted.issued);
        let token = Token {
            text: minted.token.into(),
            until: asked + Duration::from_secs(life) / 2,
            keys,
        };
        let text = token.text.clone();
        self.keep(audience, token);
        Ok(text)
    }

    fn known(&self, audience: &[String]) -> Option<Arc<str>> {
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let token = tokens.get(audience)?;
        let same = match (&token.keys, &self.keys()) {
            (Some(then), Some(now)) => Arc::ptr_eq(then, now),
            (then, now) => then.is_none() && now.is_none(),
        };
        (same && SystemTime::now() < token.until).then(|| token.text.clone())
    }

    fn keep(&self, audience: Vec<String>, token: Token) {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if tokens.len() >= TOKENS {
            let now = SystemTime::now();
            tokens.retain(|_, token| now < token.until);
        }
        if tokens.len() >= TOKENS {
            let first = tokens.iter().min_by_key(|(_, token)| token.until);
            let first = first.map(|(audience, _)| audience.clone());
            first.and_then(|audience| tokens.remove(&audience));
        }
        tokens.insert(audience, token);
    }

    /// The keys of the own trust domain.
    fn keys(&self) -> Option<Arc<TokenKeys>> {
        let store = &self.caller.store;
        let trust = store.trust();
        let own = trust.published.get(store.trust_domain().as_str());
        own.map(|published| published.tokens.clone())
    }

    fn renewal(&self) -> std::sync::MutexGuard<'_, Option<AbortHandle>> {
        self.renewal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Obtains and renews.
struct Renewal {
    caller: Caller,
    svid: watch::Sender<Option<Arc<Svid>>>,
}

impl Renewal {
    async fn forever(self) {
        let mut pause = FIRST;
        let mut other_root = self.caller.other_roots();
        loop {
            // Never by the token: that is for the proxy's own first certificate.
            while !self.caller.store.is_ready() {
                sleep(LOOK).await;
            }
            let mut versions = self.caller.store.versions();
            let wait = match self.obtain().await {
                Ok(svid) => {
                    pause = FIRST;
                    let now = SystemTime::now();
                    let wait = time_to_renewal(&svid.identity, now, now, fastrand::f64());
                    self.svid.send_replace(Some(Arc::new(svid)));
                    wait
                }
                Err(error) => {
                    tracing::error!(%error, retry_in = ?pause, "no certificate for the application");
                    let wait = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
                    pause = (pause * 2).min(RENEW_BACKOFF);
                    wait
                }
            };
            tokio::select! {
                () = sleep(wait) => {}
                () = other_root.signs() => {}
                // Another CA is in the place of the one that signed it, say.
                () = self.distrusted(&mut versions) => sleep(FIRST).await,
            }
        }
    }

    async fn obtain(&self) -> Result<Svid, IdentityError> {
        let unusable = |why: String| IdentityError::Unusable(why);
        let (new, key) = new_exported_key().map_err(|e| unusable(e.to_string()))?;
        let chain = self.caller.ask(&new.csr_pem, false).await?;
        let identity = identity_of(CertifiedKey::new(shown_of(&chain)?, new.key))?;
        is_member(&identity, self.caller.store.trust_domain())?;
        tracing::info!(id = %identity.id, "certificate for the application obtained");
        Ok(Svid { identity, key })
    }

    /// Returns when what is trusted has changed so that the application's certificate is not any more.
    async fn distrusted(&self, versions: &mut watch::Receiver<u64>) {
        while versions.changed().await.is_ok() {
            let Some(svid) = self.svid.borrow().clone() else {
                continue;
            };
            let store = &self.caller.store;
            let Some((leaf, rest)) = svid.identity.key.cert.split_first() else {
                continue;
            };
            let (trust, own) = (store.trust(), store.trust_domain());
            if trust
                .verify(own, (leaf, rest), Role::Client, UnixTime::now())
                .is_err()
            {
                return;
            }
        }
        std::future::pending().await
    }
}
