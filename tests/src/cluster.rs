//! A cluster without nodes: an API server, the CA as it runs there, the injector, and a client that asks
//! the injector as an API server does.

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::kube::{KubeApi, Token};
use crate::pod::{open_dir, reachable};
use crate::process::{Selvedge, binary};
use crate::{PATIENCE, least};

/// The webhook's name, which its certificate must carry.
pub const WEBHOOK: &str = "selvedge-injector.selvedge-system.svc";
/// The namespace of the mesh's own.
pub const OWN: &str = "selvedge-system";
/// The audience of tokens for the CA.
pub const AUDIENCE: &str = "selvedge-ca";

/// Waits for something to be there.
///
/// # Panics
/// When it is not within [`PATIENCE`].
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not there in time");
        std::thread::yield_now();
    }
}

/// A CA in a cluster.
pub struct ClusterCa {
    /// The process.
    pub process: Selvedge,
    /// Its directory of keys.
    pub keys: PathBuf,
}

impl ClusterCa {
    /// Starts one that reviews tokens and publishes its roots. It may do what the chart lets it.
    #[must_use]
    pub fn start(api: &KubeApi) -> Self {
        Self::run(api, |_, _| Command::new(binary()))
    }

    /// The same with as little as a restricted pod has.
    #[must_use]
    pub fn start_confined(api: &KubeApi) -> Self {
        Self::run(api, |dir, volume| {
            std::fs::create_dir(volume).unwrap();
            least::confined(&reachable(least::USER, dir), Some(volume))
        })
    }

    fn run(api: &KubeApi, command: impl FnOnce(&Path, &Path) -> Command) -> Self {
        let user = account(api, "selvedge-ca");
        for (verb, resource) in [
            ("create", "tokenreviews"),
            ("list", "namespaces"),
            ("watch", "namespaces"),
            ("list", "configmaps"),
            ("watch", "configmaps"),
            ("patch", "configmaps"),
            ("create", "configmaps"),
        ] {
            api.allow(&user, verb, resource);
        }
        let dir = open_dir();
        let volume = dir.path().join("volume");
        let mut command = command(dir.path(), &volume);
        let keys = volume.join("ca");
        let serving = format!("spiffe://shop.local/ns/{OWN}/sa/selvedge-injector={WEBHOOK}");
        command
            .args([
                "ca",
                "--trust-domain",
                "shop.local",
                "--bind",
                "127.0.0.1:0",
            ])
            .arg("--dir")
            .arg(&keys)
            .args(["--token-review", AUDIENCE, "--serving", &serving])
            .args(["--trust-config-map", "selvedge-trust"])
            .args(arguments(api, "selvedge-ca"));
        let process = Selvedge::spawn(command, dir, &["certificate authority"]);
        Self { process, keys }
    }

    /// Its address as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        let address = self.process.address("certificate authority");
        format!("https://{address}")
    }
}

/// Gives the account of one of the mesh's own a token for the API; gives its user.
fn account(api: &KubeApi, name: &str) -> String {
    let token = Token::of_account(OWN, name);
    let user = token.user.clone();
    api.add_token(&format!("api.{name}.token"), token);
    std::fs::write(
        api.dir().join(format!("{name}.api")),
        format!("api.{name}.token"),
    )
    .unwrap();
    user
}

/// The flags by which it finds the API.
fn arguments(api: &KubeApi, name: &str) -> Vec<String> {
    let token = api.dir().join(format!("{name}.api"));
    let token = token.display().to_string();
    let ca = api.ca().display().to_string();
    let flags = [
        ("--kube-api", api.url()),
        ("--kube-token", token),
        ("--kube-ca", ca),
    ];
    flags
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .collect()
}

/// See the module.
pub struct Cluster {
    /// The API server.
    pub api: KubeApi,
    /// The CA.
    pub ca: ClusterCa,
    /// The injector.
    pub injector: Selvedge,
}

impl Cluster {
    /// All three, ready to answer; the namespace `shop` has the label.
    #[must_use]
    pub fn start() -> Self {
        Self::run(ClusterCa::start, |api, ca| injector(api, ca, "one"))
    }

    /// The same with as little as restricted pods have.
    #[must_use]
    pub fn start_confined() -> Self {
        Self::run(ClusterCa::start_confined, confined_injector)
    }

    fn run(
        ca: impl FnOnce(&KubeApi) -> ClusterCa,
        injector: impl FnOnce(&KubeApi, &str) -> Selvedge,
    ) -> Self {
        let api = KubeApi::start();
        // Every user's processes read from it.
        set_permissions(api.dir(), Permissions::from_mode(0o755)).unwrap();
        for (name, labels) in [
            (OWN, json!({})),
            ("shop", json!({ "selvedge.dev/inject": "enabled" })),
        ] {
            api.put(json!({
                "apiVersion": "v1", "kind": "Namespace",
                "metadata": { "name": name, "labels": labels },
            }));
        }
        api.put(webhooks());
        let ca = ca(&api);
        write_bundle(&api);
        let injector = injector(&api, &ca.url());
        wait_ready(&injector);
        Self { api, ca, injector }
    }

    /// The roots that the API server has been told, PEM.
    #[must_use]
    pub fn bundle(&self) -> String {
        bundle_of(&self.api).unwrap()
    }

    /// Somebody who asks as the API server does.
    #[must_use]
    pub fn caller(&self) -> Caller {
        Caller::new(&self.injector, &self.bundle())
    }
}

/// What the configuration of the webhook says of roots.
#[must_use]
pub fn bundle_of(api: &KubeApi) -> Option<String> {
    let found = api.find("mutatingwebhookconfigurations", "", "selvedge-injector")?;
    let webhooks = found["webhooks"].as_array()?.clone();
    let texts = webhooks.iter().map(|webhook| {
        let text = webhook["clientConfig"]["caBundle"].as_str()?;
        String::from_utf8(STANDARD.decode(text).ok()?).ok()
    });
    let texts: Option<Vec<String>> = texts.collect();
    let texts = texts?;
    let first = texts.first()?;
    assert!(texts.iter().all(|text| text == first), "{texts:?}");
    Some(first.clone())
}

/// The webhook's configuration as it is installed: without roots.
fn webhooks() -> Value {
    let webhook = |by: &str| {
        json!({
            "name": format!("{by}.inject.selvedge.dev"),
            "admissionReviewVersions": ["v1"],
            "clientConfig": { "service": {
                "name": "selvedge-injector", "namespace": OWN, "path": format!("/inject/{by}"),
            } },
            "sideEffects": "None",
        })
    };
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": { "name": "selvedge-injector" },
        "webhooks": [webhook("namespace"), webhook("pod")],
    })
}

/// Takes the roots from where the CA has published them, as a kubelet does.
pub fn write_bundle(api: &KubeApi) -> PathBuf {
    let text = until("trust", || {
        let map = api.find("configmaps", OWN, "selvedge-trust")?;
        Some(map["data"]["ca.pem"].as_str()?.to_owned())
    });
    let file = api.dir().join("ca.pem");
    std::fs::write(&file, text).unwrap();
    file
}

/// Starts an injector of this name, which may do what the chart lets it.
#[must_use]
pub fn injector(api: &KubeApi, ca: &str, name: &str) -> Selvedge {
    run_injector(api, ca, name, |_| Command::new(binary()))
}

/// The same with as little as a restricted pod has.
#[must_use]
pub fn confined_injector(api: &KubeApi, ca: &str) -> Selvedge {
    run_injector(api, ca, "confined", |dir| {
        least::confined(&reachable(least::USER, dir), None)
    })
}

fn run_injector(
    api: &KubeApi,
    ca: &str,
    name: &str,
    command: impl FnOnce(&Path) -> Command,
) -> Selvedge {
    let user = account(api, "selvedge-injector");
    for (verb, resource) in [
        ("get", "namespaces"),
        ("list", "namespaces"),
        ("watch", "namespaces"),
        ("get", "mutatingwebhookconfigurations"),
        ("patch", "mutatingwebhookconfigurations"),
        ("get", "leases"),
        ("update", "leases"),
        ("create", "leases"),
    ] {
        api.allow(&user, verb, resource);
    }
    let dir = open_dir();
    let settings = dir.path().join("settings.yaml");
    std::fs::write(
        &settings,
        format!("{{ trustDomain: shop.local, ca: '{ca}', ownNamespace: {OWN} }}"),
    )
    .unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "ca.injector.token").unwrap();
    let proof = Token::of_account(OWN, "selvedge-injector").for_audiences(&[AUDIENCE]);
    api.add_token("ca.injector.token", proof);
    let mut command = command(dir.path());
    command
        .args([
            "injector",
            "--bind",
            "127.0.0.1:0",
            "--health",
            "127.0.0.1:0",
        ])
        .args(["--webhook", "selvedge-injector", "--name", name])
        .arg("--settings")
        .arg(&settings)
        .arg("--bundle")
        .arg(api.dir().join("ca.pem"))
        .arg("--token")
        .arg(&token)
        .args(arguments(api, "selvedge-injector"));
    Selvedge::spawn(command, dir, &["webhook", "health"])
}

/// Waits until an injector says that it is ready.
pub fn wait_ready(injector: &Selvedge) {
    until("ready", || {
        (injector.get("health", "/ready").0 == 200).then_some(())
    });
}

/// Asks as an API server does: by name, verified by the roots it was told, over HTTP/1.1.
#[derive(Clone)]
pub struct Caller {
    address: std::net::SocketAddr,
    connector: TlsConnector,
}

/// A connection to the webhook.
pub type Connection = TlsStream<TcpStream>;

impl Caller {
    /// One that trusts these roots.
    #[must_use]
    pub fn new(injector: &Selvedge, bundle: &str) -> Self {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
            roots.add(root.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self {
            address: injector.address("webhook"),
            connector: TlsConnector::from(Arc::new(config)),
        }
    }

    /// Connects; the certificate must be good for the webhook's name.
    ///
    /// # Errors
    /// When it is not.
    pub async fn connect(&self) -> std::io::Result<Connection> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(WEBHOOK).unwrap();
        self.connector.connect(name, stream).await
    }

    /// A connection for several questions.
    pub async fn open(&self) -> Asking {
        let stream = self.connect().await.unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Asking { sender }
    }

    /// Asks once.
    pub async fn ask(&self, path: &str, body: impl Into<Bytes>) -> (u16, Value) {
        self.open().await.ask(path, body).await
    }
}

/// A connection on which questions are asked.
pub struct Asking {
    sender: http1::SendRequest<Full<Bytes>>,
}

impl Asking {
    /// Asks; gives the status and the answer, which is a text where it is no JSON.
    pub async fn ask(&mut self, path: &str, body: impl Into<Bytes>) -> (u16, Value) {
        self.ask_as(path, "POST", "application/json", body).await
    }

    /// The same in another manner.
    pub async fn ask_as(
        &mut self,
        path: &str,
        method: &str,
        kind: &str,
        body: impl Into<Bytes>,
    ) -> (u16, Value) {
        let request = Request::builder()
            .method(method)
            .uri(format!("{path}?timeout=10s"))
            .header(header::HOST, WEBHOOK)
            .header(header::CONTENT_TYPE, kind)
            .body(Full::new(body.into()))
            .unwrap();
        let response = self.sender.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&body).into_owned();
        let value = serde_json::from_slice(&body);
        (status, value.unwrap_or(Value::String(text)))
    }
}

/// A review of a pod that is to be created.
#[must_use]
pub fn review(namespace: &str, object: &Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "0df28fbd-5f5f-11e8-bc74-36e6bb280816",
            "kind": { "group": "", "version": "v1", "kind": "Pod" },
            "resource": { "group": "", "version": "v1", "resource": "pods" },
            "name": "", "namespace": namespace, "operation": "CREATE",
            "userInfo": { "username": "admin", "groups": ["system:authenticated"] },
            "object": object, "oldObject": null, "dryRun": false,
            "options": { "kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1" },
        },
    })
}

/// The patch of an answer, and what it makes of the object.
///
/// # Panics
/// When there is none, or it does not apply.
#[must_use]
pub fn applied(object: &Value, answer: &Value) -> (Value, Value) {
    let response = &answer["response"];
    assert_eq!(response["patchType"], "JSONPatch", "{answer}");
    let text = STANDARD.decode(response["patch"].as_str().unwrap());
    let written: Value = serde_json::from_slice(&text.unwrap()).unwrap();
    let patch: json_patch::Patch = serde_json::from_value(written.clone()).unwrap();
    let mut after = object.clone();
    json_patch::patch(&mut after, &patch).unwrap();
    (written, after)
}

/// A file's text.
#[must_use]
pub fn text_of(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap()
}
