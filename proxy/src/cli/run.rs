//! `selvedge gateway` and `selvedge sidecar`: the control runtime of a process, from start to drain.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::admin::{self, Request};
use crate::app::{App, Options, StartError};
use crate::config::watch::Watch;
use crate::drain::Phase;
use crate::pages;
use crate::worker::Shared;

use super::complain;
use super::logging::{self, Level};

/// Runs to the end of the process.
pub(super) fn run(options: Options, filter: &str) -> ExitCode {
    let level = match logging::start(filter) {
        Ok(level) => level,
        Err(error) => {
            complain(format_args!("error: --log: {error}"));
            return ExitCode::from(2);
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(format_args!("error: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(serve(options, level)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(format_args!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// By now a process has done what only its start does.
const SETTLED: Duration = Duration::from_secs(3);
/// What was needed in between, a reload or an outage, is given back after this. What is needed always
/// comes back at once, for some hundred page faults.
const AGAIN: Duration = Duration::from_secs(30);

/// The signals that a process listens to.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// What the control loop does next.
enum Next {
    Reload,
    Reopen,
    Rediscover,
    Drain,
}

async fn serve(options: Options, level: Level) -> Result<(), StartError> {
    let mut signals = Signals {
        terminate: signal(SignalKind::terminate())?,
        interrupt: signal(SignalKind::interrupt())?,
        hangup: signal(SignalKind::hangup())?,
    };
    let mut watch = Watch::start(options.config.paths());
    let mut app = App::start(options).await?;
    watch.set_paths(app.watched());
    let (requests, mut asked) = mpsc::channel(4);
    let source = app.shared.snapshot().source.admin.clone();
    admin::start(&source, &app.shared, app.store().cloned(), level, requests).await?;
    // Ends with the process.
    tokio::spawn(async {
        let mut wait = SETTLED;
        loop {
            tokio::time::sleep(wait).await;
            let bytes = pages::give_back();
            tracing::debug!(bytes, "pages of files given back");
            wait = AGAIN;
        }
    });
    loop {
        let next = tokio::select! {
            _ = signals.terminate.recv() => Next::Drain,
            _ = signals.interrupt.recv() => Next::Drain,
            _ = signals.hangup.recv() => Next::Reopen,
            () = watch.changed() => Next::Reload,
            () = app.discovered() => Next::Rediscover,
            Some(request) = asked.recv() => match request {
                Request::Reload => Next::Reload,
                Request::Drain => Next::Drain,
            },
        };
        match next {
            Next::Reload | Next::Reopen => {
                if let (Next::Reopen, Some(log)) = (&next, &app.shared.snapshot().access_log) {
                    log.reopen();
                }
                // What went wrong is logged, counted, and shown by `/ready`.
                let _ = app.reload().await;
                watch.set_paths(app.watched());
            }
            // What went wrong is logged; what was in force stays.
            Next::Rediscover => drop(app.rediscover()),
            Next::Drain => break,
        }
    }
    let shared = app.shared.clone();
    tokio::select! {
        () = app.drain() => {}
        () = second(&mut signals) => end_now(&shared),
    }
    Ok(())
}

/// A second request to end ends at once.
async fn second(signals: &mut Signals) {
    tokio::select! {
        _ = signals.terminate.recv() => {}
        _ = signals.interrupt.recv() => {}
    }
}

fn end_now(shared: &Arc<Shared>) {
    tracing::warn!("second signal: ending at once");
    shared.drain.send_replace(Phase::Ended);
}
