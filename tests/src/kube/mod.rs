//! A Kubernetes API server for tests: the kinds that the product uses, with versions, watches, field
//! ownership and refusals as the real one has them, and faults at a test's word.
//!
//! It lives in the test's process, on a thread of its own, and speaks HTTPS. What a test writes by
//! [`KubeApi::put`] goes in as it is; what comes by HTTP is held against the rules.

mod access;
mod answer;
mod body;
mod change;
mod faults;
mod kinds;
mod owners;
mod refusal;
mod select;
mod serve;
mod store;
mod watch;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rcgen::SanType;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch as news};

use crate::TestCa;
use access::Access;
use faults::Faults;
use kinds::Kind;
use store::Store;

pub use access::{API_AUDIENCE, Token};
pub use faults::Watching;

/// Who the clients of a test are, unless it says otherwise: an account that may do everything.
pub const USER: &str = "system:serviceaccount:selvedge-system:selvedge";

#[derive(Debug)]
struct Shared {
    store: Mutex<Store>,
    access: Mutex<Access>,
    faults: Mutex<Faults>,
    counts: Mutex<BTreeMap<(String, String), usize>>,
    open: Mutex<(u64, BTreeMap<u64, Watching>)>,
    /// The newest version.
    version: news::Sender<u64>,
    /// Counts how often watches were cut.
    cut: news::Sender<u64>,
}

impl Shared {
    fn begin_watch(&self, watching: Watching) -> u64 {
        let mut open = self.open.lock().unwrap();
        open.0 += 1;
        let number = open.0;
        open.1.insert(number, watching);
        number
    }

    fn end_watch(&self, number: u64) {
        self.open.lock().unwrap().1.remove(&number);
    }
}

/// See the module. Gone when dropped.
pub struct KubeApi {
    shared: Arc<Shared>,
    dir: TempDir,
    address: SocketAddr,
    here: Mutex<news::Sender<bool>>,
    sockets: Option<mpsc::Sender<(TcpListener, news::Receiver<bool>)>>,
    thread: Option<JoinHandle<()>>,
}

impl KubeApi {
    /// One on a port of the system's choice, with a namespace `default`.
    #[must_use]
    pub fn start() -> Self {
        Self::start_on(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    /// One on this socket, which may be in a network namespace.
    #[must_use]
    pub fn start_on(listener: TcpListener) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let address = listener.local_addr().unwrap();
        let ca = TestCa::named("cluster CA");
        let leaf = ca.leaf(vec![
            SanType::IpAddress(address.ip()),
            SanType::DnsName("kubernetes.default.svc".try_into().unwrap()),
            SanType::DnsName("localhost".try_into().unwrap()),
        ]);
        // Whoever runs a proxy in a test may read it.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(dir.path().join("ca.crt"), ca.bundle()).unwrap();
        std::fs::write(dir.path().join("token"), "token-of-selvedge").unwrap();
        let mut access = Access::default();
        access.add(
            "token-of-selvedge",
            Token::of_account("selvedge-system", "selvedge"),
        );
        access.rule(USER, "*", "*", true);
        // Everybody may ask about themselves.
        access.rule("*", "create", "selfsubjectaccessreviews", true);
        let shared = Arc::new(Shared {
            store: Mutex::new(Store::new()),
            access: Mutex::new(access),
            faults: Mutex::default(),
            counts: Mutex::default(),
            open: Mutex::default(),
            version: news::Sender::new(0),
            cut: news::Sender::new(0),
        });
        let (sockets, mut arriving) = mpsc::channel::<(TcpListener, news::Receiver<bool>)>(4);
        let tls = server_config(&leaf);
        let (server, config) = (shared.clone(), tls);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(async move {
                while let Some((listener, here)) = arriving.recv().await {
                    tokio::spawn(serve::serve(server.clone(), listener, config.clone(), here));
                }
            });
        });
        let this = Self {
            shared,
            dir,
            address,
            here: Mutex::new(news::Sender::new(true)),
            sockets: Some(sockets),
            thread: Some(thread),
        };
        this.listen(listener);
        this.put(
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "default" } }),
        );
        this
    }

    fn listen(&self, listener: TcpListener) {
        listener.set_nonblocking(true).unwrap();
        let here = news::Sender::new(true);
        let receiver = here.subscribe();
        *self.here.lock().unwrap() = here;
        let sockets = self.sockets.as_ref().unwrap();
        assert!(sockets.try_send((listener, receiver)).is_ok());
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// File with its CA.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.crt")
    }

    /// File with the token of [`USER`].
    #[must_use]
    pub fn token(&self) -> PathBuf {
        self.dir.path().join("token")
    }

    /// A directory for whatever a test wants beside these, gone with the server.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The flags by which the product finds it.
    #[must_use]
    pub fn api_arguments(&self) -> Vec<String> {
        let file = |path: PathBuf| path.display().to_string();
        vec![
            "--kube-api".to_owned(),
            self.url(),
            "--kube-token".to_owned(),
            file(self.token()),
            "--kube-ca".to_owned(),
            file(self.ca()),
        ]
    }

    /// Writes an object as a whole, whatever was there, with its namespace if that is not there yet.
    /// Gives what it has become.
    ///
    /// # Panics
    /// When it is not of a kind that is known, or is not what such an object must be.
    pub fn put(&self, mut object: Value) -> Value {
        let kind = Kind::of(&object);
        if kind.namespaced && object["metadata"]["namespace"].is_null() {
            object["metadata"]["namespace"] = json!("default");
        }
        let text = |field: &str| {
            object["metadata"][field]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        let (namespace, name) = (text("namespace"), text("name"));
        let mut store = self.shared.store.lock().unwrap();
        let namespaces = Kind::called("namespaces");
        if kind.namespaced && store.object(namespaces, "", &namespace).is_none() {
            store.write(namespaces, json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } }));
        }
        let before = store.object(kind, &namespace, &name).cloned();
        if let Some(before) = &before {
            for field in [
                "uid",
                "creationTimestamp",
                "resourceVersion",
                "generation",
                "managedFields",
            ] {
                if !before["metadata"][field].is_null() {
                    object["metadata"][field] = before["metadata"][field].clone();
                }
            }
            if object["spec"]["clusterIP"].is_null() && !before["spec"]["clusterIP"].is_null() {
                object["spec"]["clusterIP"] = before["spec"]["clusterIP"].clone();
                object["spec"]["clusterIPs"] = before["spec"]["clusterIPs"].clone();
            }
        }
        if let Err(refusal) = kind.check(&object, before.as_deref()) {
            panic!("{}", refusal.message);
        }
        owners::written(kind, before.as_deref(), &mut object, "test");
        let written = (*store.write(kind, object)).clone();
        let version = store.version();
        drop(store);
        self.shared.version.send_replace(version);
        written
    }

    /// Writes every object of a text with YAML documents.
    pub fn put_yaml(&self, text: &str) {
        let documents = text.split("\n---");
        for document in documents.filter(|d| !d.trim().trim_matches('-').trim().is_empty()) {
            let document = document.trim_start_matches('-');
            self.put(serde_saphyr::from_str(document).unwrap());
        }
    }

    /// Changes an object that is there.
    ///
    /// # Panics
    /// When it is not.
    pub fn edit(
        &self,
        plural: &str,
        namespace: &str,
        name: &str,
        change: impl FnOnce(&mut Value),
    ) -> Value {
        let found = self.find(plural, namespace, name);
        let mut object = found.unwrap_or_else(|| panic!("no {plural} {namespace}/{name}"));
        change(&mut object);
        self.put(object)
    }

    /// Removes an object; says whether it was there.
    pub fn delete(&self, plural: &str, namespace: &str, name: &str) -> bool {
        let mut store = self.shared.store.lock().unwrap();
        let gone = store
            .remove(Kind::called(plural), namespace, name)
            .is_some();
        let version = store.version();
        drop(store);
        self.shared.version.send_replace(version);
        gone
    }

    /// An object as it is now. The namespace of what has none is empty.
    #[must_use]
    pub fn find(&self, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let store = self.shared.store.lock().unwrap();
        let found = store.object(Kind::called(plural), namespace, name)?;
        Some((**found).clone())
    }

    /// Every object of a kind, of one namespace or of all.
    #[must_use]
    pub fn list(&self, plural: &str, namespace: Option<&str>) -> Vec<Value> {
        let store = self.shared.store.lock().unwrap();
        let found = store.list(Kind::called(plural), namespace, store.version());
        found
            .unwrap()
            .iter()
            .map(|object| (**object).clone())
            .collect()
    }

    /// The newest version.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.shared.store.lock().unwrap().version()
    }

    /// Knows a token from now on. Its user may do nothing until [`KubeApi::allow`].
    pub fn add_token(&self, secret: &str, token: Token) {
        self.shared.access.lock().unwrap().add(secret, token);
    }

    /// Knows it no more.
    pub fn revoke_token(&self, secret: &str) {
        self.shared.access.lock().unwrap().revoke(secret);
    }

    /// Lets a user do something; `*` is every user, verb, or resource.
    pub fn allow(&self, user: &str, verb: &str, resource: &str) {
        self.shared
            .access
            .lock()
            .unwrap()
            .rule(user, verb, resource, true);
    }

    /// Forbids it, in the same words. The last word counts.
    pub fn forbid(&self, user: &str, verb: &str, resource: &str) {
        self.shared
            .access
            .lock()
            .unwrap()
            .rule(user, verb, resource, false);
    }
}

impl Drop for KubeApi {
    fn drop(&mut self) {
        self.here.lock().unwrap().send_replace(false);
        self.sockets.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn server_config(leaf: &crate::certs::Leaf) -> Arc<ServerConfig> {
    let chain = vec![CertificateDer::from_pem_slice(leaf.certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap();
    let mut config = config
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}
