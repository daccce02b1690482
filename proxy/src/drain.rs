//! The end of a process, in phases: readiness off, then connections end politely, then by force.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::worker::Shared;

/// How far the drain is. Later phases are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Business as usual.
    Serving,
    /// Not ready any more, but still accepting: balancers need a moment to notice.
    Leaving,
    /// Accepting nothing; every connection ends after what it has in flight.
    Draining,
    /// What is left is cut off.
    Ended,
}

/// Runs the drain to its end: `Leaving` for `delay`, then `Draining` until `none_left` or
/// `timeout`, then `Ended`.
pub async fn run(
    shared: &Arc<Shared>,
    delay: Duration,
    timeout: Duration,
    none_left: impl Future<Output = ()>,
) {
    shared.drain.send_replace(Phase::Leaving);
    tracing::info!(?delay, "leaving: not ready any more");
    tokio::time::sleep(delay).await;
    shared.drain.send_replace(Phase::Draining);
    let begun = Instant::now();
    let all_done = tokio::time::timeout(timeout, none_left).await.is_ok();
    shared.drain.send_replace(Phase::Ended);
    tracing::info!(took = ?begun.elapsed(), all_done, "drained");
}
