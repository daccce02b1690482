//! An upstream that breaks off where its script says, over TCP or TLS, by reset or by end.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use rustls::server::ResolvesServerCertUsingSni;
use rustls::{ServerConfig, ServerConnection};
use socket2::SockRef;

use crate::PATIENCE;
use crate::certs::Leaf;
use crate::http2::{ACK, HEADERS, PREFACE, frame, settings};
use crate::tls_peer::key_of;

/// The name in the certificate of one that speaks TLS.
pub const NAME: &str = "app.example";

/// See the module.
pub struct Breaking {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

/// One connection in the hands of a script. Where its script has not said how it ends, it ends when dropped,
/// in TLS without `close_notify`.
pub struct Line {
    tcp: TcpStream,
    tls: Option<ServerConnection>,
    requests: Arc<AtomicUsize>,
}

/// TLS as one of them speaks it: its certificate, and the protocols that it knows.
pub struct Tls<'a>(pub &'a Leaf, pub &'static [&'static str]);

fn server(Tls(leaf, protocols): &Tls<'_>) -> Arc<ServerConfig> {
    let mut names = ResolvesServerCertUsingSni::new();
    names.add(NAME, key_of(leaf).as_ref().clone()).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(names));
    config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
    Arc::new(config)
}

impl Breaking {
    /// Serves each connection with `script`, in a thread of its own.
    #[must_use]
    pub fn scripted(
        tls: Option<&Tls<'_>>,
        script: impl Fn(&mut Line) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, stop) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (count, stopped) = (requests.clone(), stop.clone());
        let (tls, script) = (tls.map(server), Arc::new(script));
        std::thread::spawn(move || {
            for tcp in listener.incoming().map_while(Result::ok) {
                if stopped.load(SeqCst) {
                    return;
                }
                tcp.set_read_timeout(Some(PATIENCE)).unwrap();
                tcp.set_nodelay(true).unwrap();
                let mut line = Line {
                    tcp,
                    tls: tls.clone().map(|c| ServerConnection::new(c).unwrap()),
                    requests: count.clone(),
                };
                let script = script.clone();
                std::thread::spawn(move || script(&mut line));
            }
        });
        Self {
            address,
            requests,
            stop,
        }
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many heads of requests have reached it.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.requests.load(SeqCst)
    }
}

impl Drop for Breaking {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

impl Line {
    fn read(&mut self, part: &mut [u8]) -> Option<()> {
        match &mut self.tls {
            Some(tls) => rustls::Stream::new(tls, &mut self.tcp).read_exact(part),
            None => self.tcp.read_exact(part),
        }
        .ok()
    }

    /// Sends; says whether it could.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        match &mut self.tls {
            Some(tls) => {
                let mut stream = rustls::Stream::new(tls, &mut self.tcp);
                stream.write_all(bytes.as_ref()).is_ok() && stream.flush().is_ok()
            }
            None => self.tcp.write_all(bytes.as_ref()).is_ok(),
        }
    }

    /// Reads the head of a request of HTTP/1; `None` at the end of the connection.
    pub fn head(&mut self) -> Option<String> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.read(&mut byte)?;
            head.extend(byte);
        }
        self.requests.fetch_add(1, SeqCst);
        Some(String::from_utf8_lossy(&head).into_owned())
    }

    /// Begins HTTP/2: its preface and SETTINGS. `None` where the peer speaks something else.
    pub fn begin(&mut self) -> Option<()> {
        let mut preface = [0; PREFACE.len()];
        self.read(&mut preface)?;
        self.send(settings(&[]));
        self.send(frame(crate::http2::SETTINGS, ACK, 0, &[]));
        (preface == PREFACE).then_some(())
    }

    /// The stream of the next request of HTTP/2.
    pub fn stream(&mut self) -> Option<u32> {
        loop {
            let mut head = [0; 9];
            self.read(&mut head)?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            self.read(&mut vec![0; length as usize])?;
            if head[3] == HEADERS {
                self.requests.fetch_add(1, SeqCst);
                let stream = [head[5] & 0x7f, head[6], head[7], head[8]];
                return Some(u32::from_be_bytes(stream));
            }
        }
    }

    /// The connection breaks off: RST.
    pub fn reset(&mut self) {
        SockRef::from(&self.tcp)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    }

    /// Ends its side of TLS properly.
    pub fn notify(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            let _ = tls.write_tls(&mut self.tcp);
        }
    }

    /// Ends its side with FIN, then reads until the peer has closed: an end with bytes unread would be
    /// a reset.
    pub fn finish(&mut self) {
        let _ = self.tcp.shutdown(Shutdown::Write);
        let mut part = [0; 4096];
        while self.tcp.read(&mut part).is_ok_and(|n| n > 0) {}
    }
}
