//! Certificates of gateway listeners: read from files, chosen by SNI, swapped when files change.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A chain and its key, by file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pair {
    /// Chain file, leaf first.
    pub certificate: PathBuf,
    /// Key file.
    pub key: PathBuf,
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
    /// The key is not that of the certificate.
    #[error("{0}: the key does not belong to the certificate")]
    Mismatch(String),
}

#[derive(Debug, Default)]
struct ByName {
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// By suffix with its leading dot.
    wildcard: HashMap<String, Arc<CertifiedKey>>,
    first: Option<Arc<CertifiedKey>>,
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
        self.names.load().exact.get(name).cloned()
    }

    /// The certificate shown for a name (lower case): exact, by wildcard, else the first.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let names = self.names.load();
        let found = names.exact.get(name).or_else(|| {
            let dot = name.find('.')?;
            names.wildcard.get(name.get(dot..)?)
        });
        found.or(names.first.as_ref()).cloned()
    }

    /// The first, shown to a client that names nobody.
    #[must_use]
    pub fn first(&self) -> Option<Arc<CertifiedKey>> {
        self.names.load().first.clone()
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
        match (self.find(server_name), self.find(host)) {
            (Some(a), Some(b)) => has_name && Arc::ptr_eq(&a, &b),
            _ => false,
        }
    }
}

fn read_all(pairs: &[Pair]) -> Result<ByName, Vec<(usize, PairError)>> {
    let mut names = ByName::default();
    let mut errors = Vec::new();
    for (at, pair) in pairs.iter().enumerate() {
        match read_pair(pair) {
            Ok(key) => {
                let key = Arc::new(key);
                for name in dns_names(&key) {
                    let map = if name.starts_with('*') {
                        &mut names.wildcard
                    } else {
                        &mut names.exact
                    };
                    let name = name.trim_start_matches('*').to_owned();
                    map.entry(name).or_insert_with(|| key.clone());
                }
                names.first.get_or_insert(key);
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
pub fn read_chain(path: &std::path::Path) -> Result<Vec<CertificateDer<'static>>, PairError> {
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
