//! TLS as bytes: greetings and records that no library would write (RFC 8446 4.1.2 and 5.1).

use std::io::{Read, Write};
use std::net::SocketAddr;

use crate::Raw;

/// Type of a record (RFC 8446 5.1).
pub const CHANGE_CIPHER_SPEC: u8 = 20;
/// See [`CHANGE_CIPHER_SPEC`].
pub const ALERT: u8 = 21;
/// See [`CHANGE_CIPHER_SPEC`].
pub const HANDSHAKE: u8 = 22;
/// See [`CHANGE_CIPHER_SPEC`].
pub const APPLICATION: u8 = 23;
/// See [`CHANGE_CIPHER_SPEC`]; RFC 6520.
pub const HEARTBEAT: u8 = 24;

/// A ClientHello, part by part. The default is one that every port of ours greets back.
#[derive(Debug, Clone)]
pub struct Hello {
    /// `legacy_version`.
    pub version: u16,
    /// `legacy_session_id`, which says its own length.
    pub session: Vec<u8>,
    /// Cipher suites.
    pub suites: Vec<u16>,
    /// `legacy_compression_methods`.
    pub compression: Vec<u8>,
    /// Extensions, in order.
    pub extensions: Vec<(u16, Vec<u8>)>,
    /// What follows the extensions.
    pub more: Vec<u8>,
}

/// Extensions by name.
pub mod extension {
    /// RFC 6066.
    pub const SERVER_NAME: u16 = 0;
    /// RFC 8446 4.2.7.
    pub const GROUPS: u16 = 10;
    /// RFC 8446 4.2.3.
    pub const SIGNATURES: u16 = 13;
    /// RFC 7301.
    pub const ALPN: u16 = 16;
    /// RFC 8446 4.2.11.
    pub const PRE_SHARED_KEY: u16 = 41;
    /// RFC 8446 4.2.10.
    pub const EARLY_DATA: u16 = 42;
    /// RFC 8446 4.2.1.
    pub const VERSIONS: u16 = 43;
    /// RFC 8446 4.2.9.
    pub const PSK_MODES: u16 = 45;
    /// RFC 8446 4.2.8.
    pub const KEY_SHARE: u16 = 51;
}

/// These bytes behind their length, which takes one byte.
#[must_use]
pub fn short(bytes: &[u8]) -> Vec<u8> {
    [&[u8::try_from(bytes.len()).unwrap()], bytes].concat()
}

/// These bytes behind their length, which takes two bytes.
#[must_use]
pub fn long(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap();
    [&length.to_be_bytes(), bytes].concat()
}

impl Default for Hello {
    fn default() -> Self {
        let share = [&[0, 29][..], &long(&[9; 32])].concat();
        let name = [&[0][..], &long(b"shop.example")].concat();
        Self {
            version: 0x0303,
            session: short(&[7; 32]),
            suites: vec![0x1301, 0x1302, 0x1303],
            compression: vec![0],
            extensions: vec![
                (extension::SERVER_NAME, long(&name)),
                (extension::GROUPS, long(&[0, 29, 0, 23])),
                (extension::SIGNATURES, long(&[4, 3, 8, 4, 8, 7])),
                (extension::ALPN, long(&short(b"http/1.1"))),
                (extension::VERSIONS, short(&[3, 4])),
                (extension::KEY_SHARE, long(&share)),
            ],
            more: Vec::new(),
        }
    }
}

impl Hello {
    /// With this extension in the place of what it has by that number, or at the end.
    #[must_use]
    pub fn with(mut self, number: u16, body: impl Into<Vec<u8>>) -> Self {
        let place = self.extensions.iter_mut().find(|(n, _)| *n == number);
        match place {
            Some((_, old)) => *old = body.into(),
            None => self.extensions.push((number, body.into())),
        }
        self
    }

    /// Without this extension.
    #[must_use]
    pub fn without(mut self, number: u16) -> Self {
        self.extensions.retain(|(n, _)| *n != number);
        self
    }

    /// What stands in the handshake message.
    #[must_use]
    pub fn body(&self) -> Vec<u8> {
        let suites: Vec<u8> = self.suites.iter().flat_map(|s| s.to_be_bytes()).collect();
        let extensions = self.extensions.iter();
        let extensions: Vec<u8> = extensions
            .flat_map(|(number, body)| [&number.to_be_bytes()[..], &long(body)].concat())
            .collect();
        let mut body = self.version.to_be_bytes().to_vec();
        body.extend([5; 32]);
        body.extend(&self.session);
        body.extend(long(&suites));
        body.extend(short(&self.compression));
        body.extend(long(&extensions));
        body.extend(&self.more);
        body
    }

    /// As a handshake message.
    #[must_use]
    pub fn message(&self) -> Vec<u8> {
        message(1, &self.body())
    }

    /// As the first record of a connection.
    #[must_use]
    pub fn record(&self) -> Vec<u8> {
        record(HANDSHAKE, &self.message())
    }
}

/// A handshake message of this type (RFC 8446 4).
#[must_use]
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[kind], &length[1..], body].concat()
}

/// A record of this type.
#[must_use]
pub fn record(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind, 3, 1], &long(body)[..]].concat()
}

/// The records in these bytes, each with its header; what is not whole at the end is left out.
#[must_use]
pub fn records(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    let mut rest = bytes;
    while let [_, _, _, high, low, ..] = *rest {
        let whole = 5 + usize::from(u16::from_be_bytes([high, low]));
        if rest.len() < whole {
            break;
        }
        records.push(rest[..whole].to_vec());
        rest = &rest[whole..];
    }
    records
}

/// How a server answered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answer {
    /// It has greeted back.
    pub greeted: bool,
    /// The fatal alert that it ended with (RFC 8446 6.2).
    pub alert: Option<u8>,
    /// What it said otherwise, where that is no TLS.
    pub plain: String,
}

/// Sends bytes, ends its side if it is told to, and reads until the server has ended the connection.
#[must_use]
pub fn answer(address: SocketAddr, bytes: &[u8], half_close: bool) -> Answer {
    let mut client = Raw::connect(address);
    client.send(bytes);
    if half_close {
        client.shutdown_write();
    }
    let mut said = Vec::new();
    let mut stream = client.stream();
    let _ = stream.flush();
    let mut part = [0; 4096];
    loop {
        match stream.read(&mut part) {
            Ok(n) if n > 0 => said.extend_from_slice(&part[..n]),
            Ok(_) => break,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("{error}: still open; {said:02x?}"),
        }
    }
    let mut answer = Answer::default();
    for record in records(&said) {
        match (record[0], record.get(5), record.get(6)) {
            (HANDSHAKE, Some(2), _) => answer.greeted = true,
            (ALERT, Some(2), Some(what)) if record.len() == 7 => answer.alert = Some(*what),
            _ => {}
        }
    }
    if !said.is_empty() && !answer.greeted && answer.alert.is_none() {
        answer.plain = String::from_utf8_lossy(&said).into_owned();
    }
    answer
}
