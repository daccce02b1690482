//! Part of stage 7, balance: a draw by weight in constant time, by Vose's alias method
//! (<https://doi.org/10.1109/32.92917>). The table is made when the endpoints change.

use std::sync::Arc;

use crate::balance::Endpoint;

/// See the module. Empty where all weigh the same: then any place will do.
#[derive(Debug, Default)]
pub(super) struct Draw {
    /// For each place: below this it is taken, else the other one.
    places: Vec<(u32, u32)>,
}

impl Draw {
    pub(super) fn of(list: &[Arc<Endpoint>]) -> Self {
        let first = list.first().map(|e| e.weight);
        if list.iter().all(|e| Some(e.weight) == first) {
            return Self::default();
        }
        let count = list.len() as u64;
        let total: u64 = list.iter().map(|e| u64::from(e.weight)).sum();
        // What each place has, in parts of which a full place has `total`.
        let mut have: Vec<u64> = list.iter().map(|e| u64::from(e.weight) * count).collect();
        let mut places = vec![(u32::MAX, 0); list.len()];
        let (mut small, mut large): (Vec<usize>, Vec<usize>) =
            (0..list.len()).partition(|at| have.get(*at).is_some_and(|have| *have < total));
        while let (Some(poor), Some(rich)) = (small.pop(), large.last().copied()) {
            let own = have.get(poor).copied().unwrap_or(0);
            if let Some(place) = places.get_mut(poor) {
                let bound = u128::from(own) * u128::from(u32::MAX) / u128::from(total.max(1));
                let other = u32::try_from(rich).unwrap_or(0);
                *place = (u32::try_from(bound).unwrap_or(u32::MAX), other);
            }
            if let Some(left) = have.get_mut(rich) {
                *left = (*left + own).saturating_sub(total);
                if *left < total {
                    large.pop();
                    small.push(rich);
                }
            }
        }
        Self { places }
    }

    /// A place among `count` by weight.
    pub(super) fn draw(&self, count: usize) -> usize {
        let at = fastrand::usize(..count.max(1));
        match self.places.get(at) {
            Some((bound, other)) if fastrand::u32(..) > *bound => *other as usize,
            _ => at,
        }
    }
}
