//! Network namespaces: machines of a test with addresses and rules of their own, on one kernel.
//! Needs root, `ip`, and whatever else a test runs in them; what is missing fails the test.

use std::ffi::OsStr;
use std::fs::File;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fd::AsFd;
use rustix::process::{Gid, Uid};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};

/// See the module. Removed when dropped; what still runs in it keeps it alive without its name.
pub struct Namespace {
    name: String,
}

/// Runs a command to its end and gives what it printed; it must succeed.
///
/// # Panics
/// With what it said, when it does not.
pub fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Namespace {
    /// A new one with nothing but loopback.
    #[must_use]
    #[expect(
        clippy::new_without_default,
        reason = "a fresh namespace is no default of anything"
    )]
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("selvedge-{}-{number}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]));
        let this = Self { name };
        this.ip("link set lo up");
        this
    }

    /// Two, each with an end of one wire, called `eth0`: `10.7.0.1` and `fd07::1` on one side, `.2` on
    /// the other, which is also the way to everywhere else.
    #[must_use]
    pub fn pair() -> (Self, Self) {
        let (a, b) = (Self::new(), Self::new());
        let wire = ["link", "add", "eth0", "netns", &a.name, "type", "veth"];
        let other = ["peer", "name", "eth0", "netns", &b.name];
        run(Command::new("ip").args(wire).args(other));
        for (this, own, other) in [(&a, 1, 2), (&b, 2, 1)] {
            this.ip(&format!("addr add 10.7.0.{own}/24 dev eth0"));
            // Without a look for others that have the address: it can be used at once.
            this.ip(&format!("addr add fd07::{own}/64 dev eth0 nodad"));
            this.ip("link set eth0 up");
            this.ip(&format!("route add default via 10.7.0.{other}"));
            this.ip(&format!("-6 route add default via fd07::{other}"));
        }
        (a, b)
    }

    /// What runs in it by [`Namespace::command`] asks this server for names.
    pub fn resolve_by(&self, server: &str) {
        let place = self.names();
        std::fs::create_dir_all(&place).unwrap();
        let file = format!("{place}/resolv.conf");
        std::fs::write(file, format!("nameserver {server}\n")).unwrap();
    }

    /// Files that `ip` puts in the place of those of `/etc`.
    fn names(&self) -> String {
        format!("/etc/netns/{}", self.name)
    }

    /// Runs `ip` on it.
    pub fn ip(&self, arguments: &str) {
        let words = arguments.split_whitespace();
        run(Command::new("ip").args(["-n", &self.name]).args(words));
    }

    /// A command that runs in it, as root.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// A command that runs in it as this user and group, without a single capability.
    #[must_use]
    pub fn command_of(&self, user: u32, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.command("setpriv");
        let user = user.to_string();
        command.args(["--reuid", &user, "--regid", &user, "--clear-groups"]);
        command.args(["--inh-caps=-all", "--no-new-privs", "--"]);
        command.arg(program);
        command
    }

    /// Does something in it as this user, on a thread of its own. Sockets stay where they were made.
    pub fn inside<T: Send>(&self, user: u32, work: impl FnOnce() -> T + Send) -> T {
        let place = File::open(format!("/run/netns/{}", self.name)).unwrap();
        let enter = move || {
            let net = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(place.as_fd(), net).unwrap();
            if user != 0 {
                set_thread_groups(&[]).unwrap();
                set_thread_gid(Gid::from_raw(user)).unwrap();
                set_thread_uid(Uid::from_raw(user)).unwrap();
            }
            work()
        };
        std::thread::scope(|scope| {
            let done = scope.spawn(enter).join();
            done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.names());
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .status();
    }
}
