//! Certificates of one's own: from files, from a CA, or from the CA inside `selvedge dev`; renewed
//! before they age, swapped while requests go on.

pub mod applicant;
mod ca_client;
mod follow;
mod renewal;
mod request;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, UNIX_EPOCH};

use arc_swap::ArcSwap;
use rustls::RootCertStore;
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use selvedge_contract::config::IdentitySpec;
use selvedge_contract::identity::TrustDomain;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::telemetry::metrics::Metrics;
use crate::tls::files::{Pair, PairError, read_pair};
use crate::tls::store::roots_of;
use crate::tls::{Identity, IdentityStore, verify};

use applicant::Applicant;
use ca_client::Caller;
use renewal::Renewal;
pub use request::{NewKey, new_key};

/// Signs a request in process: gives the chain as PEM blocks, leaf first.
pub type LocalIssuer = Arc<dyn Fn(&str) -> Result<Vec<String>, String> + Send + Sync>;

/// Where certificates come from.
#[derive(Clone)]
pub enum Source {
    /// Files, re-read on reload.
    Files {
        /// Trust domain.
        trust_domain: TrustDomain,
        /// Chain and key.
        pair: Pair,
        /// Roots.
        bundle: PathBuf,
    },
    /// A CA over gRPC.
    Ca(CaSource),
    /// A CA in this process.
    Local {
        /// Trust domain.
        trust_domain: TrustDomain,
        /// Roots.
        bundle_pem: String,
        /// Signs.
        issuer: LocalIssuer,
    },
}

/// How to reach a CA.
#[derive(Debug, Clone)]
pub struct CaSource {
    /// Trust domain.
    pub trust_domain: TrustDomain,
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Roots: they verify the CA, and peers.
    pub bundle: PathBuf,
    /// Join token for the first certificate.
    pub token: Option<PathBuf>,
    /// Life to ask for.
    pub ttl: Option<Duration>,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Files { pair, .. } => write!(f, "Files({})", pair.certificate.display()),
            Self::Ca(ca) => write!(f, "Ca({}:{})", ca.host, ca.port),
            Self::Local { .. } => f.write_str("Local"),
        }
    }
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// What the configuration says.
    #[error("{0}")]
    Spec(String),
    /// A file.
    #[error(transparent)]
    File(#[from] PairError),
    /// The bundle.
    #[error(transparent)]
    Bundle(#[from] crate::tls::store::BundleError),
    /// A bundle file that cannot be read.
    #[error("{file}: {why}")]
    Unreadable {
        /// Which.
        file: String,
        /// Why.
        why: String,
    },
    /// What the CA gave is not usable.
    #[error("the certificate is not usable: {0}")]
    Unusable(String),
    /// The CA did not answer, or refused.
    #[error("the CA: {0}")]
    Ca(String),
}

impl Source {
    /// Reads the `identity` section.
    ///
    /// # Errors
    /// What is missing or contradicts itself.
    pub fn from_spec(spec: &IdentitySpec) -> Result<Self, IdentityError> {
        let bad = |why: &str| IdentityError::Spec(why.to_owned());
        let trust_domain: TrustDomain = spec
            .trust_domain
            .parse()
            .map_err(|e| IdentityError::Spec(format!("trustDomain: {e}")))?;
        if spec.bundle.is_empty() {
            return Err(bad("`bundle` is missing: the file with the trust bundle"));
        }
        let bundle = PathBuf::from(&spec.bundle);
        match (&spec.ca, &spec.certificate, &spec.key) {
            (None, Some(certificate), Some(key)) => Ok(Self::Files {
                trust_domain,
                pair: Pair {
                    ocsp: None,
                    certificate: certificate.into(),
                    key: key.into(),
                },
                bundle,
            }),
            (Some(url), None, None) => {
                let uri: http::Uri = url.parse().map_err(|_| bad("`ca` is not a URL"))?;
                let host = uri.host().ok_or_else(|| bad("`ca` has no host"))?;
                if uri.scheme_str() != Some("https") {
                    return Err(bad("`ca` must be an `https://` URL"));
                }
                Ok(Self::Ca(CaSource {
                    trust_domain,
                    host: host.trim_matches(['[', ']']).to_owned(),
                    port: uri.port_u16().unwrap_or(selvedge_contract::ports::CA),
                    bundle,
                    token: spec.token.as_ref().map(PathBuf::from),
                    ttl: spec.ttl.map(|d| d.0),
                }))
            }
            _ => Err(bad("set `ca`, or `certificate` and `key`, not both")),
        }
    }

    /// Who asks the CA, where there is one to ask.
    fn caller(
        &self,
        store: &Arc<IdentityStore>,
        anchors: &Arc<ArcSwap<RootCertStore>>,
    ) -> Option<Caller> {
        let Self::Ca(ca) = self else {
            return None;
        };
        Some(Caller {
            ca: ca.clone(),
            store: store.clone(),
            instance: format!("{:032x}", fastrand::u128(..)).into(),
            anchors: anchors.clone(),
            gone: Arc::default(),
            renew: Arc::default(),
        })
    }

    const fn trust_domain(&self) -> &TrustDomain {
        match self {
            Self::Files { trust_domain, .. } | Self::Local { trust_domain, .. } => trust_domain,
            Self::Ca(ca) => &ca.trust_domain,
        }
    }
}

/// Keeps an [`IdentityStore`] filled.
#[derive(Debug)]
pub struct Keeper {
    /// What handshakes read.
    pub store: Arc<IdentityStore>,
    source: Source,
    /// Who asks the CA, where there is one to ask.
    caller: Option<Caller>,
    /// Roots in the file, where there is a CA that says which are in force.
    anchors: Arc<ArcSwap<RootCertStore>>,
    /// The CA has said it; what the file says then counts for the way to the CA only.
    said: Arc<AtomicBool>,
    metrics: Arc<Metrics>,
}

impl Keeper {
    /// Fills a store and keeps it filled until the runtime ends. Files must be good at once; a CA
    /// may be away: until it answers, nothing is meshed and the process is not ready.
    ///
    /// # Errors
    /// See [`IdentityError`].
    pub async fn start(source: Source, metrics: &Arc<Metrics>) -> Result<Self, IdentityError> {
        let store = IdentityStore::new(source.trust_domain().clone());
        let anchors = Arc::new(ArcSwap::from_pointee(RootCertStore::empty()));
        let keeper = Self {
            caller: source.caller(&store, &anchors),
            store,
            source,
            anchors,
            said: Arc::default(),
            metrics: metrics.clone(),
        };
        keeper.refresh_files()?;
        if let Source::Local { bundle_pem, .. } = &keeper.source {
            keeper.store.replace_bundle(bundle_pem)?;
        }
        if !matches!(keeper.source, Source::Files { .. }) {
            let caller = keeper.caller.clone();
            let renewal = Renewal {
                store: keeper.store.clone(),
                source: keeper.source.clone(),
                caller: caller.clone(),
                metrics: metrics.clone(),
            };
            let first = renewal.obtain(false).await;
            tokio::spawn(renewal.renew_forever(first));
            if let Some(caller) = caller {
                tokio::spawn(follow::follow(caller, keeper.said.clone()));
            }
        }
        Ok(keeper)
    }

    /// Asks for what the application is given. `None`: there is no CA to ask.
    #[must_use]
    pub fn applicant(&self) -> Option<Arc<Applicant>> {
        self.caller.clone().map(Applicant::new)
    }

    /// Reads files again: the bundle, and certificate and key where they are files.
    ///
    /// # Errors
    /// What is wrong with them; then the old ones stay.
    pub fn refresh_files(&self) -> Result<(), IdentityError> {
        match &self.source {
            Source::Files { pair, bundle, .. } => {
                let identity = identity_of(read_pair(pair)?)?;
                self.store.replace_bundle(&read(bundle)?)?;
                note(&self.metrics, &identity);
                self.store.replace(identity);
            }
            Source::Ca(ca) => {
                let pem = read(&ca.bundle)?;
                let roots = roots_of(&pem)?;
                let before = self.anchors.load_full();
                if before.roots == roots.roots {
                    return Ok(());
                }
                if let Some(caller) = &self.caller {
                    caller.come_back(&before, &roots);
                }
                self.anchors.store(Arc::new(roots));
                if !self.said.load(Relaxed) {
                    self.store.replace_bundle(&pem)?;
                }
            }
            Source::Local { .. } => {}
        }
        Ok(())
    }
}

fn read(path: &Path) -> Result<String, IdentityError> {
    std::fs::read_to_string(path).map_err(|error| IdentityError::Unreadable {
        file: path.display().to_string(),
        why: error.to_string(),
    })
}

fn note(metrics: &Metrics, identity: &Identity) {
    let expiry = identity
        .not_after
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    metrics.process.certificate_expiry.store(expiry, Relaxed);
}

/// The certificates of an answer that are shown to peers: the root bundle comes last and is not.
fn shown_of(chain: &[String]) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let shown = chain.len().saturating_sub(1).max(1);
    let certificates = chain.iter().take(shown).map(|pem| {
        CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|e| IdentityError::Unusable(e.to_string()))
    });
    certificates.collect()
}

fn is_member(identity: &Identity, domain: &TrustDomain) -> Result<(), IdentityError> {
    if (*identity.id).starts_with(&format!("{}/", domain.uri())) {
        return Ok(());
    }
    let why = format!("{} is not of trust domain {domain}", identity.id);
    Err(IdentityError::Unusable(why))
}

/// What a certificate says of itself.
fn identity_of(key: CertifiedKey) -> Result<Identity, IdentityError> {
    let unusable = |why: String| IdentityError::Unusable(why);
    let leaf = key
        .cert
        .first()
        .ok_or_else(|| unusable("no certificate".into()))?;
    let id = verify::spiffe_id(leaf).map_err(|e| unusable(e.to_string()))?;
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(|e| unusable(e.to_string()))?;
    let time = |t: x509_parser::time::ASN1Time| {
        UNIX_EPOCH + Duration::from_secs(u64::try_from(t.timestamp()).unwrap_or(0))
    };
    let (not_before, not_after) = (
        time(parsed.validity().not_before),
        time(parsed.validity().not_after),
    );
    let id = id.as_str().into();
    Ok(Identity {
        key: Arc::new(key),
        id,
        not_before,
        not_after,
    })
}
