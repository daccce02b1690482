//! Which chains the peers of live connections have shown, so that they can be verified again when
//! what is trusted changes: once for each chain, beside the path.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use aws_lc_rs::digest::{Context, SHA256};
use rustls_pki_types::{CertificateDer, UnixTime};
use selvedge_contract::identity::TrustDomain;

use super::store::IdentityStore;
use super::trust::{Role, Trust};

type Key = [u8; 32];
type Chains = Arc<Mutex<HashMap<Key, Weak<Chain>>>>;

/// The chains of a process, over all workers. Locked once when a connection begins and once when the
/// last with a chain ends, never for a request.
#[derive(Debug, Default)]
pub struct Peers {
    chains: Chains,
}

/// A chain that was verified, with all connections whose peer has shown it: each holds it once.
pub struct Chain {
    certificates: Vec<CertificateDer<'static>>,
    role: Role,
    /// When it was verified first. It is verified again for the same moment, so that nothing but a
    /// change of trust ends a connection: a certificate that has aged since does not.
    seen: UnixTime,
    untrusted: AtomicBool,
    key: Key,
    among: Chains,
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chain({:?}, {})", self.role, self.certificates.len())
    }
}

/// What was trusted has changed between a handshake and the note of it, and its peer is not any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer is not trusted any more")]
pub struct Untrusted;

/// What a check of all chains has found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checked {
    /// Chains that were verified.
    pub chains: usize,
    /// Chains that are not trusted any more.
    pub untrusted: usize,
    /// Connections whose peers have shown those.
    pub connections: usize,
}

/// Verifications between two looks at what else the thread has to do: some ten milliseconds.
const AT_ONCE: usize = 64;

impl Peers {
    /// Takes note of a connection's chain, which a handshake has verified by what was trusted at
    /// `version`, or later.
    ///
    /// # Errors
    /// [`Untrusted`].
    pub fn note(
        &self,
        store: &IdentityStore,
        certificates: &[CertificateDer<'_>],
        role: Role,
        version: u64,
    ) -> Result<Arc<Chain>, Untrusted> {
        let key = key_of(certificates, role);
        let mut chains = lock(&self.chains);
        let known = chains.get(&key).and_then(Weak::upgrade);
        let chain = known.filter(|chain| !chain.is_untrusted());
        let chain = chain.unwrap_or_else(|| {
            let owned = certificates.iter().map(|c| c.clone().into_owned());
            let chain = Arc::new(Chain {
                certificates: owned.collect(),
                role,
                seen: UnixTime::now(),
                untrusted: AtomicBool::new(false),
                key,
                among: self.chains.clone(),
            });
            chains.insert(key, Arc::downgrade(&chain));
            chain
        });
        drop(chains);
        // A check that began before this was noted has not seen it, but then the version is newer.
        let trust = store.trust();
        if trust.version != version && !chain.holds(store.trust_domain(), &trust) {
            return Err(Untrusted);
        }
        Ok(chain)
    }

    /// Verifies every chain by what is trusted now, and marks those that are not, and those that are again. Gives way to other
    /// tasks of the thread; cancelled, it has marked some.
    pub async fn check(&self, store: &IdentityStore) -> Checked {
        let live: Vec<Weak<Chain>> = lock(&self.chains).values().cloned().collect();
        let mut checked = Checked::default();
        for some in live.chunks(AT_ONCE) {
            for chain in some.iter().filter_map(Weak::upgrade) {
                checked.chains += 1;
                let holds = chain.holds(store.trust_domain(), &store.trust());
                // What was taken out by mistake and put back soon has cut nobody off.
                chain.untrusted.store(!holds, Ordering::Release);
                if holds {
                    continue;
                }
                checked.untrusted += 1;
                // All but our own.
                checked.connections += Arc::strong_count(&chain) - 1;
            }
            tokio::task::yield_now().await;
        }
        checked
    }
}

impl Chain {
    /// Whether its peers are not trusted any more.
    #[must_use]
    pub fn is_untrusted(&self) -> bool {
        self.untrusted.load(Ordering::Acquire)
    }

    fn holds(&self, own: &TrustDomain, trust: &Trust) -> bool {
        let Some((leaf, rest)) = self.certificates.split_first() else {
            return false;
        };
        trust
            .verify(own, (leaf, rest), self.role, self.seen)
            .is_ok()
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        let mut chains = lock(&self.among);
        // Another may have taken the place of one that was not trusted.
        let own = chains
            .get(&self.key)
            .is_some_and(|chain| chain.strong_count() == 0);
        if own {
            chains.remove(&self.key);
        }
    }
}

fn lock(chains: &Chains) -> MutexGuard<'_, HashMap<Key, Weak<Chain>>> {
    chains.lock().unwrap_or_else(PoisonError::into_inner)
}

fn key_of(certificates: &[CertificateDer<'_>], role: Role) -> Key {
    let mut digest = Context::new(&SHA256);
    digest.update(&[u8::from(role == Role::Client)]);
    for certificate in certificates {
        digest.update(certificate);
    }
    let mut key = Key::default();
    // Always as long: SHA-256.
    let digest = digest.finish();
    for (to, from) in key.iter_mut().zip(digest.as_ref()) {
        *to = *from;
    }
    key
}
