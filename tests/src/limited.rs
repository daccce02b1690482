//! Processes that the system gives less than they would take: of descriptors, and of memory.

#![expect(clippy::unwrap_used, reason = "a rig fails where a test would")]

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::Selvedge;
use crate::process::binary;

impl Selvedge {
    /// Starts in a shell that has run this first: `ulimit -n 128`.
    #[must_use]
    pub fn start_after(first: &str, mode: &str, config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.yaml");
        let ports = "\nadmin: { bind: \"127.0.0.1:0\", health: \"127.0.0.1:0\" }\n";
        std::fs::write(&file, format!("{config}{ports}")).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{first} && exec \"$0\" \"$@\"")]);
        command.arg(binary()).arg(mode).arg("--config").arg(&file);
        command.args(["--workers", "1", "--log", "info"]);
        Self::spawn(command, dir, &["admin", "health"])
    }
}

/// A control group whose processes are killed when they use more memory than it has. Removed when it
/// is dropped, after its processes.
#[derive(Debug)]
pub struct ControlGroup {
    path: PathBuf,
    v2: bool,
}

impl ControlGroup {
    /// A new one of so many bytes.
    ///
    /// # Panics
    /// Where the system lets nobody make one.
    #[must_use]
    pub fn of(bytes: u64) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("selvedge-test-{}-{number}", std::process::id());
        let root = PathBuf::from("/sys/fs/cgroup");
        let v2 = root.join("cgroup.controllers").exists();
        let path = match v2 {
            true => {
                let _ = std::fs::write(root.join("cgroup.subtree_control"), "+memory");
                root.join(name)
            }
            false => root.join("memory").join(name),
        };
        std::fs::create_dir(&path).unwrap();
        let group = Self { path, v2 };
        group.write(["memory.limit_in_bytes", "memory.max"], &bytes.to_string());
        group
    }

    fn write(&self, names: [&str; 2], value: &str) {
        std::fs::write(self.path.join(names[usize::from(self.v2)]), value).unwrap();
    }

    /// What a shell does to be in it.
    #[must_use]
    pub fn enter(&self) -> String {
        format!("echo $$ > {}/cgroup.procs", self.path.display())
    }

    /// The most that was used at any time, in bytes; nothing where the kernel does not remember it
    /// (cgroup v2 before Linux 5.19).
    #[must_use]
    pub fn peak(&self) -> Option<u64> {
        let files = ["memory.max_usage_in_bytes", "memory.peak"];
        let file = self.path.join(files[usize::from(self.v2)]);
        std::fs::read_to_string(file).ok()?.trim().parse().ok()
    }

    /// Processes that were killed in it for want of memory.
    ///
    /// # Panics
    /// Where the system does not tell.
    #[must_use]
    pub fn killed(&self) -> u64 {
        let files = ["memory.oom_control", "memory.events"];
        let file = self.path.join(files[usize::from(self.v2)]);
        let text = std::fs::read_to_string(file).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.unwrap().trim().parse().unwrap()
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        // Its processes have gone, or the system keeps it.
        let _ = std::fs::remove_dir(&self.path);
    }
}
