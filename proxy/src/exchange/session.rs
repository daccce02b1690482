//! Part of stage 4, the spine: a session of datagrams. All that one client sends to one listener goes to one
//! endpoint, with a permit and a lease; what that answers goes back. Nothing is waited for between the two.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use rustix::net::{RecvFlags, SendFlags, recv, send};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::Instant;

use crate::accept::{Counted, Downstream, datagram};
use crate::balance::{self, Asked, Failing, Lease, Service, Verdict};
use crate::error::ErrorKind;
use crate::policy::Standing;
use crate::protocol::datagram::Place;
use crate::route::StreamRule;
use crate::telemetry::Record;
use crate::telemetry::metrics::RouteMetrics;
use crate::timer::Timer;
use crate::upstream::Security;
use crate::worker::Worker;

use super::opaque;

/// See the module.
#[derive(Debug)]
pub struct Session {
    hop: Standing,
    service: Arc<Service>,
    asked: Asked,
    route: Arc<StreamRule>,
    far: RefCell<Rc<Far>>,
    /// Whom to tell that it goes to another endpoint now, or ends.
    waker: RefCell<Option<Waker>>,
    ended: Cell<Option<ErrorKind>>,
    /// Endpoints in a row that have refused.
    refused: Cell<u32>,
    moves: Cell<u32>,
    /// When something has passed.
    heard: Cell<Instant>,
    received: Cell<u64>,
    sent: Cell<u64>,
    /// The configuration in which its service was seen last.
    generation: Cell<u64>,
    _counted: Counted,
}

/// Its present endpoint.
#[derive(Debug)]
struct Far {
    socket: UdpSocket,
    lease: RefCell<Lease>,
}

/// What a session waits for at its socket: answers, and refusals, which are errors and nothing to read.
const EVENTS: Interest = Interest::READABLE.add(Interest::ERROR);

/// What a session's task wakes for.
enum Next {
    /// Its endpoint is another, or it has ended.
    Changed,
    /// There may be an answer.
    Answer,
    /// Nothing has passed for too long.
    Silent,
}

/// Why a session could not begin, and whose it would have been.
#[derive(Debug)]
pub struct Ended {
    /// Why.
    pub kind: ErrorKind,
    /// Counters of its route and service.
    pub counts_for: Option<Arc<RouteMetrics>>,
}

impl Session {
    /// Chooses an endpoint for a client.
    ///
    /// # Errors
    /// [`Ended`].
    pub fn begin(
        worker: &Worker,
        downstream: &Downstream,
        counted: Counted,
    ) -> Result<Self, Ended> {
        let none = |kind| Ended {
            kind,
            counts_for: None,
        };
        let streams = downstream.listener.streams.as_ref();
        let route = streams.and_then(|streams| streams.find(None));
        let route = route.ok_or_else(|| none(ErrorKind::NoRoute))?;
        let hop = opaque::streamed(&route.rule, &downstream.listener).map_err(none)?;
        let service = hop.service().map_err(none)?;
        let asked = Asked::of_connection(service.plan(), downstream.peer.ip());
        service.budget.earn();
        let far = Far::choose(worker, &hop, &service, &asked, None).map_err(|kind| Ended {
            kind,
            counts_for: metrics_of(&route.rule, &service).cloned(),
        })?;
        Ok(Self {
            asked,
            route: route.clone(),
            far: RefCell::new(Rc::new(far)),
            waker: RefCell::default(),
            ended: Cell::new(None),
            refused: Cell::new(0),
            moves: Cell::new(0),
            heard: Cell::new(worker.now()),
            received: Cell::new(0),
            sent: Cell::new(0),
            generation: Cell::new(worker.snapshot().generation),
            _counted: counted,
            hop,
            service,
        })
    }

    /// Whether it goes on: a reload ends those whose service is gone.
    pub fn is_served(&self, worker: &Worker) -> bool {
        let snapshot = worker.snapshot();
        if self.generation.replace(snapshot.generation) != snapshot.generation
            && !snapshot.services.contains_key(&**self.service.name())
        {
            self.end(ErrorKind::NoRoute);
        }
        self.ended.get().is_none()
    }

    /// Ends it.
    pub fn end(&self, kind: ErrorKind) {
        self.ended.set(Some(kind));
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Waits for the next thing to do. A task's waker stays the same, so it is noted once.
    fn poll_next<R: Future>(
        &self,
        cx: &mut Context<'_>,
        (far, ready): (&Rc<Far>, Pin<&mut R>),
        timer: &mut Timer,
    ) -> Poll<Next> {
        if self.ended.get().is_some() || !Rc::ptr_eq(far, &self.far.borrow()) {
            return Poll::Ready(Next::Changed);
        }
        let mut waker = self.waker.borrow_mut();
        waker.get_or_insert_with(|| cx.waker().clone());
        if ready.poll(cx).is_ready() {
            return Poll::Ready(Next::Answer);
        }
        let silent_until = self.heard.get() + self.route.idle;
        timer.poll_at(cx, silent_until).map(|()| Next::Silent)
    }

    /// Sends a datagram of the client on, to another endpoint if this one has refused the last.
    pub fn forward(&self, worker: &Worker, datagram: &[u8]) {
        let shard = worker.metrics.worker(worker.index);
        if datagram.len() > self.route.most {
            return shard.datagrams_lost.add(1);
        }
        self.heard.set(worker.now());
        self.received
            .set(self.received.get() + datagram.len() as u64);
        loop {
            let far = self.far.borrow().clone();
            // Not by the runtime, which does not know of a new socket yet that it may be written to.
            let sent = send(&far.socket, datagram, SendFlags::NOSIGNAL);
            match sent.map_err(io::Error::from) {
                Ok(_) => return,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if !self.moves_on(worker, &error) => break,
                Err(_) => {}
            }
        }
        shard.datagrams_lost.add(1);
    }

    /// After an error of the socket: whether there is another endpoint to go to. Ends where there is none.
    fn moves_on(&self, worker: &Worker, error: &io::Error) -> bool {
        // Whatever else it is, such as a datagram too long for the way, is no refusal.
        let gone = [
            io::ErrorKind::ConnectionRefused,
            io::ErrorKind::HostUnreachable,
            io::ErrorKind::NetworkUnreachable,
        ];
        if !gone.contains(&error.kind()) || self.ended.get().is_some() {
            return false;
        }
        let now = worker.now();
        let far = self.far.borrow().clone();
        let failed = Verdict::Failure(Failing::Error(ErrorKind::ConnectFailed));
        far.lease.borrow_mut().report(failed, now);
        let refused = self.refused.get() + 1;
        self.refused.set(refused);
        let again = refused <= self.route.rule.retry.attempts && self.service.budget.spend(now);
        let avoid = Some(far.lease.borrow().endpoint().id);
        let next = match again {
            true => Far::choose(worker, &self.hop, &self.service, &self.asked, avoid),
            false => Err(ErrorKind::ConnectFailed),
        };
        match next {
            // There is no other: whoever sends again begins anew.
            Ok(next) if Some(next.lease.borrow().endpoint().id) == avoid => {
                self.end(ErrorKind::ConnectFailed);
                false
            }
            Ok(next) => {
                *self.far.borrow_mut() = Rc::new(next);
                self.moves.set(self.moves.get() + 1);
                self.wake();
                true
            }
            Err(kind) => {
                self.end(kind);
                false
            }
        }
    }

    /// Hands on what the endpoint has sent, as far as it is there.
    fn answer(&self, worker: &Worker, place: &Place, downstream: &Downstream) {
        let far = self.far.borrow().clone();
        let mut buffer = place.buffer.borrow_mut();
        // Not for ever: others have a turn too.
        for _ in 0..32 {
            let mut read = || {
                let (_, length) = recv(&far.socket, buffer.as_mut_slice(), RecvFlags::DONTWAIT)?;
                Ok(length)
            };
            // One after the other: it takes no two interests at a time.
            let received = match far.socket.try_io(Interest::READABLE, &mut read) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    far.socket.try_io(Interest::ERROR, &mut read)
                }
                received => received,
            };
            match received {
                Ok(length) => {
                    let now = worker.now();
                    self.heard.set(now);
                    self.refused.set(0);
                    far.lease.borrow_mut().report(Verdict::Success, now);
                    let told = buffer.get(..length).unwrap_or_default();
                    let fits = length <= self.route.most;
                    if fits && place.socket.try_send_to(told, downstream.peer).is_ok() {
                        self.sent.set(self.sent.get() + length as u64);
                    } else {
                        let shard = worker.metrics.worker(worker.index);
                        shard.datagrams_lost.add(1);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    self.moves_on(worker, &error);
                    return;
                }
            }
        }
    }
}

impl Far {
    fn choose(
        worker: &Worker,
        hop: &Standing,
        service: &Arc<Service>,
        asked: &Asked,
        avoid: Option<u64>,
    ) -> Result<Self, ErrorKind> {
        let now = worker.now();
        let mut lease = balance::pick(&hop.permit(), service, None, asked, avoid, now)?;
        lease.awaits_no_answer(now);
        // Never in the open what belongs into the mesh.
        if !matches!(lease.security(), Security::Plain) {
            return Err(ErrorKind::UpstreamTls);
        }
        let socket = datagram::towards(lease.endpoint().address);
        if socket
            .as_ref()
            .is_ok_and(|socket| worker.shared.spare.has(socket))
        {
            return Err(ErrorKind::Overloaded);
        }
        Ok(Self {
            socket: socket.map_err(|_| ErrorKind::ConnectFailed)?,
            lease: RefCell::new(lease),
        })
    }
}

fn metrics_of<'a>(
    rule: &'a crate::route::Rule,
    service: &Arc<Service>,
) -> Option<&'a Arc<RouteMetrics>> {
    let mut backends = rule.backends.iter();
    let its = backends.find(|b| Arc::ptr_eq(&b.service, service));
    its.map(|backend| &backend.metrics)
}

/// Answers the client of a session until it ends, and tells of it. Dropped by the end of a drain.
pub async fn run(
    worker: Rc<Worker>,
    downstream: Downstream,
    session: Rc<Session>,
    place: Rc<Place>,
) {
    worker.metrics.worker(worker.index).accepted.add(1);
    worker.shared.live.begins();
    let snapshot = worker.snapshot();
    let mut record = Record::unread(&snapshot, &worker, &downstream);
    if let Some(metrics) = metrics_of(&session.route.rule, &session.service) {
        record.counts_for(metrics);
    }
    let mut told = Telling {
        record,
        worker: &worker,
        session: &session,
        place: &place,
        downstream: &downstream,
        over: None,
    };
    let mut timer = Timer::new();
    loop {
        let far = session.far.borrow().clone();
        told.record.tries(&far.lease.borrow(), session.moves.get());
        loop {
            let mut ready = pin!(far.socket.ready(EVENTS));
            let next = poll_fn(|cx| session.poll_next(cx, (&far, ready.as_mut()), &mut timer));
            match next.await {
                Next::Answer => session.answer(&worker, &place, &downstream),
                Next::Changed => break,
                Next::Silent => {
                    // It was refused, and nobody has answered since.
                    let refused = session.refused.get() > 0;
                    told.over = Some(match refused {
                        true => Err(ErrorKind::ConnectFailed),
                        false => Ok(()),
                    });
                    return;
                }
            }
        }
        if let Some(kind) = session.ended.get() {
            told.over = Some(Err(kind));
            return;
        }
    }
}

/// Tells of a session, and takes it out, also where the end of the drain drops it.
struct Telling<'a> {
    record: Record<'a>,
    worker: &'a Rc<Worker>,
    session: &'a Rc<Session>,
    place: &'a Place,
    downstream: &'a Downstream,
    over: Option<Result<(), ErrorKind>>,
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        let mut sessions = self.place.sessions.borrow_mut();
        let peer = &self.downstream.peer;
        if sessions
            .get(peer)
            .is_some_and(|s| Rc::ptr_eq(s, self.session))
        {
            sessions.remove(peer);
        }
        self.record.received += self.session.received.get();
        self.record.sent += self.session.sent.get();
        match self.over {
            Some(Ok(())) => self.record.complete(),
            Some(Err(kind)) => self.record.fail_with(kind),
            None => self.record.fail_with(ErrorKind::Draining),
        }
        self.worker.metrics.worker(self.worker.index).closed.add(1);
        self.worker.shared.live.ends();
    }
}
