//! Part of stage 4, the spine: a redirected connection that is no business of the engines is carried
//! on to where it was going, byte for byte, as long as both ends keep it.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use selvedge_contract::defaults::transparent::IDLE;
use socket2::SockRef;
use tokio::net::TcpStream;

use crate::accept::Downstream;
use crate::error::{Error, ErrorKind};
use crate::protocol::http1::Conn;
use crate::protocol::io::Io;
use crate::protocol::tunnel::{self, TunnelEnd};
use crate::route::Onward;
use crate::telemetry::Record;
use crate::timer::Timer;
use crate::upstream::connect;
use crate::worker::Worker;

/// Connects to where a connection was going.
///
/// # Errors
/// [`ErrorKind::ConnectFailed`], [`ErrorKind::ConnectTimeout`].
pub async fn dial(onward: &Onward, to: SocketAddr) -> Result<TcpStream, Error> {
    let backend = onward.rule.backends.first();
    let service = &backend.ok_or(ErrorKind::NoBackend)?.service;
    connect::open(&service.spec, to).await
}

/// Carries a connection on, over `server` where that is connected already. Its line in the access
/// log counts the bytes of both directions.
pub async fn carry(
    worker: Rc<Worker>,
    downstream: Rc<Downstream>,
    stream: TcpStream,
    server: Option<TcpStream>,
) {
    let Some(onward) = &downstream.listener.onward else {
        return;
    };
    let snapshot = worker.snapshot();
    let mut record = Record::unread(&snapshot, &worker, &downstream);
    record.counts_for(&onward.rule.metrics);
    record.goes_to(downstream.local);
    let dialled = match server {
        Some(server) => Ok(server),
        None => dial(onward, downstream.local).await,
    };
    let shard = worker.metrics.worker(worker.index);
    let server = match dialled {
        Ok(server) => server,
        Err(error) => {
            shard.connect_errors.add(1);
            record.fail(&error);
            // What the application would have seen without a proxy: nobody there.
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            return;
        }
    };
    shard.connected.add(1);
    let _dial = worker.shared.dials.note(&server);
    let room = downstream.listener.limits.buffer;
    let end = |stream| {
        let conn = Conn::new(Io::plain(stream), room);
        let end = TunnelEnd::Http1(Rc::new(RefCell::new(conn)), None);
        end.detach();
        end
    };
    let (mut client, mut server) = (end(stream), end(server));
    let mut timer = Timer::new();
    let (received, sent) = tunnel::run(&mut client, &mut server, IDLE, &mut timer).await;
    record.received += received;
    record.sent += sent;
    record.complete();
}
