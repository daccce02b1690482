//! Part of stage 6, policy: how many requests of one client may be on their way at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use selvedge_gateway::occupancy::{Entry, Occupancy, Place};

use crate::error::ErrorKind;
use crate::message::Known;

use super::by::{By, plan};
use super::guard::{Notes, Seen, Stop};

/// Clients with requests on their way that are counted at a time; 8 bytes each.
pub const SLOTS: usize = 1 << 16;

/// A compiled policy.
#[derive(Debug)]
pub struct Concurrency {
    /// Name of the policy.
    pub name: Arc<str>,
    /// What tells clients apart.
    pub by: By,
    /// How many each may have.
    pub most: u32,
    /// How many those with a plan may have.
    pub plans: BTreeMap<String, u32>,
    /// The claim that names the plan; without one, the key's own.
    pub plan: Option<String>,
    /// Requests that were too many.
    pub refused: AtomicU64,
    /// Requests that were let through uncounted, since there were too many clients.
    pub uncounted: AtomicU64,
    /// Those that are on their way.
    pub counted: Occupancy,
}

/// A client's place, held to the last byte of the response.
#[derive(Debug)]
pub struct Held {
    policy: Arc<Concurrency>,
    place: Place,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.policy.counted.leave(&self.place);
    }
}

impl Concurrency {
    /// Whether it must know who calls.
    #[must_use]
    pub fn asks_who(&self) -> bool {
        self.by.asks_who() || !self.plans.is_empty()
    }

    /// Lets a request pass while its client has a place left, which it then holds.
    ///
    /// # Errors
    /// [`ErrorKind::TooManyAtOnce`].
    pub fn check(self: &Arc<Self>, seen: &mut Seen<'_>, notes: &mut Notes) -> Result<(), Stop> {
        let key = self.counted.key(|give| self.by.give(seen, give));
        match self.counted.enter(key, self.most(seen)) {
            Entry::Placed(place) => notes.held.push(Held {
                policy: self.clone(),
                place,
            }),
            Entry::Uncounted => {
                self.uncounted.fetch_add(1, Relaxed);
            }
            Entry::Full => {
                self.refused.fetch_add(1, Relaxed);
                // Nobody knows when the first of its requests ends.
                notes.fields.append_known(Known::RetryAfter, b"1");
                return Err(ErrorKind::TooManyAtOnce.into());
            }
        }
        Ok(())
    }

    fn most(&self, seen: &Seen<'_>) -> u32 {
        let plan = plan(seen, self.plan.as_deref());
        let own = plan.and_then(|plan| self.plans.get(plan));
        own.copied().unwrap_or(self.most)
    }
}
