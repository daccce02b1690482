//! The issuance log: one line for each certificate or token, on the disk before it leaves the process. Calls that come together share one write.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::disk::{self, DiskError};
use crate::issue::MAX_LIFE;

/// A file is followed by the next one at this size in bytes.
const SEGMENT: u64 = 16 * 1024 * 1024;
/// How long a file is kept that has been followed by another: twice the longest life.
pub const KEPT: Duration = Duration::from_secs(180 * 24 * 3600);
/// Longest line that is read, in bytes.
const LINE: usize = 16 * 1024;

/// A certificate as it was issued, or a JWT-SVID. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// When.
    pub at: u64,
    /// `jwt` for a JWT-SVID; not there for a certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Serial number of a certificate, `jti` of a token: lower-case hexadecimal.
    pub serial: String,
    /// Whose.
    pub id: String,
    /// First second of its validity.
    pub not_before: u64,
    /// Last second of its validity.
    pub not_after: u64,
    /// SHA-256 of its public key (SubjectPublicKeyInfo), hexadecimal; of a token, the ID of the key that
    /// signed it.
    pub key: String,
    /// SHA-256 of the root it chains to, hexadecimal; of a token, of the root that goes with its key.
    pub root: String,
    /// For whom a token is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub audience: Vec<String>,
    /// What proved the identity.
    pub proof: String,
    /// Where the call came from; not there for the CA's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<IpAddr>,
    /// Which process of the identity it was for, where it said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
}

/// Why an entry is not on the disk. Its certificate must not leave the process.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the issuance log: {0}")]
pub struct LogError(Arc<str>);

/// See the module.
#[derive(Debug)]
pub struct IssuanceLog {
    dir: PathBuf,
    inner: Mutex<Inner>,
    file: Mutex<Segment>,
}

/// What waits to be written, and the outcome for all of it.
#[derive(Debug, Default)]
struct Inner {
    waiting: Vec<u8>,
    outcome: Arc<OnceLock<Result<(), LogError>>>,
}

#[derive(Debug)]
struct Segment {
    number: u32,
    file: File,
    /// Bytes that are whole lines and on the disk.
    good: u64,
    /// Something else may stand after them.
    torn: bool,
}

impl IssuanceLog {
    /// Opens the log in `dir`, made with mode 0700 where it is not there, and gives what it says of
    /// certificates that may not have ended. What a crash left of a last line is cut off: that
    /// certificate went nowhere. Lines that cannot be read are counted, and left.
    ///
    /// # Errors
    /// When the disk fails, or others may write to `dir`.
    pub fn open(dir: &Path, now: SystemTime) -> Result<(Self, Vec<Entry>, usize), DiskError> {
        disk::private_dir(dir)?;
        let mut numbers = numbers(dir)?;
        numbers.sort_unstable();
        let (mut entries, mut damaged) = (Vec::new(), 0);
        for number in &numbers {
            let path = path_of(dir, *number);
            // All in it was issued before its last write.
            let ended = age(&path, now)?.is_some_and(|age| age > MAX_LIFE);
            if !ended || Some(number) == numbers.last() {
                damaged += read(&path, &mut entries)?;
            }
        }
        let number = numbers.last().copied().unwrap_or(1);
        let log = Self {
            dir: dir.to_owned(),
            inner: Mutex::default(),
            file: Mutex::new(Segment::open(dir, number)?),
        };
        Ok((log, entries, damaged))
    }

    /// Writes `entry`; returns when it is on the disk. Blocks.
    ///
    /// # Errors
    /// When it is not: the disk is full, say. The next call tries again.
    pub fn append(&self, entry: &Entry) -> Result<(), LogError> {
        let line = serde_json::to_string(entry).map_err(|error| said(&error))?;
        let outcome = {
            let mut inner = self.inner();
            inner.waiting.extend_from_slice(line.as_bytes());
            inner.waiting.push(b'\n');
            inner.outcome.clone()
        };
        // Whoever comes first writes for all that wait; the others find it done.
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(done) = outcome.get() {
            return done.clone();
        }
        let (lines, outcome) = {
            let mut inner = self.inner();
            let taken = std::mem::take(&mut *inner);
            (taken.waiting, taken.outcome)
        };
        let written = file.write(&self.dir, &lines);
        let written = written.map_err(|error| said(&error));
        let _ = outcome.set(written.clone());
        written
    }

    /// Removes files of which every line is older than [`KEPT`]; says how many. Blocks.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn sweep(&self, now: SystemTime) -> Result<usize, DiskError> {
        let current = {
            let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
            file.number
        };
        let mut swept = 0;
        for number in numbers(&self.dir)? {
            let path = path_of(&self.dir, number);
            if number != current && age(&path, now)?.is_some_and(|age| age > KEPT) {
                disk::remove(&path)?;
                swept += 1;
            }
        }
        Ok(swept)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn said(error: &dyn std::fmt::Display) -> LogError {
    LogError(error.to_string().into())
}

impl Segment {
    fn open(dir: &Path, number: u32) -> Result<Self, DiskError> {
        let path = path_of(dir, number);
        let failed = |source| DiskError::Io {
            path: path.clone(),
            source,
        };
        let file = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        disk::sync_parent(&path)?;
        let mut segment = Self {
            number,
            good: 0,
            torn: true,
            file,
        };
        segment.good = whole_lines(&segment.file).map_err(failed)?;
        segment.mend().map_err(failed)?;
        Ok(segment)
    }

    fn write(&mut self, dir: &Path, lines: &[u8]) -> Result<(), DiskError> {
        if self.good >= SEGMENT {
            *self = Self::open(dir, self.number.saturating_add(1))?;
        }
        self.add(lines).map_err(|source| DiskError::Io {
            path: path_of(dir, self.number),
            source,
        })
    }

    fn add(&mut self, lines: &[u8]) -> io::Result<()> {
        self.mend()?;
        self.torn = true;
        self.file.write_all(lines)?;
        self.file.sync_data()?;
        self.good += lines.len() as u64;
        self.torn = false;
        Ok(())
    }

    /// Cuts off what a failed write may have left.
    fn mend(&mut self) -> io::Result<()> {
        if self.torn {
            self.file.set_len(self.good)?;
            self.file.sync_data()?;
            self.torn = false;
        }
        Ok(())
    }
}

/// How many bytes of a file are whole lines.
fn whole_lines(mut file: &File) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let mut end = length;
    let mut block = [0; 4096];
    // From its end, in blocks: a file may have many lines.
    while end > 0 {
        let size = end.min(block.len() as u64);
        let start = end - size;
        file.seek(SeekFrom::Start(start))?;
        let block = block
            .get_mut(..usize::try_from(size).unwrap_or(0))
            .unwrap_or_default();
        io::Read::read_exact(&mut file, block)?;
        if let Some(at) = block.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// Adds the entries of a file; says how many lines are none.
fn read(path: &Path, entries: &mut Vec<Entry>) -> Result<usize, DiskError> {
    let failed = |source| DiskError::Io {
        path: path.to_owned(),
        source,
    };
    let mut reader = BufReader::new(File::open(path).map_err(failed)?);
    let (mut line, mut damaged) = (Vec::new(), 0);
    loop {
        line.clear();
        let n = reader.read_until(b'\n', &mut line).map_err(failed)?;
        if n == 0 {
            return Ok(damaged);
        }
        if line.pop() != Some(b'\n') {
            // The last, and not whole.
            return Ok(damaged);
        }
        match serde_json::from_slice(&line) {
            Ok(entry) if line.len() <= LINE => entries.push(entry),
            _ => damaged += 1,
        }
    }
}

fn path_of(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("{number:08}.jsonl"))
}

fn numbers(dir: &Path) -> Result<Vec<u32>, DiskError> {
    let names = disk::names(dir)?;
    let number = |name: &String| name.strip_suffix(".jsonl")?.parse().ok();
    Ok(names.iter().filter_map(number).collect())
}

/// How long ago a file was last written to; `None` when the clock says later than now.
fn age(path: &Path, now: SystemTime) -> Result<Option<Duration>, DiskError> {
    let written = path.metadata().and_then(|about| about.modified());
    let written = written.map_err(|source| DiskError::Io {
        path: path.to_owned(),
        source,
    })?;
    Ok(now.duration_since(written).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(serial: u32) -> Entry {
        Entry {
            at: 100,
            kind: None,
            serial: format!("{serial:032x}"),
            id: "spiffe://shop.local/ns/shop/sa/web".into(),
            not_before: 40,
            not_after: 3700,
            key: "ab".into(),
            root: "cd".into(),
            audience: Vec::new(),
            proof: "token".into(),
            peer: Some([10, 0, 0, 1].into()),
            instance: None,
        }
    }

    fn opened(dir: &Path) -> (IssuanceLog, Vec<Entry>) {
        let (log, entries, damaged) = IssuanceLog::open(dir, SystemTime::now()).unwrap();
        assert_eq!(damaged, 0);
        (log, entries)
    }

    #[test]
    fn what_is_written_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let (log, entries) = opened(dir.path());
        assert!(entries.is_empty());
        let all: Vec<_> = (0..3).map(entry).collect();
        all.iter().for_each(|entry| log.append(entry).unwrap());
        drop(log);
        assert_eq!(opened(dir.path()).1, all);
    }

    #[test]
    fn a_torn_line_is_cut_off_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (log, _) = opened(dir.path());
        log.append(&entry(1)).unwrap();
        let path = path_of(dir.path(), 1);
        for torn in ["{", &"x".repeat(10_000), r#"{"at":1"#] {
            let mut file = OpenOptions::new().append(true).open(&path).unwrap();
            file.write_all(torn.as_bytes()).unwrap();
            let (log, entries) = opened(dir.path());
            log.append(&entry(2)).unwrap();
            assert_eq!(opened(dir.path()).1.len(), entries.len() + 1);
        }
        assert_eq!(opened(dir.path()).1.len(), 4);
    }

    #[test]
    fn lines_of_others_are_counted_and_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = path_of(dir.path(), 1);
        std::fs::write(&path, "\nnot ours\n{}\n").unwrap();
        let (log, entries, damaged) = IssuanceLog::open(dir.path(), SystemTime::now()).unwrap();
        assert_eq!((entries.len(), damaged), (0, 3));
        log.append(&entry(1)).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("\nnot ours\n{}\n{\"at\":100,"), "{text}");
    }

    #[test]
    fn those_who_come_together_are_all_written() {
        let dir = tempfile::tempdir().unwrap();
        let (log, _) = opened(dir.path());
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let log = &log;
                scope.spawn(move || {
                    for n in 0..20 {
                        log.append(&entry(thread * 100 + n)).unwrap();
                    }
                });
            }
        });
        drop(log);
        let mut serials: Vec<_> = opened(dir.path()).1.into_iter().map(|e| e.serial).collect();
        serials.sort();
        serials.dedup();
        assert_eq!(serials.len(), 160);
    }

    #[test]
    fn a_full_file_is_followed_and_an_old_one_removed() {
        let dir = tempfile::tempdir().unwrap();
        let first = path_of(dir.path(), 1);
        let file = File::create(&first).unwrap();
        let line = "x".repeat(1023) + "\n";
        let lines = line.repeat(usize::try_from(SEGMENT / 1024).unwrap());
        (&file).write_all(lines.as_bytes()).unwrap();
        let now = SystemTime::now();
        let (log, _, _) = IssuanceLog::open(dir.path(), now).unwrap();
        log.append(&entry(1)).unwrap();
        assert!(path_of(dir.path(), 2).exists());
        assert_eq!(log.sweep(now).unwrap(), 0);
        file.set_modified(now - KEPT - Duration::from_secs(1))
            .unwrap();
        assert_eq!(log.sweep(now).unwrap(), 1);
        assert!(!first.exists());
        assert_eq!(opened(dir.path()).1, [entry(1)]);
    }
}
