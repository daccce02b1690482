//! `selvedge ready`: whether a sidecar of this machine is ready, for hooks of containers without a shell.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration as Std;

use selvedge_contract::units::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

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
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(wait(arguments)),
        Err(error) => {
            complain(format_args!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

async fn wait(arguments: &Arguments) -> ExitCode {
    let begun = Instant::now();
    loop {
        let said = match timeout(ONCE, ask(arguments.address)).await {
            Ok(Ok(line)) if line.starts_with("HTTP/1.1 200 ") => return ExitCode::SUCCESS,
            Ok(Ok(line)) => line,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        if begun.elapsed() + PAUSE > arguments.wait.0 {
            complain(format_args!(
                "error: {}: not ready: {said}",
                arguments.address
            ));
            return ExitCode::FAILURE;
        }
        sleep(PAUSE).await;
    }
}

/// The first line of the answer.
async fn ask(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let question = b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(question).await?;
    let mut start = [0; 64];
    let count = stream.read(&mut start).await?;
    let start = start.get(..count).unwrap_or_default();
    let start = String::from_utf8_lossy(start).into_owned();
    Ok(start.lines().next().unwrap_or_default().to_owned())
}
