//! Stage 6, policy: when a request has to have an answer, by its rule and by what its caller asks for.

use std::time::Duration;

use tokio::time::Instant;

use crate::message::{Fields, Known, RequestHead};
use crate::route::Rule;
use crate::timer;

/// When a request that began at `start` has to have an answer, if it has to.
#[must_use]
pub fn whole(rule: &Rule, head: &RequestHead, start: Instant) -> Option<Instant> {
    let (deadline, _) = of(rule, head, start);
    deadline.filter(|_| head.upgrade.is_none())
}

/// The same for a request that is no upgrade, and whether it is what its caller asked for: he may ask for
/// less than the rule gives, never for more.
pub(super) fn of(rule: &Rule, head: &RequestHead, start: Instant) -> (Option<Instant>, bool) {
    let given = rule.request_timeout;
    let asked = asked_timeout(&head.fields).filter(|asked| given.is_zero() || *asked < given);
    let deadline = timer::deadline(start, asked.unwrap_or(given));
    (deadline, asked.is_some())
}

/// What the caller gives us: `grpc-timeout` (`<digits><H|M|S|m|u|n>`) or `X-Request-Timeout`
/// (seconds, or with a unit).
fn asked_timeout(fields: &Fields) -> Option<Duration> {
    // Nothing can be done in no time; and zero means "no limit" further on.
    told_timeout(fields).filter(|asked| !asked.is_zero())
}

fn told_timeout(fields: &Fields) -> Option<Duration> {
    if let Some(value) = fields.known(Known::GrpcTimeout) {
        let (unit, digits) = value.split_last()?;
        if digits.len() > 8 {
            return None;
        }
        let amount: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
        return match unit {
            b'H' => Some(Duration::from_secs(amount * 3600)),
            b'M' => Some(Duration::from_secs(amount * 60)),
            b'S' => Some(Duration::from_secs(amount)),
            b'm' => Some(Duration::from_millis(amount)),
            b'u' => Some(Duration::from_micros(amount)),
            b'n' => Some(Duration::from_nanos(amount)),
            _ => None,
        };
    }
    let text = std::str::from_utf8(fields.known(Known::XRequestTimeout)?).ok()?;
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(Duration::from_secs(u64::from(seconds)));
    }
    let parsed: Result<selvedge_contract::units::Duration, _> = text.parse();
    parsed.ok().map(|duration| duration.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_that_callers_ask_for() {
        let ask = |name: &[u8], value: &[u8]| {
            let mut fields = Fields::new();
            fields.append(name, value);
            asked_timeout(&fields)
        };
        assert_eq!(
            ask(b"grpc-timeout", b"250m"),
            Some(Duration::from_millis(250))
        );
        assert_eq!(ask(b"grpc-timeout", b"2S"), Some(Duration::from_secs(2)));
        assert_eq!(ask(b"grpc-timeout", b"123456789S"), None);
        assert_eq!(ask(b"grpc-timeout", b"S"), None);
        assert_eq!(
            ask(b"x-request-timeout", b"3"),
            Some(Duration::from_secs(3))
        );
        assert_eq!(
            ask(b"x-request-timeout", b"500ms"),
            Some(Duration::from_millis(500))
        );
        assert_eq!(ask(b"x-request-timeout", b"soon"), None);
        assert_eq!(ask(b"x-request-timeout", b"0"), None);
        assert_eq!(ask(b"grpc-timeout", b"0n"), None);
    }
}
