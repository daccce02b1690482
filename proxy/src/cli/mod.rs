//! The command line: subcommands, exit codes, what people see.

mod apikey;
#[cfg(feature = "ca")]
mod ca;
mod check;
mod check_mtls;
#[cfg(feature = "dev")]
pub mod dev;
mod explain;
#[cfg(feature = "injector")]
mod inject;
#[cfg(feature = "injector")]
mod injector;
pub mod logging;
mod password;
mod ready;
#[cfg(feature = "injector")]
mod redirect;
pub mod run;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use rustix::process::{Resource, Rlimit};

use crate::app::{ConfigInput, Options};
use crate::config::Mode;

/// What the process was given by its environment.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// `SELVEDGE_WORKERS`.
    pub workers: Option<String>,
    /// `SELVEDGE_LOG`.
    pub log: Option<String>,
}

#[derive(Debug, Parser)]
#[command(
    name = "selvedge",
    about = "Sidecar, edge gateway, CA and laptop mesh in one binary.",
    version
)]
struct Arguments {
    /// Log filter, such as `info` or `selvedge=debug`.
    #[arg(long, global = true)]
    log: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run as edge gateway.
    Gateway(Serve),
    /// Run as sidecar of an application.
    Sidecar(Serve),
    /// Check configuration files: every mistake at once, with place and remedy.
    Check(check::Arguments),
    /// Make keys for the policy `apiKey`.
    Apikey(apikey::Arguments),
    /// Give workloads for Kubernetes their sidecar.
    #[cfg(feature = "injector")]
    Inject(inject::Inject),
    /// Take it from them again.
    #[cfg(feature = "injector")]
    Uninject(inject::Uninject),
    /// Run the webhook that gives pods their sidecar when they are created.
    #[cfg(feature = "injector")]
    Injector(Box<injector::Arguments>),
    /// Ask a sidecar of this machine whether it is ready.
    Ready(ready::Arguments),
    /// Set a user's password for the policy `basic`.
    Password(password::Arguments),
    /// Run a whole mesh on this machine.
    #[cfg(feature = "dev")]
    Dev(dev::Arguments),
    /// Run the certificate authority, or mint join tokens for it.
    #[cfg(feature = "ca")]
    Ca(Box<ca::Arguments>),
    /// Send the traffic of an application through its sidecar, by rules of the kernel.
    #[cfg(feature = "injector")]
    Redirect(Box<redirect::Arguments>),
    /// Print generated documentation.
    #[command(hide = true)]
    Docs {
        /// `config`, `schema` or `end-codes`.
        what: String,
    },
    /// Print the version.
    Version,
}

#[derive(Debug, clap::Args)]
struct Serve {
    /// Configuration file or directory; may be given several times.
    #[arg(long, required = true)]
    config: Vec<PathBuf>,
    /// Worker threads. Default: all cores for a gateway, at most two for a sidecar.
    #[arg(long)]
    workers: Option<usize>,
}

/// Says something to whoever ran the command. A closed pipe is no error worth dying for.
pub(crate) fn say(text: impl std::fmt::Display) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// Says what went wrong.
pub(crate) fn complain(text: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Runs the command that the arguments name.
#[must_use]
pub fn main(environment: Environment) -> ExitCode {
    let arguments = Arguments::parse();
    keep_memory();
    open_many();
    // For libraries that look for a process-wide provider; our own code names it.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let filter = arguments
        .log
        .or(environment.log)
        .unwrap_or_else(|| "info".to_owned());
    let given = environment.workers.as_deref().map(str::parse::<usize>);
    let Ok(workers) = given.transpose() else {
        complain("error: SELVEDGE_WORKERS: expected a number");
        return ExitCode::from(2);
    };
    let serve = |mode, serve: Serve| {
        let options = Options {
            mode,
            config: ConfigInput::Files(serve.config),
            workers: serve.workers.or(workers),
            source: None,
            held_ports: false,
        };
        run::run(options, &filter)
    };
    match arguments.command {
        Command::Gateway(args) => serve(Mode::Gateway, args),
        Command::Sidecar(args) => serve(Mode::Sidecar, args),
        Command::Check(args) => check::check(&args),
        Command::Apikey(args) => apikey::run(args),
        Command::Password(args) => password::run(&args),
        Command::Ready(args) => ready::run(&args),
        #[cfg(feature = "injector")]
        Command::Inject(args) => inject::inject(&args),
        #[cfg(feature = "injector")]
        Command::Uninject(args) => inject::uninject(&args),
        #[cfg(feature = "injector")]
        Command::Injector(args) => injector::run(*args, &filter),
        #[cfg(feature = "dev")]
        Command::Dev(args) => dev::run(&args, &filter),
        #[cfg(feature = "ca")]
        Command::Ca(args) => ca::run(*args, &filter),
        #[cfg(feature = "injector")]
        Command::Redirect(args) => redirect::run(&args),
        Command::Docs { what } => docs(&what),
        Command::Version => {
            say(format_args!("selvedge {}", env!("CARGO_PKG_VERSION")));
            ExitCode::SUCCESS
        }
    }
}

/// Keys are in memory: it is not written to a file when the process crashes. Whoever needs that raises the
/// limit again, up to what it was (`prlimit --core`).
fn keep_memory() {
    let limit = rustix::process::getrlimit(Resource::Core);
    let none = Rlimit {
        current: Some(0),
        ..limit
    };
    let _ = rustix::process::setrlimit(Resource::Core, none);
}

/// As many files as the system lets this process have: each connection is one.
fn open_many() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: limit.maximum,
        ..limit
    };
    let _ = rustix::process::setrlimit(Resource::Nofile, most);
}

fn docs(what: &str) -> ExitCode {
    use crate::config::document;
    match what {
        "config" => say(document::reference().trim_end()),
        "schema" => say(document::json_schema().trim_end()),
        "end-codes" => say(document::end_codes().trim_end()),
        other => {
            complain(format_args!(
                "error: `{other}`: expected `config`, `schema` or `end-codes`"
            ));
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}
