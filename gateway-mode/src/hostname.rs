//! Host name patterns of Gateway API: exact names, and `*.` with a suffix.

use std::fmt;
use std::str::FromStr;

/// A pattern: `shop.example.com` or `*.example.com`. Lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// One name.
    Exact(String),
    /// Every name that ends in this suffix (with its leading dot) behind at least one label.
    Suffix(String),
}

/// What is wrong with a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a host name such as `shop.example.com` or `*.example.com`, without port")]
pub struct BadPattern;

impl FromStr for Pattern {
    type Err = BadPattern;

    fn from_str(text: &str) -> Result<Self, BadPattern> {
        let name = text.strip_prefix("*.").unwrap_or(text);
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        if name.len() > 253 || !name.split('.').all(label) {
            return Err(BadPattern);
        }
        let name = name.to_ascii_lowercase();
        Ok(if text.starts_with("*.") {
            Self::Suffix(format!(".{name}"))
        } else {
            Self::Exact(name)
        })
    }
}

impl Pattern {
    /// Whether a host (lower case, no port) fits.
    #[must_use]
    pub fn fits(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => host == name,
            Self::Suffix(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_str()),
        }
    }

    /// What a route's pattern leaves of a listener's: the narrower of the two, if they overlap.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Option<Self> {
        let (narrow, wide) = match (self, other) {
            (Self::Exact(_), _) => (self, other),
            (_, Self::Exact(_)) => (other, self),
            (Self::Suffix(a), Self::Suffix(b)) if a.len() >= b.len() => (self, other),
            _ => (other, self),
        };
        let overlaps = match (narrow, wide) {
            (Self::Exact(name), wide) => wide.fits(name),
            (Self::Suffix(a), Self::Suffix(b)) => a.ends_with(b.as_str()),
            (Self::Suffix(_), Self::Exact(_)) => false,
        };
        overlaps.then(|| narrow.clone())
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        text.parse().unwrap()
    }

    #[test]
    fn fits() {
        assert!(pattern("A.example").fits("a.example"));
        assert!(!pattern("a.example").fits("b.a.example"));
        assert!(pattern("*.example").fits("a.example"));
        assert!(pattern("*.example").fits("b.a.example"));
        assert!(!pattern("*.example").fits("example"));
        assert!(!pattern("*.example").fits(".example"));
        for bad in [
            "",
            "*",
            "*.",
            "a..b",
            "a:80",
            "a b",
            "*.*.a",
            "a*",
            &"a".repeat(64),
        ] {
            assert!(bad.parse::<Pattern>().is_err(), "{bad}");
        }
    }

    #[test]
    fn intersections() {
        let meet = |a: &str, b: &str| pattern(a).intersect(&pattern(b)).map(|p| p.to_string());
        assert_eq!(meet("*.example", "a.example").as_deref(), Some("a.example"));
        assert_eq!(
            meet("*.b.example", "*.example").as_deref(),
            Some("*.b.example")
        );
        assert_eq!(meet("*.b.example", "*.c.example"), None);
        assert_eq!(meet("a.example", "b.example"), None);
        assert_eq!(meet("*.example", "example"), None);
    }
}
