//! Beside the path: the way to the Kubernetes API, for discovery, the injector and the CA.

#[cfg(feature = "ca")]
pub mod review;
#[cfg(feature = "ca")]
pub mod trust;

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::{Client, Config};

/// Where a pod finds its own credentials.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The API's name inside a cluster.
const SERVER: &str = "https://kubernetes.default.svc";
/// Longest time for a connection, TLS included.
const CONNECT: Duration = Duration::from_secs(5);

/// Where the API is, and who asks. Every default is what a pod has.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Api {
    /// Where the Kubernetes API is.
    #[arg(id = "kube-api", long = "kube-api", default_value = SERVER)]
    pub server: http::Uri,
    /// File with the token by which this process asks; re-read once a minute.
    #[arg(id = "kube-token", long = "kube-token", default_value_os_t = Path::new(ACCOUNT).join("token"))]
    pub token: PathBuf,
    /// File with the CAs of the API's certificate; re-read once a minute.
    #[arg(id = "kube-ca", long = "kube-ca", default_value_os_t = Path::new(ACCOUNT).join("ca.crt"))]
    pub ca: PathBuf,
}

impl Default for Api {
    fn default() -> Self {
        Self {
            server: http::Uri::from_static(SERVER),
            token: Path::new(ACCOUNT).join("token"),
            ca: Path::new(ACCOUNT).join("ca.crt"),
        }
    }
}

/// Why there is no way to the API.
#[derive(Debug, thiserror::Error)]
#[error("the Kubernetes API at {server}: {source}")]
pub struct ApiError {
    server: http::Uri,
    source: Box<kube::Error>,
}

impl Api {
    /// A client; nothing is connected to yet. Must run inside a runtime.
    ///
    /// It repeats nothing by itself: who asks knows what an answer is worth.
    ///
    /// # Errors
    /// Files that cannot be read, or an address that is none.
    pub fn client(&self) -> Result<Client, ApiError> {
        let mut config = Config::new(self.server.clone());
        config.connect_timeout = Some(CONNECT);
        config.default_retry = false;
        config.root_cert_file = Some(self.ca.clone());
        config.auth_info.token_file = Some(self.token.to_string_lossy().into_owned());
        Client::try_from(config).map_err(|error| ApiError {
            server: self.server.clone(),
            source: Box::new(error),
        })
    }
}
