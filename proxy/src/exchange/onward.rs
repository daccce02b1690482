//! Part of stage 4, the spine: a redirected connection that is no business of the engines is carried
//! on byte for byte, as long as both ends keep it: to where it was going, or by a hop of the mesh.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use selvedge_contract::defaults::transparent::IDLE;
use socket2::SockRef;
use tokio::io::AsyncReadExt;

use crate::accept::Downstream;
use crate::balance::Lease;
use crate::error::{Error, ErrorKind, Side};
use crate::policy::Standing;
use crate::protocol::http1::Conn;
use crate::protocol::io::Io;
use crate::protocol::tunnel::{self, TunnelEnd};
use crate::route::Onward;
use crate::telemetry::Record;
use crate::timer::Timer;
use crate::upstream::{connect, pool};
use crate::worker::Worker;

use super::opaque;

/// The far end of a connection that is carried on.
#[derive(Debug)]
pub struct Far {
    pub(super) io: Io,
    pub(super) address: SocketAddr,
    /// Of an endpoint: the right to call it, and to hold a connection to it.
    pub(super) held: Option<(Lease, pool::Permit)>,
}

impl Far {
    /// Waits until it has said something, or has ended. What it says is kept; nothing is lost when
    /// this is dropped.
    pub async fn speaks(&mut self) {
        let mut said = BytesMut::with_capacity(FIRST);
        // Its end, or its failure, shows again when it is carried.
        let _ = self.io.read_buf(&mut said).await;
        self.io.unread(said);
    }
}

/// Most that is read of a far end before it is known who of the two speaks first.
const FIRST: usize = 4 << 10;

/// Connects to where a connection was going.
///
/// # Errors
/// [`ErrorKind::ConnectFailed`], [`ErrorKind::ConnectTimeout`].
pub async fn dial(worker: &Worker, onward: &Onward, to: SocketAddr) -> Result<Far, Error> {
    let backend = onward.rule.backends.first();
    let service = &backend.ok_or(ErrorKind::NoBackend)?.service;
    let stream = connect::open(&service.spec, to).await;
    let shard = worker.metrics.worker(worker.index);
    match &stream {
        Ok(_) => shard.connected.add(1),
        Err(_) => shard.connect_errors.add(1),
    }
    let stream = stream?;
    let dial = worker.shared.dials.note(&stream);
    let mut io = Io::plain(stream);
    io.known_by(dial);
    Ok(Far {
        io,
        address: to,
        held: None,
    })
}

/// Carries a connection on, over `far` where that is connected already: by the hop that there is a
/// permit for, else to where it was going. Its line in the access log counts the bytes of both
/// directions.
pub async fn carry(
    worker: Rc<Worker>,
    downstream: Rc<Downstream>,
    client: Io,
    hop: Option<Standing>,
    far: Option<Far>,
) {
    let snapshot = worker.snapshot();
    let mut record = Record::unread(&snapshot, &worker, &downstream);
    let onward = downstream.listener.onward.as_deref();
    let dialled = match (far, &hop, onward) {
        (Some(far), ..) => Ok(far),
        (None, Some(hop), _) => {
            let beside = downstream.onward.as_ref();
            let client = downstream.peer.ip();
            opaque::dial(&worker, hop, beside, client, |lease, n| {
                record.tries(lease, n)
            })
            .await
        }
        (None, None, Some(onward)) => {
            record.goes_to(downstream.local);
            dial(&worker, onward, downstream.local).await
        }
        (None, None, None) => Err(ErrorKind::NoBackend.into()),
    };
    if let Some(hop) = &hop {
        if let Some(policy) = hop.audited() {
            record.audited_by(policy);
        }
        record.counts_for(&hop.permit().rule().metrics);
    } else if let Some(onward) = onward {
        record.counts_for(&onward.rule.metrics);
    }
    let far = match dialled {
        Ok(far) => far,
        Err(error) => {
            record.fail(&error);
            // What the application would have seen without a proxy: nobody there.
            let _ = SockRef::from(client.socket()).set_linger(Some(Duration::ZERO));
            return;
        }
    };
    record.goes_to(far.address);
    // In flight, and counted, until the end.
    let (_lease, place) = far.held.unzip();
    let room = downstream.listener.limits.buffer;
    let end = |io, place| {
        let conn = Conn::new(io, room);
        let end = TunnelEnd::Http1(Rc::new(RefCell::new(conn)), place);
        end.detach();
        end
    };
    let (mut client, mut far) = (end(client, None), end(far.io, place));
    let mut timer = Timer::new();
    let carried = tunnel::run(&mut client, &mut far, IDLE, &mut timer).await;
    record.received += carried.there;
    record.sent += carried.back;
    match carried.broken {
        Some(_) if carried.distrusted => record.fail_with(ErrorKind::Distrusted),
        None => record.complete(),
        Some(Side::Downstream) => record.fail_with(ErrorKind::ClientGone),
        Some(_) => record.fail_with(ErrorKind::UpstreamReset),
    }
}
