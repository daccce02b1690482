//! Stores of the configuration that several gateways share.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use redis::{Client, ConnectionInfo, IntoConnectionInfo, TlsCertificates};
use selvedge_contract::config::{OnLoss, RateLimit, RedisStore};
use selvedge_contract::defaults::policy as defaults;

use crate::policy::limit::{Limit, Shared};
use crate::policy::shared::Store;

use super::{At, Compiler, Pass};

/// Stores by name, each with what it was made from: the configuration, and what its files held.
pub(super) type Stores = BTreeMap<String, (Made, Arc<Store>)>;

/// What a store was made from.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Made {
    spec: RedisStore,
    password: Option<String>,
    ca: Option<Vec<u8>>,
}

impl Compiler {
    /// Every store; one that has not changed stays connected.
    pub(super) fn stores(&mut self, pass: &mut Pass<'_>) {
        let mut stores = Stores::new();
        for (name, spec) in &pass.config.redis {
            let at = At::key("redis").then(name);
            let Some(made) = pass.store_files(&at, spec) else {
                continue;
            };
            let known = self.stores.get(name).filter(|(before, _)| *before == made);
            let store = match known {
                Some((_, store)) => store.clone(),
                None => {
                    let Some(clients) = pass.clients(&at, &made) else {
                        continue;
                    };
                    let timeout = spec.timeout.map_or(defaults::STORE, |d| d.0);
                    let name = self.name(name);
                    if self.dry {
                        Arc::new(Store::idle(name, timeout))
                    } else {
                        Store::start(name, clients, spec.cluster, timeout)
                    }
                }
            };
            stores.insert(name.clone(), (made, store));
        }
        pass.stores = stores;
    }
}

fn client(made: &Made, address: &str) -> Result<Client, String> {
    if !address.starts_with("redis://") && !address.starts_with("rediss://") {
        return Err(format!("`{address}` is no address of a server"));
    }
    let wrong = |error: redis::RedisError| format!("`{address}`: {error}");
    let info: ConnectionInfo = address.into_connection_info().map_err(wrong)?;
    let mut settings = info
        .redis_settings()
        .clone()
        .set_lib_name("selvedge", env!("CARGO_PKG_VERSION"));
    if let Some(user) = &made.spec.username {
        settings = settings.set_username(user);
    }
    if let Some(password) = &made.password {
        settings = settings.set_password(password);
    }
    let info = info.set_redis_settings(settings);
    if address.starts_with("rediss://") {
        let certificates = TlsCertificates {
            client_tls: None,
            root_cert: made.ca.clone(),
        };
        return Client::build_with_tls(info, certificates).map_err(wrong);
    }
    Client::open(info).map_err(wrong)
}

impl Pass<'_> {
    /// The server of a store, and what else is known of its cluster.
    fn clients(&mut self, at: &At, made: &Made) -> Option<Vec<Client>> {
        let spec = &made.spec;
        if !spec.cluster && !spec.nodes.is_empty() {
            let remedy = "add `cluster: true`, or leave `nodes` out";
            self.error(&at.then("nodes"), "only a cluster has more servers", remedy);
            return None;
        }
        let nodes = spec.nodes.iter().enumerate();
        let nodes = nodes.map(|(index, node)| (at.then("nodes").nth(index), node));
        let all: Vec<_> = std::iter::once((at.then("address"), &spec.address))
            .chain(nodes)
            .collect();
        let secure = |address: &str| address.starts_with("rediss://");
        let mut clients = Vec::new();
        for (at, address) in &all {
            match client(made, address) {
                Ok(client) => {
                    if spec.cluster && client.get_connection_info().redis_settings().db() != 0 {
                        let remedy = "leave the number out";
                        self.error(at, "a cluster has only database 0", remedy);
                    }
                    if secure(address) != secure(&spec.address) {
                        let remedy = "expected `rediss://` for all, or for none";
                        self.error(at, "a cluster has TLS or it has not", remedy);
                    }
                    clients.push(client);
                }
                Err(error) => {
                    let remedy = "expected `redis://host:6379`, or `rediss://` with TLS";
                    self.error(at, error, remedy);
                }
            }
        }
        (clients.len() == all.len()).then_some(clients)
    }

    fn store_files(&mut self, at: &At, spec: &RedisStore) -> Option<Made> {
        let mut read = |key: &str, path: &Option<String>| match path {
            None => Some(None),
            Some(path) => match std::fs::read(Path::new(path)) {
                Ok(bytes) => Some(Some(bytes)),
                Err(error) => {
                    let message = format!("`{path}`: {error}");
                    self.error(&at.then(key), message, "expected a file that can be read");
                    None
                }
            },
        };
        let password = read("passwordFile", &spec.password_file)?;
        let ca = read("ca", &spec.ca)?;
        Some(Made {
            spec: spec.clone(),
            password: password.map(|p| String::from_utf8_lossy(&p).trim_end().to_owned()),
            ca,
        })
    }

    /// Where a limit is counted, if that is not only here.
    pub(super) fn shared(&mut self, at: &At, spec: &RateLimit) -> Option<Shared> {
        let name = spec.redis.as_ref()?;
        let Some((_, store)) = self.stores.get(name) else {
            // One that exists but has errors was reported where it stands.
            if !self.config.redis.contains_key(name) {
                let known = self.config.redis.keys().map(String::as_str);
                self.dangling(&at.then("redis"), "store", name, known);
            }
            return None;
        };
        let open = spec.on_loss == OnLoss::Local;
        Some(Shared {
            wait: match self.config.redis.get(name).and_then(|s| s.wait.as_ref()) {
                Some(wait) => wait.0.min(store.timeout),
                None if open => defaults::STORE_WAIT.min(store.timeout),
                None => store.timeout,
            },
            store: store.clone(),
            open,
            lost: AtomicU64::new(0),
        })
    }

    /// Whether a limit of the last snapshot asks the store that it would ask now.
    pub(super) fn same_store(&self, limit: &Limit, spec: &RateLimit) -> bool {
        let now = spec.redis.as_ref().and_then(|name| self.stores.get(name));
        match (&limit.shared, now) {
            (Some(before), Some((_, now))) => Arc::ptr_eq(&before.store, now),
            (None, None) => true,
            _ => false,
        }
    }
}
