//! What directories answer beside the protocol that the crate reads: read strictly, bounded.

use std::time::{Duration, SystemTime};

use selvedge_contract::defaults::acme::RETRY_AFTER_MAX;
use serde::Deserialize;

use crate::fetch::Address;

/// The resources of a directory (RFC 8555 section 7.1.1), as far as we look at them ourselves.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// For nonces.
    pub new_nonce: String,
    /// For accounts.
    pub new_account: String,
    /// For orders.
    pub new_order: String,
    /// For renewal windows, where there are such (RFC 9773 section 4.1).
    pub renewal_info: Option<String>,
}

impl Resources {
    /// Reads a directory whose addresses are all `https://`: the protocol's crate takes it for
    /// granted that they are addresses.
    #[must_use]
    pub fn read(json: &[u8]) -> Option<Self> {
        let resources: Self = serde_json::from_slice(json).ok()?;
        let is_safe = |url: &String| url.parse::<Address>().is_ok_and(|a| a.is_https());
        let safe = is_safe(&resources.new_nonce)
            && is_safe(&resources.new_account)
            && is_safe(&resources.new_order)
            && resources.renewal_info.iter().all(is_safe);
        safe.then_some(resources)
    }
}

/// The window in which a directory wants a certificate renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Its beginning.
    pub start: SystemTime,
    /// Its end, later than that.
    pub end: SystemTime,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RenewalInfo {
    suggested_window: SuggestedWindow,
}

#[derive(Deserialize)]
struct SuggestedWindow {
    start: String,
    end: String,
}

impl Window {
    /// Reads renewal information; a window that ends before it begins is none (RFC 9773 section
    /// 4.2).
    #[must_use]
    pub fn read(json: &[u8]) -> Option<Self> {
        let info: RenewalInfo = serde_json::from_slice(json).ok()?;
        let time = |text: &str| text.parse::<jiff::Timestamp>().ok().map(SystemTime::from);
        let start = time(&info.suggested_window.start)?;
        let end = time(&info.suggested_window.end)?;
        (start < end).then_some(Self { start, end })
    }

    /// A time in it; `random` in 0..1 spreads the fleet.
    #[must_use]
    pub fn pick(self, random: f64) -> SystemTime {
        let length = self.end.duration_since(self.start).unwrap_or_default();
        self.start + length.mul_f64(random)
    }
}

/// `Retry-After` (RFC 9110 section 10.2.3), in seconds or as a date, at most a day.
#[must_use]
pub fn pause_of(told: &str, now: SystemTime) -> Option<Duration> {
    let told = told.trim();
    let pause = match told.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        // More digits than a number has.
        Err(_) if !told.is_empty() && told.bytes().all(|b| b.is_ascii_digit()) => RETRY_AFTER_MAX,
        Err(_) => {
            let date = jiff::fmt::rfc2822::parse(told).ok()?;
            let date = SystemTime::from(date.timestamp());
            date.duration_since(now).unwrap_or_default()
        }
    };
    Some(pause.min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_bounded() {
        let pause = |text| pause_of(text, SystemTime::UNIX_EPOCH).map(|d| d.as_secs());
        assert_eq!(pause("120"), Some(120));
        assert_eq!(pause(" 0 "), Some(0));
        for long in ["86401", "18446744073709551615", "99999999999999999999999"] {
            assert_eq!(pause(long), Some(86_400), "{long}");
        }
        assert_eq!(pause("Thu, 01 Jan 1970 00:01:00 GMT"), Some(60));
        for bad in ["", "soon", "-1", "1.5"] {
            assert_eq!(pause(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_directory_names_addresses_that_are_safe() {
        let with = |nonce: &str| {
            let json = serde_json::json!({ "newNonce": nonce, "newAccount": "https://a/1",
                "newOrder": "https://a/2" });
            Resources::read(json.to_string().as_bytes()).is_some()
        };
        assert!(with("https://a/nonce"));
        for bad in [
            "",
            "http://a/",
            "https://",
            "https://a b/",
            "nonce",
            "https://u@a/",
        ] {
            assert!(!with(bad), "{bad}");
        }
        assert!(Resources::read(b"<html>").is_none() && Resources::read(b"[]").is_none());
    }

    #[test]
    fn windows_are_read_strictly() {
        let read = |start: &str, end: &str| {
            let json = serde_json::json!({ "suggestedWindow": { "start": start, "end": end } });
            Window::read(json.to_string().as_bytes())
        };
        assert!(read("2026-01-02T04:00:00Z", "2026-01-03T04:00:00Z").is_some());
        assert!(read("2026-01-03T04:00:00Z", "2026-01-02T04:00:00Z").is_none());
        assert!(read("tomorrow", "2026-01-02T04:00:00Z").is_none());
        assert!(Window::read(b"{}").is_none() && Window::read(b"\xff").is_none());
    }
}
