//! The lingering close of a downstream connection, of either protocol: the socket is kept until its client has what it
//! was sent. A socket that is closed over unread bytes, or that hears more afterwards, resets: that takes from the client what it
//! has not read yet (RFC 9112 section 9.6).

use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use crate::timer::{self, Timer};

/// How long a client that has all may take to close, or to answer a PING before it is told for good; how often one that
/// has not is looked at.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(1);

/// Where a silence has no limit (`streamIdle: 0`), the end has this one.
const STALL: Duration = Duration::from_secs(30);

/// What may be unacknowledged of a client that is said to have all, in bytes: what an end takes by itself (two GOAWAYs
/// and a PING, or a short answer, and what TLS adds).
const WORDS: usize = 256;

/// How much is read and thrown away of a connection that we end, in bytes.
pub(super) const LINGER_BYTES: usize = 256 << 10;

/// Whether a client that has acknowledged all but so much has all.
#[must_use]
pub(super) const fn has_all(unacknowledged: usize) -> bool {
    unacknowledged <= WORDS
}

/// How long a connection that is over is kept.
#[derive(Debug, Default)]
pub(super) struct Linger {
    /// What was left when it was looked at last.
    left: Option<usize>,
    by: Option<Instant>,
}

impl Linger {
    /// Nothing was looked at yet.
    #[must_use]
    pub(super) const fn new() -> Self {
        Self {
            left: None,
            by: None,
        }
    }

    /// Ready once the client is waited for no more: a second after it has acknowledged all, or when it has
    /// acknowledged nothing for `stall`. `left` are the bytes that it has not.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        timer: &mut Timer,
        left: usize,
        stall: Duration,
    ) -> Poll<()> {
        let now = Instant::now();
        let left = if has_all(left) { 0 } else { left };
        if self.left != Some(left) {
            self.left = Some(left);
            let stall = if stall.is_zero() { STALL } else { stall };
            self.by = timer::deadline(now, if left == 0 { LAST_WORDS } else { stall });
        }
        // Nothing tells when some of it is acknowledged: the timer wakes for another look.
        let look = now + LAST_WORDS;
        let by = self.by.filter(|by| left == 0 || *by <= look);
        timer.poll_at(cx, by.unwrap_or(look))
    }
}
