//! What a caller shows becomes a SPIFFE ID, or nothing. The certificate request has no say in it.

use std::time::SystemTime;

use rustls_pki_types::{CertificateDer, UnixTime};
use selvedge_contract::identity::SpiffeId;

use crate::authority::Authority;
use crate::issue::{IssueError, permitted, sha256};
use crate::review::{ReviewError, Reviewer, Vouched, is_compact};
use crate::signer::{parse, uri_names};
use crate::token::{TokenError, TokenStore};
use crate::validity::Validity;

/// What a caller shows.
#[derive(Debug, Clone, Copy)]
pub struct Shown<'a> {
    /// The value of `authorization`, when there is one.
    pub authorization: Option<&'a str>,
    /// The certificate chain of the TLS connection, leaf first; empty when there is none. Whoever
    /// fills this in vouches that the peer proved to hold the leaf's key.
    pub certificates: &'a [CertificateDer<'static>],
}

/// What proved an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// A join token, which is spent now.
    Token,
    /// A token that somebody else vouches for: the platform, an issuer.
    Vouched(&'static str),
    /// A certificate that this authority issued: the way to renew.
    Certificate,
    /// A certificate and one of the others, and they agree.
    Both,
}

impl Proof {
    /// One word for the log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Vouched(by) => by,
            Self::Certificate => "certificate",
            Self::Both => "token+certificate",
        }
    }
}

/// A caller whose identity is proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The identity.
    pub id: SpiffeId,
    /// What proved it.
    pub proof: Proof,
}

/// Why a caller stays unknown. For the log; a caller is never told.
#[derive(Debug, thiserror::Error)]
pub enum AttestError {
    /// Neither a token nor a certificate.
    #[error("no credentials")]
    Nothing,
    /// `authorization` is not `Bearer` and a token.
    #[error("the authorization is not a bearer token")]
    Scheme,
    /// Tokens are not accepted by this CA.
    #[error("join tokens are switched off")]
    NoTokens,
    /// The token is not accepted.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The platform does not vouch for the token, or could not be asked.
    #[error(transparent)]
    Review(#[from] ReviewError),
    /// The certificate does not chain to this authority, is out of its life, or not for clients.
    #[error("the certificate is not valid: {0}")]
    Certificate(String),
    /// The certificate, or one that it hangs on, is in a list of those that count no more.
    #[error("the certificate is revoked")]
    Revoked,
    /// Nothing is known of it: what signs was used elsewhere, or the issuance log is lost.
    #[error("the certificate was not issued here")]
    NotIssued,
    /// The certificate has no URI name, several, or one that is not a SPIFFE ID.
    #[error("the certificate does not have exactly one SPIFFE ID")]
    Names,
    /// Token and certificate are both good, but for different identities.
    #[error("token and certificate disagree")]
    Disagree,
    /// The proven identity may not be issued.
    #[error(transparent)]
    NotPermitted(IssueError),
}

/// Asks whoever vouches for tokens about one of their form; `None`: it has another, or nobody is asked.
///
/// # Errors
/// [`AttestError::Review`].
pub async fn review(
    reviewer: Option<&dyn Reviewer>,
    authorization: Option<&str>,
) -> Result<Option<Vouched>, AttestError> {
    let token = authorization.and_then(bearer);
    match (reviewer, token) {
        (Some(reviewer), Some(token)) if is_compact(token) => {
            Ok(Some(reviewer.review(token).await?))
        }
        _ => Ok(None),
    }
}

/// Finds out who calls. `reviewed` is whom somebody vouches for. A join token is spent
/// by this, whatever comes of it; blocks on the disk.
///
/// With both a token and a certificate, both must be good and agree. So a workload that renews
/// with its certificate leaves its old token at home.
///
/// # Errors
/// When nothing is shown, or anything that is shown is not accepted.
pub fn attest(
    authority: &Authority,
    tokens: Option<&TokenStore>,
    reviewed: Option<Vouched>,
    shown: Shown<'_>,
    now: SystemTime,
) -> Result<Caller, AttestError> {
    // First the certificate: a bad one should not cost the owner of a token that token.
    let by_certificate = match shown.certificates {
        [] => None,
        shown => Some(certificate(authority, shown, now)?.0),
    };
    let by_token = match (reviewed, shown.authorization) {
        (Some(Vouched { id, by }), _) => Some((id, Proof::Vouched(by))),
        (None, None) => None,
        (None, Some(value)) => {
            let token = bearer(value).ok_or(AttestError::Scheme)?;
            let id = tokens.ok_or(AttestError::NoTokens)?.redeem(token, now)?;
            Some((id, Proof::Token))
        }
    };
    let (id, proof) = match (by_token, by_certificate) {
        (None, None) => return Err(AttestError::Nothing),
        (Some(token), None) => token,
        (None, Some(id)) => (id, Proof::Certificate),
        (Some((token, _)), Some(certificate)) if token == certificate => (token, Proof::Both),
        (Some(_), Some(_)) => return Err(AttestError::Disagree),
    };
    permitted(&id, authority.trust_domain()).map_err(AttestError::NotPermitted)?;
    Ok(Caller { id, proof })
}

/// The token in `Bearer <token>`; the scheme in any case (RFC 9110 section 11.1).
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim_ascii())
}

/// The identity in a certificate of ours, and when it ends (seconds since 1970).
///
/// The handshake verified it too, but that may be a while ago: a connection outlives neither the
/// certificate nor this check.
///
/// # Errors
/// When there is none, or it is not accepted.
pub(crate) fn certificate(
    authority: &Authority,
    shown: &[CertificateDer<'static>],
    now: SystemTime,
) -> Result<(SpiffeId, u64), AttestError> {
    let [leaf, intermediates @ ..] = shown else {
        return Err(AttestError::Nothing);
    };
    let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH);
    let at = since_epoch.map_err(|_| AttestError::Certificate("clock before 1970".into()))?;
    authority
        .verifier()
        .verify_client_cert(leaf, intermediates, UnixTime::since_unix_epoch(at))
        .map_err(|error| AttestError::Certificate(error.to_string()))?;
    for shown in shown {
        let certificate = parse(shown).map_err(|_| AttestError::Names)?;
        if authority.revoked.holds(&certificate) {
            return Err(AttestError::Revoked);
        }
    }
    let certificate = parse(leaf).map_err(|_| AttestError::Names)?;
    // Exactly one (SPIFFE X509-SVID section 2).
    let [uri] = uri_names(&certificate).ok_or(AttestError::Names)?[..] else {
        return Err(AttestError::Names);
    };
    let id: SpiffeId = uri.parse().map_err(|_| AttestError::Names)?;
    let key = sha256(certificate.public_key().raw);
    let known = (id.as_str(), &*key);
    if !authority.ledger.holds(&certificate, known, now) {
        return Err(AttestError::NotIssued);
    }
    Ok((id, Validity::of(&certificate).not_after))
}

#[cfg(test)]
mod tests {
    use super::bearer;

    #[test]
    fn only_bearer_counts() {
        assert_eq!(bearer("Bearer abc"), Some("abc"));
        assert_eq!(bearer("bEARER  abc "), Some("abc"));
        assert_eq!(bearer("Basic abc"), None);
        assert_eq!(bearer("abc"), None);
        assert_eq!(bearer(""), None);
    }
}
