//! Programs in Python that judge what we make, or stand for what others run, with the packages that
//! `.ci/run` installs for them.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

fn command(program: &str) -> Command {
    let test = std::env::current_exe().unwrap();
    // target/debug/deps/test
    let target = test.ancestors().nth(3).unwrap();
    let python = target.join("python/bin/python");
    assert!(
        python.exists(),
        "{} is missing: `.ci/run` installs it, step `packages for python`",
        python.display()
    );
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(&python);
    command.arg(root.join("python").join(program));
    command
}

/// Runs a program of `tests/python` and gives what it prints.
///
/// # Panics
/// When it finds something wrong, or its packages are not there: nothing is skipped.
#[must_use]
pub fn judge(program: &str, arguments: &[&str]) -> String {
    let output = command(program).args(arguments).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{told}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    told
}

/// A program of `tests/python` that serves until it is dropped. It prints its port first.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Where it listens, at 127.0.0.1.
    pub port: u16,
}

impl Server {
    /// Starts it.
    ///
    /// # Panics
    /// When it does not say a port.
    #[must_use]
    pub fn start(program: &str, arguments: &[&str]) -> Self {
        let mut child = command(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let out = child.stdout.as_mut().unwrap();
        BufReader::new(out).read_line(&mut line).unwrap();
        let port = line.trim().parse();
        let port = port.unwrap_or_else(|_| panic!("{program} says `{line}`, no port"));
        Self { child, port }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
