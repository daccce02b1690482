//! An endpoint of the mesh that shows whatever certificate a test wants, lets everybody in, and answers
//! each request over HTTP/2 with 200.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::PATIENCE;
use crate::certs::Leaf;
use crate::tls_peer::key_of;

/// See the module.
pub struct TlsServer {
    /// Where it listens.
    pub address: SocketAddr,
    shown: Arc<Shown>,
    requests: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Shown(Mutex<Option<Arc<CertifiedKey>>>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.lock().unwrap().clone()
    }
}

impl TlsServer {
    /// One that shows this.
    #[must_use]
    pub fn start(leaf: &Leaf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shown = Arc::new(Shown(Mutex::new(Some(key_of(leaf)))));
        let requests = Arc::new(AtomicUsize::new(0));
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_cert_resolver(shown.clone());
        config.alpn_protocols = vec![b"selvedge-h2".to_vec()];
        let config = Arc::new(config);
        let count = requests.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (config, count) = (config.clone(), count.clone());
                std::thread::spawn(move || serve(stream, config, &count));
            }
        });
        Self {
            address,
            shown,
            requests,
        }
    }

    /// Shows another one from the next handshake on.
    pub fn show(&self, leaf: &Leaf) {
        *self.shown.0.lock().unwrap() = Some(key_of(leaf));
    }

    /// How many requests have reached it.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

/// The preface of a client (RFC 9113 section 3.4).
const PREFACE: usize = 24;

fn serve(stream: TcpStream, config: Arc<ServerConfig>, count: &AtomicUsize) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let session = ServerConnection::new(config).unwrap();
    let mut tls = StreamOwned::new(session, stream);
    tls.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0])?;
    tls.flush()?;
    tls.read_exact(&mut [0; PREFACE])?;
    loop {
        let mut head = [0; 9];
        tls.read_exact(&mut head)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        tls.read_exact(&mut vec![0; length as usize])?;
        if head[3] == 1 {
            count.fetch_add(1, Ordering::SeqCst);
            // HEADERS with END_STREAM and END_HEADERS, and `:status: 200` of the static table.
            tls.write_all(&[0, 0, 1, 1, 5, head[5], head[6], head[7], head[8], 0x88])?;
            tls.flush()?;
        }
    }
}
