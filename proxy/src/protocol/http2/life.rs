//! How long a downstream HTTP/2 connection may go on, and how it ends.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use selvedge_contract::defaults::Limits;
use tokio::time::Instant;

use crate::timer::{self, Timer};
use crate::worker::Worker;

use super::budget::Abuse;
use super::conn::{Conn, Fatal, Phase, SharedConn};
use super::frame::Reason;

/// How long a peer that was told to go may take to answer our PING, or to read our last words; how often one
/// that has more to read is looked at.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What our last words alone may leave unacknowledged, in bytes: two GOAWAYs, a PING and what TLS adds.
const WORDS: usize = 256;

/// How long a connection may go on.
pub(super) struct Life {
    conn: SharedConn,
    timer: Timer,
    /// SETTINGS must have come by then.
    settings_by: Option<Instant>,
    ages_at: Option<Instant>,
    idle_since: Option<Instant>,
    /// What was begun and is not there yet, see [`Conn::awaited`], and by when it must be.
    awaited: Option<(u64, Instant)>,
    /// It is told to go, and gone by then, once no stream is left.
    last_words_by: Option<Instant>,
    /// What a connection that is over had left to be read, when that was looked at last.
    unread: Option<usize>,
    /// Requests that it has had.
    pub(super) requests: u64,
    /// See [`Worker::cuts_off`].
    looked: u32,
}

impl Life {
    /// That of a connection that begins now.
    pub(super) fn new(conn: SharedConn, limits: &Limits) -> Self {
        let now = Instant::now();
        let jitter = 0.9 + fastrand::f64() / 5.0;
        Self {
            conn,
            timer: Timer::new(),
            settings_by: timer::deadline(now, limits.header_read),
            ages_at: timer::deadline(now, limits.connection_age.mul_f64(jitter)),
            idle_since: None,
            awaited: None,
            last_words_by: None,
            unread: None,
            requests: 0,
            looked: 0,
        }
    }

    /// Ends the connection politely (two GOAWAYs) once it is old, has served enough, is idle too
    /// long, its peer is not trusted any more, or the worker stops; at once where nothing that it said makes sense,
    /// and where its client has said that it goes (RFC 9113 section 6.8).
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        worker: &Worker,
        limits: &Limits,
    ) -> Poll<()> {
        let conn = self.conn.clone();
        let mut conn = conn.borrow_mut();
        if worker.cuts_off(|| conn.hoard(), &mut self.looked) {
            conn.fail(Fatal::Abuse(Abuse::Unread));
        }
        if self.poll_awaited(cx, &conn, limits.header_read).is_ready() {
            conn.fail(Fatal::Abuse(Abuse::Slow));
        }
        loop {
            if conn.phase() == Phase::Closing {
                return self.poll_last_words(cx, &conn, limits.stream_idle);
            }
            if conn.peer_leaving && conn.live() == 0 {
                conn.finish(Reason::NO_ERROR);
                continue;
            }
            if conn.end_is_settled() {
                if conn.live() > 0 {
                    return Poll::Pending;
                }
                conn.finish(Reason::NO_ERROR);
                continue;
            }
            if self.last_words_by.is_some() {
                ready!(self.poll_pong(cx, conn.pong));
                conn.settle_end();
                continue;
            }
            let over = self.requests >= limits.requests_per_connection
                || worker.ends(self.requests > 0 && conn.live() == 0)
                || conn.is_leaving();
            if !over && !conn.peer.known {
                ready!(self.timer.poll_maybe(cx, self.settings_by));
                conn.finish(Reason::PROTOCOL_ERROR);
                continue;
            }
            let until = self.deadline(&conn, limits);
            if !over {
                ready!(self.timer.poll_maybe(cx, until));
            }
            conn.announce_end();
            self.last_words_by = timer::deadline(Instant::now(), LAST_WORDS);
        }
    }

    fn poll_pong(&mut self, cx: &mut Context<'_>, pong: bool) -> Poll<()> {
        if pong {
            return Poll::Ready(());
        }
        self.timer.poll_maybe(cx, self.last_words_by)
    }

    /// Ready where a head, or another frame, has begun and is not there in time: nothing else of the connection is
    /// read before it.
    fn poll_awaited(&mut self, cx: &mut Context<'_>, conn: &Conn, time: Duration) -> Poll<()> {
        let Some(number) = conn.awaited() else {
            self.awaited = None;
            return Poll::Pending;
        };
        let known = self.awaited.filter(|(known, _)| *known == number);
        self.awaited = known.or_else(|| Some((number, timer::deadline(Instant::now(), time)?)));
        self.timer.poll_maybe(cx, self.awaited.map(|(_, by)| by))
    }

    /// The last of what streams had queued may be read as slowly as any answer, for the socket's end takes from a
    /// client that still speaks what it has not read (RFC 9112 section 9.6). A peer at fault, and one that has it all,
    /// are not waited for.
    fn poll_last_words(&mut self, cx: &mut Context<'_>, conn: &Conn, stall: Duration) -> Poll<()> {
        loop {
            let now = Instant::now();
            let left = match conn.fatal {
                Some(_) => 0,
                None => Some(conn.unread()).filter(|n| *n > WORDS).unwrap_or(0),
            };
            if self.unread != Some(left) {
                self.unread = Some(left);
                let time = if left == 0 { LAST_WORDS } else { stall };
                self.last_words_by = timer::deadline(now, time);
            }
            if left == 0 {
                return self.timer.poll_maybe(cx, self.last_words_by);
            }
            // Nothing tells when the peer has acknowledged some of it.
            let look = now + LAST_WORDS;
            let by = self.last_words_by.unwrap_or(look);
            ready!(self.timer.poll_at(cx, by.min(look)));
            if by <= look {
                return Poll::Ready(());
            }
        }
    }

    fn deadline(&mut self, conn: &Conn, limits: &Limits) -> Option<Instant> {
        if conn.live() > 0 {
            self.idle_since = None;
            return self.ages_at;
        }
        let since = *self.idle_since.get_or_insert_with(Instant::now);
        let idle = timer::deadline(since, limits.downstream_idle);
        match (idle, self.ages_at) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }
}
