//! A small disk that can be full. Needs root, to mount it.

use std::fs::{File, remove_file};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::netns::run;

/// See the module.
pub struct Small {
    dir: TempDir,
}

impl Small {
    /// One of this many bytes.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={bytes},mode=0700");
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "small"])
            .arg(dir.path()));
        Self { dir }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Leaves no room but in files that are there already.
    pub fn fill(&self) {
        let mut file = File::create(self.filler()).unwrap();
        let error = loop {
            if let Err(error) = file.write_all(&[0; 4096]) {
                break error;
            }
        };
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    }

    /// Makes room again.
    pub fn free(&self) {
        remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.dir.path().join("filler")
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Lazily: a process that the test has not ended yet may still use it.
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(self.dir.path())
            .status();
    }
}
