//! JSON Web Tokens (RFC 7519, RFC 7515): whether one of an issuer's keys has signed a token, and
//! whether it says what a policy asks for. Keys and time are passed in.
//!
//! What a token's own header says about keys (`jku`, `jwk`, `x5u`, `x5c`) is never looked at. The
//! algorithm is the key's, never the token's choice (RFC 8725 section 3.1).

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::{Map, Value};

mod claims;
pub mod svid;

pub use claims::{content, find, headers, holds};

/// Longest token in bytes; also the longest head line that is reasonable.
pub const TOKEN: usize = 8 << 10;
/// Longest key ID.
const KID: usize = 256;
/// Keys taken from one set.
const KEYS: usize = 100;

/// An issuer's keys.
#[derive(Debug, Default)]
pub struct Keys {
    list: Vec<Key>,
}

#[derive(Debug)]
struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

/// Why a text is no set of keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// Not a JWK set.
    #[error("not a JSON Web Key set: {0}")]
    Form(String),
    /// Nothing in it that can verify a signature.
    #[error("no key in it that can verify a signature")]
    Empty,
}

impl Keys {
    /// Reads a JWK set (RFC 7517 section 5). Keys that are not for signatures, symmetric ones and
    /// those of unknown kinds are left out.
    ///
    /// # Errors
    /// [`KeysError`].
    pub fn read(text: &[u8]) -> Result<Self, KeysError> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Value>,
        }
        let set: Set = serde_json::from_slice(text).map_err(|e| KeysError::Form(e.to_string()))?;
        let jwks = set.keys.into_iter().take(KEYS);
        // One key that cannot be read must not take the others with it.
        let list: Vec<Key> = jwks
            .filter_map(|value| serde_json::from_value::<Jwk>(value).ok())
            .filter_map(|jwk| Key::of(&jwk))
            .collect();
        if list.is_empty() {
            return Err(KeysError::Empty);
        }
        Ok(Self { list })
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

impl Key {
    fn of(jwk: &Jwk) -> Option<Self> {
        let signs = matches!(
            jwk.common.public_key_use,
            None | Some(PublicKeyUse::Signature)
        );
        if !signs {
            return None;
        }
        let own = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => Algorithm::RS256,
            AlgorithmParameters::EllipticCurve(ec) => match ec.curve {
                EllipticCurve::P256 => Algorithm::ES256,
                EllipticCurve::P384 => Algorithm::ES384,
                _ => return None,
            },
            AlgorithmParameters::OctetKeyPair(okp) if okp.curve == EllipticCurve::Ed25519 => {
                Algorithm::EdDSA
            }
            _ => return None,
        };
        let algorithm = match (jwk.common.key_algorithm, own) {
            (None, own) => own,
            (Some(KeyAlgorithm::RS256), Algorithm::RS256) => Algorithm::RS256,
            (Some(KeyAlgorithm::RS384), Algorithm::RS256) => Algorithm::RS384,
            (Some(KeyAlgorithm::RS512), Algorithm::RS256) => Algorithm::RS512,
            (Some(KeyAlgorithm::PS256), Algorithm::RS256) => Algorithm::PS256,
            (Some(KeyAlgorithm::PS384), Algorithm::RS256) => Algorithm::PS384,
            (Some(KeyAlgorithm::PS512), Algorithm::RS256) => Algorithm::PS512,
            (Some(KeyAlgorithm::ES256), Algorithm::ES256) => Algorithm::ES256,
            (Some(KeyAlgorithm::ES384), Algorithm::ES384) => Algorithm::ES384,
            (Some(KeyAlgorithm::EdDSA), Algorithm::EdDSA) => Algorithm::EdDSA,
            _ => return None,
        };
        Some(Self {
            id: jwk.common.key_id.clone(),
            algorithm,
            key: DecodingKey::from_jwk(jwk).ok()?,
        })
    }
}

/// What a token must say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expect {
    /// `iss`, to the letter.
    pub issuer: String,
    /// One of these in `aud`.
    pub audiences: Vec<String>,
    /// Claims that must be there.
    pub required: Vec<String>,
    /// Claims and the values that will do.
    pub claims: BTreeMap<String, Vec<String>>,
    /// Words that `scope` or `scp` must hold.
    pub scopes: Vec<String>,
    /// Claims (`a.b` for one inside another) and the headers they become.
    pub headers: Vec<(String, String)>,
    /// Seconds that clocks may differ by.
    pub skew: u64,
}

/// Why a token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not a signed token of three parts.
    #[error("the token is malformed")]
    Malformed,
    /// An algorithm that is not accepted, or not that of the key.
    #[error("the token's algorithm is not accepted")]
    Algorithm,
    /// No key of that name. Keys may have changed since they were read.
    #[error("the token's key is not known")]
    UnknownKey,
    /// Not signed by that key.
    #[error("the token's signature is wrong")]
    Signature,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// Its time has not come.
    #[error("the token is not valid yet")]
    NotYet,
    /// `exp`, `nbf` or `iat` is no whole number of seconds, or `exp` is missing.
    #[error("the token's times are malformed")]
    Times,
    /// Another issuer.
    #[error("the token is from another issuer")]
    Issuer,
    /// For somebody else.
    #[error("the token is for another audience")]
    Audience,
    /// A claim is missing, or has another value.
    #[error("the token lacks a claim")]
    Claim,
    /// Its authorization server says that it is not, or no longer, good.
    #[error("the token is not active")]
    Inactive,
    /// It does not allow this.
    #[error("the token's scope does not allow this")]
    Scope,
}

/// A token that was found right.
#[derive(Debug, Clone, PartialEq)]
pub struct Verified {
    /// Its claims.
    pub claims: Map<String, Value>,
    /// Headers with the claims that were asked for.
    pub headers: Vec<(String, String)>,
    /// Until when, in Unix seconds, skew included.
    pub until: u64,
}

/// What of a token's header counts. Twice the same key is an error.
#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    crit: Option<Value>,
}

fn part(text: &str) -> Result<Vec<u8>, Refusal> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| Refusal::Malformed)
}

fn algorithm(name: &str) -> Result<Algorithm, Refusal> {
    Ok(match name {
        "RS256" => Algorithm::RS256,
        "RS384" => Algorithm::RS384,
        "RS512" => Algorithm::RS512,
        "PS256" => Algorithm::PS256,
        "PS384" => Algorithm::PS384,
        "PS512" => Algorithm::PS512,
        "ES256" => Algorithm::ES256,
        "ES384" => Algorithm::ES384,
        "EdDSA" => Algorithm::EdDSA,
        // `none`, and symmetric ones: whoever knows the public key could make those.
        _ => return Err(Refusal::Algorithm),
    })
}

/// Verifies a token at a time in Unix seconds.
///
/// # Errors
/// [`Refusal`].
pub fn verify(token: &str, keys: &Keys, expect: &Expect, now: u64) -> Result<Verified, Refusal> {
    if token.len() > TOKEN {
        return Err(Refusal::Malformed);
    }
    let (message, signature) = token.rsplit_once('.').ok_or(Refusal::Malformed)?;
    let (head, payload) = message.split_once('.').ok_or(Refusal::Malformed)?;
    if payload.contains('.') {
        return Err(Refusal::Malformed);
    }
    let head: Header = serde_json::from_slice(&part(head)?).map_err(|_| Refusal::Malformed)?;
    if head.crit.is_some() || head.kid.as_ref().is_some_and(|kid| kid.len() > KID) {
        return Err(Refusal::Malformed);
    }
    let algorithm = algorithm(&head.alg)?;
    part(signature)?;
    signed(message, signature, algorithm, head.kid.as_deref(), keys)?;
    let claims = serde_json::from_slice(&part(payload)?).map_err(|_| Refusal::Malformed)?;
    judge(claims, expect, now)
}

/// Whether one of the keys that come into question has signed. Without a key ID that is any key of
/// the algorithm; with one, only those of that name.
fn signed(
    message: &str,
    signature: &str,
    algorithm: Algorithm,
    kid: Option<&str>,
    keys: &Keys,
) -> Result<(), Refusal> {
    let named = |key: &&Key| kid.is_none() || key.id.as_deref() == kid;
    let mut found = false;
    let mut fits = false;
    for key in keys.list.iter().filter(named) {
        found = true;
        if key.algorithm != algorithm {
            continue;
        }
        fits = true;
        let right =
            jsonwebtoken::crypto::verify(signature, message.as_bytes(), &key.key, algorithm);
        if right == Ok(true) {
            return Ok(());
        }
    }
    Err(match (found, fits) {
        (false, _) => Refusal::UnknownKey,
        (true, false) => Refusal::Algorithm,
        (true, true) => Refusal::Signature,
    })
}

fn time(claims: &Map<String, Value>, name: &str) -> Result<Option<u64>, Refusal> {
    match claims.get(name) {
        None => Ok(None),
        Some(value) => value.as_u64().map(Some).ok_or(Refusal::Times),
    }
}

/// A token by itself must say when it ends, who has made it, and for whom.
fn judge(claims: Map<String, Value>, expect: &Expect, now: u64) -> Result<Verified, Refusal> {
    if !claims.contains_key("exp") {
        return Err(Refusal::Times);
    }
    if expect.issuer.is_empty() {
        return Err(Refusal::Issuer);
    }
    if expect.audiences.is_empty() {
        return Err(Refusal::Audience);
    }
    judge_claims(claims, expect, now)
}

/// Whether claims that somebody vouches for are what is asked for, at a time in Unix seconds. Issuer
/// and audiences count where any are expected, `exp`, `nbf` and `iat` where they are there.
///
/// # Errors
/// [`Refusal`].
pub fn judge_claims(
    claims: Map<String, Value>,
    expect: &Expect,
    now: u64,
) -> Result<Verified, Refusal> {
    let until = time(&claims, "exp")?.map_or(u64::MAX, |exp| exp.saturating_add(expect.skew));
    if now >= until {
        return Err(Refusal::Expired);
    }
    for name in ["nbf", "iat"] {
        if time(&claims, name)?.is_some_and(|from| from > now.saturating_add(expect.skew)) {
            return Err(Refusal::NotYet);
        }
    }
    let issuer = claims.get("iss").and_then(Value::as_str);
    if !expect.issuer.is_empty() && issuer != Some(&expect.issuer) {
        return Err(Refusal::Issuer);
    }
    let meant = |text: &str| expect.audiences.iter().any(|a| a == text);
    let audience = match claims.get("aud") {
        Some(Value::String(one)) => meant(one),
        Some(Value::Array(many)) => {
            let texts: Option<Vec<&str>> = many.iter().map(Value::as_str).collect();
            texts.is_some_and(|texts| texts.into_iter().any(meant))
        }
        _ => false,
    };
    if !audience && !expect.audiences.is_empty() {
        return Err(Refusal::Audience);
    }
    content(&claims, expect)?;
    let scope = claims.get("scope").or_else(|| claims.get("scp"));
    let granted = |word: &String| scope.is_some_and(|scope| holds(scope, word));
    if !expect.scopes.iter().all(granted) {
        return Err(Refusal::Scope);
    }
    let headers = headers(&claims, &expect.headers)?;
    Ok(Verified {
        claims,
        headers,
        until,
    })
}

#[cfg(test)]
mod tests;
