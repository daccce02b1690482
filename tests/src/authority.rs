//! A CA process with its directory, and what joins its mesh.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::process::{Selvedge, binary};

/// What the CA's own line in its log is called.
const WHAT: &str = "certificate authority";

/// See the module.
pub struct CaProcess {
    keys: PathBuf,
    _dir: Option<TempDir>,
    more: Vec<String>,
    address: SocketAddr,
    process: Selvedge,
}

/// Runs the binary; gives whether it went well, and all that it said.
#[must_use]
pub fn run(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(binary()).args(arguments).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    (output.status.success(), said)
}

/// The same, where it has to go well.
#[must_use]
pub fn say(arguments: &[&str]) -> String {
    let (well, said) = run(arguments);
    assert!(well, "{arguments:?}: {said}");
    said
}

impl CaProcess {
    /// One for `shop.local`, with these arguments besides the necessary ones.
    #[must_use]
    pub fn start(more: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut this = Self::start_at(dir.path().join("ca"), more);
        this._dir = Some(dir);
        this
    }

    /// The same in a directory that is there.
    #[must_use]
    pub fn start_at(keys: PathBuf, more: &[&str]) -> Self {
        Self::start_by(Command::new(binary()), keys, more)
    }

    /// The same, begun by this command: the product, or what runs it.
    #[must_use]
    pub fn start_by(command: Command, keys: PathBuf, more: &[&str]) -> Self {
        let more: Vec<_> = more.iter().map(|argument| (*argument).to_owned()).collect();
        let process = spawn_by(command, &keys, &more, SocketAddr::from(([127, 0, 0, 1], 0)));
        let address = process.address(WHAT);
        Self {
            keys,
            _dir: None,
            more,
            address,
            process,
        }
    }

    /// Ends the process at once, as a crash does, and starts another where it was.
    pub fn crash(&mut self) {
        self.process.signal("KILL");
        self.process.wait();
        self.process = spawn(&self.keys(), &self.more, self.address);
    }

    /// The same with all that it had: another CA is in its place then.
    pub fn lose(&mut self) {
        self.process.signal("KILL");
        self.process.wait();
        std::fs::remove_dir_all(self.keys()).unwrap();
        self.process = spawn(&self.keys(), &self.more, self.address);
    }

    /// Starts another where [`Self::kill`] has ended one.
    pub fn start_again(&mut self) {
        self.process = spawn(&self.keys(), &self.more, self.address);
    }

    /// Ends the process at once, until [`Self::start_again`].
    pub fn kill(&mut self) {
        self.process.signal("KILL");
        self.process.wait();
    }

    /// Its directory.
    #[must_use]
    pub fn keys(&self) -> PathBuf {
        self.keys.clone()
    }

    /// Where it listens; the same after a crash.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The process.
    #[must_use]
    pub fn process(&self) -> &Selvedge {
        &self.process
    }

    /// The process, to wait for what it logs.
    pub fn process_mut(&mut self) -> &mut Selvedge {
        &mut self.process
    }

    /// The roots that are trusted now.
    #[must_use]
    pub fn bundle(&self) -> String {
        say(&["ca", "bundle", "--dir", &self.keys().display().to_string()])
    }

    /// A join token.
    #[must_use]
    pub fn token(&self, id: &str) -> String {
        let keys = self.keys().display().to_string();
        let token = say(&["ca", "token", "--dir", &keys, "--id", id]);
        token.trim().to_owned()
    }

    /// `selvedge ca rotate`; gives whether it went well, and what it said.
    #[must_use]
    pub fn rotate(&self, arguments: &[&str]) -> (bool, String) {
        let keys = self.keys().display().to_string();
        run(&[&["ca", "rotate", "--dir", &keys], arguments].concat())
    }

    /// A proxy that joins by the token of its service account instead, which is good again and again.
    #[must_use]
    pub fn identity_by(&self, dir: &Path, token: &str, more: &str) -> String {
        std::fs::write(dir.join("bundle.pem"), self.bundle()).unwrap();
        std::fs::write(dir.join("token"), token).unwrap();
        let address = self.address;
        format!(
            "identity: {{ trustDomain: shop.local, ca: \"https://{address}\", bundle: $DIR/bundle.pem, token: $DIR/token{more} }}\n"
        )
    }

    /// One step of a rotation, which has to be taken.
    pub fn step(&self, step: &str) {
        let (well, said) = self.rotate(&["--step", step]);
        assert!(well, "{step}: {said}");
    }

    /// What `selvedge ca status` says.
    #[must_use]
    pub fn status(&self) -> serde_json::Value {
        let keys = self.keys().display().to_string();
        let said = say(&["ca", "status", "--dir", &keys, "--format", "json"]);
        serde_json::from_str(&said).unwrap()
    }

    /// The `identity` section of a proxy that joins with a fresh token, whose files are in `dir`.
    #[must_use]
    pub fn identity(&self, dir: &Path, id: &str, more: &str) -> String {
        self.identity_by(dir, &self.token(id), more)
    }

    /// A sidecar with this identity and the rest of its configuration, with its certificate.
    #[must_use]
    pub fn sidecar(&self, id: &str, more: &str, config: &str) -> Selvedge {
        let dir = tempfile::tempdir().unwrap();
        let config = self.identity(dir.path(), id, more) + config;
        let mut sidecar = Selvedge::start_in(dir, "sidecar", &config, 1);
        sidecar.wait_for("certificate obtained");
        sidecar
    }
}

fn spawn(keys: &Path, more: &[String], bind: SocketAddr) -> Selvedge {
    spawn_by(Command::new(binary()), keys, more, bind)
}

fn spawn_by(mut command: Command, keys: &Path, more: &[String], bind: SocketAddr) -> Selvedge {
    command.args(["ca", "--trust-domain", "shop.local", "--dir"]);
    command.arg(keys).arg("--bind").arg(bind.to_string());
    command.args(more);
    Selvedge::spawn(command, tempfile::tempdir().unwrap(), &[WHAT])
}
