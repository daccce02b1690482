//! Beside stage 6, policy: an issuer's keys as a [`Document`].

use std::sync::Arc;

use rustls::ClientConfig;
use selvedge_gateway::jwt::Keys;

use crate::fetch::Address;

use super::document::Document;

/// Keys of one issuer, shared by every policy that names it.
pub type KeySource = Document<Keys>;

/// Keys that a task fetches, now and again. Must be called on a runtime.
#[must_use]
pub fn remote(address: Address, tls: Arc<ClientConfig>) -> Arc<KeySource> {
    KeySource::remote("keys", address, tls, |text| {
        Keys::read(text).map_err(|e| e.to_string())
    })
}
