//! The worker threads: each a runtime of its own, told over a channel what to listen on.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::thread::JoinHandle;

use selvedge_contract::defaults::process::SPARE_DESCRIPTORS;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::drain::Phase;
use crate::overload::Pressure;
use crate::worker::{Shared, Worker};
use crate::{accept, protocol, upstream};

/// What a worker is told.
#[derive(Debug)]
pub(super) struct Listen {
    pub(super) name: Arc<str>,
    pub(super) socket: Socket,
    pub(super) removed: CancellationToken,
}

/// What is listened on.
#[derive(Debug)]
pub(super) enum Socket {
    Connections(TcpListener),
    Datagrams(UdpSocket),
}

impl Socket {
    pub(super) fn bind(datagrams: bool, address: SocketAddr, again: bool) -> io::Result<Self> {
        Ok(match datagrams {
            true => Self::Datagrams(accept::datagram::bind(address, again)?),
            false => Self::Connections(accept::bind(address, again)?),
        })
    }

    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Connections(socket) => socket.local_addr(),
            Self::Datagrams(socket) => socket.local_addr(),
        }
    }
}

/// Starts a worker's thread; it ends with the drain.
pub(super) fn start_worker(
    index: usize,
    shared: Arc<Shared>,
) -> io::Result<(mpsc::Sender<Listen>, JoinHandle<()>)> {
    let (sender, commands) = mpsc::channel(16);
    let thread = std::thread::Builder::new()
        .name(format!("worker-{index}"))
        .spawn(move || {
            let runtime = Builder::new_current_thread()
                .enable_io()
                .enable_time()
                .build_local(LocalOptions::default());
            match runtime {
                Ok(runtime) => runtime.block_on(run_worker(index, shared, commands)),
                Err(error) => tracing::error!(%error, "a worker cannot start"),
            }
        })?;
    Ok((sender, thread))
}

/// A worker's life. When it returns, the runtime is dropped, and with it all that still runs.
async fn run_worker(index: usize, shared: Arc<Shared>, mut commands: mpsc::Receiver<Listen>) {
    let worker = Worker::new(index, shared.clone());
    let mut drain = shared.drain.subscribe();
    let mut distrusted = shared.distrusted.subscribe();
    let mut places_wanted = shared.places_wanted.subscribe();
    let mut short = shared.pressure.told.subscribe();
    // When the next connection whose peer is not trusted any more is cut off.
    let mut cut_at = None;
    tokio::task::spawn_local(upstream::pool::reap_forever(worker.clone()));
    let ceiling = connection_ceiling();
    loop {
        // All are safe to cancel: what is not seen now is seen next time.
        tokio::select! {
            Some(listen) = commands.recv() => {
                tokio::task::spawn_local(serve_listener(worker.clone(), listen, ceiling));
            }
            changed = drain.changed() => {
                let phase = *drain.borrow_and_update();
                if phase >= Phase::Draining {
                    worker.stop();
                }
                if phase == Phase::Ended || changed.is_err() {
                    return;
                }
            }
            Ok(()) = distrusted.changed() => {
                worker.bonds.sweep(Instant::now());
                worker.pools.leave_distrusted();
                cut_at = worker.bonds.cut(Instant::now());
            }
            Ok(()) = places_wanted.changed() => worker.pools.give_way(),
            Ok(()) = short.changed() => worker.end_idle(),
            () = until(cut_at) => cut_at = worker.bonds.cut(Instant::now()),
        }
    }
}

/// Waits for this time; for ever where there is none.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn serve_listener(
    worker: std::rc::Rc<Worker>,
    listen: Listen,
    ceiling: usize,
) -> impl Future<Output = ()> {
    let Listen {
        name,
        socket,
        removed,
    } = listen;
    async move {
        let socket = match socket {
            Socket::Connections(socket) => socket,
            Socket::Datagrams(socket) => {
                let served = protocol::datagram::serve(worker, &name, socket, removed, ceiling);
                if let Err(error) = served.await {
                    tracing::error!(listener = %name, %error, "listener failed");
                }
                return;
            }
        };
        let serve = {
            let worker = worker.clone();
            let name = name.clone();
            move |stream: tokio::net::TcpStream, peer: SocketAddr| {
                let snapshot = worker.snapshot();
                let Some(plan) = snapshot.listener(&name).cloned() else {
                    return;
                };
                // Of a request on it more can be said than by closing it; of bytes nothing can.
                let bearable = match plan.streams {
                    Some(_) => Pressure::CloseIdle,
                    None => Pressure::RefuseRequests,
                };
                if worker.pressure() > bearable || worker.shared.spare.has(&stream) {
                    worker.metrics.worker(worker.index).refused.add(1);
                    return;
                }
                // A load balancer has as many connections as it has clients.
                let address = (!protocol::is_balancer(&plan, peer)).then(|| peer.ip());
                let census = &worker.shared.census;
                let place = census.admit(&name, address, &plan.limits, ceiling);
                if place.is_none() {
                    // Closed at once, by dropping it: an answer would cost what the cap saves.
                    worker.metrics.worker(worker.index).refused.add(1);
                    return;
                }
                tokio::task::spawn_local(protocol::serve(
                    worker.clone(),
                    plan,
                    stream,
                    peer,
                    place,
                ));
            }
        };
        if let Err(error) = accept::accept_forever(worker, socket, removed, serve).await {
            tracing::error!(listener = %name, %error, "listener failed");
        }
    }
}

/// Connections that the descriptors of this process allow: each may need one upstream, and some
/// are kept for files, admin and health.
fn connection_ceiling() -> usize {
    let limit = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let files = limit
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|soft| soft.parse::<usize>().ok())
        .unwrap_or(1024);
    (files.saturating_sub(SPARE_DESCRIPTORS) * 4 / 5).max(16)
}
