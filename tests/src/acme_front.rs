//! A front before pebble that counts, adds renewal windows, and misbehaves as told.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::{ClientConfig, ServerConfig, StreamOwned};
use tempfile::TempDir;

use crate::TestCa;
use crate::acme::{Pebble, ask, body_of};

/// One request to the front: head and body.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Method and path.
    pub line: String,
    /// All of it.
    pub bytes: Vec<u8>,
    /// The payload of a signed request.
    pub payload: serde_json::Value,
}

/// What a front does with a request: its own answer, or `None` to pass it on.
pub type Judge = dyn Fn(&Asked) -> Option<Vec<u8>> + Send + Sync;
/// What it does to an answer that comes back.
pub type Edit = dyn Fn(&Asked, serde_json::Value) -> serde_json::Value + Send + Sync;

/// A directory before pebble. Its certificate is of a CA of its own, `ca.pem` in its directory.
pub struct Front {
    dir: TempDir,
    address: SocketAddr,
}

impl Front {
    /// Passes on what `judge` does not answer, and lets `edit` change what is JSON.
    #[must_use]
    pub fn start(pebble: Option<&Pebble>, judge: Box<Judge>, edit: Box<Edit>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = TestCa::new();
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let leaf = ca.leaf(vec![rcgen::SanType::IpAddress(address.ip())]);
        std::fs::write(dir.path().join("ca.pem"), ca.bundle()).unwrap();
        let chain = CertificateDer::from_pem_slice(leaf.certificate.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![chain], key)
            .unwrap();
        let behind = pebble.map(Pebble::reached);
        let parts = Arc::new((Arc::new(config), behind, judge, edit));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let parts = parts.clone();
                std::thread::spawn(move || {
                    let (config, behind, judge, edit) = &*parts;
                    let session = rustls::ServerConnection::new(config.clone()).unwrap();
                    let mut stream = StreamOwned::new(session, stream);
                    let Some(asked) = read_request(&mut stream) else {
                        return;
                    };
                    let answer = judge(&asked).or_else(|| {
                        let (address, tls) = behind.as_ref()?;
                        Some(pass_on(*address, tls, &asked, edit))
                    });
                    let _ = stream.write_all(&answer.unwrap_or_default());
                    stream.conn.send_close_notify();
                    let _ = stream.flush();
                });
            }
        });
        Self { dir, address }
    }

    /// Address of its directory.
    #[must_use]
    pub fn directory(&self) -> String {
        format!("https://{}/dir", self.address)
    }

    /// Address of something at it.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The CA that its TLS is verified by.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }
}

fn read_request(stream: &mut impl Read) -> Option<Asked> {
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        head.push_str(&line);
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let signed: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let payload = signed["payload"].as_str().unwrap_or_default();
    let line = head.lines().next()?;
    Some(Asked {
        line: line.trim_end_matches(" HTTP/1.1").to_owned(),
        payload: serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap_or_default())
            .unwrap_or_default(),
        bytes: [head.as_bytes(), &body].concat(),
    })
}

fn pass_on(address: SocketAddr, tls: &Arc<ClientConfig>, asked: &Asked, edit: &Edit) -> Vec<u8> {
    // `Host` is passed as it came: pebble builds its addresses from it. One request a connection.
    let text =
        String::from_utf8_lossy(&asked.bytes).replacen("\r\n", "\r\nConnection: close\r\n", 1);
    let answer = ask(address, tls, text.as_bytes());
    let body = body_of(&answer);
    let body = match serde_json::from_slice(&body) {
        Ok(json) => edit(asked, json).to_string().into_bytes(),
        Err(_) => body,
    };
    let head = String::from_utf8_lossy(&answer);
    let head = head.split("\r\n\r\n").next().unwrap_or_default();
    let kept = head.lines().filter(|line| {
        let line = line.to_ascii_lowercase();
        !line.starts_with("content-length") && !line.starts_with("transfer-encoding")
    });
    let mut out: String = kept.map(|line| format!("{line}\r\n")).collect();
    let _ = write!(out, "Content-Length: {}\r\n\r\n", body.len());
    [
        out.as_bytes(),
        if asked.line.starts_with("HEAD") {
            b""
        } else {
            &body
        },
    ]
    .concat()
}
