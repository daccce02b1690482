//! Stage 9 for HTTP/2: the answers to streams that no exchange is begun for.

use std::rc::Rc;

use crate::accept::{Downstream, ListenerPlan};
use crate::error::{Error, ErrorKind};
use crate::message::Known;
use crate::respond::{self, Outgoing};
use crate::telemetry::Record;
use crate::worker::Worker;

use super::conn::Incoming;
use super::handle::Handle;
use super::request::{Parsed, read_request};

/// The answer to a head that is no request we serve.
pub(super) fn refusal<'a>(
    kind: ErrorKind,
    listener: &ListenerPlan,
    mut record: Record<'a>,
) -> Outgoing<'a> {
    let seen = respond::Seen::unread(listener);
    let response = respond::refusal(&Error::from(kind), seen);
    record.fail_with(kind);
    record.set_status(response.head.status);
    Outgoing {
        head: response.head,
        body: response.body,
        tunnel: None,
        record,
        trailers: false,
    }
}

/// Answers a stream for which there is no memory, without a task: a flood of streams fills what is
/// left with tasks before any of them has its turn. Nor is there content, which would have to be
/// kept for who does not read.
pub(super) fn turn_away(
    worker: &Rc<Worker>,
    downstream: &Rc<Downstream>,
    handle: &Handle,
    incoming: Incoming,
) {
    let snapshot = worker.snapshot();
    let listener = &downstream.listener;
    let (kind, seen, mut record) = match read_request(incoming.head, incoming.ended, listener) {
        Ok(Parsed { head, .. }) => (
            ErrorKind::Overloaded,
            respond::Seen::of(&head, listener, downstream),
            Record::begin(&snapshot, worker, downstream, &head, worker.now()),
        ),
        Err(kind) => (
            kind,
            respond::Seen::unread(listener),
            Record::unread(&snapshot, worker, downstream),
        ),
    };
    let mut head = respond::refusal(&Error::from(kind), seen).head;
    if !seen.is_grpc() {
        head.fields
            .remove_if(|known| matches!(known, Known::ContentLength | Known::ContentType));
    }
    record.fail_with(kind);
    record.set_status(head.status);
    handle.reply(&head, true);
}
