//! CA: service accounts of a Kubernetes cluster whose API is not asked: by the keys that sign their tokens.
//! A pod that was deleted is known until its token ends, which the API would know at once.

use selvedge_ca::{Account, ReviewError};
use selvedge_contract::identity::{SpiffeId, TrustDomain};

use super::{Origin, Signed};

/// As it is written.
pub(super) type Spec = Origin;

#[derive(Debug)]
pub(super) struct Cluster {
    signed: Signed,
    domain: TrustDomain,
}

impl Cluster {
    pub(super) fn of(spec: Spec, domain: &TrustDomain) -> Result<(String, Self), String> {
        let Origin {
            issuer,
            jwks,
            jwks_ca,
            audience,
        } = spec;
        let signed = Signed::of(&issuer, &audience, &jwks, jwks_ca.as_deref())?;
        let domain = domain.clone();
        Ok((issuer, Self { signed, domain }))
    }

    pub(super) async fn review(&self, token: &str) -> Result<SpiffeId, ReviewError> {
        let verified = self.signed.verified(token).await?;
        let subject = verified.claims.get("sub").and_then(|sub| sub.as_str());
        let subject = subject.unwrap_or_default();
        Account::of_user(subject)
            .and_then(|account| account.id(&self.domain))
            .ok_or_else(|| ReviewError::NoAccount(subject.to_owned()))
    }
}
