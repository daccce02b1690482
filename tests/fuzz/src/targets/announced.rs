//! The PROXY protocol: whom a load balancer says it speaks for.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use selvedge::accept::announced::{Announced, parse, read};

use super::engine::block_on;

/// What announcements are made of.
pub(crate) const WORDS: &[&[u8]] = &[
    b"\r\n\r\n\0\r\nQUIT\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c",
    b"\x20\0\0\0",
    b"\x21\x21\0\x24",
    b"\x31\0\x0c",
    b"\x08\x01",
    b"PROXY ",
    b"PROXY UNKNOWN",
    b"TCP4 ",
    b"TCP6 ",
    b"192.0.2.7 ",
    b"2001:db8::7 ",
    b"::ffff:192.0.2.7 ",
    b" 65535",
    b" 65536",
    b" 0",
    b"\r\n",
    b"\n",
    b"\r",
    b"GET / HTTP/1.1\r\n\r\n",
];

/// The balancer.
const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)), 1);

/// The same however it arrives; nothing behind it is taken; a line says what it says by a second set of rules.
pub(crate) fn announcement(input: &[u8]) {
    let told = heard(&[input]);
    let middle = input.first().map_or(0, |b| usize::from(*b) % input.len());
    let (first, second) = input.split_at(middle);
    assert_eq!(heard(&[first, second]), told, "in two pieces, {middle}");
    let Some((announced, rest)) = told else {
        return;
    };
    assert!(input.ends_with(&rest));
    let taken = &input[..input.len() - rest.len()];
    assert_eq!(parse(taken, PEER), Some(announced));
    if let Some(line) = taken.strip_prefix(b"PROXY ") {
        assert!(taken.len() <= 107);
        assert_eq!(of_line(line), Some(announced));
    }
}

/// What comes of these bytes, one piece behind the other, and what is left of them.
fn heard(pieces: &[&[u8]]) -> Option<(Announced, Vec<u8>)> {
    let (near, mut far) = UnixStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    // A stream socket is a stream socket: the product asks nothing of this one that only TCP has.
    let near = std::net::TcpStream::from(OwnedFd::from(near));
    block_on(async {
        let mut near = tokio::net::TcpStream::from_std(near).unwrap();
        let say = async {
            for piece in pieces {
                // What was not taken stays in the kernel, which has room for more than any input.
                far.write_all(piece).unwrap();
                for _ in 0..3 {
                    tokio::task::yield_now().await;
                }
            }
            far.shutdown(Shutdown::Write).unwrap();
        };
        let (announced, ()) = tokio::join!(read(&mut near, PEER), say);
        let announced = announced.ok()?;
        let mut left = Vec::new();
        let mut near = near.into_std().unwrap();
        near.set_nonblocking(false).unwrap();
        near.read_to_end(&mut left).unwrap();
        Some((announced, left))
    })
}

/// A line without its first word: family, source, destination and their ports, each behind one space.
fn of_line(line: &[u8]) -> Option<Announced> {
    let line = line.strip_suffix(b"\r\n")?;
    // Whatever follows is to be ignored (section 2.1 of the protocol's specification).
    if line.starts_with(b"UNKNOWN") {
        return Some((PEER, None));
    }
    let line = std::str::from_utf8(line).ok()?;
    let words: Vec<&str> = line.split(' ').collect();
    let [family, source, destination, from, to] = words[..] else {
        return None;
    };
    let end = |ip: &str, port: &str| {
        let ip: IpAddr = ip.parse().ok()?;
        let fits = ip.is_ipv4() == (family == "TCP4") && matches!(family, "TCP4" | "TCP6");
        Some(SocketAddr::new(ip, port.parse().ok()?)).filter(|_| fits)
    };
    Some((end(source, from)?, Some(end(destination, to)?)))
}
