//! Beside the path: the socket on which the application asks its sidecar who it is. SPIFFE Workload API and
//! Envoy's secret discovery; callers are known by what the kernel says of them, and by nothing else.
//!
//! - `listen`: the socket, who may ask, connections and their bounds.
//! - `authority`: what callers name as their host, for which there is no place here.
//! - `calls`: which call goes where, and what all of them have to bring.
//! - `follow`: answers that go on: what is in force, at once and at each change.
//! - `x509`, `jwt`: the two profiles of the Workload API; `service`: its calls.
//! - `secrets`: the same certificates as Envoy asks for them.

pub mod authority;
mod calls;
mod follow;
mod jwt;
mod listen;
mod secrets;
mod service;
mod x509;

use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use selvedge_contract::config::WorkloadApi;

pub use listen::Endpoint;

/// Longest path of a Unix socket in bytes: `sun_path` has 108, the last of which is zero.
pub const MAX_PATH: usize = 107;

/// Who may ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    uids: Vec<u32>,
    gids: Vec<u32>,
    /// Permission bits of the socket.
    mode: u32,
}

impl Access {
    /// What the configuration says.
    ///
    /// # Errors
    /// When the mode is none.
    pub fn of(spec: &WorkloadApi) -> Result<Self, String> {
        let (uids, gids) = (spec.uids.clone(), spec.gids.clone());
        // Where the kernel's word decides, opening the socket gains nothing. Otherwise it is what decides,
        // and the machine's other users stay out.
        let open = uids.is_empty() && gids.is_empty();
        let mode = match &spec.mode {
            None if open => 0o660,
            None => 0o666,
            Some(text) => {
                let octal = u32::from_str_radix(text, 8).ok();
                let plain = text.bytes().all(|b| b.is_ascii_digit());
                let mode = octal.filter(|mode| plain && *mode <= 0o777);
                mode.ok_or_else(|| format!("`{text}` is no mode of a file"))?
            }
        };
        Ok(Self { uids, gids, mode })
    }

    /// Whether this user, or a process of this group, may ask.
    fn admits(&self, uid: u32, gid: u32) -> bool {
        let open = self.uids.is_empty() && self.gids.is_empty();
        open || self.uids.contains(&uid) || self.gids.contains(&gid)
    }
}

/// Whether there is a socket at this path, of whomever.
#[must_use]
pub fn is_socket(path: &Path) -> bool {
    let about = std::fs::symlink_metadata(path);
    about.is_ok_and(|about| about.file_type().is_socket())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(uids: &[u32], gids: &[u32], mode: Option<&str>) -> Result<Access, String> {
        Access::of(&WorkloadApi {
            socket: String::new(),
            uids: uids.to_vec(),
            gids: gids.to_vec(),
            mode: mode.map(str::to_owned),
        })
    }

    #[test]
    fn the_socket_is_open_to_others_only_where_the_kernel_is_asked() {
        let mode = |uids: &[u32], gids: &[u32], mode| access(uids, gids, mode).unwrap().mode;
        assert_eq!(mode(&[], &[], None), 0o660);
        assert_eq!(mode(&[1000], &[], None), 0o666);
        assert_eq!(mode(&[], &[1000], None), 0o666);
        assert_eq!(mode(&[1000], &[], Some("0600")), 0o600);
        for wrong in ["", "rw", "+600", "0800", "1000", "07777", "-1"] {
            assert!(access(&[], &[], Some(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn users_and_groups_are_let_in_by_either() {
        let listed = access(&[1000, 1001], &[2000], None).unwrap();
        assert!(listed.admits(1000, 0) && listed.admits(1001, 9) && listed.admits(0, 2000));
        assert!(!listed.admits(0, 0) && !listed.admits(2000, 1000));
        assert!(access(&[], &[], None).unwrap().admits(7, 7));
    }
}
