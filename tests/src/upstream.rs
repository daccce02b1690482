//! An upstream that records every byte of every connection, and answers as told.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use socket2::{Domain, Socket, Type};

use crate::PATIENCE;

/// What one connection has brought so far.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Bytes, as they came.
    pub bytes: Vec<u8>,
    /// The peer has closed.
    pub closed: bool,
}

impl Seen {
    /// As text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

type Log = Arc<(Mutex<Vec<Seen>>, Condvar)>;

/// See the module.
pub struct Upstream {
    address: SocketAddr,
    log: Log,
    stop: Arc<AtomicBool>,
}

/// One connection in the hands of a script.
pub struct Connection {
    stream: TcpStream,
    index: usize,
    log: Log,
    buffer: Vec<u8>,
}

/// A port with room for every connection that a test opens at once: a full backlog would show as
/// time-outs of whoever connects.
fn listen(address: SocketAddr) -> TcpListener {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(4096).unwrap();
    socket.into()
}

impl Upstream {
    /// Serves every connection with `script`, each in its own thread.
    #[must_use]
    pub fn scripted(script: impl Fn(&mut Connection) + Send + Sync + 'static) -> Self {
        Self::scripted_at(SocketAddr::from(([127, 0, 0, 1], 0)), script)
    }

    /// The same at this address.
    #[must_use]
    pub fn scripted_at(
        address: SocketAddr,
        script: impl Fn(&mut Connection) + Send + Sync + 'static,
    ) -> Self {
        let listener = listen(address);
        let address = listener.local_addr().unwrap();
        let log: Log = Log::default();
        let stop = Arc::new(AtomicBool::new(false));
        let (accept_log, stopped) = (log.clone(), stop.clone());
        let script = Arc::new(script);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let _ = stream.set_nodelay(true);
                let index = {
                    let mut seen = accept_log.0.lock().unwrap();
                    seen.push(Seen::default());
                    seen.len() - 1
                };
                let mut connection = Connection {
                    stream,
                    index,
                    log: accept_log.clone(),
                    buffer: Vec::new(),
                };
                let script = script.clone();
                std::thread::spawn(move || {
                    script(&mut connection);
                    connection.mark_closed();
                });
            }
        });
        Self { address, log, stop }
    }

    /// Answers every request on every connection with 200 and this body.
    #[must_use]
    pub fn answering(body: &'static str) -> Self {
        Self::scripted(move |connection| {
            while connection.request().is_some() {
                let length = body.len();
                connection.send(format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"
                ));
            }
        })
    }

    /// Answers each request with a fixed text, then goes on.
    #[must_use]
    pub fn replying(reply: impl Into<Vec<u8>>) -> Self {
        let reply = reply.into();
        Self::scripted(move |connection| {
            while connection.request().is_some() {
                connection.send(&reply);
            }
        })
    }

    /// Address.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What has come so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.log.0.lock().unwrap().clone()
    }

    /// All bytes of all connections, one after the other.
    #[must_use]
    pub fn all(&self) -> String {
        self.seen().iter().map(Seen::text).collect()
    }

    /// Waits until what has come fits.
    ///
    /// # Panics
    /// When it does not within [`PATIENCE`].
    pub fn wait_until(&self, fits: impl Fn(&[Seen]) -> bool) -> Vec<Seen> {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = self.log.0.lock().unwrap();
        while !fits(&seen) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "not seen in time: {seen:?}");
            seen = self.log.1.wait_timeout(seen, left).unwrap().0;
        }
        seen.clone()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

impl Connection {
    fn fill(&mut self) -> bool {
        let mut part = [0; 16 << 10];
        match self.stream.read(&mut part) {
            Ok(n) if n > 0 => {
                self.buffer.extend_from_slice(&part[..n]);
                let mut seen = self.log.0.lock().unwrap();
                seen[self.index].bytes.extend_from_slice(&part[..n]);
                self.log.1.notify_all();
                true
            }
            _ => {
                self.mark_closed();
                false
            }
        }
    }

    fn mark_closed(&self) {
        let mut seen = self.log.0.lock().unwrap();
        seen[self.index].closed = true;
        self.log.1.notify_all();
    }

    /// Number of this connection, from 0.
    #[must_use]
    pub const fn index(&self) -> usize {
        self.index
    }

    /// Reads one request, head and body; `None` at the end of the connection.
    pub fn request(&mut self) -> Option<Vec<u8>> {
        let head = self.until(b"\r\n\r\n")?;
        let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let mut request = head;
        if text.contains("transfer-encoding: chunked") {
            loop {
                let line = self.until(b"\r\n")?;
                let size = String::from_utf8_lossy(&line).trim().to_owned();
                let size = usize::from_str_radix(&size, 16).ok()?;
                request.extend(line);
                let data = self.exactly(size + 2)?;
                request.extend(data);
                if size == 0 {
                    return Some(request);
                }
            }
        }
        let length = text
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .and_then(|l| l.parse().ok())
            .unwrap_or(0);
        request.extend(self.exactly(length)?);
        Some(request)
    }

    /// Reads up to and with this mark.
    pub fn until(&mut self, mark: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(mark.len()).position(|w| w == mark) {
                return Some(self.buffer.drain(..at + mark.len()).collect());
            }
            if !self.fill() {
                return None;
            }
        }
    }

    /// Reads this many bytes.
    pub fn exactly(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < count {
            if !self.fill() {
                return None;
            }
        }
        Some(self.buffer.drain(..count).collect())
    }

    /// Reads until the peer closes.
    pub fn drain(&mut self) {
        while self.fill() {}
    }

    /// Sends.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref());
    }

    /// The socket.
    #[must_use]
    pub const fn stream(&self) -> &TcpStream {
        &self.stream
    }
}
