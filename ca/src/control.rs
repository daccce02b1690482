//! How the command line speaks with a CA that runs: a Unix socket in its directory, which nobody else can
//! open. One line is asked, one JSON document is answered.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::rotation::RotationError;
use crate::service::CaService;
use crate::status::Status;

/// The socket in the CA's directory.
const SOCKET: &str = "control.sock";
/// Longest question in bytes.
const QUESTION: u64 = 256;
/// Longest answer in bytes that is taken.
const ANSWER: u64 = 1024 * 1024;
/// A question and its answer take no longer.
const TIME: Duration = Duration::from_secs(10);
/// Questions at a time.
const PLACES: usize = 16;

/// A step of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// Make the next root, and have it trusted.
    Prepare,
    /// Sign with it.
    Activate,
    /// Trust the old one no more.
    Retire,
    /// Go back.
    Abort,
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Question {
    /// How it stands.
    Status,
    /// To take a step.
    Step {
        /// Which.
        step: Step,
        /// Even if proxies or certificates are left behind.
        force: bool,
    },
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// How it stands, after what was asked for.
    pub status: Status,
    /// Why it was not done.
    pub refused: Option<String>,
}

impl CaService {
    /// Takes a step of a rotation. Blocks on the disk.
    ///
    /// # Errors
    /// Why it is not taken; nothing has changed then.
    pub fn step(&self, step: Step, force: bool, now: SystemTime) -> Result<(), RotationError> {
        let authority = &self.authority;
        let holders = &self.records.holders;
        let last_end = || holders.ends().all;
        match step {
            Step::Prepare => authority.prepare(|| holders.ends(), now)?,
            Step::Activate => {
                let ready = |bundle: &[u8; 32]| holders.readiness(bundle, now);
                authority.activate(ready, last_end, now, force)?;
            }
            Step::Retire => authority.retire(now, force)?,
            Step::Abort => authority.abort(last_end, now)?,
        }
        tracing::warn!(target: "selvedge::ca", ?step, force, "root rotation");
        Ok(())
    }

    fn answer(&self, question: Question, now: SystemTime) -> Answer {
        let refused = match question {
            Question::Status => None,
            Question::Step { step, force } => self.step(step, force, now).err(),
        };
        Answer {
            status: self.status(now),
            refused: refused.map(|error| error.to_string()),
        }
    }
}

fn socket(dir: &Path) -> PathBuf {
    dir.join(SOCKET)
}

/// Answers questions on the socket in `dir` until the runtime ends. Whoever serves there must be the only
/// one who does ([`crate::Records`] holds a lock for that).
///
/// # Errors
/// When the socket cannot be made.
pub fn listen(dir: &Path, service: CaService) -> io::Result<()> {
    let path = socket(dir);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(|error| {
        // The system's limit for sockets is 107 bytes.
        io::Error::other(format!("{}: {error}", path.display()))
    })?;
    // The directory keeps others out already.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    tokio::spawn(async move {
        let places = Arc::new(Semaphore::new(PLACES));
        while let Ok(place) = places.clone().acquire_owned().await {
            let Ok((stream, _)) = listener.accept().await else {
                sleep(Duration::from_millis(100)).await;
                continue;
            };
            let service = service.clone();
            tokio::spawn(async move {
                let _place = place;
                let _ = timeout(TIME, converse(stream, service)).await;
            });
        }
    });
    Ok(())
}

/// Reads a question: one line of up to 256 bytes.
///
/// # Errors
/// When it is none, or the caller is gone.
pub async fn read(stream: impl AsyncRead + Unpin) -> io::Result<Question> {
    let mut line = String::new();
    let mut stream = BufReader::new(stream.take(QUESTION));
    stream.read_line(&mut line).await?;
    Ok(serde_json::from_str(&line)?)
}

async fn converse(mut stream: UnixStream, service: CaService) -> io::Result<()> {
    let question = read(&mut stream).await?;
    let answered = tokio::task::spawn_blocking(move || service.answer(question, SystemTime::now()));
    let mut text = serde_json::to_vec(&answered.await?)?;
    text.push(b'\n');
    stream.write_all(&text).await?;
    stream.shutdown().await
}

/// Asks the CA whose directory is `dir`.
///
/// # Errors
/// When none is running there, or it does not answer.
pub async fn ask(dir: &Path, question: Question) -> io::Result<Answer> {
    let asked = async {
        let mut stream = UnixStream::connect(socket(dir)).await?;
        let mut line = serde_json::to_vec(&question)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        let mut text = Vec::new();
        stream.take(ANSWER).read_to_end(&mut text).await?;
        Ok(serde_json::from_slice(&text)?)
    };
    timeout(TIME, asked)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
