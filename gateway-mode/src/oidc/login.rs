//! One login: what is remembered between a user's leaving for the issuer and coming back, and what
//! the issuer says then.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use form_urlencoded::Serializer;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::back;
use super::provider::{Provider, with_query};
use crate::jwt::{Expect, Keys, Refusal, TOKEN, Verified, verify};

/// Seconds that a user has for logging in.
pub const LIFE: u64 = 600;
/// Random bytes in each secret of a login.
const CHANCE: usize = 32;
/// Longest value of a parameter that the issuer sends by the user, in bytes.
const PARAMETER: usize = 4 << 10;
/// Longest token that is kept, in bytes.
const KEPT: usize = 8 << 10;

/// A login under way. It is sealed in a cookie of its own.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// Ties the answer to this browser.
    #[serde(rename = "s")]
    pub state: String,
    #[serde(rename = "n")]
    nonce: String,
    #[serde(rename = "v")]
    verifier: String,
    #[serde(rename = "b")]
    back: String,
    /// Unix seconds at which it is too late.
    #[serde(rename = "u")]
    pub until: u64,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Login(until {})", self.until)
    }
}

impl Login {
    /// A new one, of a user who wants to see `target`. `chance` fills a buffer with random bytes.
    pub fn new(target: &str, now: u64, mut chance: impl FnMut(&mut [u8])) -> Self {
        let mut text = || {
            let mut bytes = [0; CHANCE];
            chance(&mut bytes);
            URL_SAFE_NO_PAD.encode(bytes)
        };
        Self {
            state: text(),
            nonce: text(),
            verifier: text(),
            back: back(target).to_owned(),
            until: now.saturating_add(LIFE),
        }
    }

    /// For a cookie, before it is sealed.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// From a cookie that was opened, if it is not too late.
    #[must_use]
    pub fn read(bytes: &[u8], now: u64) -> Option<Self> {
        let login: Self = serde_json::from_slice(bytes).ok()?;
        (now < login.until).then_some(login)
    }

    /// Where the user is sent to log in.
    #[must_use]
    pub fn address(
        &self,
        provider: &Provider,
        client: &str,
        callback: &str,
        scopes: &str,
    ) -> String {
        let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, self.verifier.as_bytes()));
        let query = Serializer::new(String::new())
            .append_pair("response_type", "code")
            .append_pair("client_id", client)
            .append_pair("redirect_uri", callback)
            .append_pair("scope", scopes)
            .append_pair("state", &self.state)
            .append_pair("nonce", &self.nonce)
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256")
            .finish();
        with_query(&provider.authorization, &query)
    }

    /// Whether an answer is to this login.
    #[must_use]
    pub fn is_answered_by(&self, state: &str) -> bool {
        verify_slices_are_equal(self.state.as_bytes(), state.as_bytes()).is_ok()
    }

    /// What a code is exchanged with.
    #[must_use]
    pub fn grant<'a>(&'a self, code: &'a str, callback: &'a str) -> [(&'a str, &'a str); 4] {
        [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", callback),
            ("code_verifier", &self.verifier),
        ]
    }

    /// Where the user goes when it is done.
    #[must_use]
    pub fn back(&self) -> &str {
        back(&self.back)
    }

    /// Verifies the ID token of this login (OpenID Connect Core 1.0 section 3.1.3.7).
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn verify(
        &self,
        token: &str,
        keys: &Keys,
        expect: &Expect,
        now: u64,
    ) -> Result<Verified, Refusal> {
        let verified = verify_id(token, keys, expect, now)?;
        let nonce = verified.claims.get("nonce").and_then(Value::as_str);
        let nonce = nonce.unwrap_or_default().as_bytes();
        verify_slices_are_equal(self.nonce.as_bytes(), nonce).map_err(|_| Refusal::Claim)?;
        Ok(verified)
    }
}

/// Verifies an ID token for the one audience of `expect`: as any token, and for who was given it.
///
/// # Errors
/// [`Refusal`].
pub fn verify_id(token: &str, keys: &Keys, expect: &Expect, now: u64) -> Result<Verified, Refusal> {
    let verified = verify(token, keys, expect, now)?;
    let claims = &verified.claims;
    let client = expect.audiences.first().map(String::as_str);
    let several = matches!(claims.get("aud"), Some(Value::Array(list)) if list.len() > 1);
    let party = claims.get("azp");
    if (several || party.is_some()) && party.and_then(Value::as_str) != client {
        return Err(Refusal::Audience);
    }
    if !claims.contains_key("iat") {
        return Err(Refusal::Times);
    }
    if claims
        .get("sub")
        .and_then(Value::as_str)
        .is_none_or(str::is_empty)
    {
        return Err(Refusal::Claim);
    }
    Ok(verified)
}

/// What an issuer sends by the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Callback {
    /// Which login it answers.
    pub state: String,
    /// A code, or the name of an error (RFC 6749 section 4.1.2.1).
    pub outcome: Result<String, String>,
    /// Who answers (RFC 9207).
    pub issuer: Option<String>,
}

/// Why a query is no answer of an issuer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CallbackError {
    /// No state, or nothing beside it.
    #[error("the answer is incomplete")]
    Incomplete,
    /// A parameter twice.
    #[error("the answer says something twice")]
    Twice,
    /// A parameter that is too long.
    #[error("the answer is too long")]
    Long,
    /// It comes from somebody else.
    #[error("the answer is another issuer's")]
    Issuer,
}

impl Callback {
    /// Reads a query.
    ///
    /// # Errors
    /// [`CallbackError`].
    pub fn read(query: &str) -> Result<Self, CallbackError> {
        let (mut code, mut error, mut state, mut issuer) = (None, None, None, None);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let slot = match &*name {
                "code" => &mut code,
                "error" => &mut error,
                "state" => &mut state,
                "iss" => &mut issuer,
                _ => continue,
            };
            if value.len() > PARAMETER {
                return Err(CallbackError::Long);
            }
            if slot.replace(value.into_owned()).is_some() {
                return Err(CallbackError::Twice);
            }
        }
        let outcome = match (code, error) {
            (_, Some(error)) => Err(error),
            (Some(code), None) => Ok(code),
            (None, None) => return Err(CallbackError::Incomplete),
        };
        Ok(Self {
            state: state
                .filter(|s| !s.is_empty())
                .ok_or(CallbackError::Incomplete)?,
            outcome,
            issuer,
        })
    }

    /// Whether it comes from the issuer that was asked (RFC 9207 section 2.4).
    ///
    /// # Errors
    /// [`CallbackError::Issuer`].
    pub fn is_from(&self, issuer: &str, provider: &Provider) -> Result<(), CallbackError> {
        match &self.issuer {
            None if provider.names_itself => Err(CallbackError::Issuer),
            Some(other) if other != issuer => Err(CallbackError::Issuer),
            _ => Ok(()),
        }
    }
}

/// What an issuer gives for a code or a refresh token.
#[derive(Clone, PartialEq, Eq)]
pub struct Tokens {
    /// Who the user is.
    pub id: Option<String>,
    /// For the userinfo endpoint.
    pub access: Option<String>,
    /// For new tokens.
    pub refresh: Option<String>,
    /// Seconds until they expire.
    pub life: Option<u64>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokens({:?} s)", self.life)
    }
}

/// Why there are no tokens.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokensError {
    /// The code or the refresh token is used, expired or unknown.
    #[error("the issuer takes neither code nor token any more")]
    Grant,
    /// Another refusal; its name, as far as that is plain text.
    #[error("the issuer refuses: {0}")]
    Refused(String),
    /// Not an answer of a token endpoint.
    #[error("the issuer's answer is no answer to this: {0}")]
    Form(String),
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    id_token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    refresh_token: Option<String>,
    #[serde(default)]
    expires_in: Option<Value>,
}

impl Tokens {
    /// Reads the answer of a token endpoint (RFC 6749 sections 5.1 and 5.2).
    ///
    /// # Errors
    /// [`TokensError`].
    pub fn read(status: u16, body: &[u8]) -> Result<Self, TokensError> {
        if status != 200 {
            let said: Option<Map<String, Value>> = serde_json::from_slice(body).ok();
            let error = said.as_ref().and_then(|s| s.get("error")?.as_str());
            return Err(match error {
                Some("invalid_grant") if (400..500).contains(&status) => TokensError::Grant,
                Some(error) if (400..500).contains(&status) => TokensError::Refused(plain(error)),
                _ => TokensError::Form(format!("status {status}")),
            });
        }
        let form = |e: serde_json::Error| TokensError::Form(e.to_string());
        let object: Map<String, Value> = serde_json::from_slice(body).map_err(form)?;
        let answer: TokenAnswer = serde_json::from_value(object.into()).map_err(form)?;
        let long = |token: &Option<String>| token.as_ref().is_some_and(|t| t.len() > KEPT);
        if long(&answer.refresh_token)
            || long(&answer.access_token)
            || answer.id_token.as_ref().is_some_and(|t| t.len() > TOKEN)
        {
            return Err(TokensError::Form("a token that is too long".into()));
        }
        // Some issuers send the number in quotes.
        let life = answer.expires_in.and_then(|value| match value {
            Value::String(text) => text.parse().ok(),
            value => value.as_u64(),
        });
        Ok(Self {
            id: answer.id_token,
            access: answer.access_token,
            refresh: answer.refresh_token,
            life,
        })
    }
}

/// A name from outside, for the log.
#[must_use]
pub fn plain(text: &str) -> String {
    let plain = |c: &char| c.is_ascii_alphanumeric() || "_-. ".contains(*c);
    text.chars().filter(plain).take(64).collect()
}

#[cfg(test)]
mod tests;
