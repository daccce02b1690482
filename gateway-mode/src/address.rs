//! Lists of address ranges: the longest one that an address falls into decides.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

/// Ranges with what they mean. Looking up costs one hash for each length of prefix that occurs,
/// however many ranges there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranges<T> {
    /// By length of prefix, the longest first.
    by_length: Vec<(u8, HashMap<u128, T>)>,
}

impl<T> Default for Ranges<T> {
    fn default() -> Self {
        Self {
            by_length: Vec::new(),
        }
    }
}

/// One range, such as `10.0.0.0/8`, `2001:db8::/32` or a single address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    prefix: u128,
    length: u8,
}

/// Why a text is no range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// Not of that form.
    #[error("a range such as `10.0.0.0/8` or `2001:db8::/32`, or an address")]
    Form,
    /// Bits are set behind the prefix: perhaps another range was meant.
    #[error("a range whose address has no bits behind its prefix")]
    Host,
}

/// IPv4 stands inside IPv6 where it is mapped to.
fn bits(ip: IpAddr) -> u128 {
    let v6: Ipv6Addr = match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    v6.to_bits()
}

const fn mask(length: u8) -> u128 {
    match length {
        0 => 0,
        _ => u128::MAX << (128 - length),
    }
}

impl std::str::FromStr for Range {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let (ip, length) = match text.split_once('/') {
            Some((ip, length)) => (ip, Some(length)),
            None => (text, None),
        };
        let ip: IpAddr = ip.parse().map_err(|_| RangeError::Form)?;
        let (most, inside) = if ip.is_ipv4() { (32, 96) } else { (128, 0) };
        let length = match length {
            None => most,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse::<u8>().map_err(|_| RangeError::Form)?
            }
            Some(_) => return Err(RangeError::Form),
        };
        if length > most {
            return Err(RangeError::Form);
        }
        let length = length + inside;
        let prefix = bits(ip);
        if prefix & !mask(length) != 0 {
            return Err(RangeError::Host);
        }
        Ok(Self { prefix, length })
    }
}

impl<T> Ranges<T> {
    /// Adds a range; gives back what it meant before.
    pub fn insert(&mut self, range: Range, meaning: T) -> Option<T> {
        let at = self
            .by_length
            .binary_search_by(|(length, _)| range.length.cmp(length));
        let at = at.unwrap_or_else(|at| {
            self.by_length.insert(at, (range.length, HashMap::new()));
            at
        });
        let (_, prefixes) = self.by_length.get_mut(at)?;
        prefixes.insert(range.prefix, meaning)
    }

    /// What the longest range that holds an address means.
    #[must_use]
    pub fn find(&self, ip: IpAddr) -> Option<&T> {
        let bits = bits(ip);
        let mut candidates = self.by_length.iter();
        candidates.find_map(|(length, prefixes)| prefixes.get(&(bits & mask(*length))))
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.by_length.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_range_decides() {
        let mut ranges = Ranges::default();
        for (text, meaning) in [
            ("10.0.0.0/8", 1),
            ("10.1.0.0/16", 2),
            ("10.1.2.3", 3),
            ("2001:db8::/32", 4),
            ("::/0", 5),
        ] {
            assert_eq!(ranges.insert(text.parse().unwrap(), meaning), None);
        }
        for (ip, want) in [
            ("10.9.9.9", 1),
            ("10.1.9.9", 2),
            ("10.1.2.3", 3),
            ("::ffff:10.1.2.3", 3),
            ("2001:db8:1::1", 4),
            ("2001:db9::1", 5),
            ("11.0.0.0", 5),
        ] {
            assert_eq!(ranges.find(ip.parse().unwrap()), Some(&want), "{ip}");
        }
    }

    #[test]
    fn what_is_no_range() {
        for (text, error) in [
            ("", RangeError::Form),
            ("10.0.0.0/33", RangeError::Form),
            ("10.0.0.0/", RangeError::Form),
            ("10.0.0.0/+8", RangeError::Form),
            ("10.0.0/8", RangeError::Form),
            ("::/129", RangeError::Form),
            ("10.0.0.1/8", RangeError::Host),
            ("2001:db8::1/32", RangeError::Host),
        ] {
            assert_eq!(text.parse::<Range>(), Err(error), "{text}");
        }
    }
}
