//! Throw-away certificates: a CA, server leaves with DNS names, SVIDs with a SPIFFE ID.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};

/// A CA of one test.
pub struct TestCa {
    issuer: Issuer<'static, KeyPair>,
    certificate: Certificate,
}

/// A leaf with its key, as PEM.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// Certificate.
    pub certificate: String,
    /// Key.
    pub key: String,
}

impl Leaf {
    /// Writes both into a directory; gives the paths of certificate and key.
    #[must_use]
    pub fn write(&self, dir: &Path, name: &str) -> (PathBuf, PathBuf) {
        let paths = (
            dir.join(format!("{name}.pem")),
            dir.join(format!("{name}.key")),
        );
        std::fs::write(&paths.0, &self.certificate).unwrap();
        std::fs::write(&paths.1, &self.key).unwrap();
        paths
    }
}

impl TestCa {
    /// A new CA.
    #[must_use]
    #[expect(
        clippy::new_without_default,
        reason = "a fresh CA is no default of anything"
    )]
    pub fn new() -> Self {
        Self::named("test CA")
    }

    /// One of this name.
    #[must_use]
    pub fn named(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        // To OpenSSL, a leaf that is called as its CA is has signed itself.
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            certificate,
        }
    }

    /// The CA's certificate, PEM.
    #[must_use]
    pub fn bundle(&self) -> String {
        self.certificate.pem()
    }

    /// The CA's key, PEM.
    #[must_use]
    pub fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// A leaf with these names.
    #[must_use]
    pub fn leaf(&self, names: Vec<SanType>) -> Leaf {
        self.leaf_with(names, |_| {})
    }

    /// The same with something changed before it is signed.
    #[must_use]
    pub fn leaf_with(
        &self,
        names: Vec<SanType>,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Leaf {
        leaf(&self.issuer, names, change)
    }

    /// A certificate of anybody, PEM: an intermediate.
    #[must_use]
    pub fn sign(&self, params: CertificateParams, key: &KeyPair) -> String {
        params.signed_by(key, &self.issuer).unwrap().pem()
    }

    /// A new intermediate of this name, and its key, PEM.
    #[must_use]
    pub fn intermediate(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        (self.sign(params, &key), key.serialize_pem())
    }

    /// What it has revoked, PEM.
    #[must_use]
    pub fn revocations(&self, list: CertificateRevocationListParams) -> String {
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    /// A server's leaf.
    #[must_use]
    pub fn server(&self, names: &[&str]) -> Leaf {
        let name = |name: &&str| SanType::DnsName((*name).try_into().unwrap());
        self.leaf(names.iter().map(name).collect())
    }

    /// A workload's leaf.
    #[must_use]
    pub fn svid(&self, id: &str) -> Leaf {
        self.leaf(vec![SanType::URI(id.try_into().unwrap())])
    }
}

/// A workload's leaf by any issuer, with something changed before it is signed.
#[must_use]
pub fn signed(
    issuer: &Issuer<'_, KeyPair>,
    id: &str,
    change: impl FnOnce(&mut CertificateParams),
) -> Leaf {
    leaf(issuer, vec![SanType::URI(id.try_into().unwrap())], change)
}

fn leaf(
    issuer: &Issuer<'_, KeyPair>,
    names: Vec<SanType>,
    change: impl FnOnce(&mut CertificateParams),
) -> Leaf {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = names;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    change(&mut params);
    let certificate = params.signed_by(&key, issuer).unwrap();
    Leaf {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    }
}

/// A new key with a certificate request for it, both PEM.
#[must_use]
pub fn request() -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::default()
        .serialize_request(&key)
        .unwrap();
    (request.pem().unwrap(), key.serialize_pem())
}

/// The one URI in a certificate (PEM).
#[must_use]
pub fn uri(pem: &str) -> String {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
    let certificate = pem.parse_x509().unwrap();
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    let uris = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            x509_parser::extensions::GeneralName::URI(uri) => Some((*uri).to_owned()),
            _ => None,
        });
    let uris: Vec<_> = uris.collect();
    let [uri] = uris.as_slice() else {
        panic!("{uris:?}");
    };
    uri.clone()
}
