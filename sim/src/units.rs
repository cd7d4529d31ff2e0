//! Units: simulated time as integers, and the physical quantities of a scenario, which carry their unit in the text
//! (`500ms`, `141GB`, `12/s`). A bare number is an error that lists the units.

use crate::digits::decimal;
use std::fmt;
use std::ops::{Add, AddAssign, Sub};

/// An instant of simulated time: nanoseconds since the start of the run. 2^64 ns are 584 years.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SimTime(pub u64);

/// A span of simulated time in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SimDuration(pub u64);

impl SimTime {
    /// The start of the run.
    pub const ZERO: SimTime = SimTime(0);
    /// Later than anything that happens: "never".
    pub const NEVER: SimTime = SimTime(u64::MAX);
}

impl SimDuration {
    /// No time at all.
    pub const ZERO: SimDuration = SimDuration(0);

    /// The nearest whole nanosecond to `seconds`; negative and NaN give zero, what is too long saturates.
    pub fn from_seconds(seconds: f64) -> Self {
        // `round`, written out: it is a call where the processor has no instruction for it.
        let ns = seconds * 1e9;
        let whole = ns as u64;
        SimDuration(whole.saturating_add(u64::from(ns - whole as f64 >= 0.5)))
    }

    /// In seconds.
    pub fn seconds(self) -> f64 {
        self.0 as f64 / 1e9
    }

    /// In milliseconds.
    pub fn milliseconds(self) -> f64 {
        self.0 as f64 / 1e6
    }
}

impl Add<SimDuration> for SimTime {
    type Output = SimTime;
    fn add(self, span: SimDuration) -> SimTime {
        SimTime(self.0.saturating_add(span.0))
    }
}

impl Sub for SimTime {
    type Output = SimDuration;
    /// The time from `earlier` to `self`; in debug builds it panics when `earlier` is later.
    fn sub(self, earlier: SimTime) -> SimDuration {
        SimDuration(self.0 - earlier.0)
    }
}

impl Add for SimDuration {
    type Output = SimDuration;
    fn add(self, other: SimDuration) -> SimDuration {
        SimDuration(self.0.saturating_add(other.0))
    }
}

impl AddAssign for SimDuration {
    fn add_assign(&mut self, other: SimDuration) {
        *self = *self + other;
    }
}

/// One row of a unit table: the unit as written, and how many base units it is.
type Unit = (&'static str, f64);

/// Reads `text` as a number followed by one of `units`; the message on failure names the units and an example.
/// `most` is the largest value in base units.
fn parse_quantity(text: &str, what: &str, units: &[Unit], example: &str, most: f64) -> Result<f64, String> {
    let names = || units.iter().map(|u| u.0).collect::<Vec<_>>().join(", ");
    let trimmed = text.trim();
    // The unit starts at the first character that cannot belong to a number; `e` counts only before digits or signs.
    let bytes = trimmed.as_bytes();
    let mut end = 0;
    while end < bytes.len() {
        let exponent = matches!(bytes[end], b'e' | b'E')
            && end > 0
            && bytes.get(end + 1).is_some_and(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-'));
        if bytes[end].is_ascii_digit() || matches!(bytes[end], b'.' | b'+' | b'-' | b'_') || exponent {
            end += 1;
        } else {
            break;
        }
    }
    let (number, unit) = trimmed.split_at(end);
    let Ok(number) = number.replace('_', "").parse::<f64>() else {
        return Err(format!(
            "found `{text}`, expected {what}: a number and a unit ({}), for example `{example}`",
            names()
        ));
    };
    let unit = unit.trim();
    if unit.is_empty() {
        return Err(format!(
            "found `{text}` without a unit; {what} needs one of {}, for example `{example}`",
            names()
        ));
    }
    let Some((_, scale)) = units.iter().find(|u| u.0 == unit) else {
        if let (Some(currency), [("USD/h", _)]) = (unit.strip_suffix("/h"), units) {
            return Err(format!(
                "found the currency `{currency}` in `{text}`; every price is in USD, as in `{example}`: convert it first, \
                 since prices in several currencies cannot be compared"
            ));
        }
        return Err(format!(
            "found the unit `{unit}` in `{text}`; {what} needs one of {}, for example `{example}`",
            names()
        ));
    };
    let value = number * scale;
    if number < 0.0 {
        return Err(format!("found `{text}`, but {what} cannot be negative"));
    }
    if !value.is_finite() || value > most {
        return Err(format!("found `{text}`, which is out of range for {what}"));
    }
    Ok(value)
}

/// Makes a quantity type that reads and writes itself as text with a unit. The number inside is in base units.
macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident, $inner:ty, $what:literal, $example:literal, $units:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default)]
        pub struct $name(pub $inner);

        impl $name {
            const UNITS: &'static [Unit] = $units;

            /// Reads the text form; the error says what was found and what is allowed.
            pub fn parse(text: &str) -> Result<Self, String> {
                let value = parse_quantity(text, $what, Self::UNITS, $example, Self::MOST)?;
                Ok($name(Self::from_base(value)))
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl serde::de::Visitor<'_> for Text {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        write!(f, "{} such as `{}`", $what, $example)
                    }
                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        $name::parse(text).map_err(E::custom)
                    }
                    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<$name, E> {
                        self.visit_str(&number.to_string())
                    }
                    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<$name, E> {
                        self.visit_str(&number.to_string())
                    }
                    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<$name, E> {
                        self.visit_str(&number.to_string())
                    }
                }
                deserializer.deserialize_any(Text)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let units: Vec<&str> = Self::UNITS.iter().map(|u| u.0).collect();
                schemars::json_schema!({
                    "type": "string",
                    "description": format!("{}: a number and a unit ({})", $what, units.join(", ")),
                    "examples": [$example],
                })
            }
        }
    };
}

/// Quantities that are counted in whole base units.
macro_rules! whole {
    ($name:ident) => {
        impl $name {
            /// A quarter of what the integers hold: 146 years in nanoseconds, so that sums of a few are no overflow.
            const MOST: f64 = (1u64 << 62) as f64;

            fn from_base(value: f64) -> u64 {
                value.round() as u64
            }
        }
    };
}

/// Quantities that are real numbers of base units.
macro_rules! real {
    ($name:ident) => {
        impl $name {
            const MOST: f64 = 1e30;

            fn from_base(value: f64) -> f64 {
                value
            }
        }
    };
}

quantity!(
    /// A span of time as a scenario writes it, in nanoseconds: `500ms`.
    Span, u64, "a duration", "500ms",
    &[("ns", 1.0), ("us", 1e3), ("ms", 1e6), ("s", 1e9), ("min", 6e10), ("h", 3.6e12)]
);
whole!(Span);

quantity!(
    /// An amount of memory in bytes: `141GB` (decimal) or `80GiB` (binary).
    ByteSize, u64, "a memory size", "80GiB",
    &[("B", 1.0), ("kB", 1e3), ("KB", 1e3), ("MB", 1e6), ("GB", 1e9), ("TB", 1e12),
      ("KiB", 1024.0), ("MiB", 1_048_576.0), ("GiB", 1_073_741_824.0), ("TiB", 1_099_511_627_776.0)]
);
whole!(ByteSize);

quantity!(
    /// Events per second: `12/s`.
    Rate, f64, "a rate", "12/s",
    &[("/s", 1.0), ("/min", 1.0 / 60.0), ("/h", 1.0 / 3600.0)]
);
real!(Rate);

quantity!(
    /// Bytes per second: `4.8TB/s`.
    Bandwidth, f64, "a bandwidth", "4.8TB/s",
    &[("MB/s", 1e6), ("GB/s", 1e9), ("TB/s", 1e12)]
);
real!(Bandwidth);

quantity!(
    /// Floating-point or integer operations per second: `989TFLOP/s`.
    ComputeRate, f64, "a compute rate", "989TFLOP/s",
    &[("GFLOP/s", 1e9), ("TFLOP/s", 1e12), ("PFLOP/s", 1e15), ("TOP/s", 1e12), ("POP/s", 1e15)]
);
real!(ComputeRate);

quantity!(
    /// Electrical power in watts: `700W`.
    Power, f64, "a power", "700W",
    &[("W", 1.0), ("kW", 1e3)]
);
real!(Power);

quantity!(
    /// A price per hour in US dollars: `2.50USD/h`.
    HourlyPrice, f64, "a price per hour", "2.50USD/h",
    &[("USD/h", 1.0)]
);
real!(HourlyPrice);

/// Writes `value` in the largest of `units` (base units each, ascending) that keeps it at 1 or more.
fn write_scaled(f: &mut fmt::Formatter<'_>, value: f64, units: &[Unit]) -> fmt::Result {
    let (name, scale) =
        units.iter().rev().find(|u| value >= u.1).or(units.first()).copied().unwrap_or(("", 1.0));
    let shown = format!("{:.6}", value / scale);
    let shown = shown.trim_end_matches('0').trim_end_matches('.');
    write!(f, "{shown}{name}")
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_scaled(f, self.0 as f64, &[("ns", 1.0), ("us", 1e3), ("ms", 1e6), ("s", 1e9)])
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimal = [("B", 1.0), ("kB", 1e3), ("MB", 1e6), ("GB", 1e9), ("TB", 1e12)];
        let binary = [("B", 1.0), ("KiB", 1024.0), ("MiB", 1_048_576.0), ("GiB", 1_073_741_824.0)];
        let value = self.0 as f64;
        // Whichever reads shorter: 80GiB stays 80GiB, 141GB stays 141GB.
        if self.0 != 0 && self.0.is_multiple_of(1 << 20) && !self.0.is_multiple_of(1_000_000) {
            write_scaled(f, value, &binary)
        } else {
            write_scaled(f, value, &decimal)
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", decimal(self.0))
    }
}

impl fmt::Display for Bandwidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_scaled(f, self.0, &[("MB/s", 1e6), ("GB/s", 1e9), ("TB/s", 1e12)])
    }
}

impl fmt::Display for ComputeRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_scaled(f, self.0, &[("GFLOP/s", 1e9), ("TFLOP/s", 1e12)])
    }
}

impl fmt::Display for Power {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}W", self.0)
    }
}

impl fmt::Display for HourlyPrice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2}USD/h", self.0)
    }
}

impl From<Span> for SimDuration {
    fn from(span: Span) -> SimDuration {
        SimDuration(span.0)
    }
}

#[cfg(test)]
mod tests;
