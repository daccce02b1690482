//! How much memory is used, and of how much: of the control group that the kernel would kill for it,
//! and of the process itself where the configuration bounds it.

use std::fs;
use std::path::{Path, PathBuf};

/// Where the kernel tells.
#[derive(Debug)]
pub(super) struct Memory {
    group: Option<Group>,
}

/// The files of a control group: cgroup v2 or v1.
#[derive(Debug)]
struct Group {
    limit: PathBuf,
    usage: PathBuf,
    stat: PathBuf,
    /// What the kernel takes back by itself before it kills: pages of files that nobody uses.
    inactive: &'static str,
}

impl Memory {
    /// Finds the nearest control group with a limit.
    pub(super) fn find() -> Self {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let found = candidates(Path::new("/sys/fs/cgroup"), &groups);
        let limited = found.into_iter().filter(|g| g.limit().is_some());
        Self {
            group: limited.min_by_key(|g| g.limit()),
        }
    }

    /// Bytes used and the most that may be; what is nearer to its end of the two. Nothing where there
    /// is no bound, or the configuration says zero.
    pub(super) fn look(&mut self, configured: Option<u64>) -> Option<(u64, u64)> {
        if configured == Some(0) {
            return None;
        }
        let group = self.group.as_ref().and_then(Group::look);
        let own = configured.and_then(|most| own().map(|used| (used, most)));
        let share = |(used, most): &(u64, u64)| u128::from(*used) * 1000 / u128::from(*most);
        [group, own].into_iter().flatten().max_by_key(share)
    }
}

/// Above this a limit is none: cgroup v1 says "none" with the largest number of whole pages.
const UNLIMITED: u64 = 1 << 60;

impl Group {
    fn v2(at: &Path) -> Self {
        Self {
            limit: at.join("memory.max"),
            usage: at.join("memory.current"),
            stat: at.join("memory.stat"),
            inactive: "inactive_file ",
        }
    }

    fn v1(at: &Path) -> Self {
        Self {
            limit: at.join("memory.limit_in_bytes"),
            usage: at.join("memory.usage_in_bytes"),
            stat: at.join("memory.stat"),
            inactive: "total_inactive_file ",
        }
    }

    fn limit(&self) -> Option<u64> {
        number(&self.limit).filter(|limit| (1..UNLIMITED).contains(limit))
    }

    fn look(&self) -> Option<(u64, u64)> {
        let stat = fs::read_to_string(&self.stat).unwrap_or_default();
        let idle = inactive(&stat, self.inactive);
        Some((number(&self.usage)?.saturating_sub(idle), self.limit()?))
    }
}

/// Bytes of files that nobody uses, by what the group's statistics say under this name.
fn inactive(stat: &str, name: &str) -> u64 {
    let mut lines = stat.lines();
    let inactive = lines.find_map(|line| line.strip_prefix(name));
    inactive.and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// The groups that `/proc/self/cgroup` names, and those above them. In a container the path may be
/// that of the machine, which is not there: its own group is at the root then.
fn candidates(root: &Path, groups: &str) -> Vec<Group> {
    let mut found = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let above = Path::new(path).ancestors();
        let below = above.map(|group| group.strip_prefix("/").unwrap_or(group));
        if controllers.is_empty() {
            found.extend(below.map(|group| Group::v2(&root.join(group))));
        } else if controllers.split(',').any(|name| name == "memory") {
            found.extend(below.map(|group| Group::v1(&root.join("memory").join(group))));
        }
    }
    found
}

/// Memory of the process that is no file's, in bytes.
fn own() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let mut lines = status.lines();
    let anonymous = lines.find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kib: u64 = anonymous.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_looked_for_in_both_versions_and_above() {
        let limits = |groups: &str| -> Vec<String> {
            let found = candidates(Path::new("/g"), groups);
            let limits = found.iter().map(|g| g.limit.display().to_string());
            limits.collect()
        };
        assert_eq!(
            limits("0::/pod/box\n"),
            [
                "/g/pod/box/memory.max",
                "/g/pod/memory.max",
                "/g/memory.max"
            ]
        );
        assert_eq!(
            limits("4:cpu,memory:/job\n3:pids:/x\nnonsense\n"),
            [
                "/g/memory/job/memory.limit_in_bytes",
                "/g/memory/memory.limit_in_bytes"
            ]
        );
        let stat = "anon 1\ninactive_file 200\ntotal_inactive_file 50\n";
        assert_eq!(inactive(stat, "inactive_file "), 200);
        assert_eq!(inactive(stat, "total_inactive_file "), 50);
        assert_eq!(inactive("inactive_file x\n", "inactive_file "), 0);
    }

    #[test]
    fn what_the_configuration_bounds_is_the_process() {
        let mut none = Memory { group: None };
        assert_eq!(none.look(None), None);
        assert_eq!(none.look(Some(0)), None);
        let (used, most) = none.look(Some(1 << 40)).unwrap();
        assert!(
            used > 100_000 && used < 1 << 34 && most == 1 << 40,
            "{used}"
        );
    }
}
