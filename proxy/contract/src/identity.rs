//! SPIFFE identities (SPIFFE-ID 2.1 to 2.4): parsed once at the edge, correct from then on.

use std::fmt;
use std::str::FromStr;

/// Longest SPIFFE ID in bytes (SPIFFE-ID 2.3).
pub const MAX_ID: usize = 2048;
/// Longest trust domain in bytes (SPIFFE-ID 2.1).
pub const MAX_TRUST_DOMAIN: usize = 255;

/// Why a string is not a SPIFFE ID or a trust domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The text does not begin with `spiffe://`.
    #[error("must begin with `spiffe://` (lower case)")]
    Scheme,
    /// More than 2048 bytes, or a trust domain of more than 255.
    #[error("is too long (2048 bytes in all, 255 for the trust domain)")]
    TooLong,
    /// The trust domain is empty or has a character outside `[a-z0-9.-_]`.
    #[error("the trust domain may hold only `a-z`, `0-9`, `.`, `-` and `_`, and not be empty")]
    TrustDomain,
    /// The path is missing, ends in `/`, or has an empty, `.`, `..` or ill-spelled segment.
    #[error("the path needs segments of `[a-zA-Z0-9.-_]`, none empty, `.` or `..`, no final `/`")]
    Path,
}

/// A trust domain such as `shop.local`: lower case, no port, no user part.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Box<str>);

impl TrustDomain {
    /// The name, without scheme.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The ID of the trust domain itself, which a signing certificate may carry.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("spiffe://{}", self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        if text.len() > MAX_TRUST_DOMAIN {
            return Err(IdentityError::TooLong);
        }
        let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
        if text.is_empty() || !text.bytes().all(ok) {
            return Err(IdentityError::TrustDomain);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The identity of a workload, such as `spiffe://shop.local/ns/shop/sa/orders`.
///
/// Always has a path: the ID of a bare trust domain names no workload.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    uri: Box<str>,
    /// Where the path (with its leading `/`) begins in `uri`.
    path_at: usize,
}

const SCHEME: &str = "spiffe://";

impl SpiffeId {
    /// Builds `spiffe://<domain>/ns/<namespace>/sa/<account>`, the form Istio and ztunnel use.
    ///
    /// # Errors
    /// When a part has a character that a path segment may not have.
    pub fn workload(
        domain: &TrustDomain,
        namespace: &str,
        account: &str,
    ) -> Result<Self, IdentityError> {
        format!("{SCHEME}{domain}/ns/{namespace}/sa/{account}").parse()
    }

    /// The whole URI.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.uri
    }

    /// The trust domain's name.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        self.uri.get(SCHEME.len()..self.path_at).unwrap_or_default()
    }

    /// The path with its leading `/`.
    #[must_use]
    pub fn path(&self) -> &str {
        self.uri.get(self.path_at..).unwrap_or_default()
    }

    /// Whether this identity belongs to `domain`.
    #[must_use]
    pub fn is_member_of(&self, domain: &TrustDomain) -> bool {
        self.trust_domain() == domain.as_str()
    }
}

impl FromStr for SpiffeId {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        if text.len() > MAX_ID {
            return Err(IdentityError::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(IdentityError::Scheme)?;
        let slash = rest.find('/').ok_or(IdentityError::Path)?;
        let (domain, path) = rest.split_at(slash);
        domain.parse::<TrustDomain>()?;
        let segment = |s: &str| {
            !s.is_empty()
                && s != "."
                && s != ".."
                && s.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        if !path.split('/').skip(1).all(segment) {
            return Err(IdentityError::Path);
        }
        Ok(Self {
            uri: text.into(),
            path_at: SCHEME.len() + slash,
        })
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_the_standard_accepts() {
        for good in [
            "spiffe://shop.local/ns/shop/sa/orders",
            "spiffe://a/b",
            "spiffe://under_score-1.x/A.b-c_9",
            "spiffe://d/...",
        ] {
            assert!(good.parse::<SpiffeId>().is_ok(), "{good}");
        }
        let domain = "d".repeat(MAX_TRUST_DOMAIN);
        assert!(format!("spiffe://{domain}/x").parse::<SpiffeId>().is_ok());
        let id = format!("spiffe://d/{}", "x".repeat(MAX_ID - 11));
        assert_eq!(id.len(), MAX_ID);
        assert!(id.parse::<SpiffeId>().is_ok());
    }

    #[test]
    fn refuses_the_rest_with_its_reason() {
        use IdentityError as E;
        for (bad, why) in [
            ("", E::Scheme),
            ("SPIFFE://d/x", E::Scheme),
            ("https://d/x", E::Scheme),
            ("spiffe://d", E::Path),
            ("spiffe://d/", E::Path),
            ("spiffe://d/x/", E::Path),
            ("spiffe://d//x", E::Path),
            ("spiffe://d/./x", E::Path),
            ("spiffe://d/../x", E::Path),
            ("spiffe://d/%41", E::Path),
            ("spiffe://d/x?q", E::Path),
            ("spiffe://d/x#f", E::Path),
            ("spiffe://d/é", E::Path),
            ("spiffe:///x", E::TrustDomain),
            ("spiffe://D/x", E::TrustDomain),
            ("spiffe://d:1/x", E::TrustDomain),
            ("spiffe://u@d/x", E::TrustDomain),
        ] {
            assert_eq!(bad.parse::<SpiffeId>(), Err(why), "{bad}");
        }
        let long = format!("spiffe://d/{}", "x".repeat(MAX_ID - 10));
        assert_eq!(long.parse::<SpiffeId>(), Err(E::TooLong));
        let domain = format!("spiffe://{}/x", "d".repeat(MAX_TRUST_DOMAIN + 1));
        assert_eq!(domain.parse::<SpiffeId>(), Err(E::TooLong));
    }

    #[test]
    fn parts_come_back() {
        let domain: TrustDomain = "shop.local".parse().unwrap_or_else(|_| unreachable!());
        let id = SpiffeId::workload(&domain, "shop", "web").unwrap_or_else(|_| unreachable!());
        assert_eq!(id.trust_domain(), "shop.local");
        assert_eq!(id.path(), "/ns/shop/sa/web");
        assert!(id.is_member_of(&domain));
    }
}
