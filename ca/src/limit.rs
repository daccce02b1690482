//! Calls per second for each address, so that one caller cannot keep the signing key busy.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Most addresses remembered; beyond it strangers wait until others fall silent.
const MAX_ADDRESSES: usize = 8192;
/// A bucket that was idle this long is full again, so forgetting it changes nothing.
const REFILL: Duration = Duration::from_secs(1);

/// One token bucket for each address, all of `rate` per second and a burst of one second.
#[derive(Debug)]
pub(crate) struct Limiter {
    rate: f64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    buckets: HashMap<IpAddr, Bucket>,
    swept: Option<Instant>,
}

#[derive(Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Limiter {
    pub(crate) fn new(rate: u32) -> Self {
        Self {
            rate: f64::from(rate),
            state: Mutex::default(),
        }
    }

    /// Whether `address` may make one more call at `now`.
    pub(crate) fn admit(&self, address: IpAddr, now: Instant) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let key = subject(address);
        if !state.buckets.contains_key(&key) && state.buckets.len() >= MAX_ADDRESSES {
            // At most once per second, or a flood of addresses would pay for a scan each.
            if state
                .swept
                .is_none_or(|at| now.duration_since(at) >= REFILL)
            {
                state.swept = Some(now);
                state
                    .buckets
                    .retain(|_, bucket| now.duration_since(bucket.at) < REFILL);
            }
            if state.buckets.len() >= MAX_ADDRESSES {
                return false;
            }
        }
        let bucket = state.buckets.entry(key).or_insert(Bucket {
            left: self.rate,
            at: now,
        });
        let gained = now.duration_since(bucket.at).as_secs_f64() * self.rate;
        bucket.left = (bucket.left + gained).min(self.rate);
        bucket.at = now;
        if bucket.left < 1.0 {
            return false;
        }
        bucket.left -= 1.0;
        true
    }
}

/// Who counts as one caller: an IPv4 address, or an IPv6 /64, which one host has for itself.
fn subject(address: IpAddr) -> IpAddr {
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
    fn each_address_has_its_own_bucket_that_refills() {
        let limiter = Limiter::new(5);
        let start = Instant::now();
        let used = (0..10).filter(|_| limiter.admit(v4(1), start)).count();
        assert_eq!(used, 5);
        assert!(limiter.admit(v4(2), start));
        assert!(limiter.admit(v4(1), start + Duration::from_millis(200)));
        assert!(!limiter.admit(v4(1), start + Duration::from_millis(200)));
    }

    #[test]
    fn one_ipv6_host_is_one_caller() {
        let limiter = Limiter::new(1);
        let now = Instant::now();
        assert!(limiter.admit("fd00:0:0:1::1".parse().unwrap(), now));
        assert!(!limiter.admit("fd00:0:0:1::2".parse().unwrap(), now));
        assert!(limiter.admit("fd00:0:0:2::1".parse().unwrap(), now));
        assert!(limiter.admit("::ffff:10.0.0.1".parse().unwrap(), now));
        assert!(!limiter.admit("10.0.0.1".parse().unwrap(), now));
    }

    #[test]
    fn memory_is_bounded_and_freed_by_silence() {
        let limiter = Limiter::new(5);
        let start = Instant::now();
        let most = u32::try_from(MAX_ADDRESSES).unwrap();
        assert!((0..most).all(|n| limiter.admit(v4(n), start)));
        assert!(!limiter.admit(v4(most), start));
        assert!(limiter.admit(v4(0), start));
        assert!(limiter.admit(v4(most), start + REFILL));
    }
}
