//! `selvedge dev`: an embedded CA, a gateway, a sidecar for each workload and the workloads, in one
//! process, over real sockets with real mutual TLS. No root, no setup.

mod echo;
pub(super) mod plan;
mod process;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use selvedge_ca::Authority;
use selvedge_contract::config::DevConfig;
use selvedge_contract::identity::{SpiffeId, TrustDomain};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin;
use crate::app::{App, ConfigInput, Options};
use crate::config::Mode;
use crate::config::load::{Loaded, load};
use crate::identity::Source;

use super::logging::{self, Level};
use super::{complain, say};

use plan::{Instance, Plan};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The file that describes the mesh.
    file: PathBuf,
}

type Outcome = Result<(), Box<dyn std::error::Error>>;

pub(super) fn run(arguments: &Arguments, filter: &str) -> ExitCode {
    // What people want to see is the table; the rest is there on request.
    let filter = if filter == "info" { "warn" } else { filter };
    let started = logging::start(filter)
        .map_err(Into::into)
        .and_then(|level| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(serve(arguments, level))
        });
    match started {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(format_args!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

async fn serve(arguments: &Arguments, level: Level) -> Outcome {
    let files = std::slice::from_ref(&arguments.file);
    let report = plan::check_files(files);
    if report.has_errors() {
        return Err(report.to_text().into());
    }
    let loaded: Loaded<DevConfig> = load(files).map_err(|broken| broken.report.to_text())?;
    let mut plan = Plan::of(loaded.config)?;
    let authority = Arc::new(Authority::ephemeral(&plan.trust_domain, SystemTime::now())?);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    let stop = CancellationToken::new();
    let workloads = TaskTracker::new();
    let mut sidecars = Vec::new();
    for instance in &mut plan.instances {
        let source = source(&authority, &plan.trust_domain, &instance.identity);
        let options = Options {
            mode: Mode::Sidecar,
            config: ConfigInput::Memory(Box::new(instance.config.clone())),
            workers: Some(1),
            source: Some(source),
            held_ports: true,
        };
        sidecars.push(App::start(options).await?);
        start_workload(instance, &workloads, &stop).await?;
    }
    let gateway = App::start(Options {
        mode: Mode::Gateway,
        config: ConfigInput::Memory(Box::new(plan.gateway.clone())),
        workers: Some(1),
        source: Some(source(
            &authority,
            &plan.trust_domain,
            &plan.gateway_identity,
        )),
        held_ports: false,
    })
    .await?;
    let (requests, _asked) = mpsc::channel(1);
    let admin = plan.gateway.admin.clone();
    admin::start(
        &admin,
        &gateway.shared,
        gateway.store().cloned(),
        level,
        requests,
    )
    .await?;
    describe(&plan, &gateway);

    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    say("\nstopping: gateway, sidecars, workloads");
    gateway.drain().await;
    for sidecar in sidecars {
        sidecar.drain().await;
    }
    stop.cancel();
    workloads.close();
    let _ = tokio::time::timeout(Duration::from_secs(10), workloads.wait()).await;
    Ok(())
}

/// Certificates from the CA in this process, for one identity.
fn source(authority: &Arc<Authority>, domain: &TrustDomain, id: &SpiffeId) -> Source {
    let (signer, id) = (authority.clone(), id.clone());
    Source::Local {
        trust_domain: domain.clone(),
        bundle_pem: authority.bundle().pem.to_string(),
        issuer: Arc::new(move |csr| {
            let issued = signer.issue(csr, &id, None, SystemTime::now());
            issued
                .map(|issued| issued.chain_pem)
                .map_err(|error| error.to_string())
        }),
    }
}

async fn start_workload(
    instance: &mut Instance,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Outcome {
    match &instance.command {
        None => {
            let echo = echo::Echo::of(instance);
            // Bound beside the socket that keeps the port, which is then let go.
            let held = instance.app_held.take();
            let listener = crate::accept::bind(instance.app, held.is_some())?;
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tasks.spawn(echo::serve(echo, listener, stop.clone()));
        }
        Some(command) => {
            // Programs bind for themselves: from here to there the port is free.
            drop(instance.app_held.take());
            let run = process::Run {
                name: instance.name.clone(),
                command: command.clone(),
                port: instance.app.port(),
                outbound: instance.outbound,
            };
            tasks.spawn(process::run_forever(run, stop.clone()));
        }
    }
    Ok(())
}

/// What listens where, who is who, and a line to try.
fn describe(plan: &Plan, gateway: &App) {
    say(format_args!("mesh `{}` is up\n", plan.trust_domain));
    say(format_args!("gateway    {}", plan.gateway_identity));
    let mut addresses: Vec<_> = gateway.addresses().collect();
    addresses.sort_unstable();
    for (name, address) in &addresses {
        say(format_args!("  {name:<10} {address}"));
    }
    for instance in &plan.instances {
        say(format_args!("{:<10} {}", instance.name, instance.identity));
        say(format_args!(
            "  inbound    {} (mutual TLS) -> app {}",
            instance.inbound, instance.app
        ));
        if !instance.calls.is_empty() {
            let calls = instance.calls.join(", ");
            say(format_args!(
                "  outbound   {} -> {calls}",
                instance.outbound
            ));
        }
    }
    if let Some((name, address)) = addresses.first() {
        say(format_args!(
            "\ntry:  {}\nstop: Ctrl-C",
            plan.example(name, *address)
        ));
    }
}
