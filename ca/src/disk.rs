//! Private files: refused when others can reach them, written whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroizing;

/// Largest file read, in bytes: a bundle of a few dozen certificates.
const MAX_FILE: u64 = 64 * 1024;
/// The end of the name of a file that is being written.
pub(crate) const TEMPORARY: &str = ".tmp";
/// How often a lock that another holds is tried.
const TRY_AGAIN: Duration = Duration::from_millis(50);

/// Why a file or directory cannot be used; always names it.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A secret file that group or others may read or write.
    #[error("{}: mode {mode:04o} lets group or others in; chmod 600 it", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A directory whose files group or others could replace.
    #[error(
        "{}: mode {mode:04o} lets group or others replace files; chmod 700 it or name a directory inside it",
        path.display()
    )]
    OpenDirectory {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Another process serves from it.
    #[error("{}: another CA serves from this directory", path.display())]
    Taken {
        /// The directory.
        path: PathBuf,
    },
    /// Not a regular file, not text, or longer than 64 KiB.
    #[error("{}: not a text file of at most 64 KiB", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
    },
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> DiskError + '_ {
    move |source| DiskError::Io {
        path: path.to_owned(),
        source,
    }
}

/// Creates `path` with mode 0700, or checks that nobody else may write to it.
pub(crate) fn private_dir(path: &Path) -> Result<(), DiskError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed(path))?;
    let mode = fs::metadata(path).map_err(failed(path))?.mode() & 0o7777;
    if mode & 0o022 != 0 {
        let path = path.to_owned();
        return Err(DiskError::OpenDirectory { path, mode });
    }
    Ok(())
}

/// Waits until no other process works in `dir`; holds it until the file is dropped.
pub(crate) fn lock(dir: &Path) -> Result<File, DiskError> {
    let path = dir.join(".lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(failed(&path))?;
    file.lock().map_err(failed(&path))?;
    Ok(file)
}

/// Says that this process is the one that serves from `dir`, until the file is dropped; waits up to
/// `patience` for another to end.
pub(crate) fn serving(dir: &Path, patience: Duration) -> Result<File, DiskError> {
    let path = dir.join(".serving");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(failed(&path))?;
    let mut waited = Duration::ZERO;
    while let Err(error) = file.try_lock() {
        match error {
            TryLockError::WouldBlock if waited < patience => {}
            TryLockError::WouldBlock => {
                return Err(DiskError::Taken {
                    path: dir.to_owned(),
                });
            }
            TryLockError::Error(source) => return Err(failed(&path)(source)),
        }
        std::thread::park_timeout(TRY_AGAIN);
        waited += TRY_AGAIN;
    }
    Ok(file)
}

/// Reads a certificate file; `None` when there is none.
pub(crate) fn read_public(path: &Path) -> Result<Option<Zeroizing<String>>, DiskError> {
    read(path, false)
}

/// Reads a secret; `None` when there is none, an error when anyone else could read it too.
pub(crate) fn read_private(path: &Path) -> Result<Option<Zeroizing<String>>, DiskError> {
    read(path, true)
}

fn read(path: &Path, secret: bool) -> Result<Option<Zeroizing<String>>, DiskError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(path)(error)),
    };
    // Of the open file, not of the path: nobody can swap it in between.
    let about = file.metadata().map_err(failed(path))?;
    let mode = about.mode() & 0o7777;
    if secret && mode & 0o077 != 0 {
        let path = path.to_owned();
        return Err(DiskError::Exposed { path, mode });
    }
    let not_text = || DiskError::NotText {
        path: path.to_owned(),
    };
    if !about.is_file() || about.len() > MAX_FILE {
        return Err(not_text());
    }
    // Room for all of it at once: growing would leave copies of a key behind.
    let mut text = Zeroizing::new(String::with_capacity(MAX_FILE as usize + 1));
    match file.take(MAX_FILE).read_to_string(&mut text) {
        Ok(_) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(not_text()),
        Err(error) => Err(failed(path)(error)),
    }
}

/// Writes `text` to `path` with permission bits `mode`: after a crash there is the old file or
/// the new one. The caller holds the directory's [`lock`].
pub(crate) fn write_whole(path: &Path, text: &str, mode: u32) -> Result<(), DiskError> {
    let temporary = with_suffix(path, TEMPORARY);
    remove(&temporary)?;
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(failed(&temporary))?;
    rename(&temporary, path)
}

/// Renames and makes the new name survive a crash.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), DiskError> {
    fs::rename(from, to).map_err(failed(to))?;
    sync_parent(to)
}

/// Removes a file; says whether this call was the one that removed it.
pub(crate) fn remove(path: &Path) -> Result<bool, DiskError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed(path)(error)),
    }
}

/// Removes a directory. One with files in it that are none of ours is left as it is.
pub(crate) fn remove_dir(path: &Path) -> Result<(), DiskError> {
    remove(&path.join(".lock"))?;
    match fs::remove_dir(path) {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            tracing::warn!(target: "selvedge::ca", path = %path.display(), "kept, since something else is in it");
            Ok(())
        }
        Err(error) => Err(failed(path)(error)),
    }
}

/// Makes a rename or removal in the directory of `path` survive a crash.
pub(crate) fn sync_parent(path: &Path) -> Result<(), DiskError> {
    let parent = path.parent().unwrap_or(Path::new("."));
    File::open(parent)
        .and_then(|dir| dir.sync_all())
        .map_err(failed(parent))
}

/// The names in `dir`, without those that are not UTF-8.
pub(crate) fn names(dir: &Path) -> Result<Vec<String>, DiskError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed(dir))? {
        let entry = entry.map_err(failed(dir))?;
        names.extend(entry.file_name().into_string().ok());
    }
    Ok(names)
}

/// `path` with `suffix` at its very end.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_secret_is_written_for_its_owner_only_and_refused_when_opened_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k");
        write_whole(&path, "secret", 0o600).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(read_private(&path).unwrap().unwrap().as_str(), "secret");
        assert_eq!(names(dir.path()).unwrap(), ["k"]);
        for mode in [0o640, 0o604, 0o620, 0o601] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = read_private(&path).unwrap_err();
            assert!(matches!(error, DiskError::Exposed { .. }), "{mode:o}");
            assert!(read_public(&path).unwrap().is_some());
        }
    }

    #[test]
    fn odd_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        assert!(read_public(&path).unwrap().is_none());
        fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(matches!(read_public(&path), Err(DiskError::NotText { .. })));
        fs::write(&path, vec![b'a'; MAX_FILE as usize + 1]).unwrap();
        assert!(matches!(read_public(&path), Err(DiskError::NotText { .. })));
        assert!(matches!(
            read_public(dir.path()),
            Err(DiskError::NotText { .. })
        ));
    }

    #[test]
    fn a_directory_that_others_may_write_to_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");
        private_dir(&inner).unwrap();
        assert_eq!(fs::metadata(&inner).unwrap().mode() & 0o7777, 0o700);
        fs::set_permissions(&inner, fs::Permissions::from_mode(0o770)).unwrap();
        let error = private_dir(&inner).unwrap_err();
        assert!(matches!(error, DiskError::OpenDirectory { .. }));
    }
}
