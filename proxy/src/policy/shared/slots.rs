//! Beside stage 6, policy: which server of a cluster keeps which key. Pure.

use std::fmt;

use redis::Value;

/// Slots of a cluster.
pub(super) const SLOTS: u16 = 16_384;

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl Address {
    /// What a redirect names: `host:port`, of IPv6 without brackets. Without a host it is that of who
    /// says so.
    pub(super) fn redirected(text: &str, by: &Self) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let port = port.parse().ok().filter(|port| *port != 0)?;
        Some(Self {
            host: named(host, by)?,
            port,
        })
    }
}

/// A host as a server names it: nothing for its own, `?` for one that it does not know.
fn named(host: &str, by: &Address) -> Option<String> {
    match host {
        "" => Some(by.host.clone()),
        "?" => None,
        // Names of DNS have 253 characters at most, and no IPv6 address has more.
        host if host.len() > 253 => None,
        host => Some(host.to_owned()),
    }
}

/// The slot of a key: by what stands in its first braces, if there is something.
pub(super) fn slot(key: &str) -> u16 {
    let tagged = key
        .split_once('{')
        .and_then(|(_, rest)| rest.split_once('}'))
        .map(|(tag, _)| tag)
        .filter(|tag| !tag.is_empty());
    crc16(tagged.unwrap_or(key).as_bytes()) % SLOTS
}

/// CRC-16/XMODEM, which clusters count by.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc: u16, _| {
            let carry = crc & 0x8000 != 0;
            (crc << 1) ^ if carry { 0x1021 } else { 0 }
        })
    })
}

/// Slots and the server that keeps them.
pub(super) type Range = (u16, u16, Address);

/// Reads an answer to `CLUSTER SLOTS` of the server `by`. Ranges whose server has no address that can
/// be used are left out.
pub(super) fn read(answer: &Value, by: &Address) -> Option<Vec<Range>> {
    let Value::Array(ranges) = answer else {
        return None;
    };
    // No range is empty, and none overlap: more than slots there cannot be.
    if ranges.len() > usize::from(SLOTS) {
        return None;
    }
    let read = ranges.iter().map(|range| match range {
        Value::Array(parts) => match parts.as_slice() {
            [
                Value::Int(first),
                Value::Int(last),
                Value::Array(master),
                ..,
            ] => {
                let slot = |number: i64| u16::try_from(number).ok().filter(|n| *n < SLOTS);
                Some((slot(*first)?, slot(*last)?, address(master, by)))
            }
            _ => None,
        },
        _ => None,
    });
    let all: Option<Vec<_>> = read.collect();
    let usable = all?
        .into_iter()
        .filter_map(|(first, last, address)| Some((first, last, address?)));
    Some(usable.collect())
}

fn address(node: &[Value], by: &Address) -> Option<Address> {
    let [host, Value::Int(port), ..] = node else {
        return None;
    };
    let host = match host {
        Value::Nil => "",
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok()?,
        Value::SimpleString(text) => text,
        _ => return None,
    };
    let port = u16::try_from(*port).ok().filter(|port| *port != 0)?;
    Some(Address {
        host: named(host, by)?,
        port,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: &str, port: u16) -> Address {
        let host = host.to_owned();
        Address { host, port }
    }

    #[test]
    fn slots_are_those_of_a_cluster() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        // As `CLUSTER KEYSLOT` says.
        for (key, want) in [
            ("foo", 12_182),
            ("selvedge:{foo}", 12_182),
            ("{foo}{bar}", 12_182),
            ("{}foo", 9_500),
            ("{foo", 13_308),
            ("a{b}c", 3_300),
            ("", 0),
        ] {
            assert_eq!(slot(key), want, "{key}");
        }
    }

    #[test]
    fn redirects_name_a_server() {
        let by = at("10.0.0.1", 6379);
        let read = |text| Address::redirected(text, &by);
        assert_eq!(read("10.0.0.2:6380"), Some(at("10.0.0.2", 6380)));
        assert_eq!(read("2001:db8::1:6380"), Some(at("2001:db8::1", 6380)));
        assert_eq!(read(":6380"), Some(at("10.0.0.1", 6380)));
        for wrong in ["", "a", "a:", "a:0", "a:70000", "?:6380", "a:b"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert_eq!(read(&format!("{}:1", "a".repeat(254))), None);
    }

    fn range(first: i64, last: i64, host: Value, port: i64) -> Value {
        let master = Value::Array(vec![host, Value::Int(port)]);
        Value::Array(vec![Value::Int(first), Value::Int(last), master])
    }

    #[test]
    fn a_map_is_read_or_not() {
        let by = at("10.0.0.1", 6379);
        let host = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let answer = Value::Array(vec![
            range(0, 5, host("10.0.0.2"), 6379),
            range(6, 6, Value::Nil, 6380),
            range(7, 9, host("?"), 6379),
        ]);
        let want = [(0, 5, at("10.0.0.2", 6379)), (6, 6, at("10.0.0.1", 6380))];
        assert_eq!(read(&answer, &by).unwrap(), want);
        for wrong in [
            Value::Nil,
            Value::Array(vec![Value::Int(1)]),
            Value::Array(vec![Value::Array(vec![Value::Int(1), Value::Int(2)])]),
            Value::Array(vec![range(0, 16_384, host("a"), 1)]),
            Value::Array(vec![range(-1, 3, host("a"), 1)]),
            Value::Array(vec![Value::Nil; 20_000]),
        ] {
            assert_eq!(read(&wrong, &by), None);
        }
    }
}
