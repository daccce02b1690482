//! CA: bearers of an OpenID Connect issuer's tokens (CI jobs, virtual machines), whose claims make their
//! identity by a template.

use std::collections::BTreeMap;

use selvedge_ca::ReviewError;
use selvedge_ca::path_template::PathTemplate;
use selvedge_contract::config::OneOrMany;
use selvedge_contract::identity::{SpiffeId, TrustDomain};
use selvedge_gateway::jwt::find;
use serde::Deserialize;

use super::Signed;

/// As it is written.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Spec {
    issuer: String,
    jwks: String,
    #[serde(default)]
    jwks_ca: Option<String>,
    audience: String,
    /// `/ci/{repository_owner}/{repository/*}`.
    path: String,
    /// Claims that must be there, and the values that will do.
    #[serde(default)]
    claims: BTreeMap<String, OneOrMany>,
}

#[derive(Debug)]
pub(super) struct Oidc {
    signed: Signed,
    path: PathTemplate,
    /// Claims and the values that will do, as a whole: others may choose words in them.
    claims: Vec<(String, Vec<String>)>,
    domain: TrustDomain,
}

impl Oidc {
    pub(super) fn of(spec: Spec, domain: &TrustDomain) -> Result<(String, Self), String> {
        let path = spec.path.parse();
        let path = path.map_err(|error| format!("path: `{}`: {error}", spec.path))?;
        let ca = spec.jwks_ca.as_deref();
        let signed = Signed::of(&spec.issuer, &spec.audience, &spec.jwks, ca)?;
        let mut claims = Vec::new();
        for (claim, values) in spec.claims {
            let values = match values {
                OneOrMany::One(value) => vec![value],
                OneOrMany::Many(values) => values,
            };
            if values.is_empty() {
                return Err(format!("claims.{claim}: nothing would do"));
            }
            claims.push((claim, values));
        }
        let domain = domain.clone();
        let oidc = Self {
            signed,
            path,
            claims,
            domain,
        };
        Ok((spec.issuer, oidc))
    }

    pub(super) async fn review(&self, token: &str) -> Result<SpiffeId, ReviewError> {
        let verified = self.signed.verified(token).await?;
        let claim = |name: &str| Some(find(&verified.claims, name)?.as_str()?.to_owned());
        for (name, values) in &self.claims {
            let found = claim(name);
            if !found.is_some_and(|found| values.contains(&found)) {
                let why = format!("the claim `{name}` is not what is asked for");
                return Err(ReviewError::Refused(why));
            }
        }
        let id = self.path.identity(&self.domain, claim);
        id.map_err(|error| ReviewError::Refused(error.to_string()))
    }
}
