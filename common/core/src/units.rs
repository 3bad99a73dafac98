//! Units of measure as people write them: `16MiB`, `10s`.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a {what}: {reason}")]
pub struct UnitError {
    pub what: &'static str,
    pub text: String,
    pub reason: &'static str,
}

/// A number of bytes. Text form: a whole number and one of B, KiB, MiB, GiB, TiB, PiB (K, M, G, T, P and KB .. PB mean the same powers of 1024, as in pgBackRest).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteCount(pub u64);

impl FromStr for ByteCount {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let error = |reason| UnitError { what: "size", text: text.to_owned(), reason };
        let trimmed = text.trim();
        let digits = trimmed.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = trimmed[..digits].parse().map_err(|_| error("it starts with no whole number"))?;
        let factor = match trimmed[digits..].trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kb" | "kib" => KIB,
            "m" | "mb" | "mib" => MIB,
            "g" | "gb" | "gib" => GIB,
            "t" | "tb" | "tib" => GIB << 10,
            "p" | "pb" | "pib" => GIB << 20,
            _ => return Err(error("the unit is none of B, KiB, MiB, GiB, TiB, PiB")),
        };
        number.checked_mul(factor).map(ByteCount).ok_or_else(|| error("it is too large"))
    }
}

/// Whole multiples keep their unit (`16MiB`), others get one decimal (`1.4GiB`).
impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        let mut size = 1u64;
        let mut name = "B";
        for unit in UNITS {
            if self.0 < size.saturating_mul(1024) {
                break;
            }
            size *= 1024;
            name = unit;
        }
        if self.0.is_multiple_of(size) {
            write!(f, "{}{name}", self.0 / size)
        } else {
            let tenths = u128::from(self.0) * 10 / u128::from(size);
            write!(f, "{}.{}{name}", tenths / 10, tenths % 10)
        }
    }
}

/// A span of time. Text form: a whole number and one of ms, s, m, h, d; a bare number is seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let error = |reason| UnitError { what: "duration", text: text.to_owned(), reason };
        let trimmed = text.trim();
        let digits = trimmed.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = trimmed[..digits].parse().map_err(|_| error("it starts with no whole number"))?;
        let milliseconds = match trimmed[digits..].trim() {
            "ms" => 1,
            "" | "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(error("the unit is none of ms, s, m, h, d")),
        };
        let total = number.checked_mul(milliseconds).ok_or_else(|| error("it is too large"))?;
        Ok(Span(Duration::from_millis(total)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = self.0.as_millis();
        for (name, size) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
            if milliseconds >= size && milliseconds.is_multiple_of(size) {
                return write!(f, "{}{name}", milliseconds / size);
            }
        }
        write!(f, "{milliseconds}ms")
    }
}

/// A moment: milliseconds since 1970 in UTC. Comes in as a value; the core has no clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    pub const fn from_seconds(seconds: i64) -> Self {
        Timestamp(seconds.saturating_mul(1000))
    }

    /// Whole seconds, rounded down.
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// In UTC; moments outside of what a calendar holds become its first day.
    pub fn to_utc(self) -> jiff::Zoned {
        jiff::Timestamp::from_millisecond(self.0).unwrap_or_default().to_zoned(jiff::tz::TimeZone::UTC)
    }
}

/// RFC 3339 in UTC with milliseconds.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}Z", self.to_utc().strftime("%Y-%m-%dT%H:%M:%S"), self.0.rem_euclid(1000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_and_print_as_people_write_them() {
        for (text, bytes, shown) in [
            ("16MiB", 16 * MIB, "16MiB"),
            ("1 gb", GIB, "1GiB"),
            ("7", 7, "7B"),
            ("1536KiB", 1536 * KIB, "1.5MiB"),
        ] {
            let size: ByteCount = text.parse().expect(text);
            assert_eq!(size.0, bytes);
            assert_eq!(size.to_string(), shown);
        }
        for bad in ["", "MiB", "1.5MiB", "10x", "99999999PiB"] {
            assert!(bad.parse::<ByteCount>().is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_read_and_print_as_people_write_them() {
        for (text, shown) in
            [("10s", "10s"), ("90s", "90s"), ("60s", "1m"), ("250ms", "250ms"), ("2d", "2d"), ("5", "5s")]
        {
            assert_eq!(text.parse::<Span>().expect(text).to_string(), shown);
        }
        assert!("10 weeks".parse::<Span>().is_err());
    }

    #[test]
    fn moments_print_as_rfc_3339_in_utc() {
        assert_eq!(Timestamp(1_763_800_200_007).to_string(), "2025-11-22T08:30:00.007Z");
        assert_eq!(Timestamp(-1).to_string(), "1969-12-31T23:59:59.999Z");
    }
}
