//! Certificate times: X.509 counts whole seconds, so this crate does too.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::CertificateParams;
use x509_parser::certificate::X509Certificate;

/// How far `notBefore` lies in the past: the clocks of a mesh differ by that much.
pub(crate) const BACKDATE: Duration = Duration::from_secs(60);
/// The last second that X.509 can write, 9999-12-31T23:59:59Z (RFC 5280 section 4.1.2.5).
const LAST: u64 = 253_402_300_799;

/// Seconds since 1970; `None` for a clock outside 1970 to 9999.
pub(crate) fn unix_seconds(at: SystemTime) -> Option<u64> {
    let seconds = at.duration_since(UNIX_EPOCH).ok()?.as_secs();
    (seconds <= LAST).then_some(seconds)
}

/// Both ends are seconds since 1970 and belong to the validity (RFC 5280 section 4.1.2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) not_before: u64,
    pub(crate) not_after: u64,
}

impl Validity {
    /// From a minute ago until `life` from now, but not after `limit`.
    ///
    /// `None` when the clock is outside X.509's range or nothing would be left.
    pub(crate) fn starting(now: SystemTime, life: Duration, limit: u64) -> Option<Self> {
        let start = unix_seconds(now)?;
        let not_after = start.saturating_add(life.as_secs()).min(limit).min(LAST);
        (not_after > start).then_some(Self {
            not_before: start.saturating_sub(BACKDATE.as_secs()),
            not_after,
        })
    }

    pub(crate) fn of(certificate: &X509Certificate<'_>) -> Self {
        let times = certificate.validity();
        // Before 1970 is as good as 1970.
        let seconds = |at: i64| u64::try_from(at).unwrap_or(0);
        Self {
            not_before: seconds(times.not_before.timestamp()),
            not_after: seconds(times.not_after.timestamp()),
        }
    }

    pub(crate) fn contains(self, now: SystemTime) -> bool {
        unix_seconds(now).is_some_and(|now| self.not_before <= now && now <= self.not_after)
    }

    /// Whether less than a third of the whole life is left.
    /// Whether its first second has come.
    pub(crate) fn has_begun(self, now: SystemTime) -> bool {
        unix_seconds(now).is_some_and(|now| self.not_before <= now)
    }

    pub(crate) fn is_due(self, now: SystemTime) -> bool {
        let Some(now) = unix_seconds(now) else {
            return false;
        };
        let left = self.not_after.saturating_sub(now);
        left.saturating_mul(3) < self.not_after.saturating_sub(self.not_before)
    }

    pub(crate) fn end(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.not_after)
    }

    pub(crate) fn write_to(self, params: &mut CertificateParams) {
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        // Cannot overflow: `starting` keeps both below the year 10000.
        params.not_before = epoch + Duration::from_secs(self.not_before);
        params.not_after = epoch + Duration::from_secs(self.not_after);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn life_is_cut_to_the_issuer_and_never_empty() {
        let hour = Duration::from_secs(3600);
        let whole = Validity::starting(at(1000), hour, u64::MAX).unwrap();
        assert_eq!((whole.not_before, whole.not_after), (940, 4600));
        let cut = Validity::starting(at(1000), hour, 1001).unwrap();
        assert_eq!(cut.not_after, 1001);
        assert_eq!(Validity::starting(at(1000), hour, 1000), None);
        assert_eq!(Validity::starting(at(LAST + 1), hour, u64::MAX), None);
        let early = UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(Validity::starting(early, hour, u64::MAX), None);
    }

    #[test]
    fn due_in_the_last_third() {
        let life = Validity {
            not_before: 0,
            not_after: 300,
        };
        assert!(!life.is_due(at(200)));
        assert!(life.is_due(at(201)));
        assert!(life.is_due(at(1000)));
        assert!(life.contains(at(0)) && life.contains(at(300)));
        assert!(!life.contains(at(301)));
    }
}
