//! Part of stage 7, balance: Maglev's table (<https://research.google/pubs/pub44824/>): each endpoint
//! takes places in an order of its own, by turns, until all are taken. A key is one look-up; spread is
//! nearly even, at the price of a few more keys that move than on a ring.

use std::sync::Arc;

use selvedge_contract::defaults::balance::MAGLEV_TABLE;

use crate::balance::Endpoint;
use crate::balance::key::{mixed, of_address};

/// Places of a table for more than [`FEW`] endpoints; prime. With fewer places for each, more keys than
/// those of an endpoint move when it goes: 1.6 times as many with 655 places.
const LARGE_TABLE: u64 = 655_373;

/// Endpoints that [`MAGLEV_TABLE`] does for.
const FEW: usize = 32;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Maglev {
    places: Vec<u32>,
}

/// Who takes places.
struct Taker {
    at: u64,
    skip: u64,
    weight: u64,
    /// What it has saved up for its next place, in parts of the greatest weight.
    saved: u64,
    index: u32,
}

impl Maglev {
    pub(super) fn of(list: &[Arc<Endpoint>]) -> Self {
        let size = if list.len() > FEW {
            LARGE_TABLE
        } else {
            MAGLEV_TABLE
        };
        let most = list.iter().map(|e| u64::from(e.weight)).max().unwrap_or(1);
        let mut takers: Vec<Taker> = (0u32..)
            .zip(list)
            .map(|(index, endpoint)| {
                let own = of_address(endpoint.address);
                Taker {
                    at: own % size,
                    skip: mixed(own) % (size - 1) + 1,
                    weight: endpoint.weight.into(),
                    saved: 0,
                    index,
                }
            })
            .collect();
        // In an order of their own, not in that of the list: that may change with every answer.
        takers.sort_unstable_by_key(|taker| (taker.at, taker.skip));
        let mut places = vec![u32::MAX; usize::try_from(size).unwrap_or(0)];
        let mut left = if takers.is_empty() { 0 } else { places.len() };
        while left > 0 {
            for taker in &mut takers {
                taker.saved += taker.weight;
                if taker.saved < most || left == 0 {
                    continue;
                }
                taker.saved -= most;
                if take(&mut places, taker, size) {
                    left -= 1;
                }
            }
        }
        Self { places }
    }

    /// Whose a key is.
    pub(super) fn find(&self, key: u64) -> Option<usize> {
        let at = key.checked_rem(self.places.len() as u64)?;
        let index = self.places.get(usize::try_from(at).ok()?)?;
        Some(*index as usize)
    }
}

/// Takes the next free place of this taker's order.
fn take(places: &mut [u32], taker: &mut Taker, size: u64) -> bool {
    for _ in 0..size {
        let at = usize::try_from(taker.at).unwrap_or(0);
        taker.at = (taker.at + taker.skip) % size;
        if let Some(place) = places.get_mut(at)
            && *place == u32::MAX
        {
            *place = taker.index;
            return true;
        }
    }
    false
}
