//! Connections that are not looked into: to which route they belong, and on they go.

use std::rc::Rc;

use selvedge_contract::defaults::transparent::HELLO;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::accept::{Downstream, ListenerSecurity};
use crate::error::{Error, ErrorKind};
use crate::exchange::{onward, opaque};
use crate::protocol::io::Io;
use crate::telemetry::Record;
use crate::worker::Worker;

use super::hello::{self, Hello, NoHello};
use super::{detect, serve};

/// Serves one connection from its arrival to its end. What TLS begins with must be there by the deadline.
pub(super) async fn arrive(
    worker: Rc<Worker>,
    mut downstream: Downstream,
    stream: TcpStream,
    deadline: Instant,
) {
    let Some(streams) = &downstream.listener.streams else {
        return;
    };
    if !streams.by_name {
        return carry(worker, Rc::new(downstream), Io::plain(stream)).await;
    }
    let ends_here = matches!(downstream.listener.security, ListenerSecurity::Tls(_));
    match opened(&stream, deadline).await {
        Ok(hello) => {
            let known = streams.find(hello.name.as_deref()).is_some();
            downstream.server_name = hello.name;
            if known || (ends_here && hello.proves) {
                if ends_here {
                    return Box::pin(serve::hand_over(worker, downstream, stream, deadline)).await;
                }
                return carry(worker, Rc::new(downstream), Io::plain(stream)).await;
            }
            let (why, description) = match downstream.server_name {
                Some(_) => ("no route has this name", hello::UNRECOGNIZED_NAME),
                None => ("the client asks for no name", hello::MISSING_EXTENSION),
            };
            let error = Error::with(ErrorKind::NoRoute, why);
            refuse(
                &worker,
                &downstream,
                stream,
                &error,
                &hello::alert(description),
            )
            .await;
        }
        Err((error, alert)) => refuse(&worker, &downstream, stream, &error, &alert).await,
    }
}

/// What a client opens TLS with, left where it is; else why not, and the alert for it.
async fn opened(stream: &TcpStream, deadline: Instant) -> Result<Hello, (Error, Vec<u8>)> {
    let judge = |bytes: &[u8], over: bool| match hello::read(bytes) {
        None if over && bytes.is_empty() => Some(None),
        None if over => Some(Some(Err(NoHello::Cut))),
        None => None,
        told => Some(told),
    };
    let bad = |why: &str, alert| Err((Error::with(ErrorKind::BadRequest, why), alert));
    match timeout_at(deadline, detect::look(stream, HELLO, judge)).await {
        Ok(Ok(Some(Some(Ok(hello))))) => Ok(hello),
        Ok(Ok(Some(Some(Err(NoHello::NotTls))))) => bad("it does not begin like TLS", Vec::new()),
        Ok(Ok(Some(Some(Err(NoHello::Cut))))) => bad(
            "its ClientHello is cut off, or longer than 16 KiB",
            Vec::new(),
        ),
        Ok(Ok(Some(Some(Err(NoHello::Malformed(alert)))))) => {
            bad("its ClientHello is not well formed", alert)
        }
        Ok(Ok(_)) => Err((ErrorKind::ClientGone.into(), Vec::new())),
        Ok(Err(error)) => Err((Error::with(ErrorKind::ClientGone, error), Vec::new())),
        Err(_) => Err((ErrorKind::HeadTimeout.into(), Vec::new())),
    }
}

/// Ends a connection with an alert, where there is one, that arrives: what has come is read, as closing
/// with unread bytes is a reset, which overtakes it.
async fn refuse(
    worker: &Worker,
    downstream: &Downstream,
    mut stream: TcpStream,
    error: &Error,
    alert: &[u8],
) {
    let snapshot = worker.snapshot();
    Record::unread(&snapshot, worker, downstream).fail(error);
    let mut read = vec![0; HELLO];
    let _ = stream.try_read(&mut read);
    // A few bytes on a new connection: there is room for them.
    let _ = stream.try_write(alert);
    let _ = stream.shutdown().await;
}

/// Carries a connection on by the route for the name that its client asked for, or by that for any.
pub(super) async fn carry(worker: Rc<Worker>, downstream: Rc<Downstream>, client: Io) {
    let streams = downstream.listener.streams.as_ref();
    let found = streams.and_then(|streams| streams.find(downstream.server_name.as_deref()));
    let permit = found.ok_or(ErrorKind::NoRoute).and_then(|found| {
        let permit = opaque::streamed(&found.rule, &downstream.listener)?;
        Ok((permit, found.idle))
    });
    match permit {
        Ok((permit, idle)) => {
            onward::carry(worker, downstream, client, Some(permit), None, idle).await;
        }
        Err(kind) => {
            let snapshot = worker.snapshot();
            Record::unread(&snapshot, &worker, &downstream).fail_with(kind);
        }
    }
}
