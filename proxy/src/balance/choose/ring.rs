//! Part of stage 7, balance: a ring of points, some 150 for an endpoint of weight 1, on which a key goes
//! to the next one. When an endpoint goes, only its own keys move. Made when the endpoints change.

use std::sync::Arc;

use selvedge_contract::defaults::balance::VIRTUAL_NODES;

use crate::balance::Endpoint;
use crate::balance::key::{mixed, of_address};

/// Points of one ring. Past it each endpoint has fewer: memory stays bounded, the spread is coarser.
const MOST_POINTS: u64 = 1 << 18;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Ring {
    /// Where each point is, and whose it is; sorted.
    points: Vec<(u64, u32)>,
    /// The first point at or behind each of equal parts of the circle, so that none is searched for.
    starts: Vec<u32>,
    /// What of a key tells its part.
    shift: u32,
}

impl Ring {
    pub(super) fn of(list: &[Arc<Endpoint>]) -> Self {
        let wanted = |e: &Endpoint| u64::from(e.weight) * VIRTUAL_NODES;
        let total: u64 = list.iter().map(|e| wanted(e)).sum();
        // A power of two, so that it stays the same while endpoints come and go.
        let scale = total.div_ceil(MOST_POINTS).max(1).next_power_of_two();
        let mut points = Vec::new();
        for (index, endpoint) in (0u32..).zip(list) {
            let own = of_address(endpoint.address);
            let count = (wanted(endpoint) / scale).max(1);
            points.extend((0..count).map(|nth| (mixed(own ^ mixed(nth + 1)), index)));
        }
        points.sort_unstable();
        let parts = points.len().max(2).next_power_of_two();
        let shift = 64 - parts.trailing_zeros();
        let mut starts = Vec::with_capacity(parts);
        let mut at = 0u32;
        for part in 0..parts as u64 {
            while points
                .get(at as usize)
                .is_some_and(|(hash, _)| hash >> shift < part)
            {
                at += 1;
            }
            starts.push(at);
        }
        Self {
            points,
            starts,
            shift,
        }
    }

    /// Whose the points from a key on are, once round; the same one may come again and again.
    pub(super) fn from(&self, key: u64) -> impl Iterator<Item = usize> {
        let part = usize::try_from(key >> self.shift).unwrap_or(0);
        let start = self.starts.get(part).map_or(0, |at| *at as usize);
        let behind = self.points.get(start..).unwrap_or_default();
        let skipped = behind.iter().take_while(|(hash, _)| *hash < key).count();
        let (before, after) = self
            .points
            .split_at_checked(start + skipped)
            .unwrap_or_default();
        after.iter().chain(before).map(|(_, index)| *index as usize)
    }
}
