//! What the Dockerfile puts into an image, without one being built: the binary and `nft` with the
//! libraries that they need, in a root with nothing else.

use std::path::Path;
use std::process::{Command, Output};

use selvedge_tests::netns::Namespace;
use selvedge_tests::process::binary;

fn good(output: Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// A directory as the image's root.
fn image() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let place = root.path().join("image");
    let closure = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/closure");
    let _ = good(
        Command::new(closure)
            .arg(&place)
            .arg("/usr/sbin/nft")
            .arg(binary())
            .output()
            .unwrap(),
    );
    std::fs::copy(binary(), place.join("selvedge")).unwrap();
    // What every runtime of containers adds.
    std::fs::create_dir(place.join("dev")).unwrap();
    let null = place.join("dev/null");
    let mut mknod = Command::new("mknod");
    let _ = good(mknod.arg(null).args(["c", "1", "3"]).output().unwrap());
    root
}

#[test]
fn rules_are_written_by_what_is_in_the_image_alone() {
    let root = image();
    let place = root.path().join("image");
    assert!(!place.join("bin/sh").exists(), "a shell");
    let net = Namespace::new();
    let inside = |arguments: &[&str]| {
        let mut command = net.command("chroot");
        let output = command
            .arg(&place)
            .args(arguments)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .output();
        good(output.unwrap())
    };
    assert!(inside(&["/selvedge", "version"]).starts_with("selvedge "));
    let _ = inside(&["/selvedge", "redirect", "--proxy-uid", "1337"]);
    let rules = inside(&["/usr/sbin/nft", "list", "ruleset"]);
    assert!(rules.contains("redirect to :15001"), "{rules}");
    assert!(rules.contains("redirect to :15006"), "{rules}");
    let _ = inside(&["/selvedge", "redirect", "--cleanup"]);
    assert_eq!(inside(&["/usr/sbin/nft", "list", "ruleset"]), "");
}
