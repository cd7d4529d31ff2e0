//! Numbers as people read them.

pub use sim::digits::grouped;

/// So many things: `1 point`, `2,000 points`.
pub fn counted(count: u64, thing: &str) -> String {
    format!("{} {thing}{}", grouped(count), if count == 1 { "" } else { "s" })
}

/// A value with three significant digits or no decimals, thousands separated.
pub fn short(value: f64) -> String {
    match value {
        0.0 => "0".to_string(),
        v if v < 0.0 => format!("-{}", short(-v)),
        v if v >= 1000.0 => grouped(v.round() as u64),
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v if v >= 1.0 => format!("{v:.2}"),
        v => format!("{v:.3}"),
    }
}

/// A share of 1 as a percentage with one decimal.
pub fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// A time given in milliseconds, in the unit that keeps it short: µs, ms, s or min.
pub fn duration_ms(ms: f64) -> String {
    match ms {
        v if v >= 600_000.0 => format!("{} min", short(v / 60_000.0)),
        v if v >= 1000.0 => format!("{} s", short(v / 1000.0)),
        v if v >= 1.0 => format!("{} ms", short(v)),
        v => format!("{} µs", short(v * 1000.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::{counted, duration_ms, grouped, short};

    #[test]
    fn numbers_are_short_and_grouped() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!((counted(1, "GPU").as_str(), counted(2000, "GPU").as_str()), ("1 GPU", "2,000 GPUs"));
        assert_eq!(
            [0.0, 0.12345, 1.234, 12.34, 123.4, 1234.5, -12.34].map(short),
            ["0", "0.123", "1.23", "12.3", "123", "1,235", "-12.3"].map(String::from)
        );
        assert_eq!(
            [0.5, 1.0, 999.0, 1500.0, 900_000.0].map(duration_ms),
            ["500 µs", "1.00 ms", "999 ms", "1.50 s", "15.0 min"].map(String::from)
        );
    }
}
