//! How long a downstream HTTP/2 connection may go on, and how it ends.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use selvedge_contract::defaults::Limits;
use tokio::time::Instant;

use crate::protocol::linger::{LAST_WORDS, Linger};
use crate::timer::{self, Timer};
use crate::worker::Worker;

use super::budget::Abuse;
use super::conn::{Conn, Fatal, Phase, SharedConn};
use super::frame::Reason;

/// How long a connection may go on.
pub(super) struct Life {
    conn: SharedConn,
    timer: Timer,
    /// SETTINGS must have come by then.
    settings_by: Option<Instant>,
    ages_at: Option<Instant>,
    idle_since: Option<Instant>,
    /// What was begun and is not there yet, see [`Conn::awaited`], and by when it must be.
    awaited: Option<((u64, usize), Instant)>,
    /// It is told to go, and has answered by then, or is told which stream was the last.
    pong_by: Option<Instant>,
    lingering: Linger,
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
            pong_by: None,
            lingering: Linger::new(),
            requests: 0,
            looked: 0,
        }
    }

    /// Ends the connection politely (two GOAWAYs) once it is old, has served enough, is idle too
    /// long, its peer is not trusted any more, the worker stops, or its client wants nothing begun and nothing is under
    /// way (RFC 9113 section 6.8); at once where nothing that it said makes sense.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        worker: &Worker,
        limits: &Limits,
    ) -> Poll<()> {
        let conn = self.conn.clone();
        let mut conn = conn.borrow_mut();
        if worker.cuts_off(|| conn.hoard(), &mut self.looked) {
            if conn.phase() == Phase::Closing {
                return Poll::Ready(());
            }
            conn.fail(Fatal::Abuse(Abuse::Unread));
        }
        if self.poll_awaited(cx, &conn, limits.header_read).is_ready() {
            conn.fail(Fatal::Abuse(Abuse::Slow));
        }
        loop {
            if conn.phase() == Phase::Closing {
                return self.poll_lingering(cx, &conn, limits.stream_idle);
            }
            if conn.end_is_settled() {
                if conn.live() > 0 {
                    return Poll::Pending;
                }
                conn.finish(Reason::NO_ERROR);
                continue;
            }
            if self.pong_by.is_some() {
                ready!(self.poll_pong(cx, conn.pong));
                conn.settle_end();
                continue;
            }
            let over = self.requests >= limits.requests_per_connection
                || worker.ends(self.requests > 0 && conn.live() == 0)
                || conn.is_leaving()
                || (conn.peer_leaving && conn.live() == 0);
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
            self.pong_by = timer::deadline(Instant::now(), LAST_WORDS);
        }
    }

    fn poll_pong(&mut self, cx: &mut Context<'_>, pong: bool) -> Poll<()> {
        if pong {
            return Poll::Ready(());
        }
        self.timer.poll_maybe(cx, self.pong_by)
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

    /// A peer at fault is not waited for.
    fn poll_lingering(&mut self, cx: &mut Context<'_>, conn: &Conn, stall: Duration) -> Poll<()> {
        let left = if conn.fatal.is_some() {
            0
        } else {
            conn.unacknowledged()
        };
        self.lingering.poll(cx, &mut self.timer, left, stall)
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
