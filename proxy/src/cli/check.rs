//! `selvedge check`: loads and compiles as a start would, binds and starts nothing.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;
use selvedge_contract::config::Config;
#[cfg(not(feature = "dev"))]
use selvedge_contract::config::DevConfig;

use crate::app::findings_of;
use crate::config::load::load;
use crate::config::{Mode, Report};

use super::explain::explain;
use super::{check_mtls, complain, say};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Configuration files and directories, checked together.
    #[arg(required_unless_present = "mtls")]
    files: Vec<PathBuf>,
    /// Instead: ask running proxies at their admin ports, such as `127.0.0.1:15000`, who still calls them
    /// in plaintext.
    #[arg(long, num_args = 1.., value_name = "ADDRESS", conflicts_with = "files")]
    mtls: Vec<String>,
    /// What the configuration is for. Default: told from its keys.
    #[arg(long)]
    mode: Option<CheckMode>,
    /// `text` for people, `json` for machines.
    #[arg(long, default_value = "text")]
    format: Format,
    /// Also print which policies are in force for each rule, in order, and where they are named.
    #[arg(long)]
    explain: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CheckMode {
    Gateway,
    Sidecar,
    Dev,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// Exit code 0 and one line where all is well, 1 with the findings otherwise.
pub(super) fn check(arguments: &Arguments) -> ExitCode {
    if !arguments.mtls.is_empty() {
        return check_mtls::run(&arguments.mtls, arguments.format == Format::Json);
    }
    let (report, what) = match arguments.mode.unwrap_or_else(|| guess(&arguments.files)) {
        CheckMode::Dev => (check_dev(&arguments.files), "dev configuration"),
        CheckMode::Sidecar => (
            check_proxy(&arguments.files, Mode::Sidecar),
            "sidecar configuration",
        ),
        CheckMode::Gateway => (
            check_proxy(&arguments.files, Mode::Gateway),
            "gateway configuration",
        ),
    };
    let (errors, warnings) = report.counts();
    if arguments.format == Format::Json {
        say(report.to_json());
    } else if report.findings.is_empty() {
        say(format_args!("ok: {what}, {} file(s)", report.sources.len()));
    } else {
        complain(report.to_text().trim_end());
        complain(format_args!(
            "\n{what}: {errors} error(s), {warnings} warning(s)"
        ));
    }
    if errors > 0 {
        return ExitCode::FAILURE;
    }
    if arguments.explain
        && let Ok(loaded) = load::<Config>(&arguments.files)
    {
        say(explain(&loaded.config).trim_end());
    }
    ExitCode::SUCCESS
}

/// Tells a file's purpose from its top-level keys, as far as it can be read at all.
fn guess(files: &[PathBuf]) -> CheckMode {
    let mut keys = Vec::new();
    for path in files
        .iter()
        .flat_map(|p| crate::config::load::files_of(p).unwrap_or_default())
    {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        if let Ok(tree) = crate::config::tree::parse(&text, 0) {
            keys.extend(
                ["workloads", "gateway", "inbound", "outbound"]
                    .into_iter()
                    .filter(|k| tree.child(k).is_some()),
            );
        }
    }
    if keys.iter().any(|k| matches!(*k, "workloads" | "gateway")) {
        CheckMode::Dev
    } else if keys.is_empty() {
        CheckMode::Gateway
    } else {
        CheckMode::Sidecar
    }
}

fn check_proxy(files: &[PathBuf], mode: Mode) -> Report {
    match load::<Config>(files) {
        Ok(loaded) => findings_of(loaded, mode),
        Err(broken) => broken.judge(|guess| findings_of(guess, mode)),
    }
}

#[cfg(feature = "dev")]
fn check_dev(files: &[PathBuf]) -> Report {
    super::dev::plan::check_files(files)
}

#[cfg(not(feature = "dev"))]
fn check_dev(files: &[PathBuf]) -> Report {
    match load::<DevConfig>(files) {
        Ok(loaded) => loaded.report,
        Err(broken) => broken.report,
    }
}
