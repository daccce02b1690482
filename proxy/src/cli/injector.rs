//! `selvedge injector`: the webhook that gives pods their sidecar when they are created.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use selvedge_contract::ports;
use selvedge_injector::pods::settings::Settings;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::kubernetes::Api;
use crate::webhook::{self, Options};

use super::{complain, inject, logging};

/// A handshake or a large pod on one must not be what all others wait for.
const THREADS: usize = 2;

/// Answers the Kubernetes API server when pods are created: those of namespaces with the label
/// `selvedge.dev/inject: enabled` get their sidecar.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// What the installation says of every sidecar: image, CA, trust domain, resources (YAML).
    #[arg(long)]
    settings: PathBuf,
    /// Address of the webhook.
    #[arg(long, default_value_t = SocketAddr::from(([0, 0, 0, 0], ports::WEBHOOK)))]
    bind: SocketAddr,
    /// Address of health, readiness and metrics.
    #[arg(long, default_value_t = SocketAddr::from(([0, 0, 0, 0], ports::HEALTH)))]
    health: SocketAddr,
    /// File with the mesh's roots; re-read when it changes.
    #[arg(long)]
    bundle: PathBuf,
    /// File with the token by which the CA knows this process; it signs the webhook's certificate.
    #[arg(long, required_unless_present = "certificate")]
    token: Option<PathBuf>,
    /// Instead of the CA: chain file, re-read every 10 s.
    #[arg(long, requires = "key", conflicts_with = "token")]
    certificate: Option<PathBuf>,
    /// Its key file.
    #[arg(long, requires = "certificate")]
    key: Option<PathBuf>,
    /// Name of the MutatingWebhookConfiguration whose `caBundle` is kept; without it, nobody's.
    #[arg(long)]
    webhook: Option<String>,
    /// Name of this replica among the others, such as its pod's.
    #[arg(long, default_value = "selvedge-injector")]
    name: String,
    #[command(flatten)]
    api: Api,
}

pub(super) fn run(arguments: Arguments, filter: &str) -> ExitCode {
    let settings = match inject::settings(&arguments.settings) {
        Ok(settings) => settings,
        Err(error) => {
            complain(format_args!("error: {error}"));
            return ExitCode::from(2);
        }
    };
    match start(arguments, settings, filter) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(format_args!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn start(
    arguments: Arguments,
    settings: Settings,
    filter: &str,
) -> Result<(), Box<dyn std::error::Error>> {
    logging::start(filter)?;
    let options = Options {
        settings,
        bind: arguments.bind,
        health: arguments.health,
        bundle: arguments.bundle,
        token: arguments.token,
        pair: arguments.certificate.zip(arguments.key),
        webhook: arguments.webhook,
        name: arguments.name,
        api: arguments.api,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let stop = CancellationToken::new();
        let asked = stop.clone();
        let signals = async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                if asked.is_cancelled() {
                    return;
                }
                asked.cancel();
            }
        };
        tokio::select! {
            ended = webhook::run(options, stop) => Ok(ended?),
            // A second signal ends at once.
            () = signals => Ok(()),
        }
    })
}
