//! Beside the path: pages of the program and its libraries that only its start needed are given back.
//!
//! What a process has mapped of its files counts as its memory. Reading arguments, configuration
//! and certificates touches most of a binary that has every role in it; serving requests touches a
//! fraction. The pages are clean and shared with every other process of the binary, so what this saves
//! is mostly what monitoring sees; they come back by themselves where they are needed.

use std::fs;
use std::ops::Range;

/// Gives back what is mapped of files and was never written to; gives how many bytes of addresses that
/// were. Best effort: where the system does not tell what is mapped, nothing happens.
pub fn give_back() -> usize {
    let mappings = fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    untouched(&mappings).into_iter().map(release).sum()
}

/// Parts of files that cannot be written to and never were, from what `/proc/self/smaps` says.
fn untouched(mappings: &str) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let mut current = None;
    for line in mappings.lines() {
        if let Some(part) = beginning(line) {
            current = part;
        } else if let Some((name, count)) = line.split_once(':') {
            match name {
                // A page of its own, in memory or elsewhere.
                "Anonymous" | "Swap" if count.trim() != "0 kB" => current = None,
                // The last line of each.
                "VmFlags" => parts.extend(current.take()),
                _ => {}
            }
        }
    }
    parts
}

/// `Some` for a line with which a mapping begins: its range, if it is of a file and read-only.
fn beginning(line: &str) -> Option<Option<Range<usize>>> {
    let mut words = line.split_ascii_whitespace();
    let (from, to) = words.next()?.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    let range = address(from)?..address(to)?;
    let permissions = words.next()?;
    // Behind offset, device and inode.
    let is_file = words.nth(3).is_some_and(|file| file.starts_with('/'));
    let fits = matches!(permissions, "r--p" | "r-xp") && is_file;
    Some(fits.then_some(range))
}

/// Gives a part back; gives its length.
#[expect(unsafe_code, reason = "the one place for memory; the proof is below")]
fn release(part: Range<usize>) -> usize {
    let start = std::ptr::with_exposed_provenance_mut(part.start);
    // SAFETY: the range is a whole mapping of a file, private, not writable, and without a page of its
    // own (`Anonymous: 0 kB`, `Swap: 0 kB`): every page is the file's, and clean. Such mappings are the loader's, which
    // has ended before `main`; nothing here maps files or changes protections. The system itself drops
    // such pages whenever it is short of memory, and brings them back from the file at the next access:
    // no byte that can be read changes by our asking for it.
    let done = unsafe { rustix::mm::madvise(start, part.len(), rustix::mm::Advice::LinuxDontNeed) };
    done.map_or(0, |()| part.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_clean_parts_of_files_are_found() {
        let mapping = |head: &str, anonymous: u32, swap: u32| {
            format!(
                "{head}\nSize: 1024 kB\nAnonymous: {anonymous} kB\nSwap: {swap} kB\nVmFlags: rd mr mw me\n"
            )
        };
        let program = "00000000 08:01 42                         /selvedge";
        let text = [
            mapping(&format!("55aa00000000-55aa00100000 r--p {program}"), 0, 0),
            mapping(&format!("55aa00100000-55aa00200000 r-xp {program}"), 0, 0),
            mapping(&format!("55aa00200000-55aa00210000 r--p {program}"), 40, 0),
            mapping(&format!("55aa00210000-55aa00220000 r--p {program}"), 0, 40),
            mapping(&format!("55aa00220000-55aa00230000 rw-p {program}"), 0, 0),
            mapping(
                "7f0000000000-7f0000100000 r-xp 00000000 08:01 43 /lib/libc.so.6",
                0,
                0,
            ),
            mapping(
                "7fff00000000-7fff00100000 r--p 00000000 00:00 0 [vvar]",
                0,
                0,
            ),
        ]
        .concat();
        assert_eq!(
            untouched(&text),
            [
                0x55aa_0000_0000..0x55aa_0010_0000,
                0x55aa_0010_0000..0x55aa_0020_0000,
                0x7f00_0000_0000..0x7f00_0010_0000,
            ]
        );
        assert!(untouched("").is_empty());
        assert!(untouched("Anonymous: 0 kB\nxyz\n-\nVmFlags: rd\n").is_empty());
    }

    #[test]
    fn a_program_goes_on_when_its_pages_are_given_back() {
        assert!(give_back() > 1 << 20);
        assert!(give_back() > 1 << 20);
        let text: String = (0..1000).map(|n| n.to_string()).collect();
        assert_eq!(text.len(), 2890);
    }
}
