//! What `selvedge check` says of a configuration.

use std::path::Path;
use std::process::Command;

use crate::process::binary;

/// What `check` says of a configuration, and whether it finds it good.
///
/// # Panics
/// When it cannot be run.
#[must_use]
pub fn check(mode: &str, config: &str) -> (bool, String) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yaml");
    std::fs::write(&file, config).unwrap();
    check_file(mode, &file)
}

/// The same of a file, which may name others beside it.
///
/// # Panics
/// When it cannot be run.
#[must_use]
pub fn check_file(mode: &str, file: &Path) -> (bool, String) {
    let output = Command::new(binary())
        .args(["check", "--mode", mode])
        .arg(file)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    (output.status.success(), said)
}
