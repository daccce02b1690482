//! Injector: what an installation says of every sidecar.

use serde::{Deserialize, Serialize};

use super::options::{Capture, Options};

/// See the module. Every key has a default, so that a laptop needs none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// Image of sidecar and init container.
    pub image: String,
    /// When it is pulled.
    pub image_pull_policy: String,
    /// The mesh's trust domain.
    pub trust_domain: String,
    /// The CA, `https://host:port`.
    pub ca: String,
    /// Audience of the token by which a pod proves who it is.
    pub audience: String,
    /// Life of that token in seconds; the system renews it at 80 %.
    pub token_seconds: u32,
    /// ConfigMap with the trust bundle, in each namespace, under `ca.pem`.
    pub trust: String,
    /// User and group of the proxy, by which redirection knows it.
    pub uid: u32,
    /// Native sidecars (Kubernetes 1.29).
    pub native: bool,
    /// Namespaces in which nothing is ever injected.
    pub excluded_namespaces: Vec<String>,
    /// The namespace of the injector itself, which is excluded too.
    pub own_namespace: String,
    /// Resources: `requests.cpu`, `limits.cpu`, `requests.memory`, `limits.memory`.
    pub resources: [Option<String>; 4],
    /// Log filter.
    pub log: String,
    /// Whether callers without the mesh's mutual TLS are refused.
    pub strict: bool,
    /// Where sidecars find services: the domain of the cluster's names. Empty: nowhere but in their
    /// own configuration.
    pub cluster_domain: String,
}

impl Default for Settings {
    fn default() -> Self {
        let text = str::to_owned;
        Self {
            image: text("selvedge:latest"),
            image_pull_policy: text("IfNotPresent"),
            trust_domain: text("cluster.local"),
            ca: text("https://selvedge-ca.selvedge-system.svc:15012"),
            audience: text("selvedge-ca"),
            token_seconds: 43_200,
            trust: text("selvedge-trust"),
            uid: 1337,
            native: true,
            excluded_namespaces: ["kube-system", "kube-public", "kube-node-lease"]
                .map(text)
                .to_vec(),
            own_namespace: text("selvedge-system"),
            resources: [
                Some(text("10m")),
                None,
                Some(text("24Mi")),
                Some(text("128Mi")),
            ],
            log: text("info"),
            strict: false,
            cluster_domain: text("cluster.local"),
        }
    }
}

impl Settings {
    /// What holds for a pod that says nothing.
    pub(super) fn options(&self) -> Options {
        Options {
            skip_inbound: Vec::new(),
            skip_outbound: Vec::new(),
            skip_cidrs: Vec::new(),
            image: self.image.clone(),
            resources: self.resources.clone(),
            log: self.log.clone(),
            native: self.native,
            hold: true,
            rewrite_probes: true,
            capture: Capture::Redirect,
            drain_delay: "5s".to_owned(),
            strict: self.strict,
            opaque: Vec::new(),
            inbound: Vec::new(),
            workload_api: false,
        }
    }

    /// Whether nothing is ever injected in a namespace.
    #[must_use]
    pub fn excludes(&self, namespace: &str) -> bool {
        namespace == self.own_namespace || self.excluded_namespaces.iter().any(|n| n == namespace)
    }
}
