//! `selvedge apikey`: makes keys for the policy `apiKey`.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Subcommand;
use selvedge_contract::units::Duration;
use selvedge_gateway::apikey::Store;

use super::{complain, say};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a key: printed once, kept only as its hash.
    New {
        /// File of the keys; made, with mode 0600, where it is not there.
        #[arg(long)]
        file: PathBuf,
        /// Whose key it is.
        #[arg(long)]
        name: String,
        /// Plan, for rate limits.
        #[arg(long)]
        plan: Option<String>,
        /// How long it is good, such as `2160h`. Default: for ever.
        #[arg(long)]
        ttl: Option<Duration>,
    },
}

pub(super) fn run(arguments: Arguments) -> ExitCode {
    let Command::New {
        file,
        name,
        plan,
        ttl,
    } = arguments.command;
    match new(&file, &name, plan, ttl) {
        Ok(key) => {
            say(key);
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(format_args!("error: {}: {error}", file.display()));
            ExitCode::FAILURE
        }
    }
}

fn new(
    file: &Path,
    name: &str,
    plan: Option<String>,
    ttl: Option<Duration>,
) -> Result<String, Box<dyn std::error::Error>> {
    let chance = |bytes: &mut [u8]| aws_lc_rs::rand::fill(bytes).map_err(|_| "no random bytes");
    let mut failed = None;
    let mut fill = |bytes: &mut [u8]| failed = chance(bytes).err().or(failed);
    let mut store: Store = match std::fs::read(file) {
        Ok(text) => serde_json::from_slice(&text)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Store::new(&mut fill),
        Err(error) => return Err(error.into()),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let expires = ttl.map(|ttl| now + ttl.0.as_secs());
    let key = store.add(name, plan, expires, &mut fill)?;
    if let Some(failed) = failed {
        return Err(failed.into());
    }
    replace(file, &serde_json::to_string_pretty(&store)?)?;
    Ok(key)
}

/// Replaces a file as a whole: who reads it meanwhile sees the old one or the new one.
pub(super) fn replace(file: &Path, text: &str) -> std::io::Result<()> {
    let mut beside = file.as_os_str().to_owned();
    beside.push(".new");
    let mut options = OpenOptions::new();
    let mut out = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)?;
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")?;
    out.sync_all()?;
    std::fs::rename(&beside, file)
}
