//! What a pod is, without a cluster: a namespace with rules of redirection, a sidecar in it as the user
//! that they let by, and applications that know of neither.

use std::fs::{Permissions, set_permissions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tempfile::TempDir;

use crate::netns::{Namespace, run};
use crate::process::binary;
use crate::{PATIENCE, Selvedge, TestCa};

/// User of the applications.
pub const APP: u32 = 1000;
/// User of the sidecar, as the rules have it.
pub const PROXY: u32 = 1337;

/// See the module.
pub struct Pod {
    /// Its network.
    pub net: Namespace,
    config: String,
    sidecar: Option<Selvedge>,
}

impl Pod {
    /// A sidecar with this identity and configuration; rules are put in force by [`Pod::redirect`].
    #[must_use]
    pub fn new(net: Namespace, ca: &TestCa, id: &str, config: &str) -> Self {
        Self::run_by(PROXY, net, ca, id, config)
    }

    /// The same with the sidecar run by another user.
    #[must_use]
    pub fn run_by(user: u32, net: Namespace, ca: &TestCa, id: &str, config: &str) -> Self {
        let leaf = ca.svid(id);
        let identity = "identity: { trustDomain: shop.local, bundle: $DIR/bundle.pem, \
             certificate: $DIR/own.pem, key: $DIR/own.key }\n\
             telemetry: { accessLog: { path: $DIR/access.log, format: text } }\n";
        let mut pod = Self {
            net,
            config: format!("{identity}{config}"),
            sidecar: None,
        };
        let dir = open_dir();
        let _ = leaf.write(dir.path(), "own");
        std::fs::write(dir.path().join("bundle.pem"), ca.bundle()).unwrap();
        pod.start(user, dir);
        pod
    }

    fn start(&mut self, user: u32, dir: TempDir) {
        let place = dir.path().display().to_string();
        let file = dir.path().join("config.yaml");
        std::fs::write(&file, self.config.replace("$DIR", &place)).unwrap();
        let program = reachable(user, dir.path());
        let mut command = self.net.command_of(user, program);
        command
            .args(["sidecar", "--workers", "2", "--config"])
            .arg(file);
        self.sidecar = Some(Selvedge::spawn(command, dir, &["admin", "health"]));
    }

    /// Puts rules in force.
    pub fn redirect(&self, arguments: &[&str]) {
        run(self.net.command(binary()).arg("redirect").args(arguments));
    }

    /// The sidecar.
    #[must_use]
    pub fn sidecar(&self) -> &Selvedge {
        self.sidecar.as_ref().unwrap()
    }

    /// Ends the sidecar in an orderly way; gives its directory.
    pub fn stop(&mut self) -> TempDir {
        let mut sidecar = self.sidecar.take().unwrap();
        sidecar.signal("TERM");
        assert!(sidecar.wait().success());
        let dir = open_dir();
        for file in ["own.pem", "own.key", "bundle.pem"] {
            std::fs::copy(sidecar.dir().join(file), dir.path().join(file)).unwrap();
        }
        dir
    }

    /// Starts it anew, in a directory that [`Pod::stop`] gave.
    pub fn start_again(&mut self, dir: TempDir) {
        self.start(PROXY, dir);
    }

    /// Waits until the access log has a line with all of this.
    pub fn wait_for_line(&self, parts: &[&str]) -> String {
        wait_for_line(&self.sidecar().dir().join("access.log"), parts)
    }

    /// A directory that its applications may write to.
    #[must_use]
    pub fn open_dir(&self) -> TempDir {
        open_dir()
    }

    /// A gateway as an application, with a listener that is called `app`.
    #[must_use]
    pub fn application(&self, user: u32, dir: TempDir, config: &str) -> Selvedge {
        let file = dir.path().join("config.yaml");
        std::fs::write(&file, config).unwrap();
        let mut command = self.net.command_of(user, reachable(user, dir.path()));
        command
            .args(["gateway", "--workers", "1", "--config"])
            .arg(file);
        Selvedge::spawn(command, dir, &["app"])
    }
}

/// Waits until a log has a line with all of this.
///
/// # Panics
/// When it has none within [`PATIENCE`].
pub fn wait_for_line(file: &Path, parts: &[&str]) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let log = std::fs::read_to_string(file).unwrap_or_default();
        let found = log
            .lines()
            .find(|line| parts.iter().all(|p| line.contains(p)));
        if let Some(line) = found {
            return line.to_owned();
        }
        assert!(Instant::now() < deadline, "no {parts:?} in:\n{log}");
        std::thread::yield_now();
    }
}

impl Pod {
    /// What an application asks by curl, which knows of no proxy; gives its exit code and the answer.
    #[must_use]
    pub fn curl(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let mut curl = self.net.command_of(APP, "curl");
        curl.args([
            "--silent",
            "--show-error",
            "--max-time",
            "20",
            "--noproxy",
            "*",
        ]);
        let output = curl.args(arguments).output().unwrap();
        let both = [&output.stdout[..], &output.stderr[..]].concat();
        (
            output.status.code(),
            String::from_utf8_lossy(&both).into_owned(),
        )
    }

    /// An application's listener on a port of every address.
    #[must_use]
    pub fn listen(&self, port: u16) -> TcpListener {
        let any = SocketAddr::from(([0u16; 8], port));
        self.net.inside(APP, || TcpListener::bind(any).unwrap())
    }

    /// An application's connection.
    #[must_use]
    pub fn connect(&self, to: &str) -> TcpStream {
        let to: SocketAddr = to.parse().unwrap();
        let stream = self
            .net
            .inside(APP, || TcpStream::connect_timeout(&to, PATIENCE).unwrap());
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Serves a port with an application that answers with who called, and with the head it was sent.
    pub fn serve_http(&self, port: u16) {
        serve(self.listen(port), |mut stream| {
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") {
                if stream.read(&mut byte).unwrap_or(0) == 0 {
                    return;
                }
                head.push(byte[0]);
            }
            let peer = stream.peer_addr().unwrap().ip().to_canonical();
            let body = format!("peer={peer}\n{}", String::from_utf8_lossy(&head));
            let length = body.len();
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
            );
        });
    }
}

/// Serves each connection on a thread of its own; they end with the process.
pub fn serve(listener: TcpListener, script: impl Fn(TcpStream) + Send + Sync + 'static) {
    let script = Arc::new(script);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.set_read_timeout(Some(PATIENCE));
            let script = script.clone();
            std::thread::spawn(move || script(stream));
        }
    });
}

/// A directory that every user may write to.
#[must_use]
pub fn open_dir() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
    dir
}

/// The binary where this user can run it: the place it was built in may be closed to others.
#[must_use]
pub fn reachable(user: u32, dir: &Path) -> PathBuf {
    let user = user.to_string();
    let mut test = std::process::Command::new("setpriv");
    test.args([
        "--reuid",
        &user,
        "--regid",
        &user,
        "--clear-groups",
        "test",
        "-x",
    ]);
    if test.arg(binary()).status().unwrap().success() {
        return binary().to_owned();
    }
    let copy = dir.join("selvedge");
    std::fs::copy(binary(), &copy).unwrap();
    copy
}

/// Listens to the wires of a namespace, its loopback left out.
pub struct Wire {
    seen: Arc<Mutex<Vec<u8>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// `ETH_P_ALL`, in the order of the network.
const EVERYTHING: i32 = 0x0003_u16.to_be() as i32;

impl Wire {
    /// Begins.
    #[must_use]
    pub fn tap(net: &Namespace) -> Self {
        let every = Some(Protocol::from(EVERYTHING));
        let mut socket = net.inside(0, || Socket::new(Domain::PACKET, Type::RAW, every).unwrap());
        socket
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        let (seen, stop) = (
            Arc::new(Mutex::new(Vec::new())),
            Arc::new(AtomicBool::new(false)),
        );
        let (kept, stopped) = (seen.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let mut frame = vec![0; 128 << 10];
            while !stopped.load(Ordering::Relaxed) {
                let Ok(n) = socket.read(&mut frame) else {
                    continue;
                };
                // Frames of loopback come from nobody to nobody.
                if frame[..12] != [0; 12] {
                    kept.lock().unwrap().extend_from_slice(&frame[..n]);
                }
            }
        });
        Self {
            seen,
            stop,
            thread: Some(thread),
        }
    }

    /// Whether these bytes have gone over a wire.
    #[must_use]
    pub fn has(&self, what: &[u8]) -> bool {
        self.seen
            .lock()
            .unwrap()
            .windows(what.len())
            .any(|w| w == what)
    }

    /// Waits until they have.
    pub fn wait_for(&self, what: &[u8]) {
        let deadline = Instant::now() + PATIENCE;
        while !self.has(what) {
            assert!(Instant::now() < deadline, "never on the wire");
            std::thread::yield_now();
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
