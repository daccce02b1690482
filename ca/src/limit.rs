//! Calls per second for each address and for each identity, so that one caller cannot keep the signing
//! key busy.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Most callers remembered; beyond it strangers wait until others fall silent.
const MAX_CALLERS: usize = 8192;
/// At most this often all buckets are looked at, or a flood of callers would pay for a scan each.
const SWEEP: Duration = Duration::from_secs(1);

/// One token bucket for each caller.
#[derive(Debug)]
pub(crate) struct Limiter<K> {
    /// Calls per second.
    rate: f64,
    /// Calls at once.
    burst: f64,
    state: Mutex<State<K>>,
}

#[derive(Debug)]
struct State<K> {
    buckets: HashMap<K, Bucket>,
    swept: Option<Instant>,
}

#[derive(Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl<K: Eq + Hash> Limiter<K> {
    pub(crate) fn new(rate: u32, burst: u32) -> Self {
        let (buckets, swept) = (HashMap::new(), None);
        Self {
            rate: f64::from(rate),
            burst: f64::from(burst),
            state: Mutex::new(State { buckets, swept }),
        }
    }

    /// Whether `caller` may make one more call at `now`.
    pub(crate) fn admit(&self, caller: K, now: Instant) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.buckets.contains_key(&caller) && state.buckets.len() >= MAX_CALLERS {
            if state.swept.is_none_or(|at| now.duration_since(at) >= SWEEP) {
                state.swept = Some(now);
                // What is full again may as well be forgotten.
                let refill = Duration::from_secs_f64(self.burst / self.rate);
                state
                    .buckets
                    .retain(|_, bucket| now.duration_since(bucket.at) < refill);
            }
            if state.buckets.len() >= MAX_CALLERS {
                return false;
            }
        }
        let bucket = state.buckets.entry(caller).or_insert(Bucket {
            left: self.burst,
            at: now,
        });
        let gained = now.duration_since(bucket.at).as_secs_f64() * self.rate;
        bucket.left = (bucket.left + gained).min(self.burst);
        bucket.at = now;
        if bucket.left < 1.0 {
            return false;
        }
        bucket.left -= 1.0;
        true
    }
}

/// Who counts as one caller: an IPv4 address, or an IPv6 /64, which one host has for itself.
pub(crate) fn subject(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn v4(n: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(n))
    }

    #[test]
    fn each_caller_has_a_bucket_that_refills() {
        let limiter = Limiter::new(5, 5);
        let start = Instant::now();
        let used = (0..10).filter(|_| limiter.admit(v4(1), start)).count();
        assert_eq!(used, 5);
        assert!(limiter.admit(v4(2), start));
        assert!(limiter.admit(v4(1), start + Duration::from_millis(200)));
        assert!(!limiter.admit(v4(1), start + Duration::from_millis(200)));
    }

    #[test]
    fn one_ipv6_host_is_one_caller() {
        let limiter = Limiter::new(1, 1);
        let now = Instant::now();
        let admit = |text: &str| limiter.admit(subject(text.parse().unwrap()), now);
        assert!(admit("fd00:0:0:1::1"));
        assert!(!admit("fd00:0:0:1::2"));
        assert!(admit("fd00:0:0:2::1"));
        assert!(admit("::ffff:10.0.0.1"));
        assert!(!admit("10.0.0.1"));
    }

    #[test]
    fn memory_is_bounded_and_freed_by_silence() {
        let limiter = Limiter::new(5, 5);
        let start = Instant::now();
        let most = u32::try_from(MAX_CALLERS).unwrap();
        assert!((0..most).all(|n| limiter.admit(v4(n), start)));
        assert!(!limiter.admit(v4(most), start));
        assert!(limiter.admit(v4(0), start));
        assert!(limiter.admit(v4(most), start + SWEEP));
    }
}
