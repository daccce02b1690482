//! JWT-SVIDs: whose a token says it is, and whether that is so (SPIFFE JWT-SVID, sections 2 to 4).

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Expect, Keys, Refusal, TOKEN, algorithm, judge_claims, part, signed};

/// What of such a token's header counts. Twice the same key is an error.
#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    typ: Option<String>,
    #[serde(default)]
    crit: Option<Value>,
}

/// A token that is taken apart, and that nothing is known of yet.
#[derive(Debug)]
pub struct Unverified<'a> {
    message: &'a str,
    signature: &'a str,
    head: &'a str,
    claims: Map<String, Value>,
}

/// Whose a token is, and what else it says.
#[derive(Debug, Clone, PartialEq)]
pub struct Svid {
    /// `sub`.
    pub subject: String,
    /// All claims.
    pub claims: Map<String, Value>,
}

impl<'a> Unverified<'a> {
    /// Takes a token apart.
    ///
    /// # Errors
    /// [`Refusal::Malformed`].
    pub fn read(token: &'a str) -> Result<Self, Refusal> {
        let malformed = Refusal::Malformed;
        if token.len() > TOKEN {
            return Err(malformed);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(malformed)?;
        let (head, payload) = message.split_once('.').ok_or(malformed)?;
        let claims = serde_json::from_slice(&part(payload)?).map_err(|_| malformed)?;
        Ok(Self {
            message,
            signature,
            head,
            claims,
        })
    }

    /// Who it says it is: by whose keys it is to be verified, and not more.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.claims.get("sub").and_then(Value::as_str)
    }

    /// Whether one of these keys, those of the subject's trust domain, has signed it, and it is for this
    /// audience and good at a time in Unix seconds, give or take `skew`.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn verify(self, keys: &Keys, audience: &str, now: u64, skew: u64) -> Result<Svid, Refusal> {
        let malformed = Refusal::Malformed;
        let head: Header = serde_json::from_slice(&part(self.head)?).map_err(|_| malformed)?;
        let typed = |typ: &String| typ == "JWT" || typ == "JOSE";
        if head.crit.is_some() || !head.typ.iter().all(typed) {
            return Err(malformed);
        }
        // Of those that we know, this one alone is none of JWT-SVIDs (section 2.1).
        if head.alg == "EdDSA" {
            return Err(Refusal::Algorithm);
        }
        let algorithm = algorithm(&head.alg)?;
        part(self.signature)?;
        signed(
            self.message,
            self.signature,
            algorithm,
            head.kid.as_deref(),
            keys,
        )?;
        if !self.claims.contains_key("exp") {
            return Err(Refusal::Times);
        }
        let subject = self.subject().ok_or(Refusal::Claim)?.to_owned();
        let expect = Expect {
            audiences: vec![audience.to_owned()],
            skew,
            ..Expect::default()
        };
        let judged = judge_claims(self.claims, &expect, now)?;
        Ok(Svid {
            subject,
            claims: judged.claims,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{NOW, SIGNER, sign};
    use super::*;

    const WEB: &str = "spiffe://shop.local/ns/shop/sa/web";

    fn claims() -> Value {
        json!({ "sub": WEB, "aud": ["billing", "audit"], "exp": NOW + 60, "iat": NOW, "more": 7 })
    }

    fn verify(token: &str) -> Result<Svid, Refusal> {
        Unverified::read(token)?.verify(&SIGNER.keys, "billing", NOW, 30)
    }

    fn with(name: &str, value: Value) -> Value {
        let mut claims = claims();
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value,
        }
        claims
    }

    #[test]
    fn a_good_token_is_taken_with_all_that_it_says() {
        for head in [
            json!({ "alg": "ES256", "kid": "ec", "typ": "JWT" }),
            json!({ "alg": "ES256", "typ": "JOSE" }),
            json!({ "alg": "ES256" }),
        ] {
            let token = sign(&head, claims().to_string().as_bytes());
            let svid = verify(&token).unwrap();
            assert_eq!(svid.subject, WEB);
            assert_eq!(Value::from(svid.claims), claims());
        }
        // Clocks differ.
        let late = with("exp", (NOW - 29).into());
        assert!(
            verify(&sign(
                &json!({ "alg": "ES256" }),
                late.to_string().as_bytes()
            ))
            .is_ok()
        );
    }

    #[test]
    fn heads_that_the_standard_forbids() {
        use Refusal::{Algorithm, Malformed, UnknownKey};
        for (head, want) in [
            (json!({ "alg": "none" }), Algorithm),
            (json!({ "alg": "HS256", "kid": "hmac" }), Algorithm),
            (json!({ "alg": "EdDSA", "kid": "ed" }), Algorithm),
            (json!({ "alg": "RS256", "kid": "ec" }), Algorithm),
            (json!({ "alg": "ES256", "kid": "other" }), UnknownKey),
            (json!({ "alg": "ES256", "typ": "at+jwt" }), Malformed),
            (json!({ "alg": "ES256", "crit": [] }), Malformed),
            (json!({ "kid": "ec" }), Malformed),
        ] {
            let token = sign(&head, claims().to_string().as_bytes());
            assert_eq!(verify(&token), Err(want), "{head}");
        }
        for text in ["", "a", "a.b", "a.b.c", "a.e30.c.d", "..", "a.bnVsbA.c"] {
            assert_eq!(verify(text), Err(Malformed), "{text}");
        }
    }

    #[test]
    fn claims_that_are_missing_or_not_good() {
        use Refusal::{Audience, Claim, Expired, NotYet, Times};
        for (name, value, want) in [
            ("aud", Value::Null, Audience),
            ("aud", "other".into(), Audience),
            ("aud", json!([]), Audience),
            ("aud", json!(["billing", 7]), Audience),
            ("exp", Value::Null, Times),
            ("exp", "soon".into(), Times),
            ("exp", (NOW - 30).into(), Expired),
            ("iat", (NOW + 31).into(), NotYet),
            ("sub", Value::Null, Claim),
            ("sub", 7.into(), Claim),
        ] {
            let claims = with(name, value);
            let token = sign(&json!({ "alg": "ES256" }), claims.to_string().as_bytes());
            assert_eq!(verify(&token), Err(want), "{claims}");
        }
        let token = sign(&json!({ "alg": "ES256" }), claims().to_string().as_bytes());
        let (_, signature) = token.rsplit_once('.').unwrap();
        let other = with("sub", "spiffe://shop.local/ns/shop/sa/admin".into());
        let other = sign(&json!({ "alg": "ES256" }), other.to_string().as_bytes());
        let (message, _) = other.rsplit_once('.').unwrap();
        let forged = format!("{message}.{signature}");
        assert_eq!(verify(&forged), Err(Refusal::Signature));
    }
}
