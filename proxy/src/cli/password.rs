//! `selvedge password`: sets passwords of users for the policy `basic`.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use selvedge_gateway::basic::{self, Claimed, TEXT};

use super::apikey::replace;
use super::{complain, say};

/// Sets a user's password, which is read from standard input up to the end of its first line. It is
/// kept as a hash only (argon2id).
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// File of the users; made, with mode 0600, where it is not there.
    #[arg(long)]
    file: PathBuf,
    /// The user.
    #[arg(long)]
    name: String,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    match set(&arguments.file, &arguments.name) {
        Ok(()) => {
            say(format_args!("the password of {} is set", arguments.name));
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(format_args!("error: {}: {error}", arguments.file.display()));
            ExitCode::FAILURE
        }
    }
}

fn set(file: &Path, name: &str) -> Result<(), Box<dyn std::error::Error>> {
    let mut password = String::new();
    let most = u64::try_from(TEXT)? + 2;
    std::io::stdin().take(most).read_to_string(&mut password)?;
    let password = password.lines().next().unwrap_or_default();
    let mut salt = [0; 16];
    aws_lc_rs::rand::fill(&mut salt).map_err(|_| "no random bytes")?;
    let claimed = Claimed {
        user: name.to_owned(),
        password: password.to_owned(),
    };
    let line = basic::line(&claimed, &salt).ok_or(
        "expected a user of visible characters without `:`, and a password of 1 to 256 bytes",
    )?;
    let before = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error.into()),
    };
    let others = before.lines().filter(|other| {
        let user = other.trim().split_once(':').map(|(user, _)| user);
        user != Some(name)
    });
    let lines: Vec<&str> = others.chain([&*line]).collect();
    replace(file, &lines.join("\n"))?;
    Ok(())
}
