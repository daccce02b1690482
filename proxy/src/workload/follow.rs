//! Answers that go on: all that is in force, at once, and again at each change.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use selvedge_contract::defaults::workload::{CERTIFICATE, PATIENCE};
use selvedge_contract::workload::Message;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};

use super::calls::Asking;
use crate::identity::applicant::{Applicant, Svid};

/// A stream of answers.
pub(super) type Answers<T> = ReceiverStream<Result<T, Status>>;

/// What is in force, and the wait for something else.
pub(super) struct Changes {
    versions: watch::Receiver<u64>,
    /// Only where the application's certificate is asked for.
    svids: Option<watch::Receiver<Option<Arc<Svid>>>>,
}

impl Changes {
    /// Those of what is trusted, and `with` the application's certificate those of it. There is one then,
    /// or none could be had in time.
    pub(super) async fn of(applicant: &Applicant, with: bool) -> Self {
        let mut svids = with.then(|| applicant.svids());
        if let Some(svids) = &mut svids {
            // Without one in time, the caller is told so.
            let _ = timeout(CERTIFICATE, svids.wait_for(Option::is_some)).await;
        }
        Self {
            versions: applicant.store().versions(),
            svids,
        }
    }

    /// The application's certificate, if it has not ended. What is seen now is no change any longer.
    pub(super) fn seen(&mut self) -> Option<Arc<Svid>> {
        self.versions.borrow_and_update();
        let svid = self.svids.as_mut()?.borrow_and_update().clone()?;
        let good = std::time::SystemTime::now() < svid.identity.not_after;
        good.then_some(svid)
    }

    /// Returns when there is something else. Safe to cancel.
    pub(super) async fn next(&mut self) {
        let svids = async {
            match &mut self.svids {
                Some(svids) => drop(svids.changed().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.versions.changed() => {}
            () = svids => {}
        }
    }
}

/// What tells two answers apart.
pub(super) fn mark(answer: &impl Message) -> Vec<u8> {
    // Not the answer itself: each stream would hold keys and lists for as long as it lives.
    digest(&SHA256, &answer.encode_to_vec()).as_ref().to_vec()
}

/// What ends the streams of a caller.
///
/// # Errors
/// Where nobody knows who calls.
pub(super) fn shutdown<T>(request: &Request<T>) -> Result<CancellationToken, Status> {
    let asking = request.extensions().get::<Asking>();
    let asking = asking.ok_or_else(|| Status::internal("internal error"))?;
    Ok(asking.shutdown.clone())
}

/// Sends what `make` makes, whenever that is something else. The first is made before the stream begins,
/// so that a refusal is one of the call.
///
/// # Errors
/// What `make` fails with at first.
pub(super) fn follow<T: Message + 'static>(
    mut changes: Changes,
    shutdown: CancellationToken,
    make: impl Fn(Option<&Svid>) -> Result<T, Status> + Send + 'static,
) -> Result<Answers<T>, Status> {
    let first = make(changes.seen().as_deref())?;
    let (answers, stream) = mpsc::channel(1);
    let mut last = mark(&first);
    // Ends with the stream, with the endpoint, or with what cannot be made any more.
    tokio::spawn(async move {
        let mut next = Some(Ok(first));
        loop {
            if let Some(answer) = next.take() {
                let over = answer.is_err();
                let sent = timeout(PATIENCE, answers.send(answer)).await;
                if over || !sent.is_ok_and(|sent| sent.is_ok()) {
                    return;
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => {
                    let _ = answers.try_send(Err(Status::unavailable("the sidecar ends")));
                    return;
                }
                () = answers.closed() => return,
                () = changes.next() => {}
            }
            let made = make(changes.seen().as_deref());
            let other = made.as_ref().map_or(true, |made| mark(made) != last);
            if let (true, Ok(made)) = (other, &made) {
                last = mark(made);
            }
            next = other.then_some(made);
        }
    });
    Ok(ReceiverStream::new(stream))
}
