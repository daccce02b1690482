//! ACME for tests: pebble as the directory, and a DNS server that knows every name as 127.0.0.1.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use crate::{PATIENCE, TestCa};

/// How pebble is started.
#[derive(Debug, Clone, Copy, Default)]
pub struct Setup {
    /// Ports at which it looks for challenges.
    pub http: u16,
    /// See `http`.
    pub tls: u16,
    /// Life of certificates, in seconds; 0 is five years.
    pub life: u64,
    /// Share of good nonces that it refuses, in percent.
    pub bad_nonces: u8,
    /// Accounts must be bound to this key.
    pub external: Option<(&'static str, &'static str)>,
}

/// A pebble that does not run yet: its address and its CA are known already.
pub struct Prepared {
    dir: TempDir,
    address: SocketAddr,
    management: SocketAddr,
    tls: Arc<ClientConfig>,
    setup: Setup,
}

/// A running pebble. It forgets everything with its end, but for its ports and its CA.
pub struct Pebble {
    child: Child,
    place: Prepared,
}

/// A port for whoever is told of it: held, but not listened on, to the end of the process, so that
/// the system gives it to nobody else. Who listens there must allow addresses to be used again, as
/// the gateway and pebble do.
#[must_use]
pub fn free_port() -> u16 {
    static HELD: Mutex<Vec<Socket>> = Mutex::new(Vec::new());
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).unwrap();
    // Not before: the system may share a port out where everybody is willing.
    socket.set_reuse_address(true).unwrap();
    let port = socket.local_addr().unwrap().as_socket().unwrap().port();
    HELD.lock().unwrap().push(socket);
    port
}

impl Prepared {
    /// Chooses ports and makes a CA.
    #[must_use]
    pub fn new(setup: Setup) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = TestCa::new();
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let management = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let leaf = ca.leaf(vec![
            rcgen::SanType::IpAddress(address.ip()),
            rcgen::SanType::DnsName("localhost".try_into().unwrap()),
        ]);
        let (certificate, key) = leaf.write(dir.path(), "pebble");
        std::fs::write(dir.path().join("ca.pem"), ca.bundle()).unwrap();
        let mut pebble = serde_json::json!({
            "listenAddress": address.to_string(),
            "managementListenAddress": management.to_string(),
            "certificate": certificate,
            "privateKey": key,
            "httpPort": setup.http,
            "tlsPort": setup.tls,
            "externalAccountBindingRequired": setup.external.is_some(),
        });
        if setup.life > 0 {
            pebble["certificateValidityPeriod"] = setup.life.into();
        }
        if let Some((id, key)) = setup.external {
            pebble["externalAccountMACKeys"] = serde_json::json!({ id: key });
        }
        let text = serde_json::json!({ "pebble": pebble }).to_string();
        std::fs::write(dir.path().join("pebble.json"), text).unwrap();
        Self {
            tls: client_tls(&[ca.bundle()]),
            dir,
            address,
            management,
            setup,
        }
    }

    /// Starts it with a DNS server of its own, and waits until it answers.
    ///
    /// # Panics
    /// Where the package `pebble` is not installed: what is not tested may not look green.
    #[must_use]
    pub fn start(self) -> Pebble {
        let log = std::fs::File::create(self.dir.path().join("log")).unwrap();
        let child = Command::new("pebble")
            .arg("-config")
            .arg(self.dir.path().join("pebble.json"))
            .args(["-dnsserver", &every_name_is_here().to_string()])
            .env("PEBBLE_VA_NOSLEEP", "1")
            .env("PEBBLE_WFE_NONCEREJECT", self.setup.bad_nonces.to_string())
            .env("PEBBLE_AUTHZREUSE", "0")
            .stdin(Stdio::null())
            .stderr(log.try_clone().unwrap())
            .stdout(log)
            .spawn()
            .expect("`pebble` runs: install the Debian package `pebble`");
        let this = Pebble { child, place: self };
        let deadline = Instant::now() + PATIENCE;
        for address in [this.place.management, this.place.address] {
            while TcpStream::connect(address).is_err() {
                assert!(Instant::now() < deadline, "pebble: {}", this.log());
                std::thread::yield_now();
            }
        }
        this
    }

    /// Address of its directory.
    #[must_use]
    pub fn directory(&self) -> String {
        format!("https://{}/dir", self.address)
    }

    /// The CA that its own TLS is verified by.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }
}

impl Pebble {
    /// Prepares and starts it.
    #[must_use]
    pub fn start(setup: Setup) -> Self {
        Prepared::new(setup).start()
    }

    /// Ends it and starts another in its place, with nothing in its memory.
    #[must_use]
    pub fn again(mut self) -> Self {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let nothing = Prepared::new(self.place.setup);
        std::mem::replace(&mut self.place, nothing).start()
    }

    /// Address of its directory.
    #[must_use]
    pub fn directory(&self) -> String {
        self.place.directory()
    }

    /// The CA that its own TLS is verified by.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.place.ca()
    }

    /// The root of what it issues, in a file.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        let request = "GET /roots/0 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let answer = ask(self.place.management, &self.place.tls, request.as_bytes());
        let file = self.place.dir.path().join("root.pem");
        std::fs::write(&file, body_of(&answer)).unwrap();
        file
    }

    /// What it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.place.dir.path().join("log")).unwrap()
    }

    /// How many certificates it has issued.
    #[must_use]
    pub fn issued(&self) -> usize {
        self.log().matches("Issued certificate serial").count()
    }

    /// Where it is, and how to trust it there.
    #[must_use]
    pub fn reached(&self) -> (SocketAddr, Arc<ClientConfig>) {
        (self.place.address, self.place.tls.clone())
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of pebble\n{}", self.log());
        }
    }
}

/// A DNS server that answers A with 127.0.0.1 and everything else with nothing, for the rest of the
/// test.
fn every_name_is_here() -> SocketAddr {
    let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, peer)) = socket.recv_from(&mut query) {
            if let Some(answer) = here(&query[..length]) {
                let _ = socket.send_to(&answer, peer);
            }
        }
    });
    address
}

/// The answer to a query with one question (RFC 1035 section 4).
fn here(query: &[u8]) -> Option<Vec<u8>> {
    let name = query.get(12..)?.iter().position(|b| *b == 0)?;
    let question = query.get(12..12 + name + 5)?;
    let is_a = question.ends_with(&[0, 1, 0, 1]);
    let mut answer = query.get(..2)?.to_vec();
    // A response, authoritative, recursion as asked and available; counts.
    answer.extend([0x85, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
    answer.extend(question);
    if is_a {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
    }
    Some(answer)
}

/// A client that trusts these PEM certificates.
#[must_use]
pub fn client_tls(roots: &[String]) -> Arc<ClientConfig> {
    let mut store = RootCertStore::empty();
    for root in roots {
        for certificate in CertificateDer::pem_slice_iter(root.as_bytes()) {
            store.add(certificate.unwrap()).unwrap();
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(store)
        .with_no_client_auth();
    Arc::new(config)
}

/// Sends bytes over TLS and reads what comes until the end.
///
/// # Panics
/// When there is no connection.
#[must_use]
pub fn ask(address: SocketAddr, tls: &Arc<ClientConfig>, request: &[u8]) -> Vec<u8> {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let name = ServerName::IpAddress(address.ip().into());
    let session = ClientConnection::new(tls.clone(), name).unwrap();
    let mut stream = StreamOwned::new(session, stream);
    stream.write_all(request).unwrap();
    let mut answer = Vec::new();
    // Go ends without a word, which is an error to TLS.
    let _ = stream.read_to_end(&mut answer);
    answer
}

/// What stands behind the head; chunks are put together.
#[must_use]
pub fn body_of(answer: &[u8]) -> Vec<u8> {
    let at = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    let (head, mut rest) = (&answer[..at], &answer[at + 4..]);
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    if !head.contains("transfer-encoding: chunked") {
        return rest.to_vec();
    }
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|w| w == b"\r\n").unwrap();
        let size = usize::from_str_radix(&String::from_utf8_lossy(&rest[..end]), 16).unwrap();
        if size == 0 {
            return body;
        }
        body.extend(&rest[end + 2..end + 2 + size]);
        rest = &rest[end + 4 + size..];
    }
}

/// What openssl says of the certificate shown at `address` for `name`, checked against `root`.
///
/// # Panics
/// When openssl does not run.
#[must_use]
pub fn s_client(address: SocketAddr, name: &str, root: &Path, more: &[&str]) -> String {
    let output = Command::new("openssl")
        .args([
            "s_client",
            "-connect",
            &address.to_string(),
            "-servername",
            name,
        ])
        .args(["-verify_hostname", name, "-showcerts", "-CAfile"])
        .arg(root)
        .args(more)
        .stdin(Stdio::null())
        .output()
        .expect("openssl runs");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}
