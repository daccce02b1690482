//! Part of stage 6, policy: which address a request comes from, where trusted proxies stand before
//! this one.

use std::net::{IpAddr, SocketAddr};

use crate::accept::Downstream;
use crate::message::{Fields, Known};

/// The address that a request comes from: the peer's, or, behind `trustedHops` proxies that each
/// append to `X-Forwarded-For` whom they saw, the entry that the first of them wrote. What stands
/// further left is the client's own invention.
#[must_use]
pub fn address(downstream: &Downstream, fields: &Fields) -> IpAddr {
    let peer = downstream.peer.ip().to_canonical();
    match downstream.listener.trusted_hops {
        0 => peer,
        hops => trail(fields, hops).last().copied().unwrap_or(peer),
    }
}

/// The same of a request as it is passed on: its `X-Forwarded-For` is ours, and ends with the peer.
#[must_use]
pub fn passed_on_for(downstream: &Downstream, fields: &Fields) -> IpAddr {
    let peer = downstream.peer.ip().to_canonical();
    match downstream.listener.trusted_hops {
        0 => peer,
        hops => trail(fields, hops + 1).last().copied().unwrap_or(peer),
    }
}

/// The last `hops` entries of `X-Forwarded-For`, the nearest first. It ends where an entry is no
/// address: a trusted proxy writes none such, so the trail is shorter than was thought.
#[must_use]
pub fn trail(fields: &Fields, hops: usize) -> Vec<IpAddr> {
    let lines: Vec<&[u8]> = fields.all(Known::XForwardedFor).collect();
    let entries = lines
        .iter()
        .rev()
        .flat_map(|line| line.rsplit(|b| *b == b','));
    entries.take(hops).map_while(parse).collect()
}

/// An address, perhaps with a port or in brackets, as proxies write it.
fn parse(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?.trim_matches([' ', '\t']);
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let ip = text
        .parse::<IpAddr>()
        .or_else(|_| text.parse::<SocketAddr>().map(|a| a.ip()))
        .or_else(|_| bare.unwrap_or_default().parse::<IpAddr>())
        .ok()?;
    Some(ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trail_is_read_from_the_right_and_ends_at_junk() {
        let mut fields = Fields::new();
        fields.append(b"X-Forwarded-For", b"junk, 1.1.1.1,2001:db8::1");
        fields.append(b"x-forwarded-for", b"[2001:db8::2]:443 , 3.3.3.3:80");
        let text = |hops| {
            let trail = trail(&fields, hops);
            trail.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(text(1), ["3.3.3.3"]);
        assert_eq!(text(2), ["3.3.3.3", "2001:db8::2"]);
        let all = ["3.3.3.3", "2001:db8::2", "2001:db8::1", "1.1.1.1"];
        assert_eq!(text(4), all);
        assert_eq!(text(9), all);
        for junk in [
            "",
            "1.2.3",
            "1.2.3.4.5",
            "for=1.1.1.1",
            "::ffff:g",
            "1.1.1.1\0",
        ] {
            assert_eq!(parse(junk.as_bytes()), None, "{junk:?}");
        }
        assert_eq!(parse(b"::ffff:1.2.3.4"), "1.2.3.4".parse().ok());
    }
}
