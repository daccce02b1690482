//! `selvedge inject` and `selvedge uninject`: workloads for Kubernetes get their sidecar, or lose it.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use selvedge_injector::pods::settings::Settings;
use selvedge_injector::pods::stream::{STREAM, Stream, Work, process};
use selvedge_injector::pods::workload::configuration;

use super::complain;

/// Give workloads their sidecar: by the label that the cluster's injector looks for, or here and now.
///
/// Reads YAML documents, writes all of them to standard output, and says on standard error what became
/// of each workload. Objects without pods pass as they are, byte for byte.
#[derive(Debug, clap::Args)]
pub(super) struct Inject {
    /// Files, or `-` for standard input.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Write the containers themselves, for clusters without the injector.
    #[arg(long)]
    manual: bool,
    /// What the installation says of every sidecar: image, CA, resources (YAML). Needs `--manual`.
    #[arg(long, requires = "manual")]
    settings: Option<PathBuf>,
}

/// Take label and sidecar from workloads: what `inject` has changed is as it was.
#[derive(Debug, clap::Args)]
pub(super) struct Uninject {
    /// Files, or `-` for standard input.
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

pub(super) fn inject(arguments: &Inject) -> ExitCode {
    if !arguments.manual {
        return each(&arguments.files, Work::Label);
    }
    let settings = match &arguments.settings {
        None => Settings::default(),
        Some(file) => match settings(file) {
            Ok(settings) => settings,
            Err(error) => {
                complain(format_args!("error: {error}"));
                return ExitCode::from(2);
            }
        },
    };
    let work = Work::Render {
        settings: &settings,
        configure: &configuration,
    };
    each(&arguments.files, work)
}

/// Reads what an installation says of every sidecar.
pub(super) fn settings(file: &Path) -> Result<Settings, String> {
    let read = read(file)
        .and_then(|text| serde_saphyr::from_str(&text).map_err(|error| error.to_string()));
    read.map_err(|error| format!("{}: {error}", file.display()))
}

pub(super) fn uninject(arguments: &Uninject) -> ExitCode {
    each(&arguments.files, Work::Remove)
}

/// Works on files one after the other. 1: an object was refused, and nothing is written of its file; 2:
/// a file cannot be read.
fn each(files: &[PathBuf], work: Work<'_>) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for file in files {
        let done = read(file).and_then(|text| process(&text, work));
        match done {
            Ok(stream) => {
                if !write(&stream) {
                    code = ExitCode::FAILURE;
                }
            }
            Err(error) => {
                complain(format_args!("error: {}: {error}", file.display()));
                return ExitCode::from(2);
            }
        }
    }
    code
}

/// Writes a stream and what became of it; false where an object was refused.
fn write(stream: &Stream) -> bool {
    for report in &stream.reports {
        complain(format_args!("{}: {}", report.object, report.said));
    }
    let refused = stream.reports.iter().any(|report| report.refused);
    if !refused {
        let mut out = std::io::stdout();
        let _ = out.write_all(stream.text.as_bytes());
        // Documents of the next file begin on a line of their own.
        if !stream.text.is_empty() && !stream.text.ends_with('\n') {
            let _ = out.write_all(b"\n");
        }
    }
    !refused
}

fn read(file: &Path) -> Result<String, String> {
    let mut text = String::new();
    let most = u64::try_from(STREAM).unwrap_or(u64::MAX) + 1;
    let read = match file.as_os_str() == "-" {
        true => std::io::stdin().take(most).read_to_string(&mut text),
        false => {
            std::fs::File::open(file).and_then(|open| open.take(most).read_to_string(&mut text))
        }
    };
    read.map_err(|error| error.to_string())?;
    Ok(text)
}
