//! `selvedge ca` as a process: where its keys come from, what it listens on, who vouches for callers.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration as Std, SystemTime};

use selvedge_ca::server::MAX_CONNECTIONS;
use selvedge_ca::service::Serving;
use selvedge_ca::{
    Authority, CaService, Given, Lives, Records, Reviewer, TokenStore, control, issue,
};
use selvedge_contract::identity::{SpiffeId, TrustDomain};
use selvedge_contract::ports;
use selvedge_contract::units::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{Outcome, given, health};
use crate::attest::{AttestError, Attestors};
use crate::cli::logging;

/// Whoever vouches for tokens.
type Asked = Arc<dyn Reviewer>;

/// How long a CA waits for the one before it to end, which may still answer its last calls.
const PATIENCE: Std = Std::from_secs(15);
/// Files that followers do not get.
const SPARED: usize = MAX_CONNECTIONS + 128;

#[derive(Debug, clap::Args)]
pub(super) struct Serve {
    /// Directory of keys, tokens and the issuance log; made, with mode 0700, where it is not there.
    #[arg(long)]
    dir: PathBuf,
    /// Trust domain, such as `shop.local`.
    #[arg(long)]
    trust_domain: TrustDomain,
    /// Address to listen on.
    #[arg(long, default_value_t = SocketAddr::from(([0, 0, 0, 0], ports::CA)))]
    bind: SocketAddr,
    /// Address of health, readiness, metrics, and of what is published: `/bundle`, `/jwks`. Default: none.
    #[arg(long)]
    health: Option<SocketAddr>,
    /// Names and addresses by which sidecars reach this CA; may be given several times.
    #[arg(long, default_values_t = [String::from("localhost"), String::from("127.0.0.1")])]
    name: Vec<String>,
    /// Identity and DNS name, `spiffe://shop.local/ns/a/sa/b=b.a.svc`: certificates of this identity carry
    /// the name too, for servers that are verified by it; may be given several times.
    #[arg(long, value_name = "ID=NAME", value_parser = serving)]
    serving: Vec<(SpiffeId, String)>,
    /// Sign with the intermediate in this directory, under a root that is kept elsewhere: `tls.crt`,
    /// `tls.key` and `ca.crt`, or `ca-cert.pem`, `ca-key.pem`, `root-cert.pem` and `cert-chain.pem`.
    /// Looked at every 2 s.
    #[arg(long, value_name = "DIR")]
    issuer: Option<PathBuf>,
    /// File with issuers whose tokens are taken: Kubernetes clusters by their keys, OpenID Connect (YAML).
    #[arg(long, value_name = "FILE")]
    attestors: Option<PathBuf>,
    /// Issuer (`iss`) that JWT-SVIDs name, for verifiers who ask for one. Default: none.
    #[arg(long, value_name = "URL")]
    jwt_issuer: Option<String>,
    /// File with lists of revoked certificates (CRL, PEM): they prove nothing any more. Looked at every 2 s.
    #[arg(long, value_name = "FILE")]
    crl: Option<PathBuf>,
    /// Life of a certificate for which none is asked.
    #[arg(long, default_value = "24h")]
    leaf_life: Duration,
    /// Longest life that may be asked for, up to 90 days.
    #[arg(long, default_value = "2160h")]
    max_leaf_life: Duration,
    /// Shortest life that may be asked for; under a minute, clocks have to agree.
    #[arg(long, default_value = "1m", hide = true)]
    min_leaf_life: Duration,
}

/// What a CA does in a Kubernetes cluster.
#[cfg(feature = "kubernetes")]
#[derive(Debug, clap::Args)]
pub(super) struct Kubernetes {
    /// Know service accounts by their tokens for this audience, as the Kubernetes API vouches for them.
    #[arg(long, value_name = "AUDIENCE")]
    token_review: Option<String>,
    /// Write the roots to a ConfigMap of this name in every namespace.
    #[arg(long, value_name = "NAME")]
    trust_config_map: Option<String>,
    /// Sign with the intermediate in this Secret, of type `kubernetes.io/tls` or as Istio's `cacerts`.
    #[arg(long, value_name = "NAMESPACE/NAME", conflicts_with = "issuer", value_parser = secret)]
    issuer_secret: Option<(String, String)>,
    #[command(flatten)]
    api: crate::kubernetes::Api,
}

/// Reads `ID=NAME`.
fn serving(text: &str) -> Result<(SpiffeId, String), String> {
    let (id, name) = text.split_once('=').ok_or("expected ID=NAME")?;
    let id: SpiffeId = id.parse().map_err(|error| format!("{id}: {error}"))?;
    Ok((id, name.to_owned()))
}

/// Reads `NAMESPACE/NAME`.
#[cfg(feature = "kubernetes")]
fn secret(text: &str) -> Result<(String, String), String> {
    let (namespace, name) = text.split_once('/').ok_or("expected NAMESPACE/NAME")?;
    Ok((namespace.to_owned(), name.to_owned()))
}

pub(super) fn start(
    serve: Serve,
    #[cfg(feature = "kubernetes")] kubernetes: Kubernetes,
    filter: &str,
) -> Outcome {
    logging::start(filter)?;
    let lives = serve.lives()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let now = SystemTime::now();
        // First the lock: whoever served from here before may still be writing.
        let (records, damaged) = Records::open(&serve.dir, PATIENCE, now)?;
        if damaged > 0 {
            tracing::warn!(target: "selvedge::ca", damaged, "lines of the issuance log cannot be read");
        }
        #[cfg(feature = "kubernetes")]
        let authority = match kubernetes.issuer(&serve.trust_domain, &serve.dir).await? {
            Some(authority) => authority,
            None => serve.authority(now)?,
        };
        #[cfg(not(feature = "kubernetes"))]
        let authority = serve.authority(now)?;
        let authority = Arc::new(authority.with_lives(lives).with_issued(&records));
        let service = serve.service(authority.clone(), records)?;
        #[cfg(feature = "kubernetes")]
        let asked = kubernetes.join(&authority)?;
        #[cfg(not(feature = "kubernetes"))]
        let asked = None;
        let service = match serve.reviewer(asked)? {
            Some(reviewer) => service.with_reviewer(reviewer),
            None => service,
        };
        if let Some(file) = serve.crl.clone() {
            let first = given::revoke(&file, &authority)?;
            tokio::spawn(given::follow_list(file, authority.clone(), first));
        }
        if let Some(dir) = serve.issuer.clone() {
            tokio::spawn(given::follow_files(dir, service.clone()));
        }
        #[cfg(feature = "kubernetes")]
        kubernetes.follow_issuer(&service)?;
        control::listen(&serve.dir, service.clone())?;
        if let Some(address) = serve.health {
            health::serve(address, service.clone()).await?;
        }
        let listener = TcpListener::bind(crate::accept::every(serve.bind)).await?;
        tracing::info!(address = %listener.local_addr()?, trust_domain = %serve.trust_domain, "certificate authority");
        selvedge_ca::serve(listener, service, stopped()?).await?;
        Ok(())
    })
}

/// Ends when the process is asked to.
fn stopped() -> std::io::Result<CancellationToken> {
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Ends with the process.
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    });
    Ok(shutdown)
}

impl Serve {
    fn lives(&self) -> Result<Lives, String> {
        let (default, min, max) = (self.leaf_life.0, self.min_leaf_life.0, self.max_leaf_life.0);
        if max > issue::MAX_LIFE {
            return Err("--max-leaf-life is 90 days at most".into());
        }
        if min < Std::from_secs(1) || default < min || default > max {
            let told = "--leaf-life is not between --min-leaf-life and --max-leaf-life";
            return Err(told.into());
        }
        Ok(Lives { default, min, max })
    }

    fn authority(&self, now: SystemTime) -> Result<Authority, selvedge_ca::AuthorityError> {
        match &self.issuer {
            None => Authority::create_or_load(&self.dir, &self.trust_domain, now),
            Some(dir) => {
                Authority::given(&self.trust_domain, &Given::read(dir)?, Some(&self.dir), now)
            }
        }
    }

    /// Who vouches for tokens; `asked` does for those of no issuer in the file.
    fn reviewer(&self, asked: Option<Asked>) -> Result<Option<Asked>, AttestError> {
        let Some(file) = &self.attestors else {
            return Ok(asked);
        };
        let attestors = Attestors::read(file, &self.trust_domain)?;
        let attestors = match asked {
            Some(asked) => attestors.or_else(asked),
            None => attestors,
        };
        Ok(Some(Arc::new(attestors)))
    }

    fn service(
        &self,
        authority: Arc<Authority>,
        records: Records,
    ) -> Result<CaService, Box<dyn std::error::Error>> {
        let tokens = TokenStore::open(&self.dir)?;
        let mut names = Serving::new();
        for (id, name) in &self.serving {
            issue::permitted(id, &self.trust_domain)?;
            names.entry(id.clone()).or_default().push(name.clone());
        }
        let service = CaService::new(authority, Some(Arc::new(tokens)), self.name.clone());
        // Enough files are left for those who come and go, and for the disk.
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let files = usize::try_from(files.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
        let service = service.with_followers(files.saturating_sub(SPARED).max(1));
        Ok(service
            .with_serving(names)
            .with_jwt_issuer(self.jwt_issuer.as_deref())
            .with_records(Arc::new(records)))
    }
}

#[cfg(feature = "kubernetes")]
impl Kubernetes {
    /// The authority that a Secret holds; the Secret is followed from then on.
    async fn issuer(
        &self,
        domain: &TrustDomain,
        keys: &Path,
    ) -> Result<Option<Authority>, Box<dyn std::error::Error>> {
        let Some((namespace, name)) = &self.issuer_secret else {
            return Ok(None);
        };
        let given = crate::kubernetes::issuer::read(&self.api.client()?, namespace, name).await?;
        let now = SystemTime::now();
        Ok(Some(Authority::given(domain, &given, Some(keys), now)?))
    }

    /// Has the CA sign with what a Secret holds from when it holds it, where that is asked for.
    fn follow_issuer(&self, service: &CaService) -> Result<(), crate::kubernetes::ApiError> {
        if let Some((namespace, name)) = self.issuer_secret.clone() {
            let client = self.api.client()?;
            // It ends with the process.
            tokio::spawn(crate::kubernetes::issuer::follow(
                client,
                namespace,
                name,
                service.clone(),
            ));
        }
        Ok(())
    }

    /// Connects a CA with its cluster, where that is asked for; gives who knows its service accounts.
    fn join(
        &self,
        authority: &Arc<Authority>,
    ) -> Result<Option<Asked>, crate::kubernetes::ApiError> {
        use crate::kubernetes::{review::TokenReviewer, trust};
        if matches!((&self.token_review, &self.trust_config_map), (None, None)) {
            return Ok(None);
        }
        let client = self.api.client()?;
        // It ends with the process.
        if let Some(name) = self.trust_config_map.clone() {
            tokio::spawn(trust::publish(client.clone(), name, authority.bundles()));
        }
        Ok(self.token_review.clone().map(|audience| {
            let domain = authority.trust_domain().clone();
            Arc::new(TokenReviewer::new(client, audience, domain)) as Asked
        }))
    }
}
