//! A process with as little as a restricted pod gives it: another user, no capability, no way to get one,
//! and a root on which nothing can be written.

use std::path::Path;
use std::process::Command;

/// The user of the processes, as in the chart.
pub const USER: u32 = 65532;

/// A command of the binary with nothing but a directory to write to, which is a volume: `volume`, if one
/// is given, is empty at first and gone with the process.
#[must_use]
pub fn confined(program: &Path, volume: Option<&Path>) -> Command {
    // Mounts first, while that is still allowed; each of the system's own becomes read-only too.
    let mut script = String::from(
        "set -e; mount --make-rprivate /; \
         for m in $(awk '{print $5}' /proc/self/mountinfo | sort -u); do \
           case $m in /proc*|/sys*|/dev*|/run/netns/*) ;; *) mount -o remount,bind,ro \"$m\" ;; esac; \
         done; ",
    );
    if let Some(volume) = volume {
        let place = volume.display();
        script += &format!("mount -t tmpfs -o uid={USER},gid={USER},mode=0770 volume {place}; ");
    }
    script += &format!(
        "exec setpriv --reuid {USER} --regid {USER} --clear-groups --no-new-privs \
         --bounding-set -all --inh-caps -all --ambient-caps -all -- \"$@\""
    );
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", &script, "confined"])
        .arg(program);
    command
}

/// Whether a process has as little as that: its status says so.
///
/// # Panics
/// When it has more.
pub fn assert_confined(pid: u32) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = |name: &str| {
        let found = status.lines().find_map(|line| line.strip_prefix(name));
        found
            .unwrap_or_else(|| panic!("no {name}"))
            .trim()
            .to_owned()
    };
    let user = USER.to_string();
    for ids in ["Uid:", "Gid:"] {
        assert!(
            line(ids).split_whitespace().all(|id| id == user),
            "{status}"
        );
    }
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(line(set), "0000000000000000", "{set}");
    }
    assert_eq!(line("NoNewPrivs:"), "1");
    // Where it may write: nowhere.
    let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    let root = mounts.lines().find(|m| m.split(' ').nth(4) == Some("/"));
    let options = root.unwrap().split(' ').nth(5).unwrap();
    assert!(options.split(',').any(|o| o == "ro"), "{options}");
}
