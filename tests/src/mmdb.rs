//! Databases of countries for tests, in the form of MaxMind (version 2): a tree of address bits, then
//! what its leaves say.

use std::net::IpAddr;

/// What a record of the tree leads to.
#[derive(Clone, Copy)]
enum Record {
    Nothing,
    Node(usize),
    Data(usize),
}

/// A database that knows these networks, such as `("192.0.2.0", 24, "DE")`.
#[must_use]
pub fn countries(networks: &[(&str, u32, &str)]) -> Vec<u8> {
    let mut nodes = vec![[Record::Nothing; 2]];
    let mut data = Vec::new();
    for (address, length, country) in networks {
        let (bits, length) = match address.parse().unwrap() {
            // In a tree for both, IPv4 stands below 96 zeros.
            IpAddr::V4(ip) => (u128::from(u32::from(ip)), length + 96),
            IpAddr::V6(ip) => (u128::from(ip), *length),
        };
        let at = data.len();
        data.extend(map(&[("country", map(&[("iso_code", text(country))]))]));
        let mut node = 0;
        for depth in 0..length {
            let bit = usize::try_from(bits >> (127 - depth) & 1).unwrap();
            if depth + 1 == length {
                nodes[node][bit] = Record::Data(at);
            } else if let Record::Node(next) = nodes[node][bit] {
                node = next;
            } else {
                let next = nodes.len();
                nodes[node][bit] = Record::Node(next);
                nodes.push([Record::Nothing; 2]);
                node = next;
            }
        }
    }
    let mut out = Vec::new();
    for record in nodes.iter().flatten() {
        let value = match record {
            Record::Node(node) => *node,
            Record::Nothing => nodes.len(),
            Record::Data(at) => nodes.len() + 16 + at,
        };
        out.extend(&u32::try_from(value).unwrap().to_be_bytes()[1..]);
    }
    out.extend([0; 16]);
    out.extend(data);
    out.extend(b"\xab\xcd\xefMaxMind.com");
    let number = |kind: u8, value: usize| {
        let bytes = u32::try_from(value).unwrap().to_be_bytes();
        [&[kind << 5 | 4], &bytes[..]].concat()
    };
    let short = |value: u8| vec![5 << 5 | 1, value];
    out.extend(map(&[
        ("binary_format_major_version", short(2)),
        ("binary_format_minor_version", short(0)),
        ("build_epoch", vec![1, 2, 1]),
        ("database_type", text("Test-Country")),
        ("description", map(&[])),
        ("ip_version", short(6)),
        ("languages", vec![0, 4]),
        ("node_count", number(6, nodes.len())),
        ("record_size", short(24)),
    ]));
    out
}

fn text(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).unwrap();
    assert!(length < 29);
    [&[2 << 5 | length], text.as_bytes()].concat()
}

fn map(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut out = vec![7 << 5 | u8::try_from(members.len()).unwrap()];
    for (name, value) in members {
        out.extend(text(name));
        out.extend(value);
    }
    out
}
