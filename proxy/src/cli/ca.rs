//! `selvedge ca`: the certificate authority as a process, and join tokens for it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use clap::Subcommand;
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
        (None, Some(serve)) => start(serve, filter),
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

fn start(serve: Serve, filter: &str) -> Outcome {
    logging::start(filter)?;
    let authority = Authority::create_or_load(&serve.dir, &serve.trust_domain, SystemTime::now())?;
    let tokens = TokenStore::open(&serve.dir)?;
    let service = CaService::new(Arc::new(authority), Some(Arc::new(tokens)), serve.name);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(serve.bind).await?;
        tracing::info!(address = %listener.local_addr()?, trust_domain = %serve.trust_domain, "certificate authority");
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
