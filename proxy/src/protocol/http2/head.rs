//! From a header block to a head: pseudo-fields apart, fields in the form in which HTTP/1 writes
//! them, and every rule of RFC 9113 sections 8.2 and 8.3 that makes a head malformed.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode};
use selvedge_contract::defaults::http2 as defaults;

use crate::message::{Fields, Known, ResponseHead};
use crate::protocol::hpack::{self, Name};
use crate::protocol::http1::parse::is_token;

use super::budget::Abuse;
use super::conn::{Conn, Fatal};
use super::frame::Reason;

/// What a field costs beside its bytes (RFC 9113 section 6.5.2).
const FIELD_COST: usize = 32;
/// Room that is made for heads at a time.
const ARENA: usize = 16 << 10;
/// Longest string that a table or a head may hold.
const STRING: usize = 64 << 10;

/// Which head a block holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Of a request.
    Request,
    /// Of a response, interim or final.
    Response,
    /// What follows a body.
    Trailers,
}

/// A decoded head.
#[derive(Debug)]
pub struct Head {
    kind: Kind,
    /// `:method`.
    pub method: Option<Method>,
    /// `:path`, as it came.
    pub path: Option<Bytes>,
    /// `:authority`, as it came.
    pub authority: Option<Bytes>,
    /// `:protocol` (RFC 8441).
    pub protocol: Option<Bytes>,
    /// `:status`.
    pub status: Option<StatusCode>,
    /// Fields, in order, cookie crumbs joined.
    pub fields: Fields,
    /// `content-length`.
    pub length: Option<u64>,
    /// It breaks a rule: its stream ends with PROTOCOL_ERROR.
    pub malformed: bool,
    /// It is over a limit; the fields are not all here.
    pub too_large: bool,
}

/// A head while its fields come in.
struct Reader<'a> {
    head: Head,
    arena: &'a mut BytesMut,
    /// Where the pseudo-fields stand in the arena.
    path: Option<Range<usize>>,
    authority: Option<Range<usize>>,
    protocol: Option<Range<usize>>,
    has_scheme: bool,
    /// A regular field has come: no pseudo-field may follow.
    regular: bool,
    crumbs: Vec<u8>,
    count: usize,
    size: usize,
    max_count: usize,
    max_size: usize,
}

impl Head {
    /// Decodes a block.
    ///
    /// # Errors
    /// COMPRESSION_ERROR where the block cannot be decoded; abuse where it decodes to several
    /// times the limit.
    pub(super) fn read(conn: &mut Conn, block: &[u8], kind: Kind) -> Result<Self, Fatal> {
        let (max_size, max_count) = match kind {
            Kind::Trailers => (conn.own.trailer_block, conn.own.trailer_count),
            _ => (conn.own.header_block, conn.own.header_count),
        };
        conn.arena
            .reserve(ARENA.min(block.len().saturating_mul(2).saturating_add(512)));
        let mut reader = Reader::new(kind, &mut conn.arena, max_size, max_count);
        conn.decoder
            .decode(block, STRING, |field| reader.take(&field))
            .map_err(|_| Reason::COMPRESSION_ERROR)?;
        if reader.size > max_size.saturating_mul(defaults::HEAD_FACTOR) {
            return Err(Abuse::Head.into());
        }
        Ok(reader.finish())
    }

    /// Whether a response of this status has no body.
    #[must_use]
    pub fn is_bodiless(&self) -> bool {
        matches!(
            self.status,
            Some(StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        )
    }

    /// The head of a response.
    #[must_use]
    pub fn into_response(self) -> Option<ResponseHead> {
        Some(ResponseHead {
            status: self.status?,
            fields: self.fields,
        })
    }
}

impl<'a> Reader<'a> {
    fn new(kind: Kind, arena: &'a mut BytesMut, max_size: usize, max_count: usize) -> Self {
        arena.clear();
        Self {
            head: Head {
                kind,
                method: None,
                path: None,
                authority: None,
                protocol: None,
                status: None,
                fields: Fields::with_room(),
                length: None,
                malformed: false,
                too_large: false,
            },
            arena,
            path: None,
            authority: None,
            protocol: None,
            has_scheme: false,
            regular: false,
            crumbs: Vec::new(),
            count: 0,
            size: 0,
            max_count,
            max_size,
        }
    }

    #[expect(
        clippy::arithmetic_side_effects,
        reason = "a block is of so many bytes, each of which brings a table entry at most"
    )]
    fn take(&mut self, field: &hpack::Header<'_>) {
        self.count += 1;
        self.size += field.name.len() + field.value.len() + FIELD_COST;
        let over = self.count > self.max_count || self.size > self.max_size;
        self.head.too_large |= over || field.too_long;
        if self.head.too_large {
            return;
        }
        let fine = match field.kind {
            Name::Field(known) => self.field(known, field),
            pseudo => self.pseudo(pseudo, field.value),
        };
        self.head.malformed |= !fine;
    }

    /// Takes a pseudo-field: each at most once, before all others, and only where it belongs.
    fn pseudo(&mut self, name: Name, value: &[u8]) -> bool {
        let request = self.head.kind == Kind::Request;
        if self.regular || self.head.kind == Kind::Trailers {
            return false;
        }
        match name {
            Name::Method if request && self.head.method.is_none() => {
                self.head.method = Method::from_bytes(value).ok();
                self.head.method.is_some()
            }
            Name::Scheme if request && !self.has_scheme => {
                self.has_scheme = true;
                is_scheme(value)
            }
            Name::Path if request && self.path.is_none() => {
                self.path = Some(self.store(value));
                !value.is_empty()
            }
            Name::Authority if request && self.authority.is_none() => {
                self.authority = Some(self.store(value));
                true
            }
            Name::Protocol if request && self.protocol.is_none() => {
                self.protocol = Some(self.store(value));
                is_token(value)
            }
            Name::Status if !request && self.head.status.is_none() => {
                self.head.status = StatusCode::from_bytes(value).ok();
                // HTTP/2 does not switch protocols (RFC 9113 section 8.6).
                self.head
                    .status
                    .is_some_and(|s| s != StatusCode::SWITCHING_PROTOCOLS && s.as_u16() < 600)
            }
            _ => false,
        }
    }

    /// Takes a field.
    fn field(&mut self, known: Known, field: &hpack::Header<'_>) -> bool {
        let (name, value) = (field.name, field.value);
        self.regular = true;
        if !is_lower_token(name) || !is_field_value(value) {
            return false;
        }
        match known {
            // Of one connection: in HTTP/2 these do not exist (RFC 9113 section 8.2.2).
            Known::Connection
            | Known::KeepAlive
            | Known::ProxyConnection
            | Known::TransferEncoding
            | Known::Upgrade => return false,
            Known::Te if value != b"trailers" => return false,
            Known::ContentLength if self.head.kind != Kind::Trailers => {
                let length = parse_length(value);
                let again = self.head.length.is_some();
                self.head.length = length;
                if again || length.is_none() {
                    return false;
                }
            }
            // Meant for the next hop only, which is us.
            Known::ProxyAuthenticate
            | Known::ProxyAuthorization
            | Known::Trailer
            | Known::Http2Settings => return true,
            // An empty crumb would leave white space at the end of the whole.
            Known::Cookie if value.is_empty() => return true,
            Known::Cookie => {
                if !self.crumbs.is_empty() {
                    self.crumbs.extend_from_slice(b"; ");
                }
                self.crumbs.extend_from_slice(value);
                return true;
            }
            _ => {}
        }
        self.line(known, name, value, field.sensitive);
        true
    }

    fn store(&mut self, bytes: &[u8]) -> Range<usize> {
        let at = self.arena.len();
        self.arena.extend_from_slice(bytes);
        at..self.arena.len()
    }

    /// Stores a field as the line that HTTP/1 would have: writing it there is one copy.
    #[expect(clippy::arithmetic_side_effects, reason = "parts of one block")]
    fn line(&mut self, known: Known, name: &[u8], value: &[u8], sensitive: bool) {
        self.arena.reserve(name.len() + value.len() + 4);
        let name = self.store(name);
        self.arena.extend_from_slice(b": ");
        let value = self.store(value);
        self.arena.extend_from_slice(b"\r\n");
        self.head.fields.push_parsed(name, value, known, sensitive);
    }

    fn finish(mut self) -> Head {
        if !self.crumbs.is_empty() {
            let crumbs = std::mem::take(&mut self.crumbs);
            self.line(Known::Cookie, b"cookie", &crumbs, true);
        }
        let bytes = self.arena.split().freeze();
        let mut head = self.head;
        head.path = self.path.map(|range| bytes.slice(range));
        head.authority = self.authority.map(|range| bytes.slice(range));
        head.protocol = self.protocol.map(|range| bytes.slice(range));
        head.fields = head.fields.over(bytes);
        // What is missing may stand behind the limit.
        let whole = match head.kind {
            _ if head.too_large => true,
            Kind::Trailers => true,
            Kind::Response => head.status.is_some(),
            Kind::Request => {
                let plain_connect = head.method == Some(Method::CONNECT) && head.protocol.is_none();
                let extended = head.protocol.is_some();
                head.method.is_some()
                    && (head.path.is_some() != plain_connect)
                    && (self.has_scheme != plain_connect)
                    && (!extended || head.method == Some(Method::CONNECT))
            }
        };
        head.malformed |= !whole;
        head
    }
}

/// One plain decimal (RFC 9110 section 8.6).
fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// A token without capitals. Without early exit: names are short, and this is one pass of vectors.
fn is_lower_token(name: &[u8]) -> bool {
    is_token(name)
        && !name
            .iter()
            .fold(false, |bad, b| bad | b.is_ascii_uppercase())
}

/// No control characters but tab, no white space at either end (RFC 9113 section 8.2.1).
fn is_field_value(value: &[u8]) -> bool {
    let control = value.iter().fold(false, |bad, b| {
        bad | ((*b < 0x20) & (*b != b'\t')) | (*b == 0x7f)
    });
    let blank = |b: Option<&u8>| matches!(b, Some(b' ' | b'\t'));
    !control && !blank(value.first()) && !blank(value.last())
}

fn is_scheme(value: &[u8]) -> bool {
    value.first().is_some_and(u8::is_ascii_alphabetic)
        && value
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
}
