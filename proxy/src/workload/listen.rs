//! The socket itself: where it is, whose connections are taken, and how many.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use selvedge_contract::config::WorkloadApi;
use selvedge_contract::defaults::workload::{
    CONNECTIONS, FIRST_CALL, HEADERS, KEEP_ALIVE, PATIENCE, STREAMS, WINDOW,
};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::authority::Hosted;
use super::calls::{Asking, Calls};
use super::{Access, is_socket};
use crate::identity::applicant::Applicant;

/// Connections at a time of those who may not ask.
const STRANGERS: usize = 8;
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 64;
/// Those who find no place are told of this often at most.
const TELL: Duration = Duration::from_secs(60);
/// Pause after a failed `accept`, which is mostly a want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A socket that is served until this is dropped.
#[derive(Debug)]
pub struct Endpoint {
    path: PathBuf,
    /// Device and inode, to know it again.
    made: (u64, u64),
    access: Arc<ArcSwap<Access>>,
    shutdown: CancellationToken,
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.shutdown.cancel();
        if made(&self.path).is_ok_and(|there| there == self.made) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Endpoint {
    /// Binds the socket and serves it on this runtime. One that a process left behind is replaced.
    ///
    /// # Errors
    /// When another process serves there, something else is there, or the directory cannot be written to.
    pub fn start(spec: &WorkloadApi, applicant: Arc<Applicant>) -> io::Result<Self> {
        let path = PathBuf::from(&spec.socket);
        let access = Access::of(spec).map_err(io::Error::other)?;
        let listener = bind(&path, access.mode)?;
        let this = Self {
            made: made(&path)?,
            access: Arc::new(ArcSwap::from_pointee(access)),
            shutdown: CancellationToken::new(),
            path,
        };
        tracing::info!(socket = %this.path.display(), "workload API");
        let server = Server {
            access: this.access.clone(),
            calls: Calls::new(applicant),
            shutdown: this.shutdown.clone(),
        };
        // Ends when the endpoint is dropped.
        tokio::spawn(server.run(listener));
        Ok(this)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Says who may ask from now on. Streams that were begun go on.
    ///
    /// # Errors
    /// When the mode cannot be set.
    pub fn admit(&self, spec: &WorkloadApi) -> io::Result<()> {
        let access = Access::of(spec).map_err(io::Error::other)?;
        fs::set_permissions(&self.path, Permissions::from_mode(access.mode))?;
        self.access.store(Arc::new(access));
        Ok(())
    }
}

fn made(path: &Path) -> io::Result<(u64, u64)> {
    let about = fs::symlink_metadata(path)?;
    Ok((about.dev(), about.ino()))
}

fn bind(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    let address = SockAddr::unix(path)?;
    make_room(path)?;
    socket.bind(&address)?;
    // Before it listens: until then nobody can connect, whatever the mode.
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    UnixListener::from_std(std::os::fd::OwnedFd::from(socket).into())
}

/// Removes a socket that nobody listens to.
fn make_room(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path).is_err() {
        return Ok(());
    }
    if !is_socket(path) {
        return Err(io::Error::other("it is there, and is no socket"));
    }
    match StdStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        // Also where it may not be opened: somebody may listen.
        _ => Err(io::Error::other("another process serves there")),
    }
}

struct Server {
    access: Arc<ArcSwap<Access>>,
    calls: Calls,
    shutdown: CancellationToken,
}

impl Server {
    async fn run(self, listener: UnixListener) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let strangers = Arc::new(Semaphore::new(STRANGERS));
        let mut turned = TurnedAway::default();
        loop {
            let accepted = tokio::select! {
                () = self.shutdown.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "workload API: accept");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(peer) = stream.peer_cred() else {
                continue;
            };
            // Whoever may not ask is told so, but takes nobody's place.
            let may = self.access.load().admits(peer.uid(), peer.gid());
            let places = if may { &places } else { &strangers };
            let Ok(place) = places.clone().try_acquire_owned() else {
                turned.note(peer.uid(), may);
                continue;
            };
            let asking = Asking {
                uid: peer.uid(),
                gid: peer.gid(),
                pid: peer.pid(),
                access: self.access.clone(),
                shutdown: self.shutdown.clone(),
            };
            let calls = self.calls.clone();
            // Ends by itself, see `serve`.
            tokio::spawn(async move {
                let served = serve(stream, asking, calls);
                if may {
                    served.await;
                } else {
                    let _ = timeout(FIRST_CALL, served).await;
                }
                drop(place);
            });
        }
    }
}

/// Connections for which there was no place. Anybody who can open the socket can bring them about, so they are
/// told once in a while, not each.
#[derive(Debug, Default)]
struct TurnedAway {
    count: u64,
    told: Option<Instant>,
}

impl TurnedAway {
    fn note(&mut self, uid: u32, may: bool) {
        self.count += 1;
        if self.told.is_some_and(|told| told.elapsed() < TELL) {
            return;
        }
        let places = if may { CONNECTIONS } else { STRANGERS };
        let so_far = self.count;
        tracing::warn!(uid, places, so_far, "workload API: too many connections");
        self.told = Some(Instant::now());
    }
}

/// One connection, until its peer is gone, the endpoint is, or no call has come for too long.
async fn serve(stream: UnixStream, asking: Asking, calls: Calls) {
    let shutdown = asking.shutdown.clone();
    let called = Arc::new(AtomicBool::new(false));
    let noted = called.clone();
    let answer = service_fn(move |mut request: http::Request<Incoming>| {
        noted.store(true, Relaxed);
        request.extensions_mut().insert(asking.clone());
        calls.clone().answer(request)
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEADERS)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        // Whoever follows is silent for days; who is gone must not be waited for.
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(PATIENCE)
        .serve_connection(TokioIo::new(Hosted::new(stream)), answer);
    let mut connection = pin!(connection);
    let silent = async {
        sleep(FIRST_CALL).await;
        if called.load(Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = silent => return,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            timeout(PATIENCE, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "workload API: connection failed");
    }
}
