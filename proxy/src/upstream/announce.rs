//! Part of stage 8, upstream: an endpoint is told by the PROXY protocol for whom a connection is.

use std::net::{IpAddr, SocketAddr};

use proxy_header::{ProxiedAddress, ProxyHeader};

use crate::accept::Downstream;

/// How connections of a service begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announce {
    /// With a line of text.
    V1,
    /// With the binary form.
    V2,
}

impl Announce {
    /// The bytes before everything else on a connection for this client.
    #[must_use]
    pub fn header(self, client: &Downstream) -> Vec<u8> {
        self.encode(client.peer, client.local)
    }

    /// The bytes before everything else on a connection that is for no client: a health check.
    #[must_use]
    pub const fn for_nobody(self) -> &'static [u8] {
        match self {
            Self::V1 => b"PROXY UNKNOWN\r\n",
            Self::V2 => b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
        }
    }

    fn encode(self, source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
        let (source, destination) = alike(source, destination);
        let header = ProxyHeader::with_address(ProxiedAddress::stream(source, destination));
        let mut out = Vec::with_capacity(128);
        // Fails for datagrams, mixed families and extensions only: there are none.
        let _ = match self {
            Self::V1 => header.encode_v1(&mut out),
            Self::V2 => header.encode_v2(&mut out),
        };
        out
    }
}

/// Both in one family, as the protocol has it. A socket for both shows a client of IPv4 as
/// `::ffff:192.0.2.1`: that becomes IPv4. Where the two differ all the same, IPv4 is written in IPv6:
/// so the client's address arrives, and that of a header of kind UNKNOWN or LOCAL would not.
fn alike(source: SocketAddr, destination: SocketAddr) -> (SocketAddr, SocketAddr) {
    let plain = |of: SocketAddr| SocketAddr::new(of.ip().to_canonical(), of.port());
    let (source, destination) = (plain(source), plain(destination));
    if source.is_ipv4() == destination.is_ipv4() {
        return (source, destination);
    }
    let wide = |of: SocketAddr| match of.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), of.port()),
        IpAddr::V6(_) => of,
    };
    (wide(source), wide(destination))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_in_both_families() {
        for (source, destination, text) in [
            (
                "192.0.2.7:5000",
                "192.0.2.1:443",
                "TCP4 192.0.2.7 192.0.2.1 5000 443",
            ),
            (
                "[2001:db8::7]:5000",
                "[2001:db8::1]:443",
                "TCP6 2001:db8::7 2001:db8::1 5000 443",
            ),
            (
                "[::ffff:192.0.2.7]:5000",
                "192.0.2.1:443",
                "TCP4 192.0.2.7 192.0.2.1 5000 443",
            ),
            (
                "192.0.2.7:5000",
                "[2001:db8::1]:443",
                "TCP6 ::ffff:192.0.2.7 2001:db8::1 5000 443",
            ),
            (
                "[2001:db8::7]:5000",
                "192.0.2.1:443",
                "TCP6 2001:db8::7 ::ffff:192.0.2.1 5000 443",
            ),
        ] {
            let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
            let line = Announce::V1.encode(source, destination);
            assert_eq!(line, format!("PROXY {text}\r\n").as_bytes());
            let bytes = Announce::V2.encode(source, destination);
            let family = if text.starts_with("TCP4") { 0x11 } else { 0x21 };
            assert_eq!(
                &bytes[..14],
                [&b"\r\n\r\n\0\r\nQUIT\n\x21"[..], &[family]].concat()
            );
            let length = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
            assert_eq!(bytes.len(), 16 + length);
        }
        let bytes = Announce::V2.encode(
            "192.0.2.7:5000".parse().unwrap(),
            "192.0.2.1:443".parse().unwrap(),
        );
        assert_eq!(
            bytes[16..],
            [192, 0, 2, 7, 192, 0, 2, 1, 0x13, 0x88, 1, 0xbb]
        );
    }
}
