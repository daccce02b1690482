//! Programs in Python that judge what we make, with the packages that `.ci/run` installs for them.

use std::path::Path;
use std::process::Command;

/// Runs a program of `tests/python` and gives what it prints.
///
/// # Panics
/// When it finds something wrong, or its packages are not there: nothing is skipped.
#[must_use]
pub fn judge(program: &str, arguments: &[&str]) -> String {
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
    let output = Command::new(&python)
        .arg(root.join("python").join(program))
        .args(arguments)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{told}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    told
}
