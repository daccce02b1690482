//! The process log (not the access log): to standard error, with a level that admin can change.

use std::io;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt};

/// Changes the level of a running process.
#[derive(Clone)]
pub struct Level(reload::Handle<EnvFilter, Registry>);

impl std::fmt::Debug for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Level")
    }
}

impl Level {
    /// Sets another filter.
    ///
    /// # Errors
    /// When it is not one.
    pub fn set(&self, filter: &str) -> Result<(), String> {
        // The library takes any word for a target's name; a typing error must not end all logging.
        let known =
            |level: &str| ["off", "error", "warn", "info", "debug", "trace"].contains(&level);
        let level_of = |part: &'_ str| part.rsplit('=').next().map(str::to_ascii_lowercase);
        if !filter
            .split(',')
            .all(|part| level_of(part).is_some_and(|l| known(&l)))
        {
            return Err("expected `info`, or `selvedge=debug,rustls=warn`".to_owned());
        }
        let filter = read(filter)?;
        self.0.reload(filter).map_err(|e| e.to_string())
    }
}

/// Starts logging.
///
/// # Errors
/// When the filter is not one.
pub fn start(filter: &str) -> Result<Level, String> {
    let filter = read(filter)?;
    let (filter, handle) = reload::Layer::new(filter);
    let format = fmt::layer()
        .with_writer(io::stderr)
        .with_target(false)
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()));
    // A second start in one process (tests) keeps the first.
    let _ = tracing_subscriber::registry()
        .with(filter)
        .with(format)
        .try_init();
    Ok(Level(handle))
}

/// A filter as given. The client for the Kubernetes API logs each failure as an error, which it is not:
/// whoever asks says what it is worth.
fn read(filter: &str) -> Result<EnvFilter, String> {
    let read = EnvFilter::try_new(filter).map_err(|e| e.to_string())?;
    if filter.contains("kube") {
        return Ok(read);
    }
    let quiet = "kube_client=off".parse().map_err(|_| filter.to_owned())?;
    Ok(read.add_directive(quiet))
}
