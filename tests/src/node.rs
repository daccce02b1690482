//! Programs for node that tests talk to by lines: the OpenID provider, and a browser.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::PATIENCE;

/// A running program. Its input is closed when it is dropped, and it is ended if that does not
/// suffice.
pub struct Node {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    log: Arc<Mutex<Vec<String>>>,
}

/// Where `.ci/run` has installed what the programs need.
fn modules() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    // target/debug/deps/test
    let target = test.ancestors().nth(3).unwrap();
    let found = target.join("oidc-provider");
    assert!(
        found.join("node_modules").is_dir(),
        "{} is missing: `.ci/run` installs it, step `packages for node`",
        found.display()
    );
    found
}

impl Node {
    /// Starts a program of `tests/oidc`.
    ///
    /// # Panics
    /// Where node or its packages are missing: what is not tested may not look green.
    #[must_use]
    pub fn start(program: &str, arguments: &[&str]) -> Self {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("oidc");
        let mut child = Command::new("node")
            .arg(dir.join(program))
            .arg(modules())
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("`node` runs: install the Debian package `nodejs`");
        let (sender, lines) = channel();
        let log = Arc::new(Mutex::new(Vec::new()));
        let out = child.stdout.take().unwrap();
        let err = child.stderr.take().unwrap();
        for pipe in [
            Box::new(out) as Box<dyn std::io::Read + Send>,
            Box::new(err),
        ] {
            let (sender, log) = (sender.clone(), log.clone());
            std::thread::spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    log.lock().unwrap().push(line.clone());
                    let _ = sender.send(line);
                }
            });
        }
        Self {
            input: child.stdin.take(),
            child,
            lines,
            log,
        }
    }

    /// Says a line.
    pub fn say(&mut self, line: &str) {
        let input = self.input.as_mut().unwrap();
        writeln!(input, "{line}").unwrap();
        input.flush().unwrap();
    }

    /// Waits for a line that begins so, and gives the rest of it.
    ///
    /// # Panics
    /// When it does not come within twice [`PATIENCE`].
    pub fn wait_for(&mut self, start: &str) -> String {
        let deadline = Instant::now() + PATIENCE * 2;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("no line `{start}`:\n{}", self.log().join("\n"));
            };
            if let Some(rest) = line.strip_prefix(start) {
                return rest.to_owned();
            }
        }
    }

    /// What it has said.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // A browser takes its own children with it when it is told to end.
        self.input.take();
        let deadline = Instant::now() + Duration::from_secs(5);
        let ends_by_input = self.log().iter().any(|line| line.contains("\"ready\""));
        while ends_by_input && Instant::now() < deadline {
            if self.child.try_wait().is_ok_and(|status| status.is_some()) {
                return;
            }
            let _ = self.lines.recv_timeout(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
