//! A workload that is a command: started, its output prefixed with its name, restarted with
//! back-off when it dies, stopped with its children at the end.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cli::{complain, say};

/// First pause before a restart; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// A run this long was a success: the next restart begins with the first pause again.
const STABLE: Duration = Duration::from_secs(30);
/// How long a command may take to end before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// What to run.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) name: String,
    pub(super) command: String,
    pub(super) port: u16,
    pub(super) outbound: SocketAddr,
}

/// Runs a command again and again, until `stop`.
pub(super) async fn run_forever(run: Run, stop: CancellationToken) {
    let mut pause = FIRST_PAUSE;
    while !stop.is_cancelled() {
        let begun = Instant::now();
        let why = match start(&run) {
            Ok(mut child) => {
                let ended = tokio::select! {
                    ended = child.wait() => Some(ended),
                    () = stop.cancelled() => None,
                };
                match ended {
                    Some(Ok(status)) => status.to_string(),
                    Some(Err(error)) => error.to_string(),
                    None => return end(child).await,
                }
            }
            Err(error) => error.to_string(),
        };
        if begun.elapsed() >= STABLE {
            pause = FIRST_PAUSE;
        }
        complain(format_args!(
            "{} | ended: {why}; restart in {pause:?}",
            run.name
        ));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn start(run: &Run) -> std::io::Result<Child> {
    let proxy = format!("http://{}", run.outbound);
    let mut child = Command::new("sh")
        .arg("-c")
        .arg(&run.command)
        .env("PORT", run.port.to_string())
        .env("HTTP_PROXY", &proxy)
        .env("http_proxy", &proxy)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A group of its own, so that what the shell starts ends with it.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    if let Some(out) = child.stdout.take() {
        tokio::spawn(copy_lines(run.name.clone(), out));
    }
    if let Some(out) = child.stderr.take() {
        tokio::spawn(copy_lines(run.name.clone(), out));
    }
    Ok(child)
}

/// Ends with the pipe, which ends with the last process that holds it.
async fn copy_lines(name: String, pipe: impl AsyncRead + Unpin) {
    let mut lines = BufReader::new(pipe).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        say(format_args!("{name} | {line}"));
    }
}

async fn end(mut child: Child) {
    let group = child
        .id()
        .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    if let Some(group) = group {
        let _ = kill_process_group(group, Signal::TERM);
    }
    if tokio::time::timeout(GRACE, child.wait()).await.is_err()
        && let Some(group) = group
    {
        let _ = kill_process_group(group, Signal::KILL);
        let _ = child.wait().await;
    }
}
