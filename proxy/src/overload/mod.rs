//! Beside the path: how near the process is to the end of its memory or its descriptors, and what is
//! given up first, so that it does not come to that end.
//!
//! The control thread looks at memory, workers at what it has found. Descriptors need no count: the kernel gives out the lowest number that is free.

mod memory;

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU8, AtomicU32};
use std::time::Duration;

use selvedge_contract::defaults::overload::{CLOSE_IDLE, EASE, REFUSE_REQUESTS, STOP_ACCEPTING};
use selvedge_contract::defaults::process::SPARE_DESCRIPTORS;

use tokio::sync::watch;

use crate::worker::Shared;

use memory::Memory;

/// How short memory is. Later ones include what earlier ones give up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// There is enough.
    #[default]
    None,
    /// Connections end as soon as nothing is in flight on them, towards both sides.
    CloseIdle,
    /// Requests are answered with 503, streams of bytes are closed, nothing is connected to, and who
    /// does not read what is there for them is cut off, first who hoards most.
    RefuseRequests,
    /// Connections are closed at once.
    StopAccepting,
}

impl Pressure {
    const ALL: [(Self, u64); 3] = [
        (Self::StopAccepting, STOP_ACCEPTING),
        (Self::RefuseRequests, REFUSE_REQUESTS),
        (Self::CloseIdle, CLOSE_IDLE),
    ];

    /// What follows from so many bytes of as many as may be, now that it is `self`: it rises at once,
    /// and falls only once there is a little more room than it needs.
    fn after(self, used: u64, ceiling: u64) -> Self {
        let percent = (u128::from(used) * 100 / u128::from(ceiling.max(1))) as u64;
        let fits = |(level, from): &(Self, u64)| {
            percent >= *from || (*level <= self && percent + EASE >= *from)
        };
        let found = Self::ALL.into_iter().find(|known| fits(known));
        found.map_or(Self::None, |(level, _)| level)
    }
}

/// How short memory is, for all workers.
#[derive(Debug, Default)]
pub struct Gauge {
    level: AtomicU8,
    looks: AtomicU32,
    /// Told when there is something to give up.
    pub told: watch::Sender<()>,
}

impl Gauge {
    /// How short.
    #[must_use]
    pub fn level(&self) -> Pressure {
        match self.level.load(Relaxed) {
            0 => Pressure::None,
            1 => Pressure::CloseIdle,
            2 => Pressure::RefuseRequests,
            _ => Pressure::StopAccepting,
        }
    }

    /// How often memory was found to be short: who is cut off is found out once each time.
    #[must_use]
    pub fn looks(&self) -> u32 {
        self.looks.load(Relaxed)
    }

    fn set(&self, level: Pressure) {
        self.level.store(level as u8, Relaxed);
        self.looks.fetch_add(1, Relaxed);
        if level > Pressure::None {
            self.told.send_replace(());
        }
    }
}

/// Between two looks where nothing is bounded: a reload may change that ...
const UNBOUNDED: Duration = Duration::from_secs(1);
/// ... while there is enough ...
const CALM: Duration = Duration::from_millis(50);
/// ... and once more than half is used: a flood fills what is left in a moment.
const ALERT: Duration = Duration::from_millis(10);
/// So many looks ahead what is used is extrapolated, where it grows.
const AHEAD: u64 = 4;

/// Looks at memory for as long as the process lives.
pub async fn watch(shared: Arc<Shared>) {
    let mut memory = Memory::find();
    let process = &shared.metrics.process;
    let (mut last, mut grew) = (u64::MAX, 0);
    loop {
        let limit = shared.snapshot().source.limits.memory.map(|size| size.0);
        let before = shared.pressure.level();
        let (used, ceiling) = memory.look(limit).unwrap_or((0, 0));
        // Where a flood will be by the time that anything is done about it. One step alone is none: a
        // reload takes one.
        let grown = used.saturating_sub(last);
        let soon = used.saturating_add(grown.min(grew).saturating_mul(AHEAD));
        (last, grew) = (used, grown);
        process.memory_used.store(used, Relaxed);
        process.memory_ceiling.store(ceiling, Relaxed);
        let now = match ceiling {
            0 => Pressure::None,
            _ => before.after(soon, ceiling),
        };
        if now != before {
            tracing::warn!(?before, ?now, used, soon, ceiling, "memory");
        }
        // Who does not read is cut off again each time.
        if now != before || now >= Pressure::RefuseRequests {
            process.memory_pressure.store(now as u64, Relaxed);
            shared.pressure.set(now);
        }
        let pause = match now {
            _ if ceiling == 0 => UNBOUNDED,
            Pressure::None if used <= ceiling / 2 => CALM,
            _ => ALERT,
        };
        tokio::time::sleep(pause).await;
    }
}

/// From which descriptor on they are kept for admin, health and files.
#[derive(Debug, Clone, Copy)]
pub struct Spare(i64);

impl Spare {
    /// The last ones of those that the process may have; where that is not told, none.
    #[must_use]
    pub fn of_process() -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let most = limit.current.and_then(|most| i64::try_from(most).ok());
        let spare = i64::try_from(SPARE_DESCRIPTORS).unwrap_or_default();
        Self(most.map_or(i64::MAX, |most| most.saturating_sub(spare)))
    }

    /// Whether this one is of them: traffic must give it back.
    #[must_use]
    pub fn has(self, socket: &impl AsRawFd) -> bool {
        i64::from(socket.as_raw_fd()) >= self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_rises_at_once_and_falls_with_some_room() {
        use Pressure::{CloseIdle, None, RefuseRequests, StopAccepting};
        for (before, used, then) in [
            (None, 0, None),
            (None, 79, None),
            (None, 80, CloseIdle),
            (None, 90, RefuseRequests),
            (None, 95, StopAccepting),
            (None, 300, StopAccepting),
            (StopAccepting, 93, StopAccepting),
            (StopAccepting, 92, RefuseRequests),
            (RefuseRequests, 88, RefuseRequests),
            (RefuseRequests, 84, CloseIdle),
            (CloseIdle, 78, CloseIdle),
            (CloseIdle, 76, None),
            (StopAccepting, 10, None),
        ] {
            assert_eq!(before.after(used, 100), then, "{before:?} at {used}");
        }
        assert_eq!(None.after(u64::MAX, 0), StopAccepting);
    }

    #[test]
    fn the_last_descriptors_are_spare() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(!Spare::of_process().has(&socket));
        assert!(Spare(0).has(&socket));
    }
}
