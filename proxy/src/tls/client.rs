//! Certificates of clients at the edge: which are taken, and what they say of their holder.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use selvedge_gateway::apikey::hex;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};
use x509_parser::revocation_list::CertificateRevocationList;

/// Names of a certificate that are looked at. Whoever signs more for one client has another plan.
const NAMES: usize = 64;
/// Bytes of what `X-Forwarded-Client-Cert` says.
const STAMP: usize = 4096;

/// What is wrong with the files that clients are verified by.
#[derive(Debug, thiserror::Error)]
pub enum ClientsError {
    /// A file.
    #[error("{0}: {1}")]
    File(String, String),
    /// What is in it.
    #[error("{0}")]
    Verifier(String),
}

/// Verifies clients by these CAs, and by what they have revoked. Gives also what would keep out clients
/// who have done nothing.
///
/// # Errors
/// [`ClientsError`].
pub fn verifier(
    ca: &Path,
    crl: Option<&Path>,
    required: bool,
) -> Result<(Arc<dyn ClientCertVerifier>, Vec<String>), ClientsError> {
    let file = |path: &Path, error: &dyn std::fmt::Display| {
        ClientsError::File(path.display().to_string(), error.to_string())
    };
    let mut roots = RootCertStore::empty();
    let mut issuers = Vec::new();
    for certificate in CertificateDer::pem_file_iter(ca).map_err(|e| file(ca, &e))? {
        let certificate = certificate.map_err(|e| file(ca, &e))?;
        issuers.extend(subject(&certificate));
        roots.add(certificate).map_err(|e| file(ca, &e))?;
    }
    if roots.is_empty() {
        return Err(file(ca, &"no certificate in it"));
    }
    let provider = Arc::new(super::provider().as_ref().clone());
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let mut doubts = Vec::new();
    if let Some(path) = crl {
        let lists =
            CertificateRevocationListDer::pem_file_iter(path).map_err(|e| file(path, &e))?;
        let lists: Result<Vec<_>, _> = lists.collect();
        let lists = lists.map_err(|e| file(path, &e))?;
        if lists.is_empty() {
            return Err(file(path, &"no list of revoked certificates in it"));
        }
        for list in &lists {
            webpki::BorrowedCertRevocationList::from_der(list).map_err(|e| {
                file(path, &format!("{e:?}: a list of version 2 is expected, with its number and its issuer's key identifier"))
            })?;
        }
        doubts = doubtful(&lists, &issuers, path);
        builder = builder.with_crls(lists).enforce_revocation_expiration();
        // Intermediates rarely have lists of their own, and what is not known would be refused.
        builder = builder.only_check_end_entity_revocation();
    }
    if !required {
        builder = builder.allow_unauthenticated();
    }
    let verifier = builder
        .build()
        .map_err(|e| ClientsError::Verifier(e.to_string()))?;
    Ok((verifier, doubts))
}

/// The subject of a certificate, as it is encoded.
fn subject(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(certificate.subject().as_raw().to_vec())
}

/// What would keep out clients who have done nothing: lists that have ended, CAs without one.
fn doubtful(
    lists: &[CertificateRevocationListDer<'_>],
    issuers: &[Vec<u8>],
    path: &Path,
) -> Vec<String> {
    let (mut doubts, mut listed) = (Vec::new(), Vec::new());
    for list in lists {
        let Ok((_, list)) = CertificateRevocationList::from_der(list) else {
            continue;
        };
        listed.push(list.issuer().as_raw().to_vec());
        let next = list.next_update().map(|next| next.timestamp());
        if next.is_none_or(|next| next <= ASN1Time::now().timestamp()) {
            let name = path.display();
            doubts.push(format!(
                "`{name}`: the list of `{}` has ended",
                list.issuer()
            ));
        }
    }
    let unlisted = issuers.iter().filter(|issuer| !listed.contains(issuer));
    match unlisted.count() {
        0 => {}
        count => doubts.push(format!(
            "{count} of the CAs have no list in `{}`",
            path.display()
        )),
    }
    doubts
}

/// What a verified certificate says of its holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Alternative names as `uri:`, `dns:` and `email:`, then the common name as `cn:`.
    pub names: Vec<Box<str>>,
    /// SHA-256 of the certificate, in hexadecimal digits.
    pub fingerprint: Box<str>,
    subject: Box<str>,
}

impl ClientCertificate {
    /// Reads a leaf that was verified. `None` where it is not well formed after all.
    #[must_use]
    pub fn read(leaf: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
        let mut names = Vec::new();
        for extension in certificate.extensions() {
            if let ParsedExtension::SubjectAlternativeName(all) = extension.parsed_extension() {
                names.extend(all.general_names.iter().filter_map(|name| match name {
                    GeneralName::URI(uri) => Some(format!("uri:{uri}")),
                    GeneralName::DNSName(dns) => Some(format!("dns:{}", dns.to_ascii_lowercase())),
                    GeneralName::RFC822Name(mail) => Some(format!("email:{mail}")),
                    _ => None,
                }));
            }
        }
        names.sort_by_key(|name| match name.split_once(':') {
            Some(("uri", _)) => 0,
            Some(("dns", _)) => 1,
            _ => 2,
        });
        let common = certificate.subject().iter_common_name();
        names.extend(common.filter_map(|cn| Some(format!("cn:{}", cn.as_str().ok()?))));
        names.retain(|name| name.bytes().all(|b| (b' '..0x7f).contains(&b)));
        names.truncate(NAMES);
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, leaf);
        Some(Self {
            names: names.into_iter().map(Into::into).collect(),
            fingerprint: hex(digest.as_ref()).into(),
            subject: certificate.subject().to_string().into(),
        })
    }

    /// Its names in which nothing needs an escape.
    pub fn bare_names(&self) -> impl Iterator<Item = &str> {
        let names = self.names.iter().map(|name| &**name);
        names.filter(|name| name.bytes().all(|b| b.is_ascii_graphic()))
    }

    /// What applications and counters know the holder by, with its kind, so that it is nobody else's
    /// name: the first that needs no escape, else the fingerprint.
    #[must_use]
    pub fn holder(&self) -> String {
        let first = self.bare_names().next().map(str::to_owned);
        first.unwrap_or_else(|| self.by_fingerprint())
    }

    /// The same by its fingerprint.
    #[must_use]
    pub fn by_fingerprint(&self) -> String {
        format!("sha256:{}", self.fingerprint)
    }

    /// What `X-Forwarded-Client-Cert` says, in the form that Envoy gave it.
    #[must_use]
    pub fn stamp(&self) -> String {
        let mut stamp = format!(
            "Hash={};Subject={}",
            self.fingerprint,
            quoted(&self.subject)
        );
        for name in &self.names {
            let (kind, name) = match name.split_once(':') {
                Some(("uri", name)) => ("URI", name),
                Some(("dns", name)) => ("DNS", name),
                _ => continue,
            };
            let _ = write!(stamp, ";{kind}={}", quoted(name));
            if stamp.len() > STAMP {
                return format!("Hash={}", self.fingerprint);
            }
        }
        stamp
    }
}

/// In quotes, where an element's end could be seen in it.
fn quoted(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b';' | b',' | b'=' | b'"' | b'\\');
    if !text.is_empty() && text.bytes().all(plain) {
        return text.to_owned();
    }
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            ' '..='~' => out.push(c),
            _ => out.push('?'),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(names: &[&str], cn: &str) -> ClientCertificate {
        let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
        for name in names {
            let (kind, name) = name.split_once(':').unwrap();
            let name = rcgen::string::Ia5String::try_from(name).unwrap();
            params.subject_alt_names.push(match kind {
                "uri" => rcgen::SanType::URI(name),
                "dns" => rcgen::SanType::DnsName(name),
                _ => rcgen::SanType::Rfc822Name(name),
            });
        }
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, cn);
        let key = rcgen::KeyPair::generate().unwrap();
        let made = params.self_signed(&key).unwrap();
        ClientCertificate::read(made.der()).unwrap()
    }

    #[test]
    fn holders_are_known_by_their_first_plain_name() {
        let of = |names: &[&str], cn: &str| certificate(names, cn).holder();
        assert_eq!(of(&["dns:A.example", "uri:urn:b"], "c"), "uri:urn:b");
        assert_eq!(of(&["email:a@b.example"], "c"), "email:a@b.example");
        assert_eq!(of(&[], "partner"), "cn:partner");
        assert_eq!(of(&[], "Ann Smith").len(), 7 + 64);
    }

    #[test]
    fn stamps_do_not_let_names_end_an_element() {
        let stamp = certificate(&["uri:urn:a;By=evil,Hash=1"], "x\";URI=spiffe://root").stamp();
        let (hash, rest) = stamp.split_once(';').unwrap();
        assert_eq!(hash.len(), 5 + 64);
        assert!(rest.contains(r#"CN=x\";URI=spiffe://root"#), "{rest}");
        assert!(rest.ends_with(r#";URI="urn:a;By=evil,Hash=1""#), "{rest}");
    }
}
