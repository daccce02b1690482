//! The access log: one line a request, from a writer thread that the path never waits for.
//!
//! The queue is bounded; what does not fit is dropped and counted. The file is reopened on SIGHUP.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use http::StatusCode;
use jiff::Timestamp;
use selvedge_contract::config::LogFormat;
use selvedge_contract::defaults::process::LOG_QUEUE;
use serde_json::json;

use crate::error::ErrorKind;

use super::metrics::Metrics;
use super::record::Detail;
use super::trace::TraceContext;

/// Everything a line says.
#[derive(Debug)]
pub struct Line {
    /// Facts of request and connection.
    pub detail: Detail,
    /// Route and rule.
    pub route: Arc<str>,
    /// Service.
    pub service: Arc<str>,
    /// Status the client got.
    pub status: Option<StatusCode>,
    /// How it ended; `None` is well.
    pub end: Option<ErrorKind>,
    /// From the head to the last byte.
    pub duration: Duration,
    /// Tries after the first.
    pub retries: u32,
    /// A second endpoint was asked as the first was late; and whether it answered first.
    pub hedged: Option<bool>,
    /// Body bytes.
    pub received: u64,
    /// Body bytes.
    pub sent: u64,
    /// Trace context.
    pub trace: Option<TraceContext>,
    /// Generation of the configuration.
    pub generation: u64,
}

#[derive(Debug)]
enum Entry {
    Line(Box<Line>),
    Reopen,
    Flush(SyncSender<()>),
}

/// The end of the log that the path holds.
#[derive(Debug)]
pub struct AccessLog {
    queue: SyncSender<Entry>,
    metrics: Arc<Metrics>,
    /// What it was started with, to tell whether a reload changes it.
    pub target: (Option<PathBuf>, LogFormat),
}

impl AccessLog {
    /// Starts the writer. `None` as path is standard output.
    ///
    /// # Errors
    /// When the file cannot be opened, or no thread started.
    pub fn start(
        path: Option<PathBuf>,
        format: LogFormat,
        metrics: &Arc<Metrics>,
    ) -> io::Result<Arc<Self>> {
        let sink = open(path.as_ref())?;
        let (queue, entries) = sync_channel(LOG_QUEUE);
        let target = (path.clone(), format);
        std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || write_all(&entries, sink, path, format))?;
        Ok(Arc::new(Self {
            queue,
            metrics: metrics.clone(),
            target,
        }))
    }

    /// Hands a line to the writer, or drops and counts it.
    pub fn write(&self, line: Line) {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.queue.try_send(Entry::Line(Box::new(line)))
        {
            self.metrics.process.log_drops.fetch_add(1, Relaxed);
        }
    }

    /// Opens the file again, after it was moved away.
    pub fn reopen(&self) {
        let _ = self.queue.try_send(Entry::Reopen);
    }

    /// Waits until everything queued is written, at most this long.
    pub fn flush(&self, at_most: Duration) {
        let (done, wait) = sync_channel(1);
        if self.queue.try_send(Entry::Flush(done)).is_ok() {
            let _ = wait.recv_timeout(at_most);
        }
    }
}

type Sink = BufWriter<Box<dyn Write + Send>>;

fn open(path: Option<&PathBuf>) -> io::Result<Sink> {
    let sink: Box<dyn Write + Send> = match path {
        None => Box::new(io::stdout()),
        Some(path) => {
            let file: File = OpenOptions::new().create(true).append(true).open(path)?;
            Box::new(file)
        }
    };
    Ok(BufWriter::with_capacity(64 << 10, sink))
}

/// How long a line may stay in the writer's buffer while nothing else comes.
const LINGER: Duration = Duration::from_millis(100);

fn write_all(entries: &Receiver<Entry>, mut sink: Sink, path: Option<PathBuf>, format: LogFormat) {
    let mut dirty = false;
    loop {
        let entry = if dirty {
            entries.recv_timeout(LINGER)
        } else {
            entries.recv().map_err(|_| RecvTimeoutError::Disconnected)
        };
        dirty = matches!(entry, Ok(Entry::Line(_)));
        match entry {
            // A full disk loses lines, not requests; the next line tries again.
            Ok(Entry::Line(line)) => drop(write_line(&mut sink, &line, format)),
            Ok(Entry::Reopen) => {
                let _ = sink.flush();
                match open(path.as_ref()) {
                    Ok(fresh) => sink = fresh,
                    Err(error) => tracing::error!(%error, "access log cannot be reopened"),
                }
            }
            Ok(Entry::Flush(done)) => {
                let _ = sink.flush();
                let _ = done.try_send(());
            }
            Err(RecvTimeoutError::Timeout) => drop(sink.flush()),
            Err(RecvTimeoutError::Disconnected) => {
                let _ = sink.flush();
                return;
            }
        }
    }
}

fn write_line(sink: &mut Sink, line: &Line, format: LogFormat) -> io::Result<()> {
    let detail = &line.detail;
    let time = Timestamp::try_from(detail.time).unwrap_or(Timestamp::UNIX_EPOCH);
    let status = line.status.map_or(0, |s| s.as_u16());
    let end = line.end.map_or("--", |kind| kind.row().end);
    let micros = u64::try_from(line.duration.as_micros()).unwrap_or(u64::MAX);
    let reason = line.end.map(|kind| {
        detail
            .reason
            .as_ref()
            .map_or_else(|| kind.to_string(), |why| format!("{kind}: {why}"))
    });
    if format == LogFormat::Text {
        let upstream = detail
            .upstream
            .map_or_else(|| "-".into(), |a| a.to_string());
        // `escape_debug` keeps control characters of clients out of terminals.
        return writeln!(
            sink,
            "{time} {} {} {} \"{} {} {}\" status={status} end={end} us={micros} in={} out={} \
             route={} service={} upstream={upstream} retries={} peer_id={}{}{}{}{}",
            detail.listener,
            detail.peer,
            detail.host.escape_debug(),
            detail.method.as_ref().map_or("-", http::Method::as_str),
            detail.target.escape_debug(),
            detail.version,
            line.received,
            line.sent,
            line.route,
            line.service,
            line.retries,
            detail.peer_id.as_deref().unwrap_or("-"),
            line.hedged
                .map_or("", |won| if won { " hedge=won" } else { " hedge=lost" }),
            detail
                .grpc
                .map_or_else(String::new, |status| format!(" grpc={status}")),
            detail
                .audit
                .as_ref()
                .map_or_else(String::new, |policy| format!(" audit={policy}")),
            reason.map_or_else(String::new, |r| format!(" reason=\"{}\"", r.escape_debug())),
        );
    }
    let object = json!({
        "time": time.to_string(),
        "listener": &*detail.listener,
        "peer": detail.peer.to_string(),
        "peer_id": detail.peer_id.as_deref(),
        "method": detail.method.as_ref().map(http::Method::as_str),
        "host": detail.host,
        "target": detail.target,
        "version": detail.version,
        "status": status,
        "grpc": detail.grpc,
        "end": end,
        "reason": reason,
        "audit": detail.audit.as_deref(),
        "duration_us": micros,
        "received": line.received,
        "sent": line.sent,
        "route": &*line.route,
        "service": &*line.service,
        "upstream": detail.upstream.map(|a| a.to_string()),
        "retries": line.retries,
        "hedge": line.hedged.map(|won| if won { "won" } else { "lost" }),
        "request_id": detail.request_id,
        "trace_id": line.trace.map(|t| format!("{:032x}", t.trace)),
        "generation": line.generation,
    });
    serde_json::to_writer(&mut *sink, &object)?;
    sink.write_all(b"\n")
}
