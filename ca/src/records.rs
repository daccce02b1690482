//! What the CA remembers of what it issued: the log on the disk, and who holds what.

use std::fs::File;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::authority::Authority;
use crate::disk::{self, DiskError};
use crate::holders::Holders;
use crate::issue::Issued;
use crate::jwt::Token;
use crate::ledger::Ledger;
use crate::log::{Entry, IssuanceLog, LogError};
use crate::tls::ServerIdentity;
use crate::validity::{Validity, unix_seconds};

/// Where the log is, in the CA's directory.
const LOG: &str = "issued";
/// What proves the identity of the CA's own endpoint.
pub(crate) const OWN: &str = "self";

/// See the module.
#[derive(Debug, Default)]
pub struct Records {
    log: Option<IssuanceLog>,
    /// Who holds what.
    pub holders: Holders,
    /// What was issued, for the authority that issues it.
    pub(crate) ledger: Arc<Ledger>,
    /// That nobody else writes here.
    _serving: Option<File>,
}

/// For whom a certificate is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner<'a> {
    pub(crate) id: &'a str,
    pub(crate) proof: &'static str,
    pub(crate) peer: Option<IpAddr>,
    pub(crate) instance: Option<&'a str>,
}

impl Records {
    /// Those of an authority whose files are in `dir`, with what was written there before. Gives the
    /// number of lines that cannot be read. Waits for up to `patience` for another process to end that
    /// serves from there.
    ///
    /// # Errors
    /// When the disk fails, others may write to the log, or another process serves from `dir`.
    pub fn open(
        dir: &Path,
        patience: Duration,
        now: SystemTime,
    ) -> Result<(Self, usize), DiskError> {
        disk::private_dir(dir)?;
        let serving = disk::serving(dir, patience)?;
        let (log, entries, damaged) = IssuanceLog::open(&dir.join(LOG), now)?;
        let holders = Holders::default();
        // The CA's own is replaced with what signs it: nobody waits for its end.
        for entry in entries.iter().filter(|entry| entry.proof != OWN) {
            holders.issued(entry, now);
        }
        let records = Self {
            log: Some(log),
            holders,
            ledger: Arc::new(Ledger::of(&entries, now)),
            _serving: Some(serving),
        };
        Ok((records, damaged))
    }

    /// Records a workload's certificate; it may leave the process after this. Blocks.
    pub(crate) fn workload(
        &self,
        authority: &Authority,
        issued: &Issued,
        owner: Owner<'_>,
        now: SystemTime,
    ) -> Result<(), LogError> {
        let entry = entry(
            authority,
            (&issued.serial, &issued.key, issued.validity),
            owner,
            now,
        );
        self.write(&entry)?;
        self.holders.issued(&entry, now);
        Ok(())
    }

    /// Records a token; it may leave the process after this. A root is not retired before it ends. Blocks.
    pub(crate) fn token(
        &self,
        authority: &Authority,
        token: &Token,
        owner: Owner<'_>,
        now: SystemTime,
    ) -> Result<(), LogError> {
        let of = (&*token.jti, &*token.kid, token.validity());
        let entry = Entry {
            kind: Some("jwt".to_owned()),
            audience: token.audience.clone(),
            ..entry(authority, of, owner, now)
        };
        self.write(&entry)?;
        self.holders.issued(&entry, now);
        Ok(())
    }

    /// Records a certificate of the CA's own endpoint. Nobody waits for its end. Blocks.
    pub(crate) fn own(
        &self,
        authority: &Authority,
        identity: &ServerIdentity,
        now: SystemTime,
    ) -> Result<(), LogError> {
        let id = format!("{}/selvedge/ca", authority.trust_domain().uri());
        let owner = Owner {
            id: &id,
            proof: OWN,
            peer: None,
            instance: None,
        };
        let of = (&*identity.serial, &*identity.key_sha256, identity.validity);
        self.write(&entry(authority, of, owner, now))
    }

    /// Forgets what is over.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn sweep(&self, now: SystemTime) -> Result<usize, DiskError> {
        self.holders.sweep(now);
        self.ledger.sweep(now);
        self.log.as_ref().map_or(Ok(0), |log| log.sweep(now))
    }

    fn write(&self, entry: &Entry) -> Result<(), LogError> {
        self.log.as_ref().map_or(Ok(()), |log| log.append(entry))
    }
}

fn entry(
    authority: &Authority,
    (serial, key, validity): (&str, &str, Validity),
    owner: Owner<'_>,
    now: SystemTime,
) -> Entry {
    let root = authority.generations().0;
    Entry {
        at: unix_seconds(now).unwrap_or(0),
        kind: None,
        serial: serial.to_owned(),
        id: owner.id.to_owned(),
        not_before: validity.not_before,
        not_after: validity.not_after,
        key: key.to_owned(),
        root: root
            .root()
            .map(|root| root.sha256.clone())
            .unwrap_or_default(),
        audience: Vec::new(),
        proof: owner.proof.to_owned(),
        peer: owner.peer,
        instance: owner.instance.map(str::to_owned),
    }
}
