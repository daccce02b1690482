//! Issuers for tests: the provider of the npm package, and one that says whatever a test wants.

use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use serde_json::{Value, json};

use crate::Upstream;
use crate::node::Node;

/// A provider.
pub struct Provider {
    node: Node,
    /// Its address.
    pub issuer: String,
}

impl Provider {
    /// One for a gateway at this origin, with access tokens of this life in seconds. Its clients are
    /// `basic`, `post` (both with the secret `s3cret`) and `public`.
    #[must_use]
    pub fn start(origin: &str, life: u64) -> Self {
        let client = |id: &str, method: &str| {
            let mut client = json!({
                "client_id": id,
                "token_endpoint_auth_method": method,
                "redirect_uris": [format!("{origin}/oauth2/callback")],
                "post_logout_redirect_uris": [format!("{origin}/")],
                "grant_types": ["authorization_code", "refresh_token"],
            });
            if method != "none" {
                client["client_secret"] = json!("s3cret");
            }
            client
        };
        let clients = [
            client("basic", "client_secret_basic"),
            client("post", "client_secret_post"),
            client("public", "none"),
        ];
        let setup = json!({ "clients": clients, "life": life }).to_string();
        let mut node = Node::start("provider.mjs", &[&setup]);
        let issuer = node.wait_for("listening ");
        Self { node, issuer }
    }

    /// How many tokens it has given out by this grant.
    #[must_use]
    pub fn granted(&self, grant: &str) -> usize {
        let line = format!("granted {grant}");
        self.node.log().iter().filter(|l| **l == line).count()
    }
}

/// A key of an issuer.
pub struct Signer {
    kid: &'static str,
    pair: EcdsaKeyPair,
}

impl Signer {
    /// A new one.
    #[must_use]
    pub fn new(kid: &'static str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self { kid, pair }
    }

    /// As the issuer shows it.
    #[must_use]
    pub fn jwk(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        let (x, y) = (B64.encode(&point[1..33]), B64.encode(&point[33..65]));
        json!({ "kty": "EC", "crv": "P-256", "use": "sig", "kid": self.kid, "x": x, "y": y })
    }

    /// Signs claims.
    #[must_use]
    pub fn sign(&self, claims: &Value) -> String {
        let head = json!({ "alg": "ES256", "kid": self.kid });
        let message = format!(
            "{}.{}",
            B64.encode(head.to_string()),
            B64.encode(claims.to_string())
        );
        let signature = self
            .pair
            .sign(&SystemRandom::new(), message.as_bytes())
            .unwrap();
        format!("{message}.{}", B64.encode(signature))
    }
}

/// Seconds since 1970.
#[must_use]
pub fn unix_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap().as_secs()
}

/// What an endpoint does with a request.
pub type Script = Box<dyn Fn(&str) -> String + Send + Sync>;

/// An issuer whose token endpoint does what a test says.
pub struct Scripted {
    /// The server; what came is in it.
    pub server: Upstream,
    /// Its key.
    pub key: Signer,
    token: Arc<Mutex<Arc<Script>>>,
    metadata: Arc<Mutex<Value>>,
}

/// A whole answer with JSON in it.
#[must_use]
pub fn answer(status: u16, body: &Value) -> String {
    let body = body.to_string();
    format!(
        "HTTP/1.1 {status} Status\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

impl Scripted {
    /// One that gives out nothing yet.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "a server is no default")]
    pub fn new() -> Self {
        let key = Signer::new("one");
        let none: Script = Box::new(|_| answer(400, &json!({ "error": "invalid_grant" })));
        let token = Arc::new(Mutex::new(Arc::new(none)));
        let metadata = Arc::new(Mutex::new(json!({})));
        let keys = json!({ "keys": [key.jwk()] });
        let (script, more) = (token.clone(), metadata.clone());
        let server = Upstream::scripted(move |connection| {
            let issuer = format!("http://{}", connection.stream().local_addr().unwrap());
            while let Some(request) = connection.request() {
                let request = String::from_utf8_lossy(&request).into_owned();
                let path = request.split(' ').nth(1).unwrap_or_default();
                let said = match path {
                    "/.well-known/openid-configuration" => {
                        let mut document = json!({
                            "issuer": issuer,
                            "authorization_endpoint": format!("{issuer}/auth"),
                            "token_endpoint": format!("{issuer}/token"),
                            "jwks_uri": format!("{issuer}/jwks"),
                        });
                        let more = more.lock().unwrap().clone();
                        for (name, value) in more.as_object().unwrap() {
                            let text = value.as_str().map(|v| v.replace("$ISSUER", &issuer));
                            document[name] = text.map_or_else(|| value.clone(), Value::from);
                        }
                        answer(200, &document)
                    }
                    "/jwks" => answer(200, &keys),
                    _ => {
                        let script = script.lock().unwrap().clone();
                        script(&request)
                    }
                };
                if said.is_empty() {
                    // Silence, for as long as the other side stays.
                    return connection.drain();
                }
                connection.send(said);
            }
        });
        Self {
            server,
            key,
            token,
            metadata,
        }
    }

    /// Its address.
    #[must_use]
    pub fn issuer(&self) -> String {
        format!("http://{}", self.server.address())
    }

    /// What its metadata says beside the necessary; `$ISSUER` is its address.
    pub fn says(&self, more: Value) {
        *self.metadata.lock().unwrap() = more;
    }

    /// What its other endpoints do from now on. No answer is silence.
    pub fn does(&self, script: impl Fn(&str) -> String + Send + Sync + 'static) {
        *self.token.lock().unwrap() = Arc::new(Box::new(script));
    }

    /// Claims of an ID token for `shop`.
    #[must_use]
    pub fn claims(&self, nonce: &str) -> Value {
        let now = unix_now();
        json!({ "iss": self.issuer(), "aud": "shop", "sub": "ann", "nonce": nonce,
            "iat": now, "exp": now + 300, "name": "Ann" })
    }

    /// The token endpoint gives these claims, signed.
    pub fn gives(&self, claims: &Value) {
        let token = self.key.sign(claims);
        self.does(move |_| {
            answer(
                200,
                &json!({ "id_token": token, "access_token": "at", "token_type": "Bearer" }),
            )
        });
    }
}
