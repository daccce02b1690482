//! One CA certificate with its private key: how both are made, and what is checked on loading.

use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use selvedge_contract::identity::TrustDomain;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use zeroize::Zeroizing;

use crate::validity::Validity;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";
/// Octets of a serial number, of the 20 that RFC 5280 allows.
const SERIAL: usize = 16;

/// A root lives ten years of 365 days.
pub(crate) const ROOT_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// An intermediate lives 30 days.
pub(crate) const INTERMEDIATE_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);

/// What is wrong with a certificate or key; the caller knows which file it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// No PEM certificate, or one that cannot be parsed.
    #[error("not a PEM certificate, or a damaged one")]
    Certificate,
    /// No PEM private key, or one that cannot be used for signing.
    #[error("not a PEM private key that can sign, or a damaged one")]
    Key,
    /// More than one certificate where one is expected.
    #[error("holds more than one certificate")]
    Several,
    /// `cA` is false, or `keyCertSign` is missing.
    #[error("not a certificate that may sign others")]
    NotAuthority,
    /// The URI name is not the trust domain.
    #[error("belongs to another trust domain")]
    TrustDomain,
    /// Past `notAfter`.
    #[error("expired")]
    Expired,
    /// Before `notBefore`.
    #[error("not valid yet; is the clock right?")]
    Early,
    /// What is written of a rotation cannot be read.
    #[error("not a rotation as this CA writes it")]
    Rotation,
    /// Names of URIs are constrained, which no leaf would pass (rustls-webpki refuses them all).
    #[error("constrains names; certificates under it would be refused")]
    Constrained,
    /// The key is encrypted.
    #[error("is encrypted; give it decrypted, in a file of mode 0600")]
    Encrypted,
    /// The signature is not by the expected issuer.
    #[error("not signed by the root")]
    Issuer,
    /// The key is not that of the certificate.
    #[error("does not belong to its certificate")]
    Mismatch,
    /// The clock is outside 1970 to 9999, or the issuer has no life left.
    #[error("no time left to sign for, or the clock is far off")]
    NoTime,
    /// The cryptographic library failed.
    #[error("the cryptographic library refused")]
    Crypto,
}

/// A CA certificate, parsed once and kept in the forms in which it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AuthorityCertificate {
    pub(crate) pem: String,
    pub(crate) der: CertificateDer<'static>,
    pub(crate) validity: Validity,
    /// SHA-256 in hexadecimal: what it is called in logs.
    pub(crate) sha256: String,
    /// Issuer and subject are the same.
    pub(crate) self_issued: bool,
}

impl AuthorityCertificate {
    /// Every certificate in `text`, at least one. Text between the blocks is dropped.
    pub(crate) fn all(text: &str) -> Result<Vec<Self>, Flaw> {
        let mut found = Vec::new();
        let mut rest = text;
        while let Some((_, tail)) = rest.split_once(BEGIN) {
            let (body, after) = tail.split_once(END).ok_or(Flaw::Certificate)?;
            found.push(Self::of_pem(format!("{BEGIN}{body}{END}\n"))?);
            rest = after;
        }
        if found.is_empty() {
            return Err(Flaw::Certificate);
        }
        Ok(found)
    }

    /// The one certificate in `text`.
    pub(crate) fn one(text: &str) -> Result<Self, Flaw> {
        let mut all = Self::all(text)?;
        if all.len() > 1 {
            return Err(Flaw::Several);
        }
        all.pop().ok_or(Flaw::Certificate)
    }

    fn of_pem(pem: String) -> Result<Self, Flaw> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| Flaw::Certificate)?;
        let parsed = parse(&der)?;
        let validity = Validity::of(&parsed);
        let self_issued = parsed.issuer().as_raw() == parsed.subject().as_raw();
        let sha256 = hex(digest(&SHA256, &der).as_ref());
        Ok(Self {
            pem,
            der,
            validity,
            sha256,
            self_issued,
        })
    }

    /// Checks that this may sign for `domain` at `now`.
    pub(crate) fn check(&self, domain: &TrustDomain, now: SystemTime) -> Result<(), Flaw> {
        self.check_names(&[&domain.uri()], now)
    }

    /// The same for one that was made elsewhere: it should carry the trust domain (X509-SVID section
    /// 4.2), but most do not.
    pub(crate) fn check_given(&self, domain: &TrustDomain, now: SystemTime) -> Result<(), Flaw> {
        let uri = domain.uri();
        let certificate = parse(&self.der)?;
        let named = uri_names(&certificate).is_some_and(|names| !names.is_empty());
        let expected: &[&str] = if named { &[&uri] } else { &[] };
        self.check_names(expected, now)
    }

    fn check_names(&self, expected: &[&str], now: SystemTime) -> Result<(), Flaw> {
        let certificate = parse(&self.der)?;
        let signs = certificate
            .key_usage()
            .ok()
            .flatten()
            .is_some_and(|usage| usage.value.key_cert_sign());
        if !certificate.is_ca() || !signs {
            return Err(Flaw::NotAuthority);
        }
        if uri_names(&certificate).ok_or(Flaw::Certificate)? != expected {
            return Err(Flaw::TrustDomain);
        }
        if certificate.name_constraints().ok().flatten().is_some() {
            return Err(Flaw::Constrained);
        }
        if self.validity.contains(now) {
            return Ok(());
        }
        let past = now > self.validity.end();
        Err(if past { Flaw::Expired } else { Flaw::Early })
    }

    /// Checks that `issuer` signed this; itself for a root.
    pub(crate) fn check_signed_by(&self, issuer: &Self) -> Result<(), Flaw> {
        let (this, issuer) = (parse(&self.der)?, parse(&issuer.der)?);
        let named = this.issuer().as_raw() == issuer.subject().as_raw();
        let signed = this.verify_signature(Some(issuer.public_key())).is_ok();
        if named && signed {
            Ok(())
        } else {
            Err(Flaw::Issuer)
        }
    }
}

/// A CA certificate that can sign.
pub(crate) struct Signer {
    pub(crate) certificate: AuthorityCertificate,
    /// What stands between it and the root, in that order; empty for our own.
    pub(crate) above: Vec<AuthorityCertificate>,
    key: Zeroizing<KeyPair>,
}

impl Signer {
    /// Joins a loaded certificate with its key.
    pub(crate) fn join(certificate: AuthorityCertificate, key_pem: &str) -> Result<Self, Flaw> {
        if key_pem.contains("ENCRYPTED") {
            return Err(Flaw::Encrypted);
        }
        let key = Zeroizing::new(KeyPair::from_pem(key_pem).map_err(|_| Flaw::Key)?);
        let parsed = parse(&certificate.der)?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(Flaw::Mismatch);
        }
        Ok(Self {
            certificate,
            above: Vec::new(),
            key,
        })
    }

    /// A new self-signed root, P-256.
    pub(crate) fn root(domain: &TrustDomain, now: SystemTime) -> Result<Self, Flaw> {
        let validity = Validity::starting(now, ROOT_LIFE, u64::MAX).ok_or(Flaw::NoTime)?;
        let mut params = authority_params(domain, "root", validity)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = new_key()?;
        let certificate = params.self_signed(&*key).map_err(|_| Flaw::Crypto)?;
        Ok(Self {
            certificate: AuthorityCertificate::of_pem(certificate.pem())?,
            above: Vec::new(),
            key,
        })
    }

    /// A new intermediate, P-256, signed by this root and not outliving it.
    pub(crate) fn intermediate(&self, domain: &TrustDomain, now: SystemTime) -> Result<Self, Flaw> {
        let limit = self.certificate.validity.not_after;
        let validity = Validity::starting(now, INTERMEDIATE_LIFE, limit).ok_or(Flaw::NoTime)?;
        let mut params = authority_params(domain, "intermediate", validity)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.use_authority_key_identifier_extension = true;
        let key = new_key()?;
        let issuer = self.issuer()?;
        let certificate = params.signed_by(&*key, &issuer).map_err(|_| Flaw::Crypto)?;
        Ok(Self {
            certificate: AuthorityCertificate::of_pem(certificate.pem())?,
            above: Vec::new(),
            key,
        })
    }

    /// What owners show after their leaf: this and what is above it, without the root.
    pub(crate) fn shown(&self) -> impl Iterator<Item = &AuthorityCertificate> {
        let chain = std::iter::once(&self.certificate).chain(&self.above);
        chain.filter(|certificate| !certificate.self_issued)
    }

    /// What signs: name and key identifier from the certificate, so that chains always link.
    pub(crate) fn issuer(&self) -> Result<Issuer<'static, &KeyPair>, Flaw> {
        Issuer::from_ca_cert_der(&self.certificate.der, &*self.key).map_err(|_| Flaw::Crypto)
    }

    pub(crate) fn key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.key.serialize_pem())
    }
}

fn authority_params(
    domain: &TrustDomain,
    role: &str,
    validity: Validity,
) -> Result<CertificateParams, Flaw> {
    let mut params = CertificateParams::default();
    let (serial, hex) = random_serial()?;
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Selvedge");
    // Told apart by its serial: two roots of one name would confuse path building (RFC 4158
    // section 2.4.2). The trust domain is in the URI name, which has room for all 255 bytes.
    name.push(DnType::CommonName, format!("{role} {hex}"));
    params.distinguished_name = name;
    params.serial_number = Some(serial);
    params.subject_alt_names = vec![uri(&domain.uri())?];
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    validity.write_to(&mut params);
    Ok(params)
}

/// A new P-256 key.
pub(crate) fn new_key() -> Result<Zeroizing<KeyPair>, Flaw> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
        .map(Zeroizing::new)
        .map_err(|_| Flaw::Crypto)
}

/// 16 octets, all but two bits of them random, and the same as lower-case hexadecimal.
pub(crate) fn random_serial() -> Result<(SerialNumber, String), Flaw> {
    let mut bytes = [0; SERIAL];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Flaw::Crypto)?;
    // Neither negative nor with a leading zero: it reads the same in the log and in every tool.
    if let Some(first) = bytes.first_mut() {
        *first = *first & 0x7f | 0x40;
    }
    Ok((SerialNumber::from_slice(&bytes), hex(&bytes)))
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a `String` cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// A URI name for a certificate.
pub(crate) fn uri(text: &str) -> Result<SanType, Flaw> {
    // IDs and trust domains are ASCII, so this cannot fail.
    let text = Ia5String::try_from(text).map_err(|_| Flaw::Crypto)?;
    Ok(SanType::URI(text))
}

/// Parses a certificate, and nothing after it.
pub(crate) fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Flaw> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(Flaw::Certificate),
    }
}

/// The URI names of a certificate; `None` when its names cannot be read.
pub(crate) fn uri_names<'a>(certificate: &X509Certificate<'a>) -> Option<Vec<&'a str>> {
    let names = certificate.subject_alternative_name().ok()?;
    let names = names.map(|names| names.value.general_names.as_slice());
    let uris = names.unwrap_or_default().iter().filter_map(|name| {
        if let GeneralName::URI(uri) = name {
            Some(*uri)
        } else {
            None
        }
    });
    Some(uris.collect())
}
