//! Part of stage 1, accept: whom a load balancer speaks for, by the PROXY protocol (versions 1
//! and 2). Only believed from addresses that the listener names, and then demanded.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use proxy_header::{ParseConfig, ProxyHeader};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// First bytes of version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, of a balancer that speaks for itself. Whatever follows is to be passed over, also its family (section
/// 2.2 of the protocol's text).
const LOCAL: u8 = 0x20;
/// Longest line of version 1.
const LINE: usize = 107;
/// Longest announcement of version 2 behind its fixed part: addresses and what else there is.
const EXTRA: usize = 2048;

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why)
}

/// Who is announced, and where that client has connected to, where it says.
pub type Announced = (SocketAddr, Option<SocketAddr>);

/// Reads an announcement and not a byte more; gives whom it announces, or `peer` if the balancer
/// speaks for itself. The caller bounds its time.
///
/// # Errors
/// Those of the socket, or that what came is no announcement.
pub async fn read(stream: &mut TcpStream, peer: SocketAddr) -> io::Result<Announced> {
    let mut head = vec![0; SIGNATURE.len()];
    stream.read_exact(&mut head).await?;
    if head == SIGNATURE {
        let mut rest = [0; 4];
        stream.read_exact(&mut rest).await?;
        let length = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
        if length > EXTRA {
            return Err(invalid("a PROXY header that is too long"));
        }
        head.extend_from_slice(&rest);
        let fixed = head.len();
        head.resize(fixed.saturating_add(length), 0);
        stream
            .read_exact(head.get_mut(fixed..).unwrap_or_default())
            .await?;
    } else if head.starts_with(b"PROXY ") {
        line(stream, &mut head).await?;
    } else {
        return Err(invalid("no PROXY header"));
    }
    parse(&head, peer).ok_or_else(|| invalid("a PROXY header that cannot be read"))
}

/// The rest of a line of version 1: looked at first, so that nothing behind it is taken.
async fn line(stream: &mut TcpStream, head: &mut Vec<u8>) -> io::Result<()> {
    let mut part = [0; LINE];
    while !head.ends_with(b"\r\n") {
        let room = LINE.checked_sub(head.len()).filter(|room| *room > 0);
        let room = room.ok_or_else(|| invalid("a PROXY header that is too long"))?;
        let part = part.get_mut(..room).unwrap_or_default();
        let seen = stream.peek(part).await?;
        if seen == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let end = part.iter().take(seen).position(|b| *b == b'\n');
        let part = part.get_mut(..end.map_or(seen, |at| at.saturating_add(1)));
        let part = part.unwrap_or_default();
        stream.read_exact(part).await?;
        head.extend_from_slice(part);
        if end.is_some() && !head.ends_with(b"\r\n") {
            return Err(invalid("a PROXY header that cannot be read"));
        }
    }
    Ok(())
}

/// Whom a whole announcement names. What version 2 says besides addresses (its TLVs) is nothing that we use: it is
/// passed over unread.
#[must_use]
pub fn parse(announcement: &[u8], peer: SocketAddr) -> Option<Announced> {
    if announcement.starts_with(SIGNATURE) && announcement.get(12) == Some(&LOCAL) {
        return Some((peer, None));
    }
    if announcement.starts_with(b"PROXY TCP") && !has_plain_ports(announcement) {
        return None;
    }
    let unknown = announcement.strip_prefix(b"PROXY UNKNOWN");
    if unknown.is_some_and(|rest| !matches!(rest.first(), Some(b' ' | b'\r'))) {
        return None;
    }
    let (header, length) = ProxyHeader::parse(announcement, ParseConfig::default()).ok()?;
    if length != announcement.len() {
        return None;
    }
    Some(
        header
            .proxied_address()
            .map_or((peer, None), |to| (to.source, Some(to.destination))),
    )
}

/// Whether the ports of a line of version 1 are written in the one way that its text allows: without a sign or zeros
/// before them.
fn has_plain_ports(line: &[u8]) -> bool {
    let line = line.strip_suffix(b"\r\n").unwrap_or(line);
    let mut ports = line.rsplit(|b| *b == b' ').take(2);
    ports.all(|port| match port {
        [b'0'] => true,
        [first, rest @ ..] => matches!(first, b'1'..=b'9') && rest.iter().all(u8::is_ascii_digit),
        [] => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcements() {
        let peer: SocketAddr = "10.0.0.1:1".parse().unwrap();
        let named = |text: &str| parse(text.as_bytes(), peer).map(|(a, _)| a.to_string());
        assert_eq!(
            named("PROXY TCP4 192.0.2.7 192.0.2.1 5000 443\r\n").as_deref(),
            Some("192.0.2.7:5000")
        );
        assert_eq!(
            named("PROXY TCP6 2001:db8::7 2001:db8::1 5000 443\r\n").as_deref(),
            Some("[2001:db8::7]:5000")
        );
        let whole = parse(b"PROXY TCP4 192.0.2.7 192.0.2.1 5000 443\r\n", peer);
        assert_eq!(whole.unwrap().1.unwrap().to_string(), "192.0.2.1:443");
        assert_eq!(named("PROXY UNKNOWN\r\n").as_deref(), Some("10.0.0.1:1"));
        let local = |rest: &[u8]| parse(&[SIGNATURE, rest].concat(), peer);
        for rest in [
            &[0x20, 0, 0, 0][..],
            &[0x20, 0x31, 0, 0],
            &[0x20, 0xff, 0, 1, 9],
        ] {
            assert_eq!(local(rest), Some((peer, None)), "{rest:?}");
        }
        assert_eq!(local(&[0x21, 0xff, 0, 1, 9]), None);
        assert!(named("PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n").is_some());
        for bad in [
            "PROXY UNKNOWNX\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1 5000\r\n",
            "PROXY TCP4 192.0.2.777 192.0.2.1 5000 443\r\n",
            "PROXY TCP4 2001:db8::7 192.0.2.1 5000 443\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1 70000 443\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1 5000 443\r\nG",
            "PROXY TCP4 192.0.2.7 192.0.2.1 +5000 443\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1 5000 0443\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1 5000 \r\n",
            "PROXY  TCP4 192.0.2.7 192.0.2.1 5000 443\r\n",
            "",
        ] {
            assert_eq!(named(bad), None, "{bad}");
        }
    }
}
