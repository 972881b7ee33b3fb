//! Lengths of time and shares as people write them.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A length of time: a whole number and a unit, `10ms`, `2s`, `15m`, `1h`. At most 24 h.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period(Duration);

/// The longest period that is accepted: a day. A longer wait is a mistake rather than a wish, and every sum of
/// a few of them stays far from overflow.
pub const LONGEST_PERIOD: Duration = Duration::from_secs(24 * 3600);

impl Period {
    /// `n` milliseconds.
    pub const fn millis(n: u64) -> Self {
        Self(Duration::from_millis(n))
    }

    /// `n` seconds.
    pub const fn secs(n: u64) -> Self {
        Self(Duration::from_secs(n))
    }

    /// The same as std's type.
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is not a duration: write a whole number and ms, s, m or h, such as 500ms or 15m"
            )
        };
        let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (digits, unit) = text.split_at_checked(split).ok_or_else(wrong)?;
        let unit = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(wrong()),
        };
        if digits.is_empty() {
            return Err(wrong());
        }
        let millis = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(unit));
        match millis.map(Duration::from_millis) {
            Some(period) if period <= LONGEST_PERIOD => Ok(Self(period)),
            _ => Err(format!("`{text}` is longer than the longest allowed, 24h")),
        }
    }
}

impl fmt::Display for Period {
    /// In the largest unit that gives a whole number: `90s`, `2m`, `1500ms`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_millis() {
            0 => f.write_str("0s"),
            n if n % 3_600_000 == 0 => write!(f, "{}h", n / 3_600_000),
            n if n % 60_000 == 0 => write!(f, "{}m", n / 60_000),
            n if n % 1_000 == 0 => write!(f, "{}s", n / 1_000),
            n => write!(f, "{n}ms"),
        }
    }
}

/// A share written as percent with at most two decimals: `50%`, `0.5%`. From 0 % to 1000 % (a margin may exceed
/// the whole).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percent(u32);

impl Percent {
    /// From whole percents.
    pub const fn whole(percent: u32) -> Self {
        Self(percent * 100)
    }

    /// As a fraction: 50 % is 0.5.
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / 10_000.0
    }

    /// In hundredths of a percent.
    pub const fn basis_points(self) -> u32 {
        self.0
    }
}

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is not a percentage: write a number with at most two decimals and %, such as 50% or 0.5%"
            )
        };
        let number = text.strip_suffix('%').ok_or_else(wrong)?;
        let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
        let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        let dotted_well = !number.contains('.') || !decimals.is_empty();
        if whole.is_empty() || !digits(whole) || !digits(decimals) || decimals.len() > 2 || !dotted_well {
            return Err(wrong());
        }
        let whole = whole.parse::<u32>().ok().filter(|n| *n <= 1000);
        let hundredths = format!("{decimals:0<2}").parse::<u32>().map_err(|_| wrong())?;
        match whole.map(|n| n * 100 + hundredths) {
            Some(points) if points <= 100_000 => Ok(Self(points)),
            _ => Err(format!("`{text}` is above the largest allowed, 1000%")),
        }
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_points(self.0, f)
    }
}

/// A weight in hundredths of a percent, 0 to 10 000: a desired weight is a planned percentage times a share of
/// ready capacity, so whole percents are too coarse (1 % at one of three pods is 0.33 %).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct BasisPoints(u16);

impl BasisPoints {
    /// No traffic.
    pub const ZERO: Self = Self(0);
    /// All traffic.
    pub const FULL: Self = Self(10_000);

    /// From hundredths of a percent; what is above 10 000 becomes 10 000.
    pub const fn new(points: u16) -> Self {
        Self(if points > 10_000 { 10_000 } else { points })
    }

    /// From whole percents; what is above 100 becomes 100.
    pub const fn percent(percent: u8) -> Self {
        Self::new(percent as u16 * 100)
    }

    /// In hundredths of a percent.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// As a fraction of one.
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / 10_000.0
    }
}

impl fmt::Display for BasisPoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_points(u32::from(self.0), f)
    }
}

fn fmt_points(points: u32, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match (points / 100, points % 100) {
        (whole, 0) => write!(f, "{whole}%"),
        (whole, part) if part % 10 == 0 => write!(f, "{whole}.{}%", part / 10),
        (whole, part) => write!(f, "{whole}.{part:02}%"),
    }
}

macro_rules! as_text {
    ($name:ident, $expecting:literal, $pattern:literal, $max_length:literal) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl de::Visitor<'_> for Visitor {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Visitor)
            }
        }

        #[cfg(feature = "schema")]
        impl schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({
                    "type": "string", "pattern": $pattern, "maxLength": $max_length,
                })
            }
        }
    };
}

as_text!(Period, "a duration such as 500ms or 15m", "^[0-9]+(ms|s|m|h)$", 12);
as_text!(Percent, "a percentage such as 50% or 0.5%", "^[0-9]{1,4}(\\.[0-9]{1,2})?%$", 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_read_and_print() {
        for (text, millis) in [("10ms", 10), ("2s", 2_000), ("15m", 900_000), ("1h", 3_600_000), ("0s", 0)] {
            let period: Period = text.parse().unwrap();
            assert_eq!(period.get(), Duration::from_millis(millis));
            assert_eq!(period.to_string(), text);
        }
        assert_eq!("120s".parse::<Period>().unwrap().to_string(), "2m");
    }

    #[test]
    fn impossible_periods_are_named() {
        for text in ["", "s", "5", "-5s", "1.5s", "5 s", "5d", "25h", "99999999999999999999s", "٣s"] {
            let error = text.parse::<Period>().unwrap_err();
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn percents_read_and_print() {
        for (text, points) in [("50%", 5000), ("0.5%", 50), ("0.25%", 25), ("100%", 10_000), ("0%", 0)] {
            let percent: Percent = text.parse().unwrap();
            assert_eq!(percent.basis_points(), points);
            assert_eq!(percent.to_string(), text);
        }
        for text in ["", "%", "5", "1.234%", "-1%", "1001%", ".5%", "5.%"] {
            assert!(text.parse::<Percent>().is_err(), "{text}");
        }
    }
}
