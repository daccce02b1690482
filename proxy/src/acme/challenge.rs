//! Answers to the directory's challenges: by HTTP before routing, by TLS in the handshake. Whoever
//! of the replicas ordered, each finds the open challenges in the store.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, StatusCode};
use rustls::ServerConfig;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use selvedge_contract::config::AcmeChallenge;
use selvedge_contract::defaults::acme::LOOKUPS;
use tokio::sync::Semaphore;

use crate::message::{Body, Fields, Known, RequestHead, Response, ResponseHead};

use super::store::{Proof, is_token};
use super::{Issuer, certificate};

/// ALPN of a TLS-ALPN-01 challenge (RFC 8737 section 6.2). Never negotiated otherwise.
pub const ALPN: &[u8] = b"acme-tls/1";

/// Where HTTP-01 looks (RFC 8555 section 8.3).
const PREFIX: &str = "/.well-known/acme-challenge/";

/// Strangers cause look-ups; this many at a time, in all of the process.
static PLACES: Semaphore = Semaphore::const_new(LOOKUPS);

/// Every issuer that a listener uses.
#[derive(Debug, Default)]
pub struct Issuers(pub Vec<Arc<Issuer>>);

impl Issuers {
    /// The token that a request asks for, if it can be one.
    #[must_use]
    pub fn token<'h>(&self, head: &'h RequestHead) -> Option<&'h str> {
        if self.0.is_empty() || !matches!(head.method, Method::GET | Method::HEAD) {
            return None;
        }
        let token = head.target.path().strip_prefix(PREFIX)?;
        is_token(token).then_some(token)
    }

    /// The answer for a token, if its challenge is open.
    pub async fn answer(&self, token: &str) -> Option<Response> {
        for issuer in &self.0 {
            if issuer.spec.challenge != AcmeChallenge::Http01 {
                continue;
            }
            let (store, asked) = (issuer.store.clone(), token.to_owned());
            let found = look(move || store.challenge(Proof::Token(&asked))).await;
            // A half that does not fit is none of ours.
            let found = found.filter(|text| text.split_once('.').is_some_and(|(t, _)| t == token));
            if let Some(text) = found {
                return Some(plain(text));
            }
        }
        None
    }
}

fn plain(text: String) -> Response {
    let mut fields = Fields::new();
    fields.append(b"Content-Type", b"application/octet-stream");
    fields.append_known(Known::ContentLength, text.len().to_string().as_bytes());
    Response {
        head: ResponseHead {
            status: StatusCode::OK,
            fields,
        },
        body: Body::Full(Bytes::from(text)),
    }
}

/// Reads a file beside the worker's runtime. Dropping the future leaves the read to end by itself.
async fn look(read: impl FnOnce() -> Option<String> + Send + 'static) -> Option<String> {
    let _place = PLACES.acquire().await.ok()?;
    tokio::task::spawn_blocking(read).await.ok().flatten()
}

/// The name that a TLS-ALPN-01 client wants proof for: it offers that protocol and no other.
#[must_use]
pub fn challenged_name(hello: &ClientHello<'_>) -> Option<String> {
    let mut offered = hello.alpn()?;
    if offered.next() != Some(ALPN) || offered.next().is_some() {
        return None;
    }
    hello.server_name().map(str::to_ascii_lowercase)
}

impl Issuer {
    /// TLS that proves control of `name`, if its challenge is open.
    pub async fn proof(&self, name: String) -> Option<Arc<ServerConfig>> {
        self.find(&name)?;
        let (store, asked) = (self.store.clone(), name.clone());
        let key_authorization = look(move || store.challenge(Proof::Name(&asked))).await?;
        let proof = certificate::proof(&name, &key_authorization).ok()?;
        let mut config = ServerConfig::builder_with_provider(crate::tls::provider())
            .with_safe_default_protocol_versions()
            .ok()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Proven(Arc::new(proof))));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Some(Arc::new(config))
    }
}

#[derive(Debug)]
struct Proven(Arc<CertifiedKey>);

impl ResolvesServerCert for Proven {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}
