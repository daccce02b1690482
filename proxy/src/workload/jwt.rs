//! What is asked and answered about tokens: for whom they are, the keys that sign them, and whether one is good.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use selvedge_contract::defaults::workload::SKEW;
use selvedge_contract::identity::SpiffeId;
use selvedge_contract::workload::{
    JwtBundlesResponse, Kind, ListValue, Struct, ValidateJwtsvidRequest, ValidateJwtsvidResponse,
    Value,
};
use selvedge_gateway::jwt::Refusal;
use selvedge_gateway::jwt::svid::{Svid, Unverified};
use serde_json::Value as Json;
use tonic::Status;

use super::x509::none_yet;
use crate::tls::IdentityStore;

/// Most audiences of a token, and the bytes of each: as the CA has it.
const AUDIENCES: usize = 16;
const AUDIENCE: usize = 255;

/// Whether a token may be asked for these.
///
/// # Errors
/// `INVALID_ARGUMENT`.
pub(super) fn check_audience(audience: &[String]) -> Result<(), Status> {
    let fits = |one: &String| (1..=AUDIENCE).contains(&one.len());
    if (1..=AUDIENCES).contains(&audience.len()) && audience.iter().all(fits) {
        return Ok(());
    }
    let told = format!("expected 1 to {AUDIENCES} audiences of 1 to {AUDIENCE} bytes");
    Err(Status::invalid_argument(told))
}

/// The keys of every trust domain.
///
/// # Errors
/// `UNAVAILABLE` where the proxy has no certificate, and so no word of the CA.
pub(super) fn bundles(store: &IdentityStore) -> Result<JwtBundlesResponse, Status> {
    if !store.is_ready() {
        return Err(none_yet());
    }
    let trust = store.trust();
    let all = trust.published.iter().map(|(name, published)| {
        let jwks = published.tokens.jwks.clone().into_bytes();
        (format!("spiffe://{name}"), jwks)
    });
    let bundles: BTreeMap<_, _> = all.collect();
    Ok(JwtBundlesResponse { bundles })
}

/// Whether a token is good.
///
/// # Errors
/// `INVALID_ARGUMENT` with what is wrong with it.
pub(super) fn validate(
    store: &IdentityStore,
    asked: &ValidateJwtsvidRequest,
) -> Result<ValidateJwtsvidResponse, Status> {
    let missing = |what: &str| Status::invalid_argument(format!("{what} must be specified"));
    if asked.audience.is_empty() {
        return Err(missing("audience"));
    }
    if asked.svid.is_empty() {
        return Err(missing("svid"));
    }
    if !store.is_ready() {
        return Err(none_yet());
    }
    let svid = verified(store, asked).map_err(Status::invalid_argument)?;
    let claims = svid.claims.into_iter();
    Ok(ValidateJwtsvidResponse {
        spiffe_id: svid.subject,
        claims: Some(Struct {
            fields: claims
                .map(|(name, value)| (name, value_of(value)))
                .collect(),
        }),
    })
}

fn verified(store: &IdentityStore, asked: &ValidateJwtsvidRequest) -> Result<Svid, String> {
    let told = |refusal: Refusal| refusal.to_string();
    let token = Unverified::read(&asked.svid).map_err(told)?;
    let subject = token.subject().unwrap_or_default();
    let id: SpiffeId = subject
        .parse()
        .map_err(|error| format!("the token's subject is no SPIFFE ID: {error}"))?;
    let trust = store.trust();
    // Only the keys of that trust domain may vouch for it (Workload API, section 6.3).
    let domain = id.trust_domain();
    let published = trust.published.get(domain);
    let published = published.ok_or_else(|| format!("trust domain {domain} is not trusted"))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_err(|_| "the clock is before 1970")?.as_secs();
    token
        .verify(&published.tokens.keys, &asked.audience, now, SKEW)
        .map_err(told)
}

/// JSON as Protobuf has it. Nested no deeper than the parser has allowed.
fn value_of(json: Json) -> Value {
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(is) => Kind::BoolValue(is),
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Json::String(text) => Kind::StringValue(text),
        Json::Array(all) => Kind::ListValue(ListValue {
            values: all.into_iter().map(value_of).collect(),
        }),
        Json::Object(all) => Kind::StructValue(Struct {
            fields: all
                .into_iter()
                .map(|(name, value)| (name, value_of(value)))
                .collect(),
        }),
    };
    Value { kind: Some(kind) }
}
