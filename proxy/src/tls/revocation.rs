//! What issuers in the mesh have taken back: lists of revoked certificates from one file.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use webpki::{CertRevocationList, OwnedCertRevocationList};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use selvedge_contract::defaults::trust::{LISTS, LISTS_BYTES};

/// Why a file of lists is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {why}")]
pub struct ListError {
    /// Which file.
    pub file: String,
    /// What is wrong with it.
    pub why: String,
}

/// Lists that are in force.
#[derive(Debug, Default)]
pub struct Revocations {
    /// A verification looks at the first list of an issuer only, so there are as many rounds as the
    /// issuer with the most lists has.
    rounds: Vec<Vec<List>>,
    /// The bytes they were made from, to tell whether anything has changed.
    text: Vec<u8>,
    lists: Vec<Named>,
}

/// One list, and which key has signed it, where it says so (RFC 5280 section 5.2.1).
#[derive(Debug)]
struct List {
    list: CertRevocationList<'static>,
    issuer: Vec<u8>,
    key: Option<Vec<u8>>,
}

/// An issuer that a chain shows: its name and the name of its key (RFC 5280 section 4.2.1.2).
struct Issuer<'a> {
    name: &'a [u8],
    key: Option<&'a [u8]>,
}

impl List {
    /// Whether another key of the same name has signed what the chain shows: an issuer that was renewed keeps
    /// its name, and lists of the one before say nothing of what it signs.
    fn is_foreign(&self, issuers: &[Issuer<'_>]) -> bool {
        let Some(key) = &self.key else {
            return false;
        };
        let mut namesakes = issuers
            .iter()
            .filter(|issuer| issuer.name == self.issuer)
            .peekable();
        namesakes.peek().is_some()
            && namesakes.all(|issuer| issuer.key.is_some_and(|other| other != &**key))
    }
}

/// Whose list, and when the next one was due.
#[derive(Debug)]
struct Named {
    issuer: String,
    next: Option<SystemTime>,
}

impl Revocations {
    /// Reads a PEM file of one or several lists.
    ///
    /// # Errors
    /// [`ListError`]: no file, larger than [`LISTS_BYTES`], no list in it, more than [`LISTS`], or one
    /// that is not a list of version 2 (RFC 5280 section 5).
    pub fn read(path: &Path) -> Result<Self, ListError> {
        let wrong = |why: String| ListError {
            file: path.display().to_string(),
            why,
        };
        let size = std::fs::metadata(path).map_err(|e| wrong(e.to_string()))?;
        if size.len() > LISTS_BYTES {
            return Err(wrong(format!("larger than {LISTS_BYTES} bytes")));
        }
        let text = std::fs::read(path).map_err(|e| wrong(e.to_string()))?;
        Self::parse(text).map_err(wrong)
    }

    /// Reads PEM.
    ///
    /// # Errors
    /// What is wrong with it, as [`Revocations::read`].
    pub fn parse(text: Vec<u8>) -> Result<Self, String> {
        let mut all = Self::default();
        for list in CertificateRevocationListDer::pem_slice_iter(&text) {
            let list = list.map_err(|e| e.to_string())?;
            all.add(&list)?;
        }
        if all.lists.is_empty() {
            return Err("no list of revoked certificates (`X509 CRL`) in it".into());
        }
        all.text = text;
        Ok(all)
    }

    fn add(&mut self, der: &CertificateRevocationListDer<'_>) -> Result<(), String> {
        let nth = self.lists.len() + 1;
        if nth > LISTS {
            return Err(format!("more than {LISTS} lists"));
        }
        let list = OwnedCertRevocationList::from_der(der)
            .map_err(|e| format!("list {nth}: {e:?}; expected one of version 2"))?;
        let (_, read) =
            CertificateRevocationList::from_der(der).map_err(|e| format!("list {nth}: {e}"))?;
        let seconds = |t: x509_parser::time::ASN1Time| u64::try_from(t.timestamp()).unwrap_or(0);
        self.lists.push(Named {
            issuer: read.issuer().to_string(),
            next: read
                .next_update()
                .map(|t| UNIX_EPOCH + Duration::from_secs(seconds(t))),
        });
        let mut extensions = read.extensions().iter();
        let key = extensions.find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                Some(id.key_identifier.as_ref()?.0.to_vec())
            }
            _ => None,
        });
        let list = List {
            list: CertRevocationList::from(list),
            issuer: read.issuer().as_raw().to_vec(),
            key,
        };
        let same = |round: &&mut Vec<List>| !round.iter().any(|other| other.issuer == list.issuer);
        match self.rounds.iter_mut().find(same) {
            Some(round) => round.push(list),
            None => self.rounds.push(vec![list]),
        }
        Ok(())
    }

    /// The lists that may be about a chain with these certificates above its leaf, in rounds in which each
    /// issuer has one at most.
    pub fn rounds_for(
        &self,
        above: &[CertificateDer<'_>],
    ) -> Vec<Vec<&CertRevocationList<'static>>> {
        if self.rounds.is_empty() {
            return Vec::new();
        }
        let read: Vec<_> = above
            .iter()
            .filter_map(|der| X509Certificate::from_der(der).ok())
            .collect();
        let issuers: Vec<_> = read.iter().map(|(_, read)| issuer_of(read)).collect();
        let rounds = self.rounds.iter().map(|round| {
            let lists = round.iter().filter(|list| !list.is_foreign(&issuers));
            lists.map(|list| &list.list).collect()
        });
        rounds.collect()
    }

    /// The lists as they are handed on: DER.
    #[must_use]
    pub fn der(&self) -> Vec<Vec<u8>> {
        let lists = CertificateRevocationListDer::pem_slice_iter(&self.text);
        lists.flatten().map(|list| list.to_vec()).collect()
    }

    /// Whether both were read from the same bytes.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.text == other.text
    }

    /// How many lists there are.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.lists.len()
    }

    /// When the first of them is to be followed by a newer one.
    #[must_use]
    pub fn next_update(&self) -> Option<SystemTime> {
        self.lists.iter().filter_map(|list| list.next).min()
    }

    /// The issuers whose lists have ended by `now`, without being followed by others.
    #[must_use]
    pub fn ended(&self, now: SystemTime) -> Vec<&str> {
        let ended = |list: &&Named| list.next.is_some_and(|next| next <= now);
        let ended = self.lists.iter().filter(ended);
        ended.map(|list| list.issuer.as_str()).collect()
    }
}

fn issuer_of<'a>(read: &'a X509Certificate<'_>) -> Issuer<'a> {
    let mut extensions = read.extensions().iter();
    let key = extensions.find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
        _ => None,
    });
    Issuer {
        name: read.subject().as_raw(),
        key,
    }
}
