//! Files of an ACME account, which replicas share: account, certificates with keys, open
//! challenges, and the lock that lets one replica order at a time.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use selvedge_contract::defaults::acme::FILE_BYTES;

use super::Certificate;

/// See the module. One directory of ACME has one folder, so that nobody takes certificates of a
/// directory for tests for good after a move to the real one.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
}

/// What tells one version of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    inode: u64,
    seconds: i64,
    nanoseconds: i64,
    length: u64,
}

/// Held by the replica that orders. The kernel takes it back when the holder ends, however it does.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// A file of an open challenge.
#[derive(Debug, Clone, Copy)]
pub enum Proof<'a> {
    /// HTTP-01: by token.
    Token(&'a str),
    /// TLS-ALPN-01: by name.
    Name(&'a str),
}

impl Proof<'_> {
    fn file(self) -> Option<String> {
        match self {
            // What comes from a client or a directory and becomes the name of a file.
            Self::Token(token) => is_token(token).then(|| token.to_owned()),
            // No token has a dot in it.
            Self::Name(name) => Some(format!("{name}.tls-alpn-01")),
        }
    }
}

/// Whether a text has the form of a token: base64url (RFC 8555 section 8.1), of a bounded length.
#[must_use]
pub fn is_token(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    (1..=128).contains(&text.len()) && text.bytes().all(fits)
}

impl Store {
    /// The folder of `directory` (its address) below `root`. Nothing is made yet.
    #[must_use]
    pub fn new(root: &Path, directory: &str) -> Self {
        let address = directory.trim_start_matches("https://");
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let folder: String = address
            .chars()
            .map(|c| if fits(c) { c } else { '-' })
            .take(200)
            .collect();
        // `.` and `..` are no names of folders.
        let folder = format!("acme-{folder}");
        Self {
            folder: root.join(folder),
        }
    }

    /// Makes the folders, for the owner only.
    ///
    /// # Errors
    /// What the system says.
    pub fn prepare(&self) -> io::Result<()> {
        for folder in ["certificates", "challenges"] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(self.folder.join(folder))?;
        }
        Ok(())
    }

    /// Takes the lock, if nobody has it. A new description each time: it also keeps two entries of
    /// one process apart.
    ///
    /// # Errors
    /// What the system says; so also where the file system has no locks, since replicas that order
    /// without one would use up what the directory allows.
    pub fn try_lock(&self) -> io::Result<Option<Lock>> {
        let file = private(&self.folder.join("lock"), false)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Lock { _file: file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(io::Error::other(format!(
                "the store's file system gives no lock: {error}"
            ))),
        }
    }

    /// Which version of a name's certificate is there.
    #[must_use]
    pub fn stamp(&self, name: &str) -> Option<Stamp> {
        let file = std::fs::metadata(self.certificate_path(name)).ok()?;
        Some(stamp_of(&file))
    }

    /// A name's certificate, if there is one.
    ///
    /// # Errors
    /// When it cannot be read, or is of no use.
    pub fn certificate(&self, name: &str) -> io::Result<Option<(Stamp, Certificate)>> {
        let path = self.certificate_path(name);
        let (stamp, text) = match read(&path) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let read = Certificate::read(name, &text);
        let named = |e| io::Error::other(format!("{}: {e}", path.display()));
        Ok(Some((stamp, read.map_err(named)?)))
    }

    fn certificate_path(&self, name: &str) -> PathBuf {
        self.folder.join("certificates").join(format!("{name}.pem"))
    }

    /// Keeps a key with its chain, in one file: two could be read between two renames.
    ///
    /// # Errors
    /// What the system says; then the old file is as it was.
    pub fn save_certificate(&self, name: &str, pem: &str) -> io::Result<()> {
        replace(&self.certificate_path(name), pem.as_bytes())
    }

    /// The account's credentials, if there is one.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn account(&self) -> io::Result<Option<Vec<u8>>> {
        match read(&self.folder.join("account.json")) {
            Ok((_, text)) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Keeps the account's credentials.
    ///
    /// # Errors
    /// What the system says.
    pub fn save_account(&self, json: &[u8]) -> io::Result<()> {
        replace(&self.folder.join("account.json"), json)
    }

    /// Puts an account that the directory does not know aside.
    ///
    /// # Errors
    /// What the system says.
    pub fn forget_account(&self) -> io::Result<()> {
        let old = self.folder.join("account.json");
        std::fs::rename(&old, self.folder.join("account.json.unknown"))
    }

    /// Opens a challenge for every replica.
    ///
    /// # Errors
    /// When the token is none, or what the system says.
    pub fn open_challenge(&self, proof: Proof<'_>, key_authorization: &str) -> io::Result<()> {
        let path = self.challenge_path(proof);
        let path = path.ok_or_else(|| io::Error::other("the directory's token is none"))?;
        replace(&path, key_authorization.as_bytes())
    }

    /// The key authorization of an open challenge.
    #[must_use]
    pub fn challenge(&self, proof: Proof<'_>) -> Option<String> {
        let (_, text) = read(&self.challenge_path(proof)?).ok()?;
        String::from_utf8(text).ok()
    }

    fn challenge_path(&self, proof: Proof<'_>) -> Option<PathBuf> {
        Some(self.folder.join("challenges").join(proof.file()?))
    }

    /// Closes all challenges: those of this order, and those of a replica that ended in one. Only
    /// for who has the lock.
    pub fn close_challenges(&self, _: &Lock) {
        let entries = std::fs::read_dir(self.folder.join("challenges"));
        for entry in entries.into_iter().flatten().flatten() {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

fn stamp_of(file: &std::fs::Metadata) -> Stamp {
    Stamp {
        inode: file.ino(),
        seconds: file.mtime(),
        nanoseconds: file.mtime_nsec(),
        length: file.len(),
    }
}

fn read(path: &Path) -> io::Result<(Stamp, Vec<u8>)> {
    let file = File::open(path)?;
    let stamp = stamp_of(&file.metadata()?);
    let mut text = Vec::new();
    file.take(FILE_BYTES).read_to_end(&mut text)?;
    Ok((stamp, text))
}

fn private(path: &Path, truncate: bool) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(truncate)
        .mode(0o600)
        .open(path)
}

/// Writes a file beside, then puts it in its place: whoever reads sees the old one or the new one.
/// Only who has the lock writes, so the name beside is free.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = folder.join(format!(".{file}.new"));
    let mut written = private(&beside, true)?;
    written.write_all(bytes)?;
    written.sync_all()?;
    std::fs::rename(&beside, path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens() {
        assert!(
            is_token("DGyRejmCefe7v4NfDGDKfA") && is_token("a-_") && is_token(&"a".repeat(128))
        );
        let long = "a".repeat(129);
        for bad in [
            "", ".", "..", "../a", "a/b", "a.b", "a\0", "a b", "%2e", "ä", &long,
        ] {
            assert!(!is_token(bad), "{bad}");
            assert!(Proof::Token(bad).file().is_none());
        }
    }

    #[test]
    fn directories_have_folders_of_their_own() {
        let folder = |address| Store::new(Path::new("/s"), address).folder;
        let text = "https://acme-v02.api.letsencrypt.org/directory";
        assert_eq!(
            folder(text),
            Path::new("/s/acme-acme-v02.api.letsencrypt.org-directory")
        );
        assert_eq!(folder("https://../.."), Path::new("/s/acme-..-.."));
    }
}
