//! The binary under test, started with a configuration and found by what it logs.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::PATIENCE;
use crate::netns::Namespace;
use crate::secrets::secret_in;

/// A running process. Killed when dropped.
pub struct Selvedge {
    child: Child,
    dir: TempDir,
    ports: HashMap<String, SocketAddr>,
    log: Arc<Mutex<Vec<String>>>,
    lines: Receiver<String>,
}

/// A gateway with this configuration. `admin` and `health` are opened unless the text says else.
#[must_use]
pub fn gateway(config: &str) -> Selvedge {
    Selvedge::start("gateway", config)
}

/// A sidecar with this configuration.
#[must_use]
pub fn sidecar(config: &str) -> Selvedge {
    Selvedge::start("sidecar", config)
}

/// Where the binary is; built first, so that no test runs against an old one. `SELVEDGE_BINARY` names
/// another, to be measured.
#[must_use]
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(other) = std::env::var_os("SELVEDGE_BINARY") {
            return PathBuf::from(other);
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "-p", "selvedge", "--bin", "selvedge"])
            .current_dir(root)
            .status()
            .unwrap();
        assert!(built.success(), "the binary does not build");
        let deps = std::env::current_exe().unwrap();
        deps.parent().unwrap().parent().unwrap().join("selvedge")
    })
}

impl Selvedge {
    /// Starts with `mode` and waits until everything the configuration asks for listens.
    #[must_use]
    pub fn start(mode: &str, config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::start_in(dir, mode, config, 1)
    }

    /// The same in a directory that the test has filled, with this many workers.
    #[must_use]
    pub fn start_in(dir: TempDir, mode: &str, config: &str, workers: usize) -> Self {
        let file = dir.path().join("config.yaml");
        let mut text = config.replace("$DIR", &dir.path().display().to_string());
        if !text.contains("\nadmin:") {
            text.push_str("\nadmin: { bind: \"127.0.0.1:0\", health: \"127.0.0.1:0\" }\n");
        }
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(binary());
        command.arg(mode).arg("--config").arg(&file).args([
            "--workers",
            &workers.to_string(),
            "--log",
            "info",
        ]);
        Self::spawn(command, dir, &["admin", "health"])
    }

    /// A gateway with one worker on another machine of a test, whose configuration says where its admin is.
    #[must_use]
    pub fn gateway_in(place: &Namespace, config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.yaml");
        std::fs::write(&file, config).unwrap();
        let mut command = place.command(binary());
        command.arg("gateway").arg("--config").arg(&file);
        command.args(["--workers", "1", "--log", "info"]);
        Self::spawn(command, dir, &["web", "admin", "health"])
    }

    /// Changes the configuration that it was started with, and waits until that is in force.
    ///
    /// # Panics
    /// When it is not within [`PATIENCE`].
    pub fn reload(&self, change: impl FnOnce(String) -> String) {
        let file = self.dir().join("config.yaml");
        let generation = || self.metric("selvedge_config_generation", &[]);
        let before = generation();
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, change(text)).unwrap();
        let deadline = Instant::now() + PATIENCE;
        while generation() <= before {
            assert!(Instant::now() < deadline, "no reload");
        }
    }

    /// Runs any command of the binary and waits until `wanted` are listening.
    #[must_use]
    pub fn spawn(mut command: Command, dir: TempDir, wanted: &[&str]) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (sender, lines) = channel();
        let err = child.stderr.take().unwrap();
        let out = child.stdout.take().unwrap();
        for pipe in [
            Box::new(err) as Box<dyn std::io::Read + Send>,
            Box::new(out),
        ] {
            let (sender, log) = (sender.clone(), log.clone());
            std::thread::spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    log.lock().unwrap().push(line.clone());
                    let _ = sender.send(line);
                }
            });
        }
        let mut this = Self {
            child,
            dir,
            ports: HashMap::new(),
            log,
            lines,
        };
        let deadline = Instant::now() + PATIENCE;
        while !wanted.iter().all(|name| this.ports.contains_key(*name)) {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = this.lines.recv_timeout(left) else {
                panic!("did not start:\n{}", this.log().join("\n"));
            };
            this.note(&line);
        }
        this
    }

    fn note(&mut self, line: &str) {
        let word = |key: &str| {
            let rest = line.split_once(key)?.1;
            Some(rest.split_whitespace().next().unwrap_or("").to_owned())
        };
        let Some(address) = word("address=").and_then(|a| a.parse().ok()) else {
            return;
        };
        let name = word("listener=").or_else(|| {
            [
                "admin",
                "health of the CA",
                "health",
                "certificate authority",
                "webhook",
            ]
            .into_iter()
            .find(|name| line.contains(&format!(" {name} ")))
            .map(str::to_owned)
        });
        if let Some(name) = name {
            let name = name.strip_suffix(" of the CA").unwrap_or(&name).to_owned();
            self.ports.insert(name, address);
        }
    }

    /// Address of a listener, of `admin` or of `health`.
    #[must_use]
    pub fn address(&self, name: &str) -> SocketAddr {
        *self
            .ports
            .get(name)
            .unwrap_or_else(|| panic!("`{name}` does not listen:\n{}", self.log().join("\n")))
    }

    /// Its directory; `config.yaml` is in it.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Its process ID.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its memory, in bytes.
    #[must_use]
    pub fn resident(&self) -> usize {
        kilobytes(&format!("/proc/{}/smaps_rollup", self.pid()), "Rss:")
    }

    /// What of it is its own, and no page of a program that all processes of it share, in bytes.
    #[must_use]
    pub fn own_memory(&self) -> usize {
        kilobytes(&format!("/proc/{}/smaps_rollup", self.pid()), "Anonymous:")
    }

    /// The most it ever was.
    #[must_use]
    pub fn peak(&self) -> usize {
        kilobytes(&format!("/proc/{}/status", self.pid()), "VmHWM:")
    }

    /// Time of processors that it has used.
    #[must_use]
    pub fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // Behind the name: state, 10 more, then user and system time in hundredths of a second.
        let (_, rest) = stat.rsplit_once(')').unwrap();
        let times = rest.split_whitespace().skip(11).take(2);
        let hundredths: u64 = times.map(|t| t.parse::<u64>().unwrap()).sum();
        Duration::from_millis(10 * hundredths)
    }

    /// What it has logged so far.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// Waits for a line that holds this text.
    pub fn wait_for(&mut self, text: &str) -> String {
        if let Some(line) = self.log().into_iter().find(|line| line.contains(text)) {
            return line;
        }
        self.wait_for_next(text)
    }

    /// Waits for the next line that holds this text, from now on.
    pub fn wait_for_next(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("no line with `{text}`:\n{}", self.log().join("\n"));
            };
            self.note(&line);
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Waits until a line of the log holds this, whether it was read before or not.
    pub fn wait_for_log(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.log().iter().any(|line| line.contains(text)) {
            assert!(Instant::now() < deadline, "no `{text}` in the log");
            std::thread::yield_now();
        }
    }

    /// Forgets lines that were not waited for.
    pub fn skip_log(&mut self) {
        while let Ok(line) = self.lines.try_recv() {
            self.note(&line);
        }
    }

    /// Sends a signal by name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([&format!("-{name}"), &self.pid().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE * 2;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "does not end");
            // Its pipes close with it: that is what is waited for.
            let _ = self
                .lines
                .recv_timeout(std::time::Duration::from_millis(20));
        }
    }

    /// A GET to health or admin; gives status and body.
    #[must_use]
    pub fn get(&self, what: &str, path: &str) -> (u16, String) {
        let mut raw = crate::Raw::connect(self.address(what));
        raw.send(format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        ));
        let reply = raw.reply();
        let said = String::from_utf8_lossy(&reply.body).into_owned();
        assert_eq!(secret_in(&said), None, "in what {what} says of {path}");
        (reply.status, said)
    }

    /// What it says of itself: whatever a test has brought it to remember, none of it is a secret.
    fn dumps(&self) -> Vec<(String, String)> {
        let paths = [
            ("admin", "/config"),
            ("admin", "/endpoints"),
            ("admin", "/certificates"),
            ("admin", "/mirrors"),
            ("health", "/metrics"),
        ];
        let mut said = Vec::new();
        for (what, path) in paths {
            let Some(address) = self.ports.get(what) else {
                continue;
            };
            let Ok(mut stream) = TcpStream::connect(address) else {
                continue;
            };
            let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
            let request =
                format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            let mut text = Vec::new();
            if stream.write_all(request.as_bytes()).is_ok() {
                let _ = stream.read_to_end(&mut text);
            }
            said.push((path.to_owned(), String::from_utf8_lossy(&text).into_owned()));
        }
        said
    }

    /// Waits until a metric has this value: it is counted a moment after the client has its answer.
    ///
    /// # Panics
    /// When it has not within [`PATIENCE`].
    pub fn wait_for_metric(&self, name: &str, labels: &[&str], value: f64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = self.metric(name, labels);
            // A file is written in more than one step, and each may be seen.
            let past = name == "selvedge_config_reloads_total" && now > value;
            if past || (now - value).abs() < 0.5 {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{name} {labels:?}: {now} instead of {value}"
            );
        }
    }

    /// The value of a metric with these labels in its line, summed over series; 0 where none is.
    #[must_use]
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let (_, text) = self.get("health", "/metrics");
        text.lines()
            .filter(|line| line.starts_with(name) && labels.iter().all(|l| line.contains(l)))
            .filter(|line| {
                let rest = line.strip_prefix(name).unwrap();
                rest.starts_with(['{', ' '])
            })
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }
}

impl Drop for Selvedge {
    fn drop(&mut self) {
        let panicking = std::thread::panicking();
        let dumps = match panicking {
            true => Vec::new(),
            false => self.dumps(),
        };
        let _ = self.child.kill();
        let _ = self.child.wait();
        let log = self.log().join("\n");
        if panicking {
            eprintln!("--- log of {}\n{log}", self.pid());
            return;
        }
        // Goal G18, by every test that starts a process.
        assert_eq!(secret_in(&log), None, "in the log");
        for (path, said) in dumps {
            assert_eq!(secret_in(&said), None, "in {path}");
        }
    }
}

fn kilobytes(file: &str, name: &str) -> usize {
    let text = std::fs::read_to_string(file).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .unwrap();
    let number = line.trim().trim_end_matches(" kB").trim();
    number.parse::<usize>().unwrap() * 1024
}
