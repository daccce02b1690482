//! Part of stage 7, balance: what of a request decides where it goes, where its service asks for that:
//! the key of a consistent hash, and the sign of a session. Read once a request, before its tries.

use std::net::{IpAddr, SocketAddr};

use std::hash::Hasher;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use crate::message::hash::Quick;
use crate::message::{Known, RequestHead};

use super::plan::{KeyOf, Plan, Sticky};

/// What a request says about where it goes; nothing, for most services.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked {
    /// Hash of its key; `None` where the request has none: any endpoint will do.
    pub key: Option<u64>,
    /// Hash of its source, where that stays with an endpoint.
    pub source: Option<u64>,
    /// The endpoint that its cookie names.
    pub session: Option<u64>,
}

impl Asked {
    /// What a request asks of a service that balances so. `client` is the address that it comes from.
    #[must_use]
    pub fn of(plan: &Plan, head: &RequestHead, client: impl Fn() -> IpAddr) -> Self {
        if !plan.reads_requests() {
            return Self::default();
        }
        let key = plan.key.as_ref().and_then(|key| match key {
            KeyOf::Source => Some(of_ip(client())),
            KeyOf::Header(name) => head.fields.named(name).map(of_bytes),
            KeyOf::Cookie(name) => cookie(head, name).map(of_bytes),
            KeyOf::Query(name) => parameter(head.target.query(), name).map(of_bytes),
        });
        let session = match &plan.sticky {
            Some(Sticky::Cookie(spec)) => cookie(head, &spec.name).and_then(read_session),
            _ => None,
        };
        Self {
            key,
            source: sticks_by_source(plan).then(|| of_ip(client())),
            session,
        }
    }

    /// The same for a connection that carries no requests: its source is all there is.
    #[must_use]
    pub fn of_connection(plan: &Plan, client: IpAddr) -> Self {
        Self {
            key: matches!(plan.key, Some(KeyOf::Source)).then(|| of_ip(client)),
            source: sticks_by_source(plan).then(|| of_ip(client)),
            session: None,
        }
    }
}

const fn sticks_by_source(plan: &Plan) -> bool {
    matches!(plan.sticky, Some(Sticky::Source))
}

/// The value by which a cookie names an endpoint: 64 bits as 11 characters.
#[must_use]
pub fn written_session(session: u64) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(session.to_be_bytes())
}

fn read_session(value: &[u8]) -> Option<u64> {
    let mut bytes = [0; 9];
    let length = BASE64_URL_SAFE_NO_PAD
        .decode_slice(value, &mut bytes)
        .ok()?;
    let bytes: [u8; 8] = bytes.get(..length)?.try_into().ok()?;
    Some(u64::from_be_bytes(bytes))
}

/// The first cookie of that name that has a value.
fn cookie<'a>(head: &'a RequestHead, name: &str) -> Option<&'a [u8]> {
    let crumbs = head.fields.all(Known::Cookie);
    let mut pairs = crumbs.flat_map(|line| line.split(|b| *b == b';'));
    pairs.find_map(|pair| {
        let (key, value) = pair.trim_ascii().split_at_checked(name.len())?;
        let value = (key == name.as_bytes())
            .then_some(value)?
            .strip_prefix(b"=")?;
        (!value.is_empty()).then_some(value)
    })
}

fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a [u8]> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        (key == name && !value.is_empty()).then_some(value.as_bytes())
    })
}

/// Bits that depend on every bit: the finish of `SplitMix64` (<https://prng.di.unimi.it/splitmix64.c>).
/// Fixed for ever, so that all proxies of a service send a key to the same endpoint.
#[must_use]
pub const fn mixed(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// Hash of a key. Not a secret: who makes keys that meet at one endpoint is stopped by its bound.
#[must_use]
pub fn of_bytes(bytes: &[u8]) -> u64 {
    let mut hash = Quick::default();
    hash.write_u64(bytes.len() as u64);
    hash.write(bytes);
    mixed(hash.finish())
}

/// Hash of a client's address; the same for an IPv4 address that came over IPv6.
#[must_use]
pub fn of_ip(ip: IpAddr) -> u64 {
    match ip.to_canonical() {
        IpAddr::V4(ip) => of_bytes(&ip.octets()),
        IpAddr::V6(ip) => of_bytes(&ip.octets()),
    }
}

/// Hash of an endpoint: of nothing but where it is, so that it is the same in every proxy.
#[must_use]
pub fn of_address(address: SocketAddr) -> u64 {
    mixed(of_ip(address.ip()) ^ mixed(u64::from(address.port()) + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_read_as_they_were_written_and_nothing_else_is() {
        for session in [0, 1, u64::MAX, 0x0123_4567_89ab_cdef] {
            let text = written_session(session);
            assert_eq!(text.len(), 11);
            assert_eq!(read_session(text.as_bytes()), Some(session));
        }
        for wrong in ["", "AAAA", "AAAAAAAAAAAAAAAA", "10.0.0.1:80", "\u{0}"] {
            assert_eq!(read_session(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn parameters_are_found_by_their_whole_name() {
        assert_eq!(parameter("user=7&a=b", "user"), Some(&b"7"[..]));
        assert_eq!(parameter("xuser=7&user=", "user"), None);
        assert_eq!(parameter("", "user"), None);
    }
}
