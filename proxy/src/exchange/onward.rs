//! Part of stage 4, the spine: a redirected connection that is no business of the engines is carried
//! on byte for byte, as long as both ends keep it: to where it was going, or by a hop of the mesh.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use socket2::SockRef;
use tokio::io::AsyncReadExt;

use crate::accept::Downstream;
use crate::balance::{Lease, Service};
use crate::error::{Error, ErrorKind, Side};
use crate::policy::Standing;
use crate::protocol::http1::Conn;
use crate::protocol::io::Io;
use crate::protocol::tunnel::{self, Moved, TunnelEnd};
use crate::route::Onward;
use crate::route::Rule;
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
    let stream = connect::open(&service.spec, to, worker.shared.spare).await;
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
/// permit for, else to where it was going; until it is silent for `idle`. Its line in the access log
/// counts the bytes of both directions.
pub async fn carry(
    worker: Rc<Worker>,
    downstream: Rc<Downstream>,
    client: Io,
    hop: Option<Standing>,
    far: Option<Far>,
    idle: Duration,
) {
    let snapshot = worker.snapshot();
    let mut record = Record::unread(&snapshot, &worker, &downstream);
    let onward = downstream.listener.onward.as_deref();
    if let Some(policy) = hop.as_ref().and_then(Standing::audited) {
        record.audited_by(policy);
    }
    let dialled = match (far, &hop, onward) {
        (Some(far), hop, _) => {
            if let (Some(hop), Some((lease, _))) = (hop, &far.held) {
                count(&mut record, hop.rule(), lease.service());
            } else if let Some(onward) = onward {
                record.counts_for(&onward.rule.metrics);
            }
            Ok(far)
        }
        (None, Some(hop), _) => by_hop(&worker, &downstream, hop, &mut record).await,
        (None, None, Some(onward)) => {
            record.counts_for(&onward.rule.metrics);
            record.goes_to(downstream.local);
            dial(&worker, onward, downstream.local).await
        }
        (None, None, None) => Err(ErrorKind::NoBackend.into()),
    };
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
    let (lease, place) = far.held.unzip();
    record.lease = lease;
    let room = downstream.listener.limits.buffer;
    let end = |io, place| {
        let conn = Conn::new(io, room);
        let end = TunnelEnd::Http1(Rc::new(RefCell::new(conn)), place);
        end.detach();
        end
    };
    let (mut client, mut far) = (end(client, None), end(far.io, place));
    let mut timer = Timer::new();
    let mut told = Telling {
        record: &mut record,
        stopping: &|| worker.is_stopping(),
        moved: Moved::default(),
        ended: false,
    };
    let carried = tunnel::run(&mut client, &mut far, idle, &mut timer, &told.moved).await;
    told.ended = true;
    match carried.broken {
        Some(_) if carried.distrusted => told.record.fail_with(ErrorKind::Distrusted),
        None if carried.silent => told.record.fail_with(ErrorKind::Silent),
        None => told.record.complete(),
        Some(Side::Downstream) => told.record.fail_with(ErrorKind::ClientGone),
        Some(_) => told.record.fail_with(ErrorKind::UpstreamReset),
    }
}

/// Connects to an endpoint of one of the services that there is a permit for.
async fn by_hop<'a>(
    worker: &Rc<Worker>,
    downstream: &Downstream,
    hop: &'a Standing,
    record: &mut Record<'a>,
) -> Result<Far, Error> {
    record.counts_for(&hop.rule().metrics);
    let service = hop.service()?;
    count(record, hop.rule(), &service);
    let beside = downstream.onward.as_ref();
    opaque::dial(worker, hop, &service, beside, downstream, |lease, n| {
        record.tries(lease, n);
    })
    .await
}

/// Counts a connection for its service.
fn count<'a>(record: &mut Record<'a>, rule: &'a Rule, service: &Arc<Service>) {
    let mut backends = rule.backends.iter();
    if let Some(its) = backends.find(|b| Arc::ptr_eq(&b.service, service)) {
        record.counts_for(&its.metrics);
    }
}

/// Tells what has passed, also where the end of the drain drops a connection in the midst of it.
struct Telling<'r, 'a> {
    record: &'r mut Record<'a>,
    stopping: &'r dyn Fn() -> bool,
    moved: Moved,
    ended: bool,
}

impl Drop for Telling<'_, '_> {
    fn drop(&mut self) {
        self.record.received += self.moved.there.get();
        self.record.sent += self.moved.back.get();
        if !self.ended && (self.stopping)() {
            self.record.fail_with(ErrorKind::Draining);
        }
    }
}
