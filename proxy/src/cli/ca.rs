//! `selvedge ca`: the certificate authority as a process, and join tokens for it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use clap::Subcommand;
use selvedge_ca::service::Serving;
use selvedge_ca::{Authority, CaService, TokenStore, issue};
use selvedge_contract::identity::{SpiffeId, TrustDomain};
use selvedge_contract::ports;
use selvedge_contract::units::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{complain, logging, say};

#[derive(Debug, clap::Args)]
#[command(subcommand_negates_reqs = true, args_conflicts_with_subcommands = true)]
pub(super) struct Arguments {
    #[command(flatten)]
    serve: Option<Serve>,
    // Not part of the above: a part that may be missing cannot have parts of its own.
    #[cfg(feature = "kubernetes")]
    #[command(flatten)]
    kubernetes: Kubernetes,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Args)]
struct Serve {
    /// Directory of keys and tokens; made, with mode 0700, where it is not there.
    #[arg(long)]
    dir: PathBuf,
    /// Trust domain, such as `shop.local`.
    #[arg(long)]
    trust_domain: TrustDomain,
    /// Address to listen on.
    #[arg(long, default_value_t = SocketAddr::from(([0, 0, 0, 0], ports::CA)))]
    bind: SocketAddr,
    /// Names and addresses by which sidecars reach this CA; may be given several times.
    #[arg(long, default_values_t = [String::from("localhost"), String::from("127.0.0.1")])]
    name: Vec<String>,
    /// Identity and DNS name, `spiffe://shop.local/ns/a/sa/b=b.a.svc`: certificates of this identity carry
    /// the name too, for servers that are verified by it; may be given several times.
    #[arg(long, value_name = "ID=NAME", value_parser = serving)]
    serving: Vec<(SpiffeId, String)>,
}

/// What a CA does in a Kubernetes cluster.
#[cfg(feature = "kubernetes")]
#[derive(Debug, clap::Args)]
struct Kubernetes {
    /// Know service accounts by their tokens for this audience, as the Kubernetes API vouches for them.
    #[arg(long, value_name = "AUDIENCE")]
    token_review: Option<String>,
    /// Write the roots to a ConfigMap of this name in every namespace.
    #[arg(long, value_name = "NAME")]
    trust_config_map: Option<String>,
    #[command(flatten)]
    api: crate::kubernetes::Api,
}

/// Reads `ID=NAME`.
fn serving(text: &str) -> Result<(SpiffeId, String), String> {
    let (id, name) = text.split_once('=').ok_or("expected ID=NAME")?;
    let id: SpiffeId = id.parse().map_err(|error| format!("{id}: {error}"))?;
    Ok((id, name.to_owned()))
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Mint a join token: good for one certificate of one identity.
    Token {
        /// Directory of the CA.
        #[arg(long)]
        dir: PathBuf,
        /// Identity, `spiffe://shop.local/ns/shop/sa/orders`.
        #[arg(long)]
        id: SpiffeId,
        /// How long it may be used.
        #[arg(long, default_value = "10m")]
        ttl: Duration,
    },
    /// Print the trust bundle.
    Bundle {
        /// Directory of the CA.
        #[arg(long)]
        dir: PathBuf,
    },
}

pub(super) fn run(arguments: Arguments, filter: &str) -> ExitCode {
    let result = match (arguments.command, arguments.serve) {
        (Some(Command::Token { dir, id, ttl }), _) => token(&dir, &id, ttl),
        (Some(Command::Bundle { dir }), _) => bundle(&dir),
        (None, Some(serve)) => start(
            serve,
            #[cfg(feature = "kubernetes")]
            arguments.kubernetes,
            filter,
        ),
        (None, None) => Err(
            "name a directory and a trust domain: `selvedge ca --dir DIR --trust-domain NAME`"
                .into(),
        ),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(format_args!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn token(dir: &std::path::Path, id: &SpiffeId, ttl: Duration) -> Outcome {
    let domain: TrustDomain = id.trust_domain().parse()?;
    issue::permitted(id, &domain)?;
    let token = TokenStore::open(dir)?.mint(id, ttl.0, SystemTime::now())?;
    say(&*token);
    Ok(())
}

fn bundle(dir: &std::path::Path) -> Outcome {
    say(std::fs::read_to_string(dir.join("root.pem"))?.trim_end());
    Ok(())
}

fn start(
    serve: Serve,
    #[cfg(feature = "kubernetes")] kubernetes: Kubernetes,
    filter: &str,
) -> Outcome {
    logging::start(filter)?;
    let authority = Authority::create_or_load(&serve.dir, &serve.trust_domain, SystemTime::now())?;
    let tokens = TokenStore::open(&serve.dir)?;
    let mut names = Serving::new();
    for (id, name) in serve.serving {
        issue::permitted(&id, &serve.trust_domain)?;
        names.entry(id).or_default().push(name);
    }
    let authority = Arc::new(authority);
    let service =
        CaService::new(authority.clone(), Some(Arc::new(tokens)), serve.name).with_serving(names);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(crate::accept::every(serve.bind)).await?;
        tracing::info!(address = %listener.local_addr()?, trust_domain = %serve.trust_domain, "certificate authority");
        #[cfg(feature = "kubernetes")]
        let service = kubernetes.join(service, &authority)?;
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
        selvedge_ca::serve(listener, service, shutdown).await?;
        Ok(())
    })
}

#[cfg(feature = "kubernetes")]
impl Kubernetes {
    /// Connects a CA with its cluster, where that is asked for.
    fn join(
        self,
        service: CaService,
        authority: &Authority,
    ) -> Result<CaService, crate::kubernetes::ApiError> {
        use crate::kubernetes::review::TokenReviewer;
        if self.token_review.is_none() && self.trust_config_map.is_none() {
            return Ok(service);
        }
        let client = self.api.client()?;
        if let Some(name) = self.trust_config_map {
            let bundle = authority.bundle_pem().to_owned();
            // Ends with the process.
            tokio::spawn(crate::kubernetes::trust::publish(
                client.clone(),
                name,
                bundle,
            ));
        }
        Ok(match self.token_review {
            None => service,
            Some(audience) => {
                let domain = authority.trust_domain().clone();
                let reviewer = TokenReviewer::new(client, audience, domain);
                service.with_reviewer(Arc::new(reviewer))
            }
        })
    }
}
