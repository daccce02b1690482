//! Connections that ended before the endpoint's first word: whoever waited for one is told, and the next
//! is not made at once. A peer that refuses our certificate tells so only after the handshake (RFC 8446
//! 4.4.2.4), which costs both sides more than a request.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use crate::error::{Error, ErrorKind};

/// No connection is made for so long after the first of them, twice as long after each further one ...
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// ... and this long at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What has gone wrong with the connections to one endpoint since the last that went well.
#[derive(Debug, Default)]
pub struct Setbacks {
    /// Of all time: who waits notices that there is another.
    count: Cell<u64>,
    in_a_row: Cell<u32>,
    until: Cell<Option<Instant>>,
    last: RefCell<Option<(ErrorKind, Rc<str>)>>,
}

/// How many there were when somebody began to wait.
#[derive(Debug, Clone, Copy)]
pub struct Mark(u64);

impl Setbacks {
    /// Where somebody begins to wait.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark(self.count.get())
    }

    /// Tells why a connection came to nothing.
    pub fn note(&self, kind: ErrorKind, why: &str, now: Instant) {
        self.count.set(self.count.get().wrapping_add(1));
        let doublings = self.in_a_row.get().min(8);
        self.in_a_row.set(self.in_a_row.get().saturating_add(1));
        let pause = FIRST_PAUSE.saturating_mul(1 << doublings);
        self.until.set(Some(now + pause.min(LONGEST_PAUSE)));
        *self.last.borrow_mut() = Some((kind, why.into()));
    }

    /// A connection went well.
    pub fn forget(&self) {
        self.in_a_row.set(0);
        self.until.set(None);
    }

    /// Why whoever has waited since then waits in vain, or should not begin to.
    ///
    /// # Errors
    /// That of the last connection, where there was one since, or where the next has to wait.
    pub fn check(&self, since: Mark, now: Instant) -> Result<(), Error> {
        let paused = self.until.get().is_some_and(|until| now < until);
        if since.0 == self.count.get() && !paused {
            return Ok(());
        }
        let last = self.last.borrow();
        let (kind, why) = last
            .as_ref()
            .map_or((ErrorKind::UpstreamRefused, ""), |(kind, why)| (*kind, why));
        Err(Error::with(kind, why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_and_ends_with_success() {
        let (setbacks, mut now) = (Setbacks::default(), Instant::now());
        let mark = setbacks.mark();
        assert!(setbacks.check(mark, now).is_ok());
        for pause in [50, 100, 200, 400, 800, 1000, 1000] {
            setbacks.note(ErrorKind::UpstreamTls, "alert", now);
            let error = setbacks.check(setbacks.mark(), now).unwrap_err();
            assert_eq!(error.kind, ErrorKind::UpstreamTls);
            now += Duration::from_millis(pause);
            assert!(setbacks.check(setbacks.mark(), now).is_ok(), "{pause}");
        }
        assert!(setbacks.check(mark, now).is_err(), "it was not there then");
        setbacks.note(ErrorKind::UpstreamTls, "alert", now);
        setbacks.forget();
        assert!(setbacks.check(setbacks.mark(), now).is_ok());
    }
}
