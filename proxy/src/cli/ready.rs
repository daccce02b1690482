//! `selvedge ready`: whether a sidecar of this machine is ready, for hooks of containers without a shell.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::{Duration as Std, Instant};

use selvedge_contract::units::Duration;

use super::complain;

/// Ask a sidecar whether it is ready: exit 0 when it is, 1 when it is not in time.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Health port of the sidecar.
    #[arg(long, default_value = "127.0.0.1:15020")]
    address: SocketAddr,
    /// Ask again until then, such as `60s`.
    #[arg(long, default_value = "0s")]
    wait: Duration,
}

/// Between two questions.
const PAUSE: Std = Std::from_millis(100);
/// For one question.
const ONCE: Std = Std::from_secs(1);

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let begun = Instant::now();
    loop {
        let said = match ask(arguments.address) {
            Ok(line) if line.starts_with("HTTP/1.1 200 ") => return ExitCode::SUCCESS,
            Ok(line) => line,
            Err(error) => error.to_string(),
        };
        if begun.elapsed() + PAUSE > arguments.wait.0 {
            complain(format_args!(
                "error: {}: not ready: {said}",
                arguments.address
            ));
            return ExitCode::FAILURE;
        }
        std::thread::sleep(PAUSE);
    }
}

/// The first line of the answer.
fn ask(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, ONCE)?;
    stream.set_read_timeout(Some(ONCE))?;
    stream.set_write_timeout(Some(ONCE))?;
    stream.write_all(b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut start = [0; 64];
    let count = stream.read(&mut start)?;
    let start = String::from_utf8_lossy(start.get(..count).unwrap_or_default()).into_owned();
    Ok(start.lines().next().unwrap_or_default().to_owned())
}
