//! Certificates of gateway listeners: read from files, chosen by SNI, swapped when files change.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use selvedge_contract::defaults::OCSP;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::staple::{self, Staple};

/// A chain and its key, by file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pair {
    /// Chain file, leaf first.
    pub certificate: PathBuf,
    /// Key file.
    pub key: PathBuf,
    /// File with what the issuer says of it (OCSP).
    pub ocsp: Option<PathBuf>,
}

/// What is wrong with a pair.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// A file that cannot be read or holds no PEM of the kind.
    #[error("{file}: {why}")]
    File {
        /// Which.
        file: String,
        /// Why.
        why: String,
    },
    /// What is to be shown beside the certificate is none of the kind.
    #[error("{file}: {why}")]
    Ocsp {
        /// Which.
        file: String,
        /// Why.
        why: String,
    },
    /// The key is not that of the certificate.
    #[error("{0}: the key does not belong to the certificate")]
    Mismatch(String),
}

/// A certificate, and what its issuer says of it.
#[derive(Debug)]
struct Held {
    bare: Arc<CertifiedKey>,
    stapled: Option<Stapled>,
}

#[derive(Debug)]
struct Stapled {
    key: Arc<CertifiedKey>,
    staple: Staple,
    /// Where it is from.
    file: PathBuf,
    /// It was said that it is too old.
    told: AtomicBool,
}

impl Held {
    /// What is shown now: clients take an answer that is too old for an attack.
    fn shown(&self) -> Arc<CertifiedKey> {
        let Some(stapled) = &self.stapled else {
            return self.bare.clone();
        };
        if stapled.staple.is_fresh(SystemTime::now()) {
            return stapled.key.clone();
        }
        if !stapled.told.swap(true, Relaxed) {
            let file = stapled.file.display();
            tracing::warn!(%file, "an OCSP response is out of date and no longer shown");
        }
        self.bare.clone()
    }
}

#[derive(Debug, Default)]
struct ByName {
    exact: HashMap<String, Arc<Held>>,
    /// By suffix with its leading dot.
    wildcard: HashMap<String, Arc<Held>>,
    first: Option<Arc<Held>>,
    /// Pairs whose OCSP response is not shown, and why.
    unshown: Vec<(usize, &'static str)>,
}

impl ByName {
    /// For a name (lower case): exact, by wildcard, else the first.
    fn find(&self, name: &str) -> Option<&Arc<Held>> {
        let found = self.exact.get(name).or_else(|| {
            let dot = name.find('.')?;
            self.wildcard.get(name.get(dot..)?)
        });
        found.or(self.first.as_ref())
    }
}

/// See the module.
#[derive(Debug)]
pub struct FileCertificates {
    pairs: Vec<Pair>,
    names: ArcSwap<ByName>,
}

impl FileCertificates {
    /// Reads all pairs.
    ///
    /// # Errors
    /// One for each pair that is not usable, by its index.
    pub fn load(pairs: Vec<Pair>) -> Result<Arc<Self>, Vec<(usize, PairError)>> {
        let names = read_all(&pairs)?;
        Ok(Arc::new(Self {
            pairs,
            names: ArcSwap::from_pointee(names),
        }))
    }

    /// Reads all pairs again.
    ///
    /// # Errors
    /// As [`FileCertificates::load`]; then the old ones stay in use.
    pub fn reload(&self) -> Result<(), Vec<(usize, PairError)>> {
        self.names.store(Arc::new(read_all(&self.pairs)?));
        Ok(())
    }

    /// The certificate for exactly this name (lower case).
    #[must_use]
    pub fn exact(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let names = self.names.load();
        names.exact.get(name).map(|held| held.shown())
    }

    /// The certificate shown for a name (lower case): exact, by wildcard, else the first.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        self.names.load().find(name).map(|held| held.shown())
    }

    /// The first, shown to a client that names nobody.
    #[must_use]
    pub fn first(&self) -> Option<Arc<CertifiedKey>> {
        self.names.load().first.as_ref().map(|held| held.shown())
    }

    /// Pairs, by their index, whose OCSP response was of no use when they were read, and why.
    #[must_use]
    pub fn unshown(&self) -> Vec<(usize, &'static str)> {
        self.names.load().unshown.clone()
    }

    /// Whether the certificate shown for one name is the one that would be shown for the other.
    #[must_use]
    pub fn covers(&self, server_name: &str, host: &str) -> bool {
        let names = self.names.load();
        let has_name = names.exact.contains_key(host)
            || host
                .find('.')
                .and_then(|dot| host.get(dot..))
                .is_some_and(|s| names.wildcard.contains_key(s));
        match (names.find(server_name), names.find(host)) {
            (Some(a), Some(b)) => has_name && Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

fn read_all(pairs: &[Pair]) -> Result<ByName, Vec<(usize, PairError)>> {
    let mut names = ByName::default();
    let mut errors = Vec::new();
    for (at, pair) in pairs.iter().enumerate() {
        match read_held(pair) {
            Ok((held, why)) => {
                names.unshown.extend(why.map(|why| (at, why)));
                let held = Arc::new(held);
                for name in dns_names(&held.bare) {
                    let map = if name.starts_with('*') {
                        &mut names.wildcard
                    } else {
                        &mut names.exact
                    };
                    let name = name.trim_start_matches('*').to_owned();
                    map.entry(name).or_insert_with(|| held.clone());
                }
                names.first.get_or_insert(held);
            }
            Err(error) => errors.push((at, error)),
        }
    }
    if errors.is_empty() {
        Ok(names)
    } else {
        Err(errors)
    }
}

/// A pair with what its issuer says of it, or why that is not shown.
fn read_held(pair: &Pair) -> Result<(Held, Option<&'static str>), PairError> {
    let key = read_pair(pair)?;
    let (staple, why) = match &pair.ocsp {
        Some(file) => match read_staple(file, &key)? {
            None => (None, Some("it is about another certificate")),
            Some(staple) => {
                let fresh = staple.is_fresh(SystemTime::now());
                (Some(staple), (!fresh).then_some("it is out of date"))
            }
        },
        None => (None, None),
    };
    let stapled = staple.map(|staple| Stapled {
        key: Arc::new(CertifiedKey {
            ocsp: Some(staple.bytes.clone()),
            ..key.clone()
        }),
        file: pair.ocsp.clone().unwrap_or_default(),
        told: AtomicBool::new(why.is_some()),
        staple,
    });
    let held = Held {
        bare: Arc::new(key),
        stapled,
    };
    Ok((held, why))
}

/// What stands in an OCSP file. One that is out of date, or is about another certificate, since the
/// two are not replaced at the same moment, is no reason to show no certificate.
fn read_staple(file: &Path, key: &CertifiedKey) -> Result<Option<Staple>, PairError> {
    let error = |why: String| PairError::Ocsp {
        file: file.display().to_string(),
        why,
    };
    let mut bytes = Vec::new();
    let most = u64::try_from(OCSP).unwrap_or(u64::MAX);
    std::fs::File::open(file)
        .and_then(|open| open.take(most + 1).read_to_end(&mut bytes))
        .map_err(|e| error(e.to_string()))?;
    if bytes.len() > OCSP {
        return Err(error(format!("longer than {OCSP} bytes")));
    }
    let leaf = key.cert.first().map(|leaf| X509Certificate::from_der(leaf));
    let Some(Ok((_, leaf))) = leaf else {
        return Err(error("its certificate cannot be read".to_owned()));
    };
    staple::read(&bytes, leaf.raw_serial()).map_err(|why| error(why.to_owned()))
}

/// Reads one pair and checks that its halves belong together.
///
/// # Errors
/// See [`PairError`].
pub fn read_pair(pair: &Pair) -> Result<CertifiedKey, PairError> {
    let chain = read_chain(&pair.certificate)?;
    let key_file = pair.key.display().to_string();
    let file_error = |why: String| PairError::File {
        file: key_file.clone(),
        why,
    };
    let key = PrivateKeyDer::from_pem_file(&pair.key).map_err(|e| file_error(e.to_string()))?;
    let provider = super::provider();
    let key = provider
        .key_provider
        .load_private_key(key)
        .map_err(|e| file_error(e.to_string()))?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
            Ok(certified)
        }
        Err(_) => Err(PairError::Mismatch(key_file)),
    }
}

/// Reads a chain file.
///
/// # Errors
/// When it cannot be read or holds no certificate.
pub fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, PairError> {
    let error = |why: String| PairError::File {
        file: path.display().to_string(),
        why,
    };
    let chain: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|e| error(e.to_string()))?;
    if chain.is_empty() {
        return Err(error("no certificate in it".into()));
    }
    Ok(chain)
}

fn dns_names(key: &CertifiedKey) -> Vec<String> {
    let Some(leaf) = key.cert.first() else {
        return Vec::new();
    };
    let Ok((_, certificate)) = X509Certificate::from_der(leaf) else {
        return Vec::new();
    };
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names
        .map(|san| san.value.general_names.clone())
        .unwrap_or_default();
    names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        })
        .collect()
}
