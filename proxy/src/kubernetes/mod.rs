//! Beside the path: the way to the Kubernetes API, for discovery, the injector and the CA.

#[cfg(feature = "ca")]
pub mod issuer;
#[cfg(feature = "ca")]
pub mod review;
#[cfg(feature = "ca")]
pub mod trust;

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::{Client, Config};
use selvedge_contract::config::Kubernetes;

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
pub enum ApiError {
    /// Files that cannot be read.
    #[error("the Kubernetes API at {server}: {source}")]
    Client {
        /// Where it is.
        server: http::Uri,
        /// Why.
        source: Box<kube::Error>,
    },
    /// An address that is none.
    #[error("`{0}` is no address of a Kubernetes API")]
    Address(String),
}

impl Api {
    /// As a configuration has it.
    ///
    /// # Errors
    /// [`ApiError::Address`].
    pub fn of(spec: &Kubernetes) -> Result<Self, ApiError> {
        let mut api = Self::default();
        if let Some(server) = &spec.server {
            let parsed = server.parse::<http::Uri>().ok();
            let whole = parsed.filter(|uri| uri.scheme().is_some() && uri.host().is_some());
            api.server = whole.ok_or_else(|| ApiError::Address(server.clone()))?;
        }
        if let Some(token) = &spec.token {
            api.token = PathBuf::from(token);
        }
        if let Some(ca) = &spec.ca {
            api.ca = PathBuf::from(ca);
        }
        Ok(api)
    }

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
        Client::try_from(config).map_err(|error| ApiError::Client {
            server: self.server.clone(),
            source: Box::new(error),
        })
    }
}
