//! Durations and sizes as people write them: parsed at the edge, typed from then on.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration as Std;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A length of time, written `250ms`, `10s`, `5m`, `1h` or `1h30m` (Gateway API's `Duration`).
///
/// Units: `h`, `m`, `s`, `ms`. At most a year. `0s` switches a limit off where its entry says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(pub Std);

/// A number of bytes, written `512`, `64KiB`, `10MiB`, `1GiB` (also `kB`, `MB`, `GB`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(pub u64);

/// What was expected where a unit could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not a duration.
    #[error("a duration such as `250ms`, `10s`, `5m` or `1h30m`")]
    Duration,
    /// A duration longer than a year.
    #[error("a duration of a year at most")]
    TooLong,
    /// Not a rate.
    #[error("a rate such as `100/min`, `10/s`, `1000/day`, `50000/month` or `50/10s`")]
    Rate,
    /// Not a throughput.
    #[error("1KiB/s or more, such as `512KiB/s` or `10MiB/s`")]
    Throughput,
    /// Not a size.
    #[error("a size such as `512`, `64KiB`, `10MiB` or `1GiB`")]
    Size,
}

const YEAR_MS: u64 = 366 * 24 * 3_600_000;

impl FromStr for Duration {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let mut rest = text;
        let mut total: u64 = 0;
        if rest.is_empty() {
            return Err(UnitError::Duration);
        }
        // Units must fall: `1h30m`, never `30m1h`; each at most once.
        let mut last = u64::MAX;
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, after) = rest.split_at(digits);
            let number: u64 = number.parse().map_err(|_| UnitError::Duration)?;
            let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
            let (unit, after) = after.split_at(letters);
            let factor = match unit {
                "h" => 3_600_000,
                "m" => 60_000,
                "s" => 1000,
                "ms" => 1,
                _ => return Err(UnitError::Duration),
            };
            if factor >= last {
                return Err(UnitError::Duration);
            }
            last = factor;
            let part = number.checked_mul(factor).ok_or(UnitError::TooLong)?;
            total = total.checked_add(part).ok_or(UnitError::TooLong)?;
            rest = after;
        }
        if total > YEAR_MS {
            return Err(UnitError::TooLong);
        }
        Ok(Self(Std::from_millis(total)))
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = self.0.as_millis();
        if left == 0 {
            return f.write_str("0s");
        }
        for (factor, unit) in [(3_600_000, "h"), (60_000, "m"), (1000, "s"), (1, "ms")] {
            let count = left / factor;
            left %= factor;
            if count > 0 {
                write!(f, "{count}{unit}")?;
            }
        }
        Ok(())
    }
}

/// A number of requests in a time, such as `100/min`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many, at least one.
    pub count: u64,
    /// In which time, at least a millisecond and at most a year.
    pub period: Std,
}

impl FromStr for Rate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (count, period) = text.split_once('/').ok_or(UnitError::Rate)?;
        let period = match period {
            "s" | "sec" | "second" => Std::from_secs(1),
            "m" | "min" | "minute" => Std::from_mins(1),
            "h" | "hour" => Std::from_hours(1),
            "d" | "day" => Std::from_hours(24),
            // A quota earns back as it goes: calendars would let everybody begin at once.
            "month" => Std::from_hours(24 * 30),
            other => other.parse::<Duration>().map_err(|_| UnitError::Rate)?.0,
        };
        let digits = count.bytes().all(|b| b.is_ascii_digit());
        let count: u64 = count.parse().map_err(|_| UnitError::Rate)?;
        if !digits || count == 0 || period.is_zero() {
            return Err(UnitError::Rate);
        }
        Ok(Self { count, period })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let period = match self.period.as_millis() {
            1000 => "s".to_owned(),
            60_000 => "min".to_owned(),
            3_600_000 => "hour".to_owned(),
            86_400_000 => "day".to_owned(),
            2_592_000_000 => "month".to_owned(),
            _ => Duration(self.period).to_string(),
        };
        write!(f, "{}/{period}", self.count)
    }
}

const SIZES: [(&str, u64); 7] = [
    ("", 1),
    ("kB", 1000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
];

impl FromStr for Size {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| UnitError::Size)?;
        let factor = SIZES
            .iter()
            .find(|(name, _)| *name == unit)
            .map(|(_, factor)| *factor)
            .ok_or(UnitError::Size)?;
        number
            .checked_mul(factor)
            .filter(|bytes| *bytes <= 1 << 40)
            .map(Self)
            .ok_or(UnitError::Size)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, factor) in [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
            if self.0 >= factor && self.0.is_multiple_of(factor) {
                return write!(f, "{}{unit}", self.0 / factor);
            }
        }
        write!(f, "{}", self.0)
    }
}

/// A number of bytes a second, such as `1MiB/s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Throughput(pub u64);

impl FromStr for Throughput {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let size = text.strip_suffix("/s").ok_or(UnitError::Throughput)?;
        match size.parse::<Size>() {
            // Below it, whoever waits would take the connection to be dead.
            Ok(size) if size.0 >= 1 << 10 => Ok(Self(size.0)),
            _ => Err(UnitError::Throughput),
        }
    }
}

impl fmt::Display for Throughput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", Size(self.0))
    }
}

/// The names under which the units stand in the schema (`format`).
pub const DURATION_FORMAT: &str = "selvedge-duration";
/// See [`DURATION_FORMAT`].
pub const SIZE_FORMAT: &str = "selvedge-size";
/// See [`DURATION_FORMAT`].
pub const RATE_FORMAT: &str = "selvedge-rate";
/// See [`DURATION_FORMAT`].
pub const THROUGHPUT_FORMAT: &str = "selvedge-throughput";

macro_rules! as_text {
    ($type:ty, $name:literal, $format:expr, $types:expr, $example:literal) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                #[derive(Deserialize)]
                #[serde(untagged)]
                enum Text {
                    Number(u64),
                    Word(String),
                }
                let text = match Text::deserialize(d)? {
                    Text::Number(number) => number.to_string(),
                    Text::Word(word) => word,
                };
                text.parse().map_err(serde::de::Error::custom)
            }
        }
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": $types, "format": $format, "examples": [$example] })
            }
        }
    };
}

as_text!(Duration, "Duration", DURATION_FORMAT, "string", "250ms");
as_text!(Size, "Size", SIZE_FORMAT, ["string", "integer"], "64KiB");
as_text!(Rate, "Rate", RATE_FORMAT, "string", "100/min");
as_text!(
    Throughput,
    "Throughput",
    THROUGHPUT_FORMAT,
    "string",
    "1MiB/s"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let ms = |text: &str| text.parse::<Duration>().map(|d| d.0.as_millis());
        assert_eq!(ms("250ms"), Ok(250));
        assert_eq!(ms("1h30m"), Ok(5_400_000));
        assert_eq!(ms("0s"), Ok(0));
        for bad in [
            "", "10", "s", "1x", "-1s", "1.5s", "30m1h", "1s1s", " 1s", "1s ",
        ] {
            assert_eq!(ms(bad), Err(UnitError::Duration), "{bad:?}");
        }
        assert_eq!(ms("9000h"), Err(UnitError::TooLong));
        for text in ["250ms", "1h30m", "0s", "1m1s1ms"] {
            assert_eq!(
                text.parse::<Duration>().map(|d| d.to_string()),
                Ok(text.into())
            );
        }
    }

    #[test]
    fn throughputs() {
        let bytes = |text: &str| text.parse::<Throughput>().map(|t| t.0);
        assert_eq!(bytes("1MiB/s"), Ok(1 << 20));
        assert_eq!(bytes("1500/s"), Ok(1500));
        for bad in ["", "1MiB", "1023/s", "0/s", "1MiB/min", "/s", "-1/s"] {
            assert_eq!(bytes(bad), Err(UnitError::Throughput), "{bad:?}");
        }
        assert_eq!(Throughput(3 << 20).to_string(), "3MiB/s");
    }

    #[test]
    fn rates() {
        let rate = |text: &str| {
            text.parse::<Rate>()
                .map(|r| (r.count, r.period.as_millis()))
        };
        assert_eq!(rate("100/min"), Ok((100, 60_000)));
        assert_eq!(rate("5/10s"), Ok((5, 10_000)));
        assert_eq!(rate("1/day"), Ok((1, 86_400_000)));
        for bad in [
            "", "100", "0/s", "/s", "1/", "1/0s", "+1/s", "1.5/s", "1/week", "1/s/s",
        ] {
            assert_eq!(rate(bad), Err(UnitError::Rate), "{bad:?}");
        }
        for text in ["100/min", "5/10s", "7/hour", "1/day", "9/month", "3/s"] {
            assert_eq!(text.parse::<Rate>().map(|r| r.to_string()), Ok(text.into()));
        }
    }

    #[test]
    fn sizes() {
        let bytes = |text: &str| text.parse::<Size>().map(|s| s.0);
        assert_eq!(bytes("512"), Ok(512));
        assert_eq!(bytes("64KiB"), Ok(65_536));
        assert_eq!(bytes("1GB"), Ok(1_000_000_000));
        for bad in ["", "KiB", "1kib", "1 KiB", "-1", "1TiB", "99999999999GiB"] {
            assert_eq!(bytes(bad), Err(UnitError::Size), "{bad:?}");
        }
        assert_eq!(Size(65_536).to_string(), "64KiB");
    }
}
