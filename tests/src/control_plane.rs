//! The control plane of a cluster without nodes: an API server, the CA and the injector as they run there.

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::admission::Caller;
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

/// A file's text.
#[must_use]
pub fn text_of(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap()
}
