//! Field names the path itself cares about, told apart once, when a head is parsed.

/// A field name that some stage looks at; every other one is [`Known::Other`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "each variant is the field of that name")]
pub enum Known {
    Other,
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    KeepAlive,
    ProxyConnection,
    ProxyAuthenticate,
    ProxyAuthorization,
    Te,
    Trailer,
    Upgrade,
    Expect,
    Http2Settings,
    ContentType,
    Authorization,
    Cookie,
    SetCookie,
    Date,
    Server,
    Forwarded,
    XForwardedFor,
    XForwardedProto,
    XForwardedHost,
    XForwardedPort,
    XForwardedClientCert,
    XRealIp,
    XRequestId,
    XRequestTimeout,
    XSelvedgeAttempt,
    XSelvedgePriority,
    Traceparent,
    Tracestate,
    B3,
    XB3TraceId,
    XB3SpanId,
    XB3ParentSpanId,
    XB3Sampled,
    XB3Flags,
    GrpcTimeout,
    GrpcStatus,
    IdempotencyKey,
    RetryAfter,
    Accept,
    UserAgent,
    SecWebSocketKey,
    SecWebSocketAccept,
    AcceptEncoding,
    ContentEncoding,
    ETag,
    CacheControl,
    Vary,
    Age,
    Expires,
    LastModified,
    IfNoneMatch,
    IfModifiedSince,
    Range,
    Pragma,
}

/// Canonical spelling of each known name, for fields that the proxy writes itself.
const NAMES: [(&str, Known); 58] = [
    ("Host", Known::Host),
    ("Content-Length", Known::ContentLength),
    ("Transfer-Encoding", Known::TransferEncoding),
    ("Connection", Known::Connection),
    ("Keep-Alive", Known::KeepAlive),
    ("Proxy-Connection", Known::ProxyConnection),
    ("Proxy-Authenticate", Known::ProxyAuthenticate),
    ("Proxy-Authorization", Known::ProxyAuthorization),
    ("TE", Known::Te),
    ("Trailer", Known::Trailer),
    ("Upgrade", Known::Upgrade),
    ("Expect", Known::Expect),
    ("HTTP2-Settings", Known::Http2Settings),
    ("Content-Type", Known::ContentType),
    ("Authorization", Known::Authorization),
    ("Cookie", Known::Cookie),
    ("Set-Cookie", Known::SetCookie),
    ("Date", Known::Date),
    ("Server", Known::Server),
    ("Forwarded", Known::Forwarded),
    ("X-Forwarded-For", Known::XForwardedFor),
    ("X-Forwarded-Proto", Known::XForwardedProto),
    ("X-Forwarded-Host", Known::XForwardedHost),
    ("X-Forwarded-Port", Known::XForwardedPort),
    ("X-Forwarded-Client-Cert", Known::XForwardedClientCert),
    ("X-Real-IP", Known::XRealIp),
    ("X-Request-Id", Known::XRequestId),
    ("X-Request-Timeout", Known::XRequestTimeout),
    ("X-Selvedge-Attempt", Known::XSelvedgeAttempt),
    ("X-Selvedge-Priority", Known::XSelvedgePriority),
    ("Traceparent", Known::Traceparent),
    ("Tracestate", Known::Tracestate),
    ("b3", Known::B3),
    ("X-B3-TraceId", Known::XB3TraceId),
    ("X-B3-SpanId", Known::XB3SpanId),
    ("X-B3-ParentSpanId", Known::XB3ParentSpanId),
    ("X-B3-Sampled", Known::XB3Sampled),
    ("X-B3-Flags", Known::XB3Flags),
    ("Grpc-Timeout", Known::GrpcTimeout),
    ("Grpc-Status", Known::GrpcStatus),
    ("Idempotency-Key", Known::IdempotencyKey),
    ("Retry-After", Known::RetryAfter),
    ("Accept", Known::Accept),
    ("User-Agent", Known::UserAgent),
    ("Sec-WebSocket-Key", Known::SecWebSocketKey),
    ("Sec-WebSocket-Accept", Known::SecWebSocketAccept),
    ("Accept-Encoding", Known::AcceptEncoding),
    ("Content-Encoding", Known::ContentEncoding),
    ("ETag", Known::ETag),
    ("Cache-Control", Known::CacheControl),
    ("Vary", Known::Vary),
    ("Age", Known::Age),
    ("Expires", Known::Expires),
    ("Last-Modified", Known::LastModified),
    ("If-None-Match", Known::IfNoneMatch),
    ("If-Modified-Since", Known::IfModifiedSince),
    ("Range", Known::Range),
    ("Pragma", Known::Pragma),
];

/// Bytes of a name that are looked at: no known one is longer than 23.
pub(crate) const WINDOW: usize = 24;

/// A name as three words, in lower case, zero behind its end.
type Words = [u64; 3];

/// The same byte eight times.
const fn eight(byte: u8) -> u64 {
    u64::from_le_bytes([byte; 8])
}

/// Eight bytes with `A` to `Z` in lower case, and nothing else changed.
const fn lower(word: u64) -> u64 {
    let low = word & eight(0x7f);
    // The high bit of each byte: from `A` on, beyond `Z`.
    let from_a = low + eight(0x80 - b'A');
    let beyond_z = low + eight(0x7f - b'Z');
    let upper = (from_a ^ beyond_z) & !word & eight(0x80);
    word | (upper >> 2)
}

/// The first `length` bytes of a window as a name.
#[expect(
    clippy::indexing_slicing,
    reason = "three words are the window: the loops end with them"
)]
const fn words(window: &[u8; WINDOW], length: usize) -> Words {
    let mut words = [0; 3];
    let mut i = 0;
    while i < 3 {
        let kept = length.saturating_sub(8 * i);
        if kept > 0 {
            let mut bytes = [0; 8];
            let mut j = 0;
            while j < 8 {
                bytes[j] = window[8 * i + j];
                j += 1;
            }
            let word = u64::from_le_bytes(bytes);
            let beyond = if kept >= 8 { 0 } else { 64 - 8 * kept };
            words[i] = lower((word << beyond) >> beyond);
        }
        i += 1;
    }
    words
}

/// Places of the table of names.
const PLACES: usize = 512;

const fn place(words: &Words, multiplier: u64) -> usize {
    let [first, second, third] = *words;
    let mixed = first ^ second.rotate_left(23) ^ third.rotate_left(41);
    (mixed.wrapping_mul(multiplier) >> 55) as usize
}

#[expect(
    clippy::indexing_slicing,
    reason = "while it is compiled: outside would be an error there"
)]
const fn names_as_words() -> [Words; NAMES.len()] {
    let mut all = [[0; 3]; NAMES.len()];
    let mut i = 0;
    while i < NAMES.len() {
        let name = NAMES[i].0.as_bytes();
        let mut window = [0; WINDOW];
        let mut j = 0;
        while j < name.len() {
            window[j] = name[j];
            j += 1;
        }
        all[i] = words(&window, name.len());
        i += 1;
    }
    all
}

/// A multiplier by which no two names have the same place, and the number of the name at each place,
/// from 1; 0 is nobody's.
#[expect(
    clippy::indexing_slicing,
    reason = "while it is compiled: outside would be an error there"
)]
const fn table() -> (u64, [u8; PLACES]) {
    let mut multiplier: u64 = 0x9e37_79b9_7f4a_7c15;
    loop {
        let mut table = [0u8; PLACES];
        let mut i = 0;
        while i < NAMES.len() {
            let at = place(&AS_WORDS[i], multiplier);
            if table[at] != 0 {
                break;
            }
            table[at] = i as u8 + 1;
            i += 1;
        }
        if i == NAMES.len() {
            return (multiplier, table);
        }
        multiplier = multiplier.wrapping_mul(0x5851_f42d_4c95_7f2d) | 1;
    }
}

static AS_WORDS: [Words; NAMES.len()] = names_as_words();
const TABLE: (u64, [u8; PLACES]) = table();
const MULTIPLIER: u64 = TABLE.0;
static BY_PLACE: [u8; PLACES] = TABLE.1;

impl Known {
    /// Tells a field name apart, in any case.
    #[must_use]
    pub fn classify(name: &[u8]) -> Self {
        let mut window = [0; WINDOW];
        match window.get_mut(..name.len()) {
            Some(place) if !name.is_empty() => place.copy_from_slice(name),
            _ => return Self::Other,
        }
        Self::of_words(&words(&window, name.len()), name.len())
    }

    /// The name that ends before the first colon of a window, and its length. `None`: there is no colon.
    #[must_use]
    pub(crate) fn before_colon(window: &[u8; WINDOW]) -> Option<(usize, Self)> {
        let (chunks, _) = window.as_chunks::<8>();
        let mut length = 0;
        for chunk in chunks {
            let colons = u64::from_le_bytes(*chunk) ^ eight(b':');
            // The lowest bit that is set is that of the first colon; what is above may be none.
            let found = colons.wrapping_sub(eight(1)) & !colons & eight(0x80);
            if found != 0 {
                length += found.trailing_zeros() as usize / 8;
                return Some((length, Self::of_words(&words(window, length), length)));
            }
            length += 8;
        }
        None
    }

    fn of_words(words: &Words, length: usize) -> Self {
        let at = BY_PLACE.get(place(words, MULTIPLIER)).copied();
        let Some(at) = usize::from(at.unwrap_or(0)).checked_sub(1) else {
            return Self::Other;
        };
        match (AS_WORDS.get(at), NAMES.get(at)) {
            // Zero behind the end could be a zero of the name.
            (Some(same), Some((name, known))) if same == words && name.len() == length => *known,
            _ => Self::Other,
        }
    }

    /// Canonical spelling; empty for [`Known::Other`].
    #[must_use]
    pub fn name(self) -> &'static str {
        let at = (self as usize).wrapping_sub(1);
        NAMES.get(at).map_or("", |(name, _)| name)
    }

    /// Fields that belong to one connection (RFC 9110 section 7.6.1) and never cross the proxy.
    #[must_use]
    pub const fn is_hop_by_hop(self) -> bool {
        matches!(
            self,
            Self::Connection
                | Self::KeepAlive
                | Self::ProxyConnection
                | Self::ProxyAuthenticate
                | Self::ProxyAuthorization
                | Self::Te
                | Self::Trailer
                | Self::TransferEncoding
                | Self::Upgrade
                | Self::Http2Settings
        )
    }

    /// Fields that a `Connection` option may not name: removing them would change what the
    /// request means or whom it comes from (CVE-2026-105299 in Pingora).
    #[must_use]
    pub const fn is_protected(self) -> bool {
        matches!(
            self,
            Self::Host
                | Self::ContentLength
                | Self::ContentType
                | Self::Authorization
                | Self::Cookie
                | Self::Forwarded
                | Self::XForwardedFor
                | Self::XForwardedProto
                | Self::XForwardedHost
                | Self::XForwardedPort
                | Self::XForwardedClientCert
                | Self::XRealIp
                | Self::XRequestId
                | Self::Traceparent
                | Self::Tracestate
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_in_any_case() {
        for (at, (name, known)) in NAMES.iter().enumerate() {
            assert_eq!(
                *known as usize,
                at + 1,
                "{name} stands in the order of the enum"
            );
            assert_eq!(Known::classify(name.as_bytes()), *known);
            assert_eq!(Known::classify(name.to_uppercase().as_bytes()), *known);
            assert_eq!(Known::classify(name.to_lowercase().as_bytes()), *known);
            assert_eq!(known.name(), *name);
            assert!(name.len() < WINDOW);
        }
        assert_eq!(Known::classify(b""), Known::Other);
        assert_eq!(Known::classify(&[b'x'; WINDOW]), Known::Other);
        assert_eq!(Known::classify(&[b'x'; WINDOW + 1]), Known::Other);
        assert_eq!(Known::classify(b"Hos"), Known::Other);
        assert_eq!(Known::classify(b"X-Forwarded-Client-Certs"), Known::Other);
        assert_eq!(Known::Other.name(), "");
    }

    #[test]
    fn no_other_byte_makes_a_known_name() {
        for (name, known) in NAMES {
            for at in 0..name.len() {
                let mut bytes = name.as_bytes().to_vec();
                for byte in 0..=255 {
                    bytes[at] = byte;
                    let same = bytes.eq_ignore_ascii_case(name.as_bytes());
                    assert_eq!(Known::classify(&bytes) == known, same, "{name} {at} {byte}");
                }
            }
            for byte in 0..=255 {
                let mut longer = name.as_bytes().to_vec();
                longer.push(byte);
                assert_eq!(Known::classify(&longer), Known::Other, "{name} {byte}");
            }
        }
    }

    #[test]
    fn the_first_colon_of_a_window_ends_the_name() {
        for length in 0..WINDOW {
            for second in length + 1..WINDOW {
                let mut window = [0xba; WINDOW];
                window[length] = b':';
                window[second] = b':';
                let found = Known::before_colon(&window);
                assert_eq!(found.map(|(length, _)| length), Some(length));
            }
        }
        assert_eq!(Known::before_colon(&[b';'; WINDOW]), None);
        let found = Known::before_colon(b"content-LENGTH: 12345678");
        assert_eq!(found, Some((14, Known::ContentLength)));
    }
}
