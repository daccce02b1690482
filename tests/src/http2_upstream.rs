//! An HTTP/2 upstream that sends what its script says, in the order it says, frame by frame. It
//! knows no windows: a script keeps within what the proxy announces.

#![expect(clippy::unwrap_used, reason = "a rig fails where a test would")]

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::http2::{ACK, Frame, HEADERS, Http2, SETTINGS, block, frame, headers, settings};

/// See the module.
pub struct Http2Upstream {
    address: SocketAddr,
    opened: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

/// One connection in the hands of a script.
pub struct Peer {
    http2: Http2,
    index: usize,
}

/// The head of a request.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Its stream.
    pub stream: u32,
    /// Its fields, in order. Regular ones that stand in the static table have its number for a name.
    pub fields: Vec<(String, String)>,
}

impl Asked {
    /// The first field of a name; empty where there is none.
    #[must_use]
    pub fn field(&self, name: &str) -> &str {
        let found = self.fields.iter().find(|(n, _)| n == name);
        found.map_or("", |(_, value)| value)
    }
}

impl Http2Upstream {
    /// Serves every connection with `script`, each in its own thread, from behind the client's
    /// preface: also our SETTINGS are the script's to send.
    #[must_use]
    pub fn scripted(script: impl Fn(&mut Peer) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (opened, stop) = (
            Arc::new(AtomicUsize::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (count, stopped) = (opened.clone(), stop.clone());
        let script = Arc::new(script);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let index = count.fetch_add(1, Ordering::Relaxed);
                let script = script.clone();
                std::thread::spawn(move || {
                    if let Some(http2) = Http2::accept(stream) {
                        script(&mut Peer { http2, index });
                    }
                });
            }
        });
        Self {
            address,
            opened,
            stop,
        }
    }

    /// Announces these SETTINGS, then answers each request in turn with `script`.
    #[must_use]
    pub fn serving(
        announced: &'static [(u16, u32)],
        script: impl Fn(&mut Peer, &Asked) + Send + Sync + 'static,
    ) -> Self {
        Self::scripted(move |peer| {
            peer.send(settings(announced));
            while let Some(asked) = peer.request() {
                script(peer, &asked);
            }
        })
    }

    /// Address.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections that were opened so far.
    #[must_use]
    pub fn opened(&self) -> usize {
        self.opened.load(Ordering::Relaxed)
    }
}

impl Drop for Http2Upstream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

impl Peer {
    /// Number of this connection, from 0.
    #[must_use]
    pub const fn index(&self) -> usize {
        self.index
    }

    /// The next frame; SETTINGS are acknowledged. `None` at the end of the connection.
    pub fn frame(&mut self) -> Option<Frame> {
        let read = self.http2.next_frame()?;
        if read.kind == SETTINGS && read.flags & ACK == 0 {
            self.send(frame(SETTINGS, ACK, 0, &[]));
        }
        Some(read)
    }

    /// The next request; what comes before it is skipped.
    pub fn request(&mut self) -> Option<Asked> {
        loop {
            let frame = self.frame()?;
            if frame.kind == HEADERS {
                return Some(asked(&frame));
            }
        }
    }

    /// Sends, all in one write.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.http2.send(bytes);
    }
}

/// The head of a response.
#[must_use]
pub fn answer(stream: u32, status: &str, more: &[(&str, &str)], end_stream: bool) -> Vec<u8> {
    let fields = [&[(":status", status)], more].concat();
    headers(stream, &block(&fields), end_stream)
}

/// What a HEADERS frame of the proxy asks for.
#[must_use]
pub fn asked(frame: &Frame) -> Asked {
    Asked {
        stream: frame.stream,
        fields: fields(&frame.payload).unwrap(),
    }
}

/// The fields of a block as the proxy writes it: neither dynamic table nor Huffman codes.
#[must_use]
pub fn fields(block: &[u8]) -> Option<Vec<(String, String)>> {
    let mut rest = block;
    let mut fields = Vec::new();
    while let [first, ..] = rest {
        fields.push(match first {
            0x80.. => {
                let (name, value) = in_table(integer(&mut rest, 7)?);
                (name, value.to_owned())
            }
            0x20..=0x3f => {
                integer(&mut rest, 5)?;
                continue;
            }
            0x40..=0x7f => return None,
            _ => {
                let name = match integer(&mut rest, 4)? {
                    0 => text(&mut rest)?,
                    index => in_table(index).0,
                };
                (name, text(&mut rest)?)
            }
        });
    }
    Some(fields)
}

/// An entry of the static table, as far as its value matters here.
fn in_table(index: usize) -> (String, &'static str) {
    let (name, value) = match index {
        1 => (":authority", ""),
        2 => (":method", "GET"),
        3 => (":method", "POST"),
        4 => (":path", "/"),
        5 => (":path", "/index.html"),
        6 => (":scheme", "http"),
        7 => (":scheme", "https"),
        8..=14 => (
            ":status",
            ["200", "204", "206", "304", "400", "404", "500"][index - 8],
        ),
        other => return (other.to_string(), ""),
    };
    (name.to_owned(), value)
}

fn text(rest: &mut &[u8]) -> Option<String> {
    if rest.first()? & 0x80 != 0 {
        return None;
    }
    let length = integer(rest, 7)?;
    let bytes = rest.split_off(..length)?;
    Some(String::from_utf8_lossy(bytes).into_owned())
}

fn integer(rest: &mut &[u8], prefix: u8) -> Option<usize> {
    let most = (1usize << prefix) - 1;
    let mut value = usize::from(*rest.split_off_first()?) & most;
    let mut shift = 0;
    while value >= most {
        let byte = usize::from(*rest.split_off_first()?);
        value += (byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    Some(value)
}
