//! Connections that are not looked into: to which route they belong, and on they go.

use std::rc::Rc;

use tokio::net::TcpStream;

use crate::accept::Downstream;
use crate::error::ErrorKind;
use crate::exchange::{onward, opaque};
use crate::protocol::io::Io;
use crate::telemetry::Record;
use crate::worker::Worker;

/// Serves one connection from its arrival to its end.
pub(super) async fn arrive(worker: Rc<Worker>, downstream: Downstream, stream: TcpStream) {
    carry(worker, downstream, Io::plain(stream)).await;
}

/// Carries a connection on by the route for the name that its client asked for, or by that for any.
async fn carry(worker: Rc<Worker>, downstream: Downstream, client: Io) {
    let downstream = Rc::new(downstream);
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
