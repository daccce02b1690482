//! Datagrams of one listener and one worker: each belongs to the session of its client, which the first of
//! them begins.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

use crate::drain::Phase;
use crate::error::{Error, ErrorKind};
use crate::exchange::session::{self, Ended, Session};
use crate::overload::Pressure;
use crate::telemetry::Record;
use crate::worker::Worker;

use super::serve::facts;

/// Longest datagram that there is.
const LONGEST: usize = 65_536;

/// The sessions of a listener and a worker, by the address of their client.
pub type Sessions = Rc<RefCell<HashMap<SocketAddr, Rc<Session>>>>;

/// What sessions of a listener share.
#[derive(Debug)]
pub struct Place {
    /// Where their clients send to, and are answered from.
    pub socket: UdpSocket,
    /// All of them.
    pub sessions: Sessions,
    /// For answers: each is handed on before the next is read.
    pub buffer: RefCell<Vec<u8>>,
}

/// Takes datagrams until the listener is removed. From the beginning of a drain on, only sessions that there
/// are get any.
///
/// # Errors
/// Those of the socket when it is taken over.
pub async fn serve(
    worker: Rc<Worker>,
    name: &Arc<str>,
    socket: std::net::UdpSocket,
    removed: CancellationToken,
    ceiling: usize,
) -> io::Result<()> {
    let place = Rc::new(Place {
        socket: UdpSocket::from_std(socket)?,
        sessions: Sessions::default(),
        buffer: RefCell::new(vec![0; LONGEST]),
    });
    let local = place.socket.local_addr()?;
    let mut buffer = vec![0; LONGEST];
    loop {
        // Cancelled by the removal, with nothing taken; the end of the drain drops all of it.
        let received = tokio::select! {
            biased;
            () = removed.cancelled() => {
                let sessions = place.sessions.borrow();
                sessions.values().for_each(|session| session.end(ErrorKind::NoRoute));
                return Ok(());
            }
            received = place.socket.recv_from(&mut buffer) => received,
        };
        let Ok((length, peer)) = received else {
            worker.metrics.worker(worker.index).accept_errors.add(1);
            continue;
        };
        let datagram = buffer.get(..length).unwrap_or_default();
        let known = place.sessions.borrow().get(&peer).cloned();
        match known.filter(|session| session.is_served(&worker)) {
            Some(session) => session.forward(&worker, datagram),
            None => begin(&worker, &place, name, (local, peer), ceiling, datagram),
        }
    }
}

/// Begins a session, if there is room for one more.
fn begin(
    worker: &Rc<Worker>,
    place: &Rc<Place>,
    name: &Arc<str>,
    (local, peer): (SocketAddr, SocketAddr),
    ceiling: usize,
    datagram: &[u8],
) {
    let shard = worker.metrics.worker(worker.index);
    let snapshot = worker.snapshot();
    let draining = *worker.shared.drain.borrow() >= Phase::Draining;
    let short = worker.pressure() >= Pressure::RefuseRequests;
    let Some(plan) = snapshot.listener(name).filter(|_| !draining && !short) else {
        return shard.datagrams_lost.add(1);
    };
    let census = &worker.shared.census;
    let Some(counted) = census.admit(name, Some(peer.ip()), &plan.limits, ceiling) else {
        shard.refused.add(1);
        return shard.datagrams_lost.add(1);
    };
    let downstream = facts(plan.clone(), peer, local, None);
    let begun = Session::begin(worker, &downstream, counted);
    match begun {
        Ok(session) => {
            let session = Rc::new(session);
            place.sessions.borrow_mut().insert(peer, session.clone());
            session.forward(worker, datagram);
            let end = session::run(worker.clone(), downstream, session, place.clone());
            tokio::task::spawn_local(end);
        }
        Err(Ended { kind, counts_for }) => {
            shard.datagrams_lost.add(1);
            let mut record = Record::unread(&snapshot, worker, &downstream);
            if let Some(metrics) = &counts_for {
                record.counts_for(metrics);
            }
            record.fail(&Error::from(kind));
        }
    }
}
