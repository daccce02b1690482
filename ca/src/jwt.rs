//! JWT-SVIDs: the key of a generation that signs them, and what it signs.

use std::path::Path;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::KeyPair;
use selvedge_contract::identity::SpiffeId;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::authority::AuthorityError;
use crate::disk;
use crate::signer::{Flaw, new_key, random_serial};
use crate::validity::{Validity, unix_seconds};

/// The key's file, without `.key`.
pub(crate) const STEM: &str = "jwt";
/// An uncompressed point of P-256: a tag and two coordinates of 32 bytes (SEC 1 section 2.3.3).
const POINT: usize = 65;

/// A P-256 key that signs tokens (`ES256`).
pub(crate) struct JwtKey {
    pair: EcdsaKeyPair,
    /// Its public half, in base64url.
    x: String,
    y: String,
    /// Thumbprint of the public key (RFC 7638).
    kid: String,
}

/// A token with what is known of it.
pub(crate) struct Token {
    /// JWS, compact.
    pub(crate) text: Zeroizing<String>,
    pub(crate) jti: String,
    pub(crate) kid: String,
    pub(crate) audience: Vec<String>,
    /// Seconds since 1970.
    pub(crate) issued: u64,
    /// Seconds since 1970: no longer good from then on.
    pub(crate) expires: u64,
}

impl Token {
    pub(crate) fn validity(&self) -> Validity {
        Validity {
            not_before: self.issued,
            not_after: self.expires,
        }
    }
}

impl JwtKey {
    /// A new one, in memory.
    pub(crate) fn new() -> Result<Self, Flaw> {
        let pair = new_key()?;
        Self::of(&pair)
    }

    /// Loads `jwt.key` from `dir`, or makes it. The caller holds the directory's lock.
    pub(crate) fn create_or_load(dir: &Path) -> Result<Self, AuthorityError> {
        let path = dir.join(STEM).with_extension("key");
        if let Some(pem) = disk::read_private(&path)? {
            let pair = KeyPair::from_pem(&pem).map(Zeroizing::new);
            let read = pair.map_err(|_| Flaw::Key).and_then(|pair| Self::of(&pair));
            return read.map_err(|flaw| AuthorityError::File { path, flaw });
        }
        let pair = new_key().map_err(AuthorityError::Make)?;
        let pem = Zeroizing::new(pair.serialize_pem());
        disk::write_whole(&path, &pem, 0o600)?;
        Self::of(&pair).map_err(AuthorityError::Make)
    }

    fn of(pair: &KeyPair) -> Result<Self, Flaw> {
        let der = Zeroizing::new(pair.serialize_der());
        let point = pair.public_key_raw();
        // A key of another kind would not say `ES256`.
        let (tag, coordinates) = point.split_first().ok_or(Flaw::Key)?;
        if point.len() != POINT || *tag != 4 {
            return Err(Flaw::Key);
        }
        let (x, y) = coordinates.split_at_checked(32).ok_or(Flaw::Key)?;
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        // The required members in lexical order, without spaces (RFC 7638 section 3).
        let members = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        let kid = URL_SAFE_NO_PAD.encode(digest(&SHA256, members.as_bytes()));
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der);
        Ok(Self {
            pair: pair.map_err(|_| Flaw::Key)?,
            x,
            y,
            kid,
        })
    }

    /// The public key as a JWK for this use.
    fn jwk(&self, usage: &str) -> Value {
        json!({
            "kty": "EC",
            "use": usage,
            "kid": self.kid,
            "alg": "ES256",
            "crv": "P-256",
            "x": self.x,
            "y": self.y,
        })
    }

    /// Signs a JWT-SVID for `id` (JWT-SVID sections 2 and 3), by `issuer` if it has a name.
    pub(crate) fn sign(
        &self,
        (id, issuer): (&SpiffeId, Option<&str>),
        audience: Vec<String>,
        life: Duration,
        now: SystemTime,
    ) -> Result<Token, Flaw> {
        let issued = unix_seconds(now).ok_or(Flaw::NoTime)?;
        let expires = issued.saturating_add(life.as_secs());
        let jti = random_serial()?.1;
        let head = json!({ "alg": "ES256", "kid": self.kid, "typ": "JWT" });
        let mut claims = json!({
            "sub": id.as_str(),
            "aud": audience,
            "exp": expires,
            "iat": issued,
            "jti": jti,
        });
        if let (Some(issuer), Some(claims)) = (issuer, claims.as_object_mut()) {
            claims.insert("iss".to_owned(), issuer.into());
        }
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(&head), part(&claims));
        let signature = self.pair.sign(&SystemRandom::new(), message.as_bytes());
        let signature = URL_SAFE_NO_PAD.encode(signature.map_err(|_| Flaw::Crypto)?);
        Ok(Token {
            text: Zeroizing::new([&*message, ".", &*signature].concat()),
            jti,
            kid: self.kid.clone(),
            audience,
            issued,
            expires,
        })
    }
}

/// These keys as JWKs for this use.
pub(crate) fn jwks<'a>(keys: impl Iterator<Item = &'a JwtKey>, usage: &str) -> Vec<Value> {
    keys.map(|key| key.jwk(usage)).collect()
}

/// The same as a set (RFC 7517 section 5): JSON.
pub(crate) fn set<'a>(keys: impl Iterator<Item = &'a JwtKey>, usage: &str) -> String {
    json!({ "keys": jwks(keys, usage) }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    #[test]
    fn a_token_says_who_for_whom_and_until_when() {
        let key = JwtKey::new().unwrap();
        let id = "spiffe://shop.local/ns/shop/sa/web".parse().unwrap();
        let life = Duration::from_secs(300);
        let token = key.sign((&id, None), vec!["a".into(), "b".into()], life, NOW);
        let token = token.unwrap();
        let (message, signature) = token.text.rsplit_once('.').unwrap();
        let (head, claims) = message.split_once('.').unwrap();
        let read = |part: &str| -> Value {
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
        };
        let want = json!({ "alg": "ES256", "typ": "JWT", "kid": key.kid });
        assert_eq!(read(head), want);
        let want = json!({
            "sub": "spiffe://shop.local/ns/shop/sa/web",
            "aud": ["a", "b"],
            "iat": 0,
            "exp": 300,
            "jti": token.jti,
        });
        assert_eq!(read(claims), want);
        let part = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
        let point = [&[4][..], &part(&key.x), &part(&key.y)].concat();
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
        public.verify(message.as_bytes(), &part(signature)).unwrap();
    }

    #[test]
    fn a_key_stays_what_it_is_and_nobody_else_reads_it() {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        let dir = tempfile::tempdir().unwrap();
        let first = JwtKey::create_or_load(dir.path()).unwrap();
        let path = dir.path().join("jwt.key");
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        let again = JwtKey::create_or_load(dir.path()).unwrap();
        assert_eq!(first.kid, again.kid);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(JwtKey::create_or_load(dir.path()).is_err());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let other = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        std::fs::write(&path, other.serialize_pem()).unwrap();
        assert!(JwtKey::create_or_load(dir.path()).is_err());
    }
}
