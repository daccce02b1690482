//! What a connection speaks, told by its first bytes, which stay in the kernel's hands until
//! somebody is chosen to read them.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use std::io;

use rustix::net::{RecvFlags, recv};
use rustls::server::Acceptor;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::http1::parse::{self, HeadEnd};
use super::serve::PREFACE;

/// What first bytes are the beginning of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum First {
    /// Too few to tell.
    Unclear,
    /// A request line of HTTP/1, its version included.
    Http1,
    /// The whole preface of HTTP/2.
    Http2,
    /// A handshake of TLS.
    Tls,
    /// Anything else.
    Other,
}

/// First byte of a TLS record that carries a handshake.
pub const TLS_HANDSHAKE: u8 = 0x16;
/// Longest method: those of the registry have 17 letters at most.
const METHOD: usize = 24;

/// Tells what these bytes begin. HTTP/1 only by a whole request line: other protocols begin their
/// commands like one.
#[must_use]
pub fn first(bytes: &[u8]) -> First {
    match bytes.first() {
        None => return First::Unclear,
        Some(&TLS_HANDSHAKE) => return First::Tls,
        Some(_) => {}
    }
    if bytes.starts_with(PREFACE) {
        return First::Http2;
    }
    if PREFACE.starts_with(bytes) {
        return First::Unclear;
    }
    // One empty line before a request is forgiven.
    let line = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
    if line.is_empty() || bytes == b"\r" {
        return First::Unclear;
    }
    request_line(line)
}

fn request_line(line: &[u8]) -> First {
    let in_method = |b: &u8| b.is_ascii_uppercase() || matches!(b, b'-' | b'_');
    let method = line.iter().take_while(|b| in_method(b)).count();
    if method > METHOD {
        return First::Other;
    }
    let rest = match line.get(method..).unwrap_or_default() {
        [] => return First::Unclear,
        [b' ', rest @ ..] if method > 0 => rest,
        _ => return First::Other,
    };
    let target = rest.iter().take_while(|b| b.is_ascii_graphic()).count();
    let version = match rest.get(target..).unwrap_or_default() {
        [] => return First::Unclear,
        [b' ', version @ ..] if target > 0 => version,
        _ => return First::Other,
    };
    const HTTP1: &[u8] = b"HTTP/1.";
    if version.starts_with(HTTP1) {
        First::Http1
    } else if HTTP1.starts_with(version) {
        First::Unclear
    } else {
        First::Other
    }
}

/// Where a request head ends, the empty line before it included.
#[must_use]
pub fn head_end(bytes: &[u8]) -> HeadEnd {
    let skipped = if bytes.starts_with(b"\r\n") { 2 } else { 0 };
    match parse::find_end(bytes.get(skipped..).unwrap_or_default(), 0) {
        HeadEnd::At(end) => HeadEnd::At(end.saturating_add(skipped)),
        other => other,
    }
}

/// Whether these bytes of TLS open a session that offers one of these protocols by ALPN. `None`: too
/// few to tell.
#[must_use]
pub fn offers(bytes: &[u8], protocols: &[&[u8]]) -> Option<bool> {
    let mut acceptor = Acceptor::default();
    let mut unread = bytes;
    while !unread.is_empty() {
        match acceptor.read_tls(&mut unread) {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    match acceptor.accept() {
        Ok(None) => None,
        Ok(Some(accepted)) => {
            let hello = accepted.client_hello();
            let mut offered = hello.alpn().into_iter().flatten();
            Some(offered.any(|offered| protocols.contains(&offered)))
        }
        // Whatever it is, it is none of ours.
        Err(_) => Some(false),
    }
}

/// First size of what is looked at; doubles while it is too little.
const LOOK: usize = 512;

/// Looks at what has arrived, again whenever more has, until `judge` has made up its mind. The second
/// argument says that there will be no more: the peer has ended, or `most` bytes are there. `None`:
/// not even then.
///
/// Nothing is taken: dropping the future loses nothing.
///
/// # Errors
/// Those of the socket.
pub async fn look<T>(
    stream: &TcpStream,
    most: usize,
    mut judge: impl FnMut(&[u8], bool) -> Option<T>,
) -> io::Result<Option<T>> {
    let mut buffer = vec![0; LOOK.min(most)];
    loop {
        let closed = stream.ready(Interest::READABLE).await?.is_read_closed();
        let looked = stream.try_io(Interest::READABLE, || {
            let (_, n) = recv(stream, buffer.as_mut_slice(), RecvFlags::PEEK)?;
            let full = n == buffer.len();
            let over = n == 0 || (full && n >= most) || (closed && !full);
            let judged = judge(buffer.get(..n).unwrap_or_default(), over);
            match judged {
                None if full && !over => Ok(Looked::Short),
                None if !over => Err(io::ErrorKind::WouldBlock.into()),
                judged => Ok(Looked::Enough(judged)),
            }
        });
        match looked {
            Ok(Looked::Enough(judged)) => return Ok(judged),
            Ok(Looked::Short) => buffer.resize(buffer.len().saturating_mul(2).min(most), 0),
            // All that is there has been seen: only more of it is news, and wakes this.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// What one look has come to.
enum Looked<T> {
    /// There may be more than the buffer holds.
    Short,
    Enough(Option<T>),
}

/// Waits until a peer has said something, or has ended.
///
/// # Errors
/// Those of the socket.
pub async fn speaks(stream: &TcpStream) -> io::Result<()> {
    look(stream, 1, |_, _| Some(())).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes() {
        use First::{Http1, Http2, Other, Tls, Unclear};
        for (bytes, what) in [
            ("", Unclear),
            ("GET / HTTP/1.1\r\n", Http1),
            ("\r\nGET / HTTP/1.1\r\n", Http1),
            ("M-SEARCH * HTTP/1.1\r\n", Http1),
            ("GET http://a/ HTTP/1.0\n", Http1),
            ("G", Unclear),
            ("GET", Unclear),
            ("GET /a", Unclear),
            ("GET /a HTTP/1", Unclear),
            ("\r", Unclear),
            ("\r\n", Unclear),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Http2),
            ("PRI * HTTP/2.0\r\n\r\nS", Unclear),
            ("PRI * HTTP/2.0\r\n\r\nX", Other),
            ("\x16\x03\x01", Tls),
            ("*1\r\n$4\r\nPING\r\n", Other),
            ("PING\r\n", Other),
            ("GET key\r\n", Other),
            ("get key\r\n", Other),
            ("EHLO a\r\n", Other),
            ("GET  HTTP/1.1", Other),
            ("GET /\u{e9} HTTP/1.1", Other),
            ("GET / HTTP/2.0\r\n", Other),
            ("\r\n\r\nGET", Other),
            ("AAAAAAAAAAAAAAAAAAAAAAAAA / HTTP/1.1", Other),
            ("\0", Other),
        ] {
            assert_eq!(first(bytes.as_bytes()), what, "{bytes:?}");
        }
    }

    #[test]
    fn more_bytes_never_change_a_mind() {
        for whole in [
            &b"\r\nPOST /a?b HTTP/1.1\r\nHost: a\r\n\r\n"[..],
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0",
            b"SSH-2.0-x\r\n",
        ] {
            let told = first(whole);
            for cut in 0..whole.len() {
                let so_far = first(&whole[..cut]);
                assert!(so_far == First::Unclear || so_far == told, "{cut}");
            }
        }
    }

    #[test]
    fn heads() {
        for (bytes, end) in [
            ("GET / HTTP/1.1\r\nA: b\r\n\r\nbody", HeadEnd::At(24)),
            ("\r\nGET / HTTP/1.1\r\nA: b\r\n\r\n", HeadEnd::At(26)),
            ("GET / HTTP/1.1\nA: b\n\n", HeadEnd::Malformed),
        ] {
            assert_eq!(head_end(bytes.as_bytes()), end, "{bytes:?}");
        }
        let part = head_end(b"GET / HTTP/1.1\r\nA: b\r\n");
        assert!(matches!(part, HeadEnd::Partial(_)));
    }
}
