//! A certificate for a proven identity; from the request comes the public key and nothing else.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    PublicKeyData, SanType,
};
use rustls_pki_types::{DnsName, PrivateKeyDer, PrivatePkcs8KeyDer};
use selvedge_contract::identity::{SpiffeId, TrustDomain};

use crate::authority::{Authority, Flaw};
use crate::csr::{self, CsrError};
use crate::ledger;
use crate::signer;
use crate::tls::ServerIdentity;
use crate::validity::Validity;

pub use crate::csr::MAX_CSR;

/// Life of a certificate when the caller names none: 24 hours, as Istio, ztunnel and Linkerd.
pub const DEFAULT_LIFE: Duration = Duration::from_secs(24 * 3600);
/// Longest life that may be asked for: 90 days, as Istio.
pub const MAX_LIFE: Duration = Duration::from_secs(90 * 24 * 3600);
/// Shortest life that may be asked for: renewal needs some of it.
pub const MIN_LIFE: Duration = Duration::from_secs(60);
/// First path segment of identities that belong to the mesh itself and are never issued.
pub const RESERVED: &str = "selvedge";

/// Most names in the CA's own TLS certificate.
const MAX_NAMES: usize = 64;

/// Why no certificate is issued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The request itself is refused.
    #[error(transparent)]
    Request(#[from] CsrError),
    /// A longer or a shorter life was asked for than this CA gives.
    #[error("the life asked for is not between {} and {} s", min.as_secs(), max.as_secs())]
    Life {
        /// The shortest.
        min: Duration,
        /// The longest.
        max: Duration,
    },
    /// The identity is of another trust domain.
    #[error("the identity belongs to another trust domain")]
    TrustDomain,
    /// The identity is under `/selvedge`, which belongs to the mesh itself.
    #[error("the identity is reserved for the mesh itself")]
    Reserved,
    /// A name for the TLS certificate is neither a DNS name nor an IP address, or there are over 64.
    #[error("`{0}` is not a DNS name or IP address, or there are more than 64")]
    Name(String),
    /// The signing certificate has under a minute left, or the clock is outside its life.
    #[error("the signing certificate is at its end, or the clock is wrong")]
    Expired,
    /// It could not be written down.
    #[error("{0}")]
    Log(String),
    /// The cryptographic library failed.
    #[error("cannot sign: {0}")]
    Sign(Flaw),
}

/// A certificate as it is handed to its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// PEM: the leaf, then each intermediate on its own, then all roots as one element.
    pub chain_pem: Vec<String>,
    /// The last second of validity.
    pub not_after: SystemTime,
    /// The serial number in lower-case hexadecimal, for the log.
    pub serial: String,
    pub(crate) validity: Validity,
    /// SHA-256 of the public key.
    pub(crate) key: String,
}

/// How long certificates may live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lives {
    /// When the caller names no life.
    pub default: Duration,
    /// The shortest that may be asked for.
    pub min: Duration,
    /// The longest that may be asked for.
    pub max: Duration,
}

impl Default for Lives {
    fn default() -> Self {
        Self {
            default: DEFAULT_LIFE,
            min: MIN_LIFE,
            max: MAX_LIFE,
        }
    }
}

/// Checks that `id` may be issued in `trust_domain`: a member, and not under `/selvedge`.
///
/// # Errors
/// [`IssueError::TrustDomain`] or [`IssueError::Reserved`].
pub fn permitted(id: &SpiffeId, trust_domain: &TrustDomain) -> Result<(), IssueError> {
    if !id.is_member_of(trust_domain) {
        return Err(IssueError::TrustDomain);
    }
    if id.path().split('/').nth(1) == Some(RESERVED) {
        return Err(IssueError::Reserved);
    }
    Ok(())
}

impl Authority {
    /// Issues an X.509-SVID for `id`, which the caller has proven, to the key in `csr_pem`.
    ///
    /// The life is `ttl`, or 24 hours for `None` and zero, cut to the end of the intermediate.
    ///
    /// # Errors
    /// When the request is over 16 KiB, not PKCS#10, weak, or its signature does not verify; when
    /// `ttl` is not between [`MIN_LIFE`] and [`MAX_LIFE`]; when `id` is not [`permitted`]; when the
    /// intermediate has under a minute left.
    pub fn issue(
        &self,
        csr_pem: &str,
        id: &SpiffeId,
        ttl: Option<Duration>,
        now: SystemTime,
    ) -> Result<Issued, IssueError> {
        self.issue_for(csr_pem, id, &[], ttl, now)
    }

    /// The same, with `names` (DNS names and IP addresses) besides the identity.
    ///
    /// # Errors
    /// As [`Self::issue`], and for names as [`Self::server_identity`].
    pub fn issue_for(
        &self,
        csr_pem: &str,
        id: &SpiffeId,
        names: &[String],
        ttl: Option<Duration>,
        now: SystemTime,
    ) -> Result<Issued, IssueError> {
        permitted(id, self.trust_domain())?;
        let Lives { default, min, max } = self.lives;
        let life = match ttl {
            None | Some(Duration::ZERO) => default,
            Some(asked) if asked < min || asked > max => return Err(IssueError::Life { min, max }),
            Some(asked) => asked,
        };
        let key = csr::public_key(csr_pem)?;
        let leaf = Leaf::prepare(self, life, now)?;
        let mut params = leaf.params;
        params.subject_alt_names = vec![signer::uri(id.as_str()).map_err(IssueError::Sign)?];
        name(&mut params, names)?;
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let issuer = leaf.signer.issuer().map_err(IssueError::Sign)?;
        let certificate = params
            .signed_by(&key, &issuer)
            .map_err(|_| IssueError::Sign(Flaw::Crypto))?;
        let mut chain_pem = vec![certificate.pem()];
        chain_pem.extend(leaf.signer.shown().map(|above| above.pem.clone()));
        chain_pem.push(self.bundle().pem.to_string());
        let key = sha256(&key.subject_public_key_info());
        let issued = ledger::Leaf {
            serial: &leaf.serial,
            key: &key,
            id: id.as_str(),
            not_after: leaf.validity.not_after,
        };
        // Should it not be written down then it goes nowhere, and proves nothing to anybody.
        self.ledger.add(&issued, now);
        Ok(Issued {
            chain_pem,
            not_after: leaf.validity.end(),
            serial: leaf.serial,
            validity: leaf.validity,
            key,
        })
    }

    /// A new key and certificate for the CA's own TLS endpoint, of 24 hours.
    ///
    /// It is for server authentication only and carries `names` (DNS names and IP addresses) and
    /// `spiffe://<trust domain>/selvedge/ca`, so a client may check either.
    ///
    /// # Errors
    /// When a name is neither a DNS name nor an IP address, there are more than 64, or the
    /// intermediate has under a minute left.
    pub fn server_identity(
        &self,
        names: &[String],
        now: SystemTime,
    ) -> Result<ServerIdentity, IssueError> {
        let leaf = Leaf::prepare(self, DEFAULT_LIFE, now)?;
        let mut params = leaf.params;
        let own = format!("{}/{RESERVED}/ca", self.trust_domain().uri());
        params.subject_alt_names = vec![signer::uri(&own).map_err(IssueError::Sign)?];
        name(&mut params, names)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = signer::new_key().map_err(IssueError::Sign)?;
        let issuer = leaf.signer.issuer().map_err(IssueError::Sign)?;
        let certificate = params
            .signed_by(&*key, &issuer)
            .map_err(|_| IssueError::Sign(Flaw::Crypto))?;
        let mut chain = vec![certificate.der().clone()];
        chain.extend(leaf.signer.shown().map(|above| above.der.clone()));
        Ok(ServerIdentity {
            chain,
            serial: leaf.serial,
            key_sha256: sha256(&key.subject_public_key_info()),
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            validity: leaf.validity,
        })
    }
}

/// What every leaf has in common: serial, life, and that it is no CA.
struct Leaf {
    params: CertificateParams,
    serial: String,
    validity: Validity,
    signer: std::sync::Arc<signer::Signer>,
}

impl Leaf {
    fn prepare(authority: &Authority, life: Duration, now: SystemTime) -> Result<Self, IssueError> {
        let signer = authority.signer();
        let issuer = signer.certificate.validity;
        let validity = Validity::starting(now, life, issuer.not_after)
            .filter(|_| issuer.contains(now) && issuer.contains(now + authority.lives.min))
            .ok_or(IssueError::Expired)?;
        let (number, serial) = signer::random_serial().map_err(IssueError::Sign)?;
        let mut params = CertificateParams::default();
        // No subject: an SVID's identity is its URI name, which is critical for that reason.
        params.distinguished_name = DistinguishedName::new();
        params.serial_number = Some(number);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        validity.write_to(&mut params);
        Ok(Self {
            params,
            serial,
            validity,
            signer,
        })
    }
}

/// SHA-256 in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    signer::hex(digest(&SHA256, bytes).as_ref())
}

/// Adds names to a certificate.
fn name(params: &mut CertificateParams, names: &[String]) -> Result<(), IssueError> {
    for (index, name) in names.iter().enumerate() {
        let san = alternative_name(name).filter(|_| index < MAX_NAMES);
        let san = san.ok_or_else(|| IssueError::Name(name.clone()))?;
        params.subject_alt_names.push(san);
    }
    Ok(())
}

fn alternative_name(name: &str) -> Option<SanType> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Some(SanType::IpAddress(address));
    }
    DnsName::try_from(name).ok()?;
    Ia5String::try_from(name).ok().map(SanType::DnsName)
}
