//! Discovery in a cluster: who the pods of an account are in the mesh, and how they are called.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use selvedge_contract::identity::SpiffeId;

use crate::tls::{self, IdentityStore};
use crate::upstream::Security;
use crate::upstream::security::MeshTls;

/// What is made once for all endpoints of an account.
#[derive(Debug, Default)]
pub(super) struct Identities {
    store: Option<Arc<IdentityStore>>,
    made: HashMap<String, Weak<Security>>,
    accounts: HashMap<String, Weak<str>>,
}

impl Identities {
    pub(super) fn new(store: Option<Arc<IdentityStore>>) -> Self {
        Self {
            store,
            ..Self::default()
        }
    }

    /// Whether anything can be called in the mesh.
    pub(super) const fn are_there(&self) -> bool {
        self.store.is_some()
    }

    /// The name of an account, one allocation for all its pods.
    pub(super) fn account(&mut self, account: &str) -> Arc<str> {
        if let Some(known) = self.accounts.get(account).and_then(Weak::upgrade) {
            return known;
        }
        self.accounts.retain(|_, known| known.strong_count() > 0);
        let made: Arc<str> = account.into();
        self.accounts
            .insert(account.to_owned(), Arc::downgrade(&made));
        made
    }

    /// Mutual TLS with an account of a namespace; `None` where its name is none of the mesh.
    pub(super) fn of(&mut self, namespace: &str, account: &str) -> Option<Arc<Security>> {
        let store = self.store.as_ref()?;
        let domain = store.trust_domain();
        let id = format!("spiffe://{domain}/ns/{namespace}/sa/{account}");
        if let Some(known) = self.made.get(&id).and_then(Weak::upgrade) {
            return Some(known);
        }
        let expected: Arc<str> = match id.parse::<SpiffeId>() {
            Ok(id) => id.as_str().into(),
            Err(error) => {
                tracing::warn!(%id, %error, "an account that has no name in the mesh");
                return None;
            }
        };
        let config = match tls::mesh_client(store, Some(expected.clone())) {
            Ok(config) => config,
            Err(error) => {
                tracing::error!(%error, "no TLS for the mesh");
                return None;
            }
        };
        let security = Arc::new(Security::Mesh(MeshTls {
            config,
            store: store.clone(),
            expected: Some(expected),
        }));
        self.made.retain(|_, known| known.strong_count() > 0);
        self.made.insert(id, Arc::downgrade(&security));
        Some(security)
    }
}
