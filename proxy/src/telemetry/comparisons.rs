//! Beside the path: what came of comparing a mirror's answers with those that clients got. Names and paths of what
//! differed are kept, never values: an answer may hold anybody's secrets.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use selvedge_contract::defaults::mirror::{KEPT, LINE_EVERY};
use tokio::time::Instant;

/// How a comparison ended. Of several differences, the first in this order counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing differs.
    Same,
    /// The statuses differ.
    Status,
    /// Headers or trailers differ.
    Headers,
    /// The bodies differ.
    Body,
    /// All else is the same, and the bodies could not be compared.
    NotCompared,
    /// The client's answer did not come to its end, or not in time.
    PrimaryIncomplete,
    /// The mirror gave no whole answer in time.
    MirrorFailed,
    /// Too many comparisons were under way.
    Skipped,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Same,
        Self::Status,
        Self::Headers,
        Self::Body,
        Self::NotCompared,
        Self::PrimaryIncomplete,
        Self::MirrorFailed,
        Self::Skipped,
    ];

    /// In metrics and on the admin page.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Status => "status",
            Self::Headers => "headers",
            Self::Body => "body",
            Self::NotCompared => "not_compared",
            Self::PrimaryIncomplete => "primary_incomplete",
            Self::MirrorFailed => "mirror_failed",
            Self::Skipped => "skipped",
        }
    }
}

/// What became of two bodies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bodies {
    /// They are the same, or were not to be compared.
    Same,
    /// Some bytes differ.
    Bytes,
    /// These members of two JSON documents differ.
    Members(Vec<String>),
    /// One of them is too long, or in a coding that is not known.
    NotCompared,
}

/// One difference.
#[derive(Debug, Clone)]
pub struct Difference {
    /// When it was found.
    pub at: SystemTime,
    /// The request's method, ...
    pub method: String,
    /// ... and its path, bounded, without the query.
    pub path: String,
    /// What the client got, and what the mirror answered, where they differ.
    pub status: Option<(u16, u16)>,
    /// Names of headers and trailers that differ, bounded.
    pub headers: Vec<String>,
    /// The bodies.
    pub bodies: Bodies,
}

impl Difference {
    /// What it counts as.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match &self.bodies {
            _ if self.status.is_some() => Outcome::Status,
            _ if !self.headers.is_empty() => Outcome::Headers,
            Bodies::Bytes | Bodies::Members(_) => Outcome::Body,
            Bodies::NotCompared => Outcome::NotCompared,
            Bodies::Same => Outcome::Same,
        }
    }
}

/// Comparisons with one mirror. They go on through reloads.
#[derive(Debug)]
pub struct Comparisons {
    /// Rule of the mirror.
    pub rule: Arc<str>,
    /// Service that it copies to.
    pub service: Arc<str>,
    counts: [AtomicU64; Outcome::ALL.len()],
    under_way: AtomicUsize,
    /// Locked where comparisons are made, which is on no worker.
    found: Mutex<Found>,
}

#[derive(Debug, Default)]
struct Found {
    last: VecDeque<Difference>,
    /// When the last line was written.
    told: Option<Instant>,
    untold: u64,
}

/// The right to compare two answers, held until that is done.
#[derive(Debug)]
pub struct Place(Arc<Comparisons>);

impl Comparisons {
    /// None so far.
    #[must_use]
    pub fn new(rule: Arc<str>, service: Arc<str>) -> Self {
        Self {
            rule,
            service,
            counts: Default::default(),
            under_way: AtomicUsize::new(0),
            found: Mutex::default(),
        }
    }

    /// The right to make one more while fewer than this many are under way; else it counts as skipped.
    #[must_use]
    pub fn begin(self: &Arc<Self>, most: usize) -> Option<Place> {
        let place = Place(self.clone());
        if self.under_way.fetch_add(1, Relaxed) < most {
            return Some(place);
        }
        self.count(Outcome::Skipped);
        None
    }

    /// How many ended so.
    #[must_use]
    pub fn of(&self, outcome: Outcome) -> u64 {
        let count = self.counts.get(outcome as usize);
        count.map_or(0, |count| count.load(Relaxed))
    }

    /// The last differences, the newest first.
    #[must_use]
    pub fn last(&self) -> Vec<Difference> {
        self.lock().last.iter().cloned().collect()
    }

    fn count(&self, outcome: Outcome) {
        if let Some(count) = self.counts.get(outcome as usize) {
            count.fetch_add(1, Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a difference, and tells of it in the log unless it has just told of another.
    fn note(&self, difference: Difference) {
        let now = Instant::now();
        let mut found = self.lock();
        let is_due = |told: Instant| now.saturating_duration_since(told) >= LINE_EVERY;
        if found.told.is_none_or(is_due) {
            found.told = Some(now);
            let untold = std::mem::take(&mut found.untold);
            tell(&self.rule, &difference, untold);
        } else {
            found.untold += 1;
        }
        found.last.truncate(KEPT - 1);
        found.last.push_front(difference);
    }
}

fn tell(rule: &str, difference: &Difference, untold: u64) {
    let Difference {
        method,
        path,
        status,
        headers,
        bodies,
        ..
    } = difference;
    let (client, mirror) = status.unzip();
    tracing::info!(
        %rule,
        method,
        path,
        client,
        mirror,
        ?headers,
        ?bodies,
        untold,
        "a mirror has answered otherwise"
    );
}

impl Place {
    /// Ends a comparison that found no difference, or was none.
    pub fn ended(self, outcome: Outcome) {
        self.0.count(outcome);
    }

    /// Ends one that did.
    pub fn differs(self, difference: Difference) {
        self.0.count(difference.outcome());
        self.0.note(difference);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(path: String) -> Difference {
        Difference {
            at: SystemTime::now(),
            method: "GET".to_owned(),
            path,
            status: None,
            headers: Vec::new(),
            bodies: Bodies::Bytes,
        }
    }

    #[test]
    fn places_and_what_is_kept_are_bounded() {
        let comparisons = Arc::new(Comparisons::new("r".into(), "s".into()));
        let held: Vec<_> = (0..3).filter_map(|_| comparisons.begin(2)).collect();
        assert_eq!((held.len(), comparisons.of(Outcome::Skipped)), (2, 1));
        drop(held);
        for nth in 0..KEPT + 5 {
            let place = comparisons.begin(1).unwrap();
            place.differs(difference(format!("/{nth}")));
        }
        let last = comparisons.last();
        assert_eq!(last.len(), KEPT);
        assert_eq!(last[0].path, format!("/{}", KEPT + 4));
        assert_eq!(comparisons.of(Outcome::Body), KEPT as u64 + 5);
        // One line, and a note of the rest.
        assert_eq!(comparisons.lock().untold, KEPT as u64 + 4);
    }

    #[test]
    fn the_gravest_difference_counts() {
        let mut it = difference(String::new());
        assert_eq!(it.outcome(), Outcome::Body);
        it.bodies = Bodies::NotCompared;
        assert_eq!(it.outcome(), Outcome::NotCompared);
        it.headers.push("etag".to_owned());
        assert_eq!(it.outcome(), Outcome::Headers);
        it.status = Some((200, 500));
        assert_eq!(it.outcome(), Outcome::Status);
    }
}
