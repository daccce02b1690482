//! Part of stage 7, balance: which endpoints are used at all. Levels of priority, the own zone before
//! others, panic where too few are available, and the part of a very large service that this process
//! takes. Worked out when the endpoints change.

use std::collections::BTreeMap;
use std::sync::Arc;

use selvedge_contract::defaults::balance::OVERPROVISIONED;

use super::Endpoint;
use super::choose::Group;
use super::key::{mixed, of_address};
use super::plan::{Plan, Subset};

/// One level: its endpoints, those of them that are available, and its share of requests.
struct Level {
    all: Vec<Arc<Endpoint>>,
    available: Vec<Arc<Endpoint>>,
    share: u64,
}

impl Level {
    /// How much of a level's work its available endpoints can do, in percent: with
    /// [`OVERPROVISIONED`] a level loses nothing until more than a quarter of it is gone.
    fn health(&self) -> u64 {
        let share = self.available.len() as u64 * OVERPROVISIONED;
        share
            .checked_div(self.all.len() as u64)
            .unwrap_or(0)
            .min(100)
    }

    fn panics(&self, below: u32) -> bool {
        (self.available.len() as u64) * 100 < self.all.len() as u64 * u64::from(below)
    }
}

/// The groups that share requests, each with the last of its numbers: a request draws one of 2^32.
pub(super) fn groups(all: &[Arc<Endpoint>], plan: &Plan) -> Vec<(u32, Group)> {
    let mut levels: BTreeMap<(u16, bool), Level> = BTreeMap::new();
    for endpoint in all {
        let elsewhere = plan.zone.is_some() && endpoint.zone != plan.zone;
        let level = levels
            .entry((endpoint.priority, elsewhere))
            .or_insert_with(|| Level {
                all: Vec::new(),
                available: Vec::new(),
                share: 0,
            });
        level.all.push(endpoint.clone());
        if endpoint.is_available() {
            level.available.push(endpoint.clone());
        }
    }
    let mut levels: Vec<Level> = levels.into_values().collect();
    let mut left = 100;
    for level in &mut levels {
        level.share = level.health().min(left);
        left -= level.share;
    }
    if left > 0 {
        // All levels together cannot do the work: where too few are available, all are used.
        for level in &mut levels {
            if level.panics(plan.panic) {
                level.available.clone_from(&level.all);
                level.share = level.share.max(1);
            }
        }
    }
    let total: u64 = levels.iter().map(|level| level.share).sum();
    let mut sum = 0;
    let used = levels.into_iter().filter(|level| level.share > 0);
    used.map(|level| {
        sum += level.share;
        let last = u64::from(u32::MAX) * sum / total.max(1);
        let list = match plan.subset {
            Some(subset) => part(level.available, subset),
            None => level.available,
        };
        let last = u32::try_from(last).unwrap_or(u32::MAX);
        (last, Group::of(list, plan))
    })
    .collect()
}

/// The part that this process takes: those with the highest numbers of a draw that is the same each
/// time (rendezvous hashing), so that one endpoint that goes changes one of the part.
fn part(list: Vec<Arc<Endpoint>>, subset: Subset) -> Vec<Arc<Endpoint>> {
    if list.len() <= subset.size {
        return list;
    }
    let drawn = |e: &Arc<Endpoint>| mixed(of_address(e.address) ^ mixed(subset.seed));
    let mut drawn: Vec<_> = list.into_iter().map(|e| (drawn(&e), e)).collect();
    drawn.sort_unstable_by_key(|(number, _)| std::cmp::Reverse(*number));
    drawn.truncate(subset.size);
    let mut part: Vec<_> = drawn.into_iter().map(|(_, e)| e).collect();
    part.sort_unstable_by_key(|e| e.address);
    part
}
