//! Tokens that the platform has given its workloads: a Kubernetes service account's, for which the
//! platform is asked at each call, so that a deleted pod is nobody at once.

use std::fmt;
use std::pin::Pin;

use selvedge_contract::identity::{SpiffeId, TrustDomain};

/// Longest token in bytes that anybody is asked about: projected ones have about 1 KiB.
pub const MAX_TOKEN: usize = 8 * 1024;
/// Longest name of an account's part in bytes (RFC 1123 subdomain).
const MAX_NAME: usize = 253;

/// Why nobody vouches for a token. For the log; a caller is never told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReviewError {
    /// The platform does not know it: forged, expired, of a deleted pod, or for another audience.
    #[error("the token is not accepted: {0:?}")]
    Refused(String),
    /// It belongs to somebody who is no service account.
    #[error("the token belongs to {0:?}, which is no service account")]
    NoAccount(String),
    /// The platform could not be asked.
    #[error("the platform cannot be asked: {0}")]
    Unavailable(String),
}

/// Whom a token makes its bearer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vouched {
    /// The identity.
    pub id: SpiffeId,
    /// Who says so, in one word for the log.
    pub by: &'static str,
}

/// What a review gives, in time.
pub type Reviewed<'a> = Pin<Box<dyn Future<Output = Result<Vouched, ReviewError>> + Send + 'a>>;

/// Whoever can say to whom a token belongs.
pub trait Reviewer: fmt::Debug + Send + Sync {
    /// Says it. The token has at most [`MAX_TOKEN`] bytes and the form of [`is_compact`]; nothing else of
    /// it has been looked at.
    fn review<'a>(&'a self, token: &'a str) -> Reviewed<'a>;
}

/// Whether a text has the form of a signed JWT (RFC 7515 section 3.1). Join tokens never have it.
#[must_use]
pub fn is_compact(token: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
    let mut parts = 0;
    let fine = token
        .split('.')
        .inspect(|_| parts += 1)
        .all(|part| !part.is_empty() && part.bytes().all(plain));
    fine && parts == 3 && token.len() <= MAX_TOKEN
}

/// A service account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Account {
    /// Reads the name of a user as Kubernetes writes it, `system:serviceaccount:<namespace>:<name>`.
    #[must_use]
    pub fn of_user(user: &str) -> Option<Self> {
        let rest = user.strip_prefix("system:serviceaccount:")?;
        let (namespace, name) = rest.split_once(':')?;
        let label = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let fits = |part: &str, more: &[u8]| {
            (1..=MAX_NAME).contains(&part.len())
                && part.bytes().all(|b| label(b) || more.contains(&b))
                && part != "."
                && part != ".."
        };
        (fits(namespace, b"") && fits(name, b".")).then(|| Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }

    /// Its identity, `spiffe://<trust domain>/ns/<namespace>/sa/<name>`.
    #[must_use]
    pub fn id(&self, trust_domain: &TrustDomain) -> Option<SpiffeId> {
        let Self { namespace, name } = self;
        let text = format!("{}/ns/{namespace}/sa/{name}", trust_domain.uri());
        text.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signed_tokens_are_told_from_others() {
        assert!(is_compact("eyJh.eyJz.c2ln-_"));
        let long = format!("a.b.{}", "c".repeat(MAX_TOKEN));
        for other in [
            "", "abc", "a.b", "a.b.c.d", "a..c", "a.b.c=", "a.b.c ", &long,
        ] {
            assert!(!is_compact(other), "{other}");
        }
    }

    #[test]
    fn accounts_are_read_from_the_names_of_users() {
        let domain: TrustDomain = "shop.local".parse().unwrap();
        let account = Account::of_user("system:serviceaccount:shop:web.v1").unwrap();
        assert_eq!(
            account.id(&domain).unwrap().as_str(),
            "spiffe://shop.local/ns/shop/sa/web.v1"
        );
        for user in [
            "admin",
            "system:node:a",
            "system:serviceaccount:shop",
            "system:serviceaccount::web",
            "system:serviceaccount:shop:",
            "system:serviceaccount:shop:..",
            "system:serviceaccount:shop:a/b",
            "system:serviceaccount:sh/op:a",
            "system:serviceaccount:..:a",
            "system:serviceaccount:shop:a:b",
            "system:serviceaccount:Shop:a",
        ] {
            assert_eq!(Account::of_user(user), None, "{user}");
        }
    }
}
