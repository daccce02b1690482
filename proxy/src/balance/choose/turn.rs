//! Part of stage 7, balance: the order of smooth weighted round robin, made when the endpoints change.
//! A pick takes the next place of it.

use std::sync::Arc;

use crate::balance::Endpoint;

/// Longest round-robin schedule; weights are scaled down to fit.
const MAX_SCHEDULE: u64 = 4096;

/// The smooth weighted order: each endpoint as often as its weight, as evenly spread as can be.
pub(super) fn smooth(available: &[Arc<Endpoint>]) -> Vec<u16> {
    let weights: Vec<u64> = available.iter().map(|e| u64::from(e.weight)).collect();
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let total: u64 = weights.iter().map(|w| w / divisor).sum();
    let scale = |w: u64| {
        let w = w / divisor;
        if total > MAX_SCHEDULE {
            (w * MAX_SCHEDULE / total).max(1)
        } else {
            w
        }
    };
    let weights: Vec<i64> = weights.iter().map(|w| scale(*w).cast_signed()).collect();
    let total: i64 = weights.iter().sum();
    if weights.iter().all(|w| *w == 1) {
        return (0..available.len())
            .filter_map(|at| u16::try_from(at).ok())
            .collect();
    }
    let mut current = vec![0i64; weights.len()];
    let mut order = Vec::new();
    for _ in 0..total {
        for (have, weight) in current.iter_mut().zip(&weights) {
            *have += weight;
        }
        // The first of the greatest, as nginx does it.
        let best = (0..current.len())
            .rev()
            .max_by_key(|at| current.get(*at).copied());
        if let Some(have) = best.and_then(|at| current.get_mut(at)) {
            *have -= total;
        }
        order.extend(best.and_then(|at| u16::try_from(at).ok()));
    }
    order
}

const fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
