//! Connections that rules of the kernel have sent here: where they were going, and whether they are
//! for the engines or to be carried on byte for byte.
//!
//! Nobody knows beforehand who of the two ends speaks first. So the client gets a moment; if it is
//! silent, the far end is connected to, and whoever speaks first decides. Where that was the server, the
//! next client gets no moment: the far end is connected to at once (`greeters.rs`).

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use selvedge_contract::defaults::transparent::{HELLO, IDLE, MOMENT};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::accept::{
    Downstream, ListenerPlan, ListenerRole, ListenerSecurity,
    original::{canonical, original_destination},
};
use crate::balance::Endpoint;
use crate::discover::demand::Question;
use crate::drain::Phase;
use crate::error::{Error, ErrorKind};
use crate::exchange::onward::{self, Far};
use crate::exchange::{demand, opaque};
use crate::message::RequestHead;
use crate::policy::Standing;
use crate::route::Onward;
use crate::telemetry::Record;
use crate::tls::MESH;
use crate::worker::Worker;

use super::detect::{self, First};
use super::http1::parse::HeadEnd;
use super::http1::request::parse_request;
use super::io::Io;
use super::serve;

/// How long a client has to say something where only a service by name may be called, and its address is no
/// service's. It must not be long: whoever waits for its server to speak waits in vain.
const SPEAKS: Duration = Duration::from_secs(1);

/// Serves one connection from its arrival to its end.
pub(super) async fn arrive(
    worker: Rc<Worker>,
    listener: Arc<ListenerPlan>,
    stream: TcpStream,
    peer: SocketAddr,
) {
    let Some(onward) = &listener.onward else {
        return;
    };
    let came_to = canonical(stream.local_addr().unwrap_or(listener.address));
    let to = original_destination(&stream, came_to);
    let mut downstream = serve::facts(listener.clone(), peer, came_to, Some(to));
    downstream.local_port = to.port();
    let service = onward.rule.backends.first().map(|b| &b.service);
    downstream.onward = service.map(|service| match listener.role {
        ListenerRole::Inbound => service.beside(to),
        _ => Arc::new(Endpoint::new(to, 1)),
    });
    if comes_round(&worker, onward, &listener, peer, came_to, to) {
        refuse(&worker, &downstream, &ErrorKind::Loop.into());
        return;
    }
    let listener = known(&worker, listener.clone(), to).await;
    let Some(onward) = &listener.onward else {
        return;
    };
    let arrival = Arrival {
        worker: &worker,
        downstream: &downstream,
        listener: &listener,
        onward,
        hop: opaque::outward(&listener, to),
        stream: &stream,
        peer,
        to,
    };
    match arrival.judge().await {
        Way::Engine => {
            let deadline = Instant::now() + listener.limits.handshake;
            serve::hand_over(worker, downstream, stream, deadline).await;
        }
        Way::Onward(far) => {
            serve::plaintext(&downstream);
            let hop = arrival.hop.ok().flatten();
            let (downstream, client) = (Rc::new(downstream), Io::plain(stream));
            Box::pin(onward::carry(worker, downstream, client, hop, far, IDLE)).await;
        }
        Way::Refused(error) => refuse(&worker, &downstream, &error),
    }
}

/// The listener as it is once it is known what a connection is going to, or that nobody knows.
async fn known(worker: &Worker, listener: Arc<ListenerPlan>, to: SocketAddr) -> Arc<ListenerPlan> {
    let Some(demand) = worker.shared.demand.get() else {
        return listener;
    };
    let calls = |plan: &ListenerPlan| {
        let onward = plan.onward.as_ref();
        onward.is_some_and(|onward| onward.by_address.contains_key(&to))
    };
    if listener.role != ListenerRole::Outbound || calls(&listener) {
        return listener;
    }
    let question = Question::Address(to.ip());
    if !demand.is_known_to_be_none(&question) {
        Box::pin(demand.ask(question)).await;
    }
    let now = worker.snapshot().listener(&listener.name).cloned();
    now.unwrap_or(listener)
}

fn refuse(worker: &Worker, downstream: &Downstream, error: &Error) {
    tracing::debug!(peer = %downstream.peer, to = %downstream.local, %error, "redirected connection");
    let snapshot = worker.snapshot();
    Record::unread(&snapshot, worker, downstream).fail(error);
}

/// Whether a connection was going to this proxy itself, or comes from it: carried on, it would come
/// round for ever.
fn comes_round(
    worker: &Worker,
    onward: &Onward,
    listener: &ListenerPlan,
    peer: SocketAddr,
    came_to: SocketAddr,
    to: SocketAddr,
) -> bool {
    let here = to == came_to || to.ip().is_unspecified();
    here || match listener.role {
        ListenerRole::Inbound => onward.own_ports.contains(&to.port()),
        _ => to.ip().is_loopback() || worker.shared.dials.contains(canonical(peer)),
    }
}

/// What becomes of a connection.
enum Way {
    /// TLS of the mesh, or HTTP that is for a service.
    Engine,
    /// Byte for byte, over a connection that there may be already.
    Onward(Option<Far>),
    /// Neither.
    Refused(Error),
}

/// Who has spoken first, and the connection to the far end where there is one.
enum Speaker {
    Client(Option<Far>),
    Server(Far),
}

struct Arrival<'a> {
    worker: &'a Rc<Worker>,
    downstream: &'a Downstream,
    listener: &'a ListenerPlan,
    onward: &'a Onward,
    /// How it leaves for a service of the mesh, where it is going to one.
    hop: Result<Option<Standing>, ErrorKind>,
    stream: &'a TcpStream,
    peer: SocketAddr,
    to: SocketAddr,
}

impl Arrival<'_> {
    async fn judge(&self) -> Way {
        let strict = matches!(
            self.listener.security,
            ListenerSecurity::Mesh {
                permissive: None,
                ..
            }
        );
        if strict {
            return Way::Engine;
        }
        let mut draining = self.worker.shared.drain.subscribe();
        // Cancelled by the drain: a connection that is silent has nothing in flight. Only looks and a
        // connection without a byte on it are lost.
        let speaker = tokio::select! {
            speaker = self.speaker() => speaker,
            _ = draining.wait_for(|phase| *phase >= Phase::Draining) => {
                Err(ErrorKind::Draining.into())
            }
        };
        match speaker {
            Err(error) => Way::Refused(error),
            Ok(_) if self.is_our_own() => Way::Refused(ErrorKind::Loop.into()),
            Ok(Speaker::Server(far)) => {
                self.worker.greeters.learn(self.to);
                Way::Onward(Some(far))
            }
            Ok(Speaker::Client(far)) => {
                self.worker.greeters.forget(self.to);
                let way = match self.listener.role {
                    ListenerRole::Inbound => self.inbound().await,
                    _ => self.outbound().await,
                };
                match way {
                    Way::Onward(None) => Way::Onward(far),
                    way => way,
                }
            }
        }
    }

    /// Whether this process has opened the connection. Before its first byte that may be too early to
    /// say; into the inbound port it may come, when an application calls its own service.
    fn is_our_own(&self) -> bool {
        self.listener.role == ListenerRole::Outbound && self.worker.shared.dials.contains(self.peer)
    }

    /// Waits for whoever speaks first.
    async fn speaker(&self) -> Result<Speaker, Error> {
        let idle = self.listener.limits.downstream_idle;
        let gone = |error| Error::with(ErrorKind::ClientGone, error);
        let mut client = std::pin::pin!(detect::speaks(self.stream));
        // Where bytes may not be carried on as they are, there is nobody else to speak.
        let moment = if self.must_be_understood() {
            // It may yet be for a service by name, but whoever calls one so speaks first and at once.
            if matches!(self.hop, Err(ErrorKind::Egress)) {
                let spoken = timeout(SPEAKS, &mut client).await;
                let spoken = spoken.map_err(|_| self.going_out())?;
                return spoken.map(|()| Speaker::Client(None)).map_err(gone);
            }
            idle
        } else {
            MOMENT
        };
        if moment == idle || !self.worker.greeters.contains(self.to) {
            if let Ok(spoken) = timeout(moment, &mut client).await {
                return spoken.map(|()| Speaker::Client(None)).map_err(gone);
            }
            if moment == idle {
                return Err(ErrorKind::HeadTimeout.into());
            }
        }
        if self.is_our_own() {
            return Err(ErrorKind::Loop.into());
        }
        // Each branch that loses is dropped with no byte taken.
        let dialled = tokio::select! {
            biased;
            spoken = &mut client => {
                return spoken.map(|()| Speaker::Client(None)).map_err(gone);
            }
            dialled = self.dial() => dialled,
        };
        let mut far = match dialled {
            Ok(far) => far,
            Err(error) => {
                // The client may yet ask for a service that is elsewhere.
                let patience = self.listener.limits.handshake;
                return match timeout(patience, &mut client).await {
                    Ok(spoken) => spoken.map(|()| Speaker::Client(None)).map_err(gone),
                    Err(_) => Err(error),
                };
            }
        };
        let client_first = tokio::select! {
            biased;
            spoken = &mut client => spoken.map(|()| true).map_err(gone)?,
            // Its end is worth as much to the client as its first word.
            () = far.speaks() => false,
            () = sleep(idle) => return Err(ErrorKind::HeadTimeout.into()),
        };
        Ok(if client_first {
            Speaker::Client(Some(far))
        } else {
            Speaker::Server(far)
        })
    }

    fn going_out(&self) -> Error {
        Error::with(ErrorKind::Egress, format!("it was going to {}", self.to))
    }

    /// The far end: an endpoint where that is of the mesh, else where the connection was going.
    async fn dial(&self) -> Result<Far, Error> {
        match &self.hop {
            Ok(Some(hop)) => {
                let service = hop.service()?;
                opaque::dial(self.worker, hop, &service, None, self.downstream, |_, _| {}).await
            }
            Ok(None) => onward::dial(self.worker, self.onward, self.to).await,
            Err(kind) => Err((*kind).into()),
        }
    }

    /// Whether nothing may pass that is no HTTP: there are policies, which look at requests.
    fn must_be_understood(&self) -> bool {
        match self.listener.role {
            ListenerRole::Inbound => !self.onward.rule.guards.is_empty(),
            _ => self.hop.is_err(),
        }
    }

    fn not_understood(&self) -> Way {
        if !self.must_be_understood() {
            return Way::Onward(None);
        }
        if matches!(self.hop, Err(ErrorKind::Egress)) {
            return Way::Refused(self.going_out());
        }
        let why = match self.listener.role {
            ListenerRole::Inbound => {
                "it is not HTTP, and the policies of this port look at requests"
            }
            _ => "it is not HTTP, and the policies of its service look at requests",
        };
        Way::Refused(Error::with(ErrorKind::Denied, why))
    }

    /// What the client has begun, as soon as that can be told.
    async fn first(&self) -> First {
        let judge = |bytes: &[u8], over: bool| match detect::first(bytes) {
            First::Unclear if !over => None,
            First::Unclear => Some(First::Other),
            told => Some(told),
        };
        let most = self.listener.limits.uri + 64;
        let look = detect::look(self.stream, most, judge);
        match timeout(self.listener.limits.handshake, look).await {
            Ok(Ok(Some(first))) => first,
            _ => First::Other,
        }
    }

    async fn inbound(&self) -> Way {
        match self.first().await {
            First::Http1 | First::Http2 if !self.onward.opaque.contains(&self.to.port()) => {
                Way::Engine
            }
            First::Tls if self.is_mesh().await => Way::Engine,
            _ => self.not_understood(),
        }
    }

    /// Whether TLS is that of the mesh, and not the application's own.
    async fn is_mesh(&self) -> bool {
        if !matches!(self.listener.security, ListenerSecurity::Mesh { .. }) {
            return false;
        }
        let look = detect::look(self.stream, HELLO, |bytes, _| detect::offers(bytes, &MESH));
        let told = timeout(self.listener.limits.handshake, look).await;
        matches!(told, Ok(Ok(Some(true))))
    }

    async fn outbound(&self) -> Way {
        let known = self.onward.by_address.contains_key(&self.to);
        match self.first().await {
            First::Http1 if known || self.is_for_service().await => Way::Engine,
            First::Http1 if self.is_found().await => Way::Engine,
            First::Http2 if known => Way::Engine,
            // Told by the engine, in its own words.
            First::Http1 if self.onward.closed => Way::Engine,
            First::Http1 | First::Http2 if !self.onward.closed => Way::Onward(None),
            _ => self.not_understood(),
        }
    }

    /// Whether the first request names a service, by the whole of its head.
    async fn is_for_service(&self) -> bool {
        let judge = |bytes: &[u8], _| match detect::head_end(bytes) {
            HeadEnd::Partial(_) => None,
            HeadEnd::At(end) => Some(self.names_service(bytes.get(..end).unwrap_or_default())),
            HeadEnd::Malformed => Some(false),
        };
        let limits = &self.listener.limits;
        let look = detect::look(self.stream, limits.header_block, judge);
        let told = timeout(limits.header_read, look).await;
        matches!(told, Ok(Ok(Some(true))))
    }

    fn names_service(&self, head: &[u8]) -> bool {
        let head = self.head(head);
        head.is_some_and(|head| {
            self.listener.table.find(&head).is_some()
                || self.onward.service(&head, self.to).is_some()
        })
    }

    fn head(&self, bytes: &[u8]) -> Option<RequestHead> {
        let bytes = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
        let parsed = parse_request(Bytes::copy_from_slice(bytes), self.listener);
        parsed.ok().map(|parsed| parsed.head)
    }

    /// Whether the first request names a service that the cluster has, and nobody here knew of.
    async fn is_found(&self) -> bool {
        if self.worker.shared.demand.get().is_none() {
            return false;
        }
        let judge = |bytes: &[u8], _| match detect::head_end(bytes) {
            HeadEnd::Partial(_) => None,
            HeadEnd::At(end) => Some(self.head(bytes.get(..end).unwrap_or_default())),
            HeadEnd::Malformed => Some(None),
        };
        let limits = &self.listener.limits;
        let look = detect::look(self.stream, limits.header_block, judge);
        let Ok(Ok(Some(Some(head)))) = timeout(limits.header_read, look).await else {
            return false;
        };
        let snapshot = self.worker.snapshot();
        let asked = demand::unknown(self.worker, &snapshot, self.downstream, &head);
        if asked.is_none() {
            return false;
        }
        let now = demand::settle(self.worker, self.downstream, &head).await;
        let plan = now.listener(&self.listener.name);
        let onward = plan.and_then(|plan| plan.onward.as_ref());
        onward.is_some_and(|onward| onward.service(&head, self.to).is_some())
    }
}
