//! What an issuer says of itself (OpenID Connect Discovery 1.0), and how it is addressed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use form_urlencoded::{Serializer, byte_serialize};
use serde::Deserialize;

use super::{is_plain, is_safe};

/// Where an issuer's metadata is.
#[must_use]
pub fn metadata_of(issuer: &str) -> String {
    let base = issuer.strip_suffix('/').unwrap_or(issuer);
    format!("{base}/.well-known/openid-configuration")
}

/// An issuer's metadata, as far as it is of use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    /// Where users log in.
    pub authorization: String,
    /// Where codes become tokens.
    pub token: String,
    /// Where its keys are.
    pub jwks: String,
    /// Where claims are that the ID token does not hold.
    pub userinfo: Option<String>,
    /// Where users log out.
    pub end_session: Option<String>,
    /// It takes secrets in the body only.
    pub secret_in_body: bool,
    /// It names itself in its answers (RFC 9207).
    pub names_itself: bool,
}

/// Why a text is not an issuer's metadata.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProviderError {
    /// Not JSON, or something is missing.
    #[error("not the metadata of an issuer: {0}")]
    Form(String),
    /// Somebody else's.
    #[error("it calls itself another issuer than `{0}`")]
    Issuer(String),
    /// An address that cannot be used.
    #[error("its `{0}` is not https")]
    Insecure(&'static str),
}

#[derive(Deserialize)]
struct Document {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    #[serde(default)]
    userinfo_endpoint: Option<String>,
    #[serde(default)]
    end_session_endpoint: Option<String>,
    #[serde(default)]
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

impl Provider {
    /// Reads the metadata of `issuer`. Its addresses must be `https`, unless the issuer itself is
    /// `http` on loopback.
    ///
    /// # Errors
    /// [`ProviderError`].
    pub fn read(text: &[u8], issuer: &str) -> Result<Self, ProviderError> {
        let document: Document =
            serde_json::from_slice(text).map_err(|e| ProviderError::Form(e.to_string()))?;
        if document.issuer != issuer {
            return Err(ProviderError::Issuer(issuer.to_owned()));
        }
        let loopback = is_plain(issuer);
        let safe = |name: &'static str, url: &str| {
            let safe = is_safe(url, loopback);
            safe.then_some(()).ok_or(ProviderError::Insecure(name))
        };
        safe("authorization_endpoint", &document.authorization_endpoint)?;
        safe("token_endpoint", &document.token_endpoint)?;
        safe("jwks_uri", &document.jwks_uri)?;
        if let Some(url) = &document.userinfo_endpoint {
            safe("userinfo_endpoint", url)?;
        }
        if let Some(url) = &document.end_session_endpoint {
            safe("end_session_endpoint", url)?;
        }
        // Without a list it is `client_secret_basic` (Discovery 1.0 section 3).
        let methods = document.token_endpoint_auth_methods_supported;
        let secret_in_body = methods.is_some_and(|list| {
            let has = |name: &str| list.iter().any(|m| m == name);
            has("client_secret_post") && !has("client_secret_basic")
        });
        Ok(Self {
            authorization: document.authorization_endpoint,
            token: document.token_endpoint,
            jwks: document.jwks_uri,
            userinfo: document.userinfo_endpoint,
            end_session: document.end_session_endpoint,
            secret_in_body,
            names_itself: document.authorization_response_iss_parameter_supported,
        })
    }

    /// Where a user who leaves is sent, if the issuer has a place for that (RP-Initiated Logout 1.0).
    #[must_use]
    pub fn logout(&self, client: &str, hint: Option<&str>, after: &str) -> Option<String> {
        let mut query = Serializer::new(String::new());
        if let Some(hint) = hint {
            query.append_pair("id_token_hint", hint);
        }
        query.append_pair("client_id", client);
        query.append_pair("post_logout_redirect_uri", after);
        Some(with_query(self.end_session.as_deref()?, &query.finish()))
    }
}

/// An address with more in its query.
#[must_use]
pub fn with_query(url: &str, query: &str) -> String {
    let between = if url.contains('?') { '&' } else { '?' };
    format!("{url}{between}{query}")
}

/// How a client proves at an endpoint who it is (RFC 6749 section 2.3.1).
#[derive(Clone, PartialEq, Eq)]
pub struct ClientAuth {
    /// Its name.
    pub id: String,
    /// Its secret; a public client has none.
    pub secret: Option<String>,
}

impl std::fmt::Debug for ClientAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ClientAuth({})", self.id)
    }
}

impl ClientAuth {
    /// A form with these pairs and what says who sends it, and the value of `Authorization`, where
    /// that does.
    #[must_use]
    pub fn form(&self, pairs: &[(&str, &str)], in_body: bool) -> (String, Option<String>) {
        let mut form = Serializer::new(String::new());
        form.extend_pairs(pairs);
        match &self.secret {
            Some(secret) if !in_body => {
                let encode = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
                let both = format!("{}:{}", encode(&self.id), encode(secret));
                (
                    form.finish(),
                    Some(format!("Basic {}", STANDARD.encode(both))),
                )
            }
            secret => {
                form.append_pair("client_id", &self.id);
                if let Some(secret) = secret {
                    form.append_pair("client_secret", secret);
                }
                (form.finish(), None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn document(issuer: &str) -> serde_json::Value {
        json!({
            "issuer": issuer,
            "authorization_endpoint": format!("{issuer}/auth?x=1"),
            "token_endpoint": format!("{issuer}/token"),
            "jwks_uri": format!("{issuer}/jwks"),
            "end_session_endpoint": format!("{issuer}/end"),
        })
    }

    fn read(value: &serde_json::Value, issuer: &str) -> Result<Provider, ProviderError> {
        Provider::read(value.to_string().as_bytes(), issuer)
    }

    #[test]
    fn an_issuer_is_who_it_should_be_and_speaks_https() {
        let issuer = "https://id.example";
        let right = read(&document(issuer), issuer).unwrap();
        assert!(!right.secret_in_body && !right.names_itself);
        for other in [
            "https://id.example/",
            "https://ID.example",
            "https://evil.example",
        ] {
            let wrong = read(&document(other), issuer);
            assert_eq!(wrong, Err(ProviderError::Issuer(issuer.to_owned())));
        }
        for name in [
            "authorization_endpoint",
            "token_endpoint",
            "jwks_uri",
            "end_session_endpoint",
        ] {
            for bad in [
                "http://id.example/x",
                "http://127.0.0.1/x",
                "/x",
                "javascript:alert(1)",
            ] {
                let mut value = document(issuer);
                value[name] = json!(bad);
                assert_eq!(
                    read(&value, issuer),
                    Err(ProviderError::Insecure(name)),
                    "{bad}"
                );
            }
        }
        for missing in ["token_endpoint", "issuer"] {
            let mut value = document(issuer);
            value.as_object_mut().unwrap().remove(missing);
            assert!(matches!(read(&value, issuer), Err(ProviderError::Form(_))));
        }
        assert!(Provider::read(b"<html>", issuer).is_err());
        let loopback = "http://127.0.0.1:9";
        assert!(read(&document(loopback), loopback).is_ok());
        let mut value = document(loopback);
        value["token_endpoint"] = json!("http://id.example/token");
        assert!(read(&value, loopback).is_err());
    }

    #[test]
    fn secrets_go_where_the_issuer_takes_them() {
        let mut value = document("https://i");
        for (methods, body) in [
            (json!(["client_secret_basic", "client_secret_post"]), false),
            (json!(["client_secret_post"]), true),
            (json!(["private_key_jwt"]), false),
        ] {
            value["token_endpoint_auth_methods_supported"] = methods;
            assert_eq!(read(&value, "https://i").unwrap().secret_in_body, body);
        }
        let client = |secret: Option<&str>| ClientAuth {
            id: "a b".into(),
            secret: secret.map(str::to_owned),
        };
        let pairs = [("code", "x&y")];
        let (form, basic) = client(Some("p:w")).form(&pairs, false);
        assert_eq!(form, "code=x%26y");
        // base64 of `a+b:p%3Aw`.
        assert_eq!(basic.as_deref(), Some("Basic YStiOnAlM0F3"));
        let (form, basic) = client(Some("p:w")).form(&pairs, true);
        assert_eq!(
            (form.as_str(), basic),
            ("code=x%26y&client_id=a+b&client_secret=p%3Aw", None)
        );
        let (form, basic) = client(None).form(&pairs, false);
        assert_eq!((form.as_str(), basic), ("code=x%26y&client_id=a+b", None));
        assert!(!format!("{:?}", client(Some("p:w"))).contains("p:w"));
    }

    #[test]
    fn a_logout_names_client_token_and_place() {
        let provider = read(&document("https://i"), "https://i").unwrap();
        let url = provider
            .logout("shop", Some("a.b.c"), "https://shop/")
            .unwrap();
        assert_eq!(
            url,
            "https://i/end?id_token_hint=a.b.c&client_id=shop&post_logout_redirect_uri=https%3A%2F%2Fshop%2F"
        );
        assert_eq!(
            with_query(&provider.authorization, "a=b"),
            "https://i/auth?x=1&a=b"
        );
        assert_eq!(metadata_of("https://i/"), metadata_of("https://i"));
    }
}
