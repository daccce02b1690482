//! The first message of TLS, read no further than to know whom a client asks for.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use rustls::server::Acceptor;
use selvedge_contract::defaults::transparent::HELLO;

use super::detect::TLS_HANDSHAKE;

/// What a client opens a session with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The name that it asks for (SNI), in lower case.
    pub name: Option<Box<str>>,
    /// All that it wants is proof for a directory of ACME (RFC 8737).
    pub proves: bool,
}

/// Why there is no such message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoHello {
    /// It is something else than TLS.
    NotTls,
    /// It is longer than is looked at, or ended too early.
    Cut,
    /// It is not well formed; the alert to send, as bytes.
    Malformed(Vec<u8>),
}

/// Of a record: type, version, length.
const RECORD: usize = 5;
/// Of a handshake message: type, length.
const MESSAGE: usize = 4;
/// The type of a ClientHello.
const CLIENT_HELLO: u8 = 1;

/// Reads a ClientHello, which may be spread over records; `None`: too few bytes to tell. Bytes are only
/// parsed when the message is whole, so that one that comes byte by byte is parsed once.
pub fn read(bytes: &[u8]) -> Option<Result<Hello, NoHello>> {
    match end_of(bytes) {
        Ok(Some(end)) => Some(parse(bytes.get(..end).unwrap_or_default())),
        Ok(None) => None,
        Err(no) => Some(Err(no)),
    }
}

/// Where the record ends with which the message is whole; `None`: not yet.
fn end_of(bytes: &[u8]) -> Result<Option<usize>, NoHello> {
    let mut rest = bytes;
    let (mut head, mut held) = ([0; MESSAGE], 0_usize);
    while let Some(&kind) = rest.first() {
        let major = rest.get(1).copied().unwrap_or(3);
        if kind != TLS_HANDSHAKE || major != 3 {
            return Err(NoHello::NotTls);
        }
        let Some((&[.., high, low], behind)) = rest.split_first_chunk::<RECORD>() else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        // An empty record is no part of a message (RFC 8446 section 5.1).
        if length == 0 {
            return Err(NoHello::NotTls);
        }
        let (here, behind) = behind.split_at(length.min(behind.len()));
        for (place, byte) in head.iter_mut().skip(held).zip(here) {
            *place = *byte;
        }
        held = held.saturating_add(here.len());
        let [kind, high, middle, low] = head;
        if held > 0 && kind != CLIENT_HELLO {
            return Err(NoHello::NotTls);
        }
        let wanted = u32::from_be_bytes([0, high, middle, low]) as usize;
        if held >= MESSAGE && wanted > HELLO {
            return Err(NoHello::Cut);
        }
        if here.len() < length {
            return Ok(None);
        }
        if held >= MESSAGE && held.saturating_sub(MESSAGE) >= wanted {
            return Ok(Some(bytes.len().saturating_sub(behind.len())));
        }
        rest = behind;
    }
    Ok(None)
}

fn parse(bytes: &[u8]) -> Result<Hello, NoHello> {
    let mut acceptor = Acceptor::default();
    let mut unread = bytes;
    loop {
        let read = acceptor.read_tls(&mut unread);
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                let name = hello.server_name().map(str::to_ascii_lowercase);
                let name = name.map(|name| name.trim_end_matches('.').into());
                let offered = hello.alpn().into_iter().flatten();
                let mut offered = offered.map(|protocol| protocol == b"acme-tls/1");
                let proves = offered.next() == Some(true) && offered.next().is_none();
                return Ok(Hello { name, proves });
            }
            Ok(None) if unread.is_empty() || !matches!(read, Ok(1..)) => return Err(NoHello::Cut),
            Ok(None) => {}
            Err((_, mut alert)) => {
                let mut bytes = Vec::new();
                let _ = alert.write_all(&mut bytes);
                return Err(NoHello::Malformed(bytes));
            }
        }
    }
}

/// A fatal alert that a client understands before versions are agreed upon (RFC 8446 section 6).
#[must_use]
pub const fn alert(description: u8) -> [u8; 7] {
    [21, 3, 3, 0, 2, 2, description]
}

/// No server is known by this name (RFC 6066 section 3).
pub const UNRECOGNIZED_NAME: u8 = 112;
/// There is no name, and one is needed (RFC 8446 section 9.2).
pub const MISSING_EXTENSION: u8 = 109;

#[cfg(test)]
mod tests {
    use super::*;

    /// A ClientHello of rustls for this name.
    fn opening(name: &str) -> Vec<u8> {
        let config = crate::tls::server_client(None, true).unwrap();
        let name = rustls_pki_types::ServerName::try_from(name.to_owned()).unwrap();
        let mut session = rustls::ClientConnection::new(config, name).unwrap();
        let mut bytes = Vec::new();
        session.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_name_is_read_from_one_record_and_from_many() {
        let whole = opening("Shop.Example");
        let hello = Hello {
            name: Some("shop.example".into()),
            proves: false,
        };
        assert_eq!(read(&whole), Some(Ok(hello.clone())));
        assert!((0..whole.len()).all(|end| read(&whole[..end]).is_none()));
        for size in [1, 3, 4, 5, 100] {
            let records = whole[RECORD..].chunks(size).flat_map(|part| {
                let length = u16::try_from(part.len()).unwrap().to_be_bytes();
                [&[22, 3, 1], &length[..], part].concat()
            });
            let records: Vec<u8> = records.collect();
            assert_eq!(read(&records), Some(Ok(hello.clone())), "{size}");
        }
        // An address is no name.
        let none = read(&opening("127.0.0.1")).unwrap().unwrap();
        assert_eq!(none.name, None);
    }

    #[test]
    fn what_is_none_is_told_as_soon_as_that_shows() {
        assert_eq!(read(b""), None);
        for not in [
            &b"GET / HTTP/1.1"[..],
            b"\x16\x02",
            b"\x16\x03\x01\0\0",
            b"\x16\x03\x01\0\x05\x02",
            b"\x80\x2e\x01",
        ] {
            assert_eq!(read(not), Some(Err(NoHello::NotTls)), "{not:?}");
        }
        let long = b"\x16\x03\x01\x40\0\x01\0\x40\x01";
        assert_eq!(read(long), Some(Err(NoHello::Cut)));
        let told = read(b"\x16\x03\x01\0\x05\x01\0\0\x01\0");
        assert!(matches!(told, Some(Err(NoHello::Malformed(alert))) if alert.len() == 7));
    }
}
