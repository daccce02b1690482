//! Token introspection (RFC 7662): what an authorization server says of a token, and whether that is
//! what a policy asks for. Network, time and chance are passed in.

use serde_json::{Map, Value};

use crate::jwt::{Expect, Refusal, Verified, judge_claims};

/// Longest token that is asked about, in bytes.
pub const TOKEN: usize = crate::jwt::TOKEN;

/// Why an answer is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// Not 200: a secret that is wrong, a server that fails.
    #[error("it answered {0}")]
    Status(u16),
    /// No JSON, or no word on whether the token is active.
    #[error("it gave no answer to this: {0}")]
    Form(String),
}

/// Reads an answer and judges it at a time in Unix seconds. `issuer` and `audiences` of `expect` count
/// where they are not empty; `exp`, `nbf` and `iat` where they are there.
///
/// # Errors
/// [`AnswerError`]; the inner result is about the token.
pub fn judge(
    status: u16,
    body: &[u8],
    expect: &Expect,
    now: u64,
) -> Result<Result<Verified, Refusal>, AnswerError> {
    if status != 200 {
        return Err(AnswerError::Status(status));
    }
    let claims: Map<String, Value> =
        serde_json::from_slice(body).map_err(|e| AnswerError::Form(e.to_string()))?;
    match claims.get("active") {
        Some(Value::Bool(true)) => Ok(judge_claims(claims, expect, now)),
        Some(Value::Bool(false)) => Ok(Err(Refusal::Inactive)),
        _ => Err(AnswerError::Form(
            "`active` is neither true nor false".into(),
        )),
    }
}

/// Tells tokens apart without keeping them: of no use to whoever reads it without the secret.
#[must_use]
pub fn fingerprint(secret: &[u8; 32], token: &[u8]) -> [u8; 32] {
    *blake3::keyed_hash(secret, token).as_bytes()
}

/// For how many seconds a judgement holds that was made at this time, if that is no longer than `most`.
#[must_use]
pub fn life(judged: &Result<Verified, Refusal>, most: u64, negative: u64, now: u64) -> u64 {
    match judged {
        Ok(verified) => most.min(verified.until.saturating_sub(now)),
        Err(_) => most.min(negative),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn said(value: &Value, expect: &Expect) -> Result<Verified, Refusal> {
        judge(200, value.to_string().as_bytes(), expect, 1000).unwrap()
    }

    #[test]
    fn only_active_is_active() {
        let any = Expect::default();
        assert_eq!(
            said(&json!({ "active": true }), &any).unwrap().until,
            u64::MAX
        );
        assert_eq!(
            said(&json!({ "active": false, "exp": 9999 }), &any),
            Err(Refusal::Inactive)
        );
        for bad in [
            json!({}),
            json!({ "active": "true" }),
            json!({ "active": 1 }),
            json!({ "active": null }),
            json!([true]),
            json!("active"),
        ] {
            let found = judge(200, bad.to_string().as_bytes(), &any, 1000);
            assert!(matches!(found, Err(AnswerError::Form(_))), "{bad}");
        }
        let right = b"{\"active\":true}";
        assert!(judge(200, &right[..9], &any, 0).is_err());
        for status in [201, 204, 302, 401, 500] {
            assert_eq!(
                judge(status, right, &any, 0),
                Err(AnswerError::Status(status))
            );
        }
    }

    #[test]
    fn what_is_said_must_be_what_is_asked_for() {
        let expect = Expect {
            issuer: "https://i".into(),
            audiences: vec!["api".into()],
            scopes: vec!["read".into()],
            required: vec!["sub".into()],
            headers: vec![("sub".into(), "X-User".into())],
            skew: 10,
            ..Expect::default()
        };
        let right = json!({ "active": true, "iss": "https://i", "aud": ["api", "x"],
            "scope": "write read", "sub": "ann", "exp": 1500, "nbf": 900, "iat": 900 });
        let found = said(&right, &expect).unwrap();
        assert_eq!(found.headers, [("X-User".to_owned(), "ann".to_owned())]);
        assert_eq!(life(&Ok(found.clone()), 60, 5, 1000), 60);
        assert_eq!(life(&Ok(found), 60, 5, 1480), 30);
        assert_eq!(life(&Err(Refusal::Inactive), 60, 5, 0), 5);
        assert_eq!(life(&Err(Refusal::Inactive), 0, 5, 0), 0);
        for (name, value, wanted) in [
            ("iss", json!("https://j"), Refusal::Issuer),
            ("iss", Value::Null, Refusal::Issuer),
            ("aud", json!("x"), Refusal::Audience),
            ("scope", json!("readx"), Refusal::Scope),
            ("sub", Value::Null, Refusal::Claim),
            ("sub", json!({}), Refusal::Claim),
            ("exp", json!(989), Refusal::Expired),
            ("exp", json!("never"), Refusal::Times),
            ("nbf", json!(1011), Refusal::NotYet),
            ("iat", json!(-1), Refusal::Times),
        ] {
            let mut changed = right.clone();
            changed[name] = value;
            assert_eq!(said(&changed, &expect), Err(wanted), "{changed}");
        }
    }

    #[test]
    fn fingerprints_depend_on_the_secret() {
        let one = fingerprint(&[1; 32], b"t");
        assert_eq!(one, fingerprint(&[1; 32], b"t"));
        assert_ne!(one, fingerprint(&[2; 32], b"t"));
        assert_ne!(one, fingerprint(&[1; 32], b"u"));
    }
}
