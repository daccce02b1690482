//! Lists as people write them, `80,8000-8100` or `10.0.0.0/8`: read strictly, kept sorted and
//! without overlap, which the rules' sets demand.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// Most entries of one list: far more than anyone needs, and rules stay quick to load.
pub const ENTRIES: usize = 256;

/// What is wrong with a plan, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {what}; {remedy}")]
pub struct Problem {
    /// Name of the setting, and which entry of its list.
    pub place: String,
    /// What is wrong.
    pub what: String,
    /// What would be right.
    pub remedy: String,
}

impl Problem {
    pub(crate) fn new(
        place: impl Into<String>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            place: place.into(),
            what: what.into(),
            remedy: remedy.into(),
        }
    }
}

/// Splits lists at their commas and reads each entry; every mistake is found at once.
pub(crate) fn read<T>(
    setting: &str,
    lists: &[String],
    problems: &mut Vec<Problem>,
    parse: impl Fn(&str) -> Result<T, (String, String)>,
) -> Vec<T> {
    let mut entries = Vec::new();
    let all = lists.iter().flat_map(|list| list.split(','));
    for (at, text) in all.enumerate() {
        let place = || format!("{setting}, entry {}", at + 1);
        if at == ENTRIES {
            let what = format!("more than {ENTRIES} entries");
            problems.push(Problem::new(setting, what, "join what lies side by side"));
            break;
        }
        match parse(text) {
            Ok(entry) => entries.push(entry),
            Err(_) if text.is_empty() => {
                let remedy = "remove the comma that is too much, or the option";
                problems.push(Problem::new(place(), "nothing is there", remedy));
            }
            Err((what, remedy)) => problems.push(Problem::new(place(), what, remedy)),
        }
    }
    entries
}

/// Ports: ranges from the lowest to the highest, none of which touch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ports(Vec<(u16, u16)>);

impl Ports {
    /// Reads lists of ports and ranges.
    pub(crate) fn read(setting: &str, lists: &[String], problems: &mut Vec<Problem>) -> Self {
        Self::of(read(setting, lists, problems, range))
    }

    /// These ranges, joined where they touch.
    #[must_use]
    pub fn of(mut ranges: Vec<(u16, u16)>) -> Self {
        ranges.sort_unstable();
        let mut joined: Vec<(u16, u16)> = Vec::new();
        for (first, last) in ranges {
            match joined.last_mut() {
                Some((_, end)) if u32::from(first) <= u32::from(*end) + 1 => *end = last.max(*end),
                _ => joined.push((first, last)),
            }
        }
        Self(joined)
    }

    /// First and last port of each range.
    #[must_use]
    pub fn ranges(&self) -> &[(u16, u16)] {
        &self.0
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a port is among them.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        let holds = |(first, last): &(u16, u16)| (*first..=*last).contains(&port);
        self.0.iter().any(holds)
    }
}

fn range(text: &str) -> Result<(u16, u16), (String, String)> {
    let remedy = "expected a port such as `8080`, or a range such as `8000-8100`";
    let wrong = |what: String| (what, remedy.to_owned());
    let port = |digits: &str| {
        let plain = digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0');
        digits.parse::<u16>().ok().filter(|_| plain)
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (Some(first), Some(last)) = (port(first), port(last)) else {
        return Err(wrong(format!("`{text}` is no port from 1 to 65535")));
    };
    if first > last {
        return Err((
            format!("`{text}` ends before it begins"),
            format!("did you mean `{last}-{first}`?"),
        ));
    }
    Ok((first, last))
}

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cidr {
    first: IpAddr,
    length: u8,
}

const fn bits(ip: IpAddr) -> (u128, u8) {
    match ip {
        // At the top of the word, so that a prefix is the same mask for both.
        IpAddr::V4(v4) => ((v4.to_bits() as u128) << 96, 32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    }
}

const fn mask(length: u8) -> u128 {
    match length {
        0 => 0,
        _ => u128::MAX << (128 - length),
    }
}

impl Cidr {
    /// Reads lists of ranges; what lies inside another is left out.
    pub(crate) fn read(setting: &str, lists: &[String], problems: &mut Vec<Problem>) -> Vec<Self> {
        let mut all = read(setting, lists, problems, cidr);
        all.sort_unstable_by_key(|cidr| (cidr.length, cidr.first));
        let mut kept: Vec<Self> = Vec::new();
        for cidr in all {
            if !kept.iter().any(|outer| outer.contains(cidr.first)) {
                kept.push(cidr);
            }
        }
        kept.sort_unstable();
        kept
    }

    /// Its first address.
    #[must_use]
    pub const fn first(self) -> IpAddr {
        self.first
    }

    /// Whether an address lies in it.
    #[must_use]
    pub fn contains(self, ip: IpAddr) -> bool {
        let same = self.first.is_ipv4() == ip.is_ipv4();
        same && (bits(ip).0 ^ bits(self.first).0) & mask(self.length) == 0
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.length)
    }
}

fn cidr(text: &str) -> Result<Cidr, (String, String)> {
    let form = || {
        (
            format!("`{text}` is no range of addresses"),
            "expected one such as `10.0.0.0/8` or `2001:db8::/32`, or an address".to_owned(),
        )
    };
    let (ip, length) = match text.split_once('/') {
        Some((ip, length)) => (ip, Some(length)),
        None => (text, None),
    };
    let ip: IpAddr = ip.parse().map_err(|_| form())?;
    let (value, most) = bits(ip);
    let length = match length {
        None => most,
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            digits.parse().map_err(|_| form())?
        }
        Some(_) => return Err(form()),
    };
    if length > most {
        return Err(form());
    }
    if let IpAddr::V6(v6) = ip
        && v6.to_ipv4_mapped().is_some()
    {
        let what = format!("`{text}` is IPv4 in the clothes of IPv6, which no packet wears");
        return Err((what, "write it as IPv4".to_owned()));
    }
    let network = value & mask(length);
    if network != value {
        let first = match ip {
            IpAddr::V4(_) => IpAddr::V4(u32::try_from(network >> 96).unwrap_or_default().into()),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(network)),
        };
        let what = format!("`{text}` has bits behind its prefix");
        return Err((what, format!("did you mean `{first}/{length}`?")));
    }
    Ok(Cidr { first: ip, length })
}

/// The name of a network interface; at its end a `*` may stand for the rest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interface(String);

impl Interface {
    /// Reads lists of names.
    pub(crate) fn read(setting: &str, lists: &[String], problems: &mut Vec<Problem>) -> Vec<Self> {
        let mut all = read(setting, lists, problems, interface);
        all.sort_unstable();
        all.dedup();
        all
    }

    /// As nftables writes it.
    #[must_use]
    pub fn nft(&self) -> &str {
        &self.0
    }

    /// As iptables writes it.
    #[must_use]
    pub fn iptables(&self) -> String {
        self.0.replace('*', "+")
    }
}

fn interface(text: &str) -> Result<Interface, (String, String)> {
    let name = text.strip_suffix('*').unwrap_or(text);
    let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    // 16 bytes with the zero at the end, by the kernel.
    if name.is_empty() || text.len() > 15 || !name.bytes().all(known) || name.starts_with('-') {
        return Err((
            format!("`{text}` is no name of an interface"),
            "expected one such as `eth1`, or `tap*` for all that begin so".to_owned(),
        ));
    }
    if name == "lo" {
        let what = "`lo` is where the application and the sidecar meet".to_owned();
        return Err((what, "name another interface".to_owned()));
    }
    Ok(Interface(text.to_owned()))
}
