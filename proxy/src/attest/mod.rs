//! CA: whose tokens it takes besides its own, and how a token says whom it makes its bearer: one file for
//! each kind of issuer.

mod cluster;
mod oidc;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::ClientConfig;
use selvedge_ca::review::{Reviewed, Vouched};
use selvedge_ca::{ReviewError, Reviewer};
use selvedge_contract::identity::TrustDomain;
use selvedge_gateway::jwt::{Expect, Keys, Refusal, Verified, verify};
use serde::Deserialize;

use crate::fetch::Address;
use crate::policy::keys::{self, KeySource};
use crate::tls::server_client;

/// Seconds that clocks may differ by.
const SKEW: u64 = 60;
/// Most issuers.
const ISSUERS: usize = 100;

/// The file that names issuers.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    attestors: Vec<Entry>,
}

/// One issuer. Exactly one of its keys is set.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
enum Entry {
    /// A Kubernetes cluster, without asking its API.
    Kubernetes(cluster::Spec),
    /// Any issuer of OpenID Connect.
    Oidc(oidc::Spec),
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {why}")]
pub struct AttestError {
    file: String,
    why: String,
}

/// Whose tokens are signed by which keys.
#[derive(Debug)]
struct Signed {
    source: Arc<KeySource>,
    expect: Expect,
}

/// Where the keys of an issuer are.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Origin {
    issuer: String,
    jwks: String,
    #[serde(default)]
    jwks_ca: Option<String>,
    audience: String,
}

impl Signed {
    /// Reads keys from a file at once, and from elsewhere as soon as they come. On a runtime.
    fn of(issuer: &str, audience: &str, jwks: &str, ca: Option<&str>) -> Result<Self, String> {
        for (key, value) in [("issuer", issuer), ("audience", audience)] {
            if value.is_empty() {
                return Err(format!("`{key}` is empty"));
            }
        }
        let source = if jwks.contains("://") {
            let address: Address = jwks.parse().map_err(|e| format!("jwks: `{jwks}`: {e}"))?;
            if !address.is_https() {
                return Err(format!(
                    "jwks: `{jwks}` is not https: anybody could change it"
                ));
            }
            let tls: Arc<ClientConfig> = server_client(ca.map(Path::new), false)
                .map_err(|error| format!("jwksCa: {error}"))?;
            keys::remote(address, tls)
        } else {
            let text = std::fs::read(jwks).map_err(|e| format!("jwks: `{jwks}`: {e}"))?;
            let keys = Keys::read(&text).map_err(|e| format!("jwks: `{jwks}`: {e}"))?;
            KeySource::fixed(keys)
        };
        let expect = Expect {
            issuer: issuer.to_owned(),
            audiences: vec![audience.to_owned()],
            skew: SKEW,
            ..Expect::default()
        };
        Ok(Self { source, expect })
    }

    /// What a token says, once its issuer has signed it and it is for us.
    async fn verified(&self, token: &str) -> Result<Verified, ReviewError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |since| since.as_secs());
        let mut again = false;
        loop {
            let keys = self.source.load();
            let verified = match &keys {
                Some(keys) => verify(token, keys, &self.expect, now),
                None => Err(Refusal::UnknownKey),
            };
            match verified {
                Ok(verified) => return Ok(verified),
                // It may have other keys by now.
                Err(Refusal::UnknownKey) if !again => {
                    again = true;
                    self.source.again().await;
                }
                Err(Refusal::UnknownKey) if keys.is_none() => {
                    let why = format!("the keys of {} have never come", self.expect.issuer);
                    return Err(ReviewError::Unavailable(why));
                }
                Err(refusal) => return Err(ReviewError::Refused(refusal.to_string())),
            }
        }
    }
}

/// An issuer, by what it is asked about.
#[derive(Debug)]
enum Attestor {
    Cluster(cluster::Cluster),
    Oidc(oidc::Oidc),
}

/// All that vouch for tokens: each for those of its issuer, and one for the rest.
pub struct Attestors {
    by_issuer: Vec<(String, Attestor)>,
    rest: Option<Arc<dyn Reviewer>>,
}

impl fmt::Debug for Attestors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let issuers = self.by_issuer.iter().map(|(issuer, _)| issuer);
        f.debug_list().entries(issuers).finish()
    }
}

impl Attestors {
    /// Reads the file that names issuers. Must be called on a runtime.
    ///
    /// # Errors
    /// What is wrong with it, with line and column where that is known.
    pub fn read(file: &Path, domain: &TrustDomain) -> Result<Self, AttestError> {
        let at = |why: String| AttestError {
            file: file.display().to_string(),
            why,
        };
        let text = std::fs::read_to_string(file).map_err(|e| at(e.to_string()))?;
        Self::of(&text, domain).map_err(at)
    }

    /// The same of such a file's text.
    ///
    /// # Errors
    /// As [`Self::read`], without the file's name.
    pub fn of(text: &str, domain: &TrustDomain) -> Result<Self, String> {
        let spec: File = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
        if spec.attestors.len() > ISSUERS {
            return Err(format!("more than {ISSUERS} attestors"));
        }
        let mut by_issuer = Vec::new();
        for (nth, entry) in spec.attestors.into_iter().enumerate() {
            let made = match entry {
                Entry::Kubernetes(spec) => cluster::Cluster::of(spec, domain)
                    .map(|(issuer, cluster)| (issuer, Attestor::Cluster(cluster))),
                Entry::Oidc(spec) => oidc::Oidc::of(spec, domain)
                    .map(|(issuer, oidc)| (issuer, Attestor::Oidc(oidc))),
            };
            let made: (String, Attestor) = made.map_err(|e| format!("attestors[{nth}]: {e}"))?;
            if by_issuer.iter().any(|(issuer, _)| *issuer == made.0) {
                return Err(format!("attestors[{nth}]: `{}` is named twice", made.0));
            }
            by_issuer.push(made);
        }
        let rest = None;
        Ok(Self { by_issuer, rest })
    }

    /// Those that are named.
    pub fn issuers(&self) -> impl Iterator<Item = &str> {
        self.by_issuer.iter().map(|(issuer, _)| issuer.as_str())
    }

    /// Has somebody else asked about tokens of no issuer that is named.
    #[must_use]
    pub fn or_else(mut self, rest: Arc<dyn Reviewer>) -> Self {
        self.rest = Some(rest);
        self
    }
}

impl Reviewer for Attestors {
    fn review<'a>(&'a self, token: &'a str) -> Reviewed<'a> {
        Box::pin(async {
            // Nobody has verified it: it only says who is to.
            let issuer = issuer(token);
            let named = |(name, _): &&(String, Attestor)| issuer.as_ref() == Some(name);
            match (self.by_issuer.iter().find(named), &self.rest) {
                (Some((_, Attestor::Cluster(cluster))), _) => {
                    let id = cluster.review(token).await?;
                    Ok(Vouched {
                        id,
                        by: "kubernetes",
                    })
                }
                (Some((_, Attestor::Oidc(oidc))), _) => {
                    let id = oidc.review(token).await?;
                    Ok(Vouched { id, by: "oidc" })
                }
                (None, Some(rest)) => rest.review(token).await,
                (None, None) => Err(ReviewError::Refused("its issuer is not known".into())),
            }
        })
    }
}

/// What a token says of its issuer.
fn issuer(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Claims {
        iss: String,
    }
    let payload = token.split('.').nth(1)?;
    let payload = URL_SAFE_NO_PAD.decode(payload).ok()?;
    let claims: Claims = serde_json::from_slice(&payload).ok()?;
    Some(claims.iss)
}
