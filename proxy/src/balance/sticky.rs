//! Part of stage 7, balance: the cookie by which a client comes back to its endpoint. Its value is a
//! keyed hash of the endpoint's address: it tells nothing to who does not have the key, and is the same
//! in every proxy that has it.

use std::sync::Arc;

use aws_lc_rs::hmac;

use super::Endpoint;
use super::key::written_session;
use super::plan::StickyCookie;

/// What cookies call an endpoint.
fn session(cookie: &StickyCookie, endpoint: &Endpoint) -> u64 {
    let key = hmac::Key::new(hmac::HMAC_SHA256, &cookie.key);
    let tag = hmac::sign(&key, endpoint.address.to_string().as_bytes());
    let first = tag.as_ref().first_chunk().copied().unwrap_or_default();
    u64::from_be_bytes(first)
}

/// All endpoints by what cookies call them, sorted.
pub(super) fn sessions(cookie: &StickyCookie, all: &[Arc<Endpoint>]) -> Vec<(u64, Arc<Endpoint>)> {
    let mut sessions: Vec<_> = all
        .iter()
        .map(|e| (session(cookie, e), e.clone()))
        .collect();
    sessions.sort_unstable_by_key(|(session, _)| *session);
    sessions
}

/// The value of `Set-Cookie` that names an endpoint.
pub(super) fn written(cookie: &StickyCookie, endpoint: &Endpoint, tls: bool) -> String {
    let value = written_session(session(cookie, endpoint));
    let [plain, secure] = &cookie.attributes;
    let attributes = if tls { secure } else { plain };
    format!("{}={value}{attributes}", cookie.name)
}
