//! `selvedge ca`: the certificate authority as a process, join tokens for it, its state, and the
//! replacement of its root.

mod given;
mod health;
mod rotate;
mod serve;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use clap::Subcommand;
use selvedge_ca::{TokenStore, bundle, issue};
use selvedge_contract::identity::{SpiffeId, TrustDomain};
use selvedge_contract::units::Duration;

use super::{complain, say};

#[derive(Debug, clap::Args)]
#[command(subcommand_negates_reqs = true, args_conflicts_with_subcommands = true)]
pub(super) struct Arguments {
    #[command(flatten)]
    serve: Option<serve::Serve>,
    // Not part of the above: a part that may be missing cannot have parts of its own.
    #[cfg(feature = "kubernetes")]
    #[command(flatten)]
    kubernetes: serve::Kubernetes,
    #[command(subcommand)]
    command: Option<Command>,
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
    /// Print how the CA that runs stands: its certificates, the rotation, who it waits for.
    Status(rotate::Status),
    /// Take the next step of replacing the root, if it is safe: prepare, activate, retire.
    Rotate(rotate::Rotate),
}

pub(super) fn run(arguments: Arguments, filter: &str) -> ExitCode {
    let result = match (arguments.command, arguments.serve) {
        (Some(Command::Token { dir, id, ttl }), _) => token(&dir, &id, ttl),
        (Some(Command::Bundle { dir }), _) => print_bundle(&dir),
        (Some(Command::Status(status)), _) => status.run(),
        (Some(Command::Rotate(rotate)), _) => rotate.run(),
        (None, Some(serve)) => serve::start(
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

fn token(dir: &Path, id: &SpiffeId, ttl: Duration) -> Outcome {
    let domain: TrustDomain = id.trust_domain().parse()?;
    issue::permitted(id, &domain)?;
    if !["root.pem", "rotation.json", "issued"]
        .iter()
        .any(|name| dir.join(name).exists())
    {
        return Err(format!("{}: no CA has ever served from here", dir.display()).into());
    }
    let token = TokenStore::open(dir)?.mint(id, ttl.0, SystemTime::now())?;
    say(&*token);
    Ok(())
}

fn print_bundle(dir: &Path) -> Outcome {
    say(bundle::bundle_in(dir)?.trim_end());
    Ok(())
}
