//! Azure LLM inference traces: CSV with TIMESTAMP, ContextTokens, GeneratedTokens. The 2023 files write
//! `2023-11-16 18:15:46.6805900`, those of 2024 `2024-05-10 00:00:00.009930+00:00`. No row of the published 2023 files
//! has zero tokens, so a zero is an error.

use super::TraceRow;
use super::fields::{Read, pick, tokens, wrong};

pub(super) const COLUMNS: [&str; 3] = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"];

/// The row in `line`, its time in nanoseconds since 1970.
pub(super) fn parse(line: &str, columns: &[usize; 3]) -> Read<TraceRow> {
    let [time, prompt, output] = pick(line, columns, COLUMNS)?;
    let expected = "a date and time such as `2023-11-16 18:15:46.6805900`";
    Ok(TraceRow {
        at_ns: date_time_ns(time).ok_or_else(|| wrong(COLUMNS[0], time, expected))?,
        prompt_tokens: tokens(COLUMNS[1], prompt)?,
        output_tokens: tokens(COLUMNS[2], output)?,
        priority: None,
        session: None,
        runs: Vec::new(),
    })
}

/// Nanoseconds from 1970-01-01 00:00:00 UTC to `YYYY-MM-DD hh:mm:ss[.fraction][Z|±hh:mm]`, of the years 1971 to 2200;
/// without an offset the time counts as UTC.
fn date_time_ns(text: &str) -> Option<u64> {
    let number = |from: usize, to: usize| -> Option<u64> {
        let digits = text.get(from..to)?;
        if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None }
    };
    let byte = |at: usize| text.as_bytes().get(at).copied();
    let separated = byte(4) == Some(b'-')
        && byte(7) == Some(b'-')
        && matches!(byte(10), Some(b' ' | b'T'))
        && byte(13) == Some(b':')
        && byte(16) == Some(b':');
    if !separated {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let valid = (1971..=2200).contains(&year)
        && (1..=12).contains(&month)
        && (1..=days_in_month(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    if !valid {
        return None;
    }
    let rest = text.get(19..)?;
    let (fraction, offset) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())),
        None => ("0", rest),
    };
    if fraction.is_empty() || fraction.len() > 9 {
        return None;
    }
    let fraction_ns = fraction.parse::<u64>().ok()? * 10u64.pow(9 - fraction.len() as u32);
    let seconds = ((days_from_civil(year, month, day) * 24 + hour) * 60 + minute) * 60 + second;
    let utc = i128::from(seconds) - i128::from(offset_seconds(offset)?);
    u64::try_from(utc * 1_000_000_000 + i128::from(fraction_ns)).ok()
}

/// Seconds east of UTC.
fn offset_seconds(text: &str) -> Option<i64> {
    if text.is_empty() || text == "Z" {
        return Some(0);
    }
    let sign = match text.as_bytes()[0] {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, minutes) = text.get(1..)?.split_once(':')?;
    let two_digits = |part: &str| -> Option<i64> {
        if part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit()) {
            part.parse().ok()
        } else {
            None
        }
    };
    let (hours, minutes) = (two_digits(hours)?, two_digits(minutes)?);
    if hours > 14 || minutes > 59 { None } else { Some(sign * (hours * 3600 + minutes * 60)) }
}

fn days_in_month(year: u64, month: u64) -> u64 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        2 => 28 + u64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to a date of the Gregorian calendar, by H. Hinnant's "days_from_civil": years start in March,
/// so that the leap day comes last.
fn days_from_civil(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year / 400, year % 400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::date_time_ns;

    #[test]
    fn dates_are_exact() {
        // The seconds are those of `date -u -d ... +%s`.
        assert_eq!(date_time_ns("2023-11-16 18:15:46.6805900"), Some(1_700_158_546_680_590_000));
        assert_eq!(date_time_ns("2024-05-10 00:00:00.009930+00:00"), Some(1_715_299_200_009_930_000));
        assert_eq!(date_time_ns("2024-02-29T23:59:59Z"), Some(1_709_251_199_000_000_000));
        assert_eq!(date_time_ns("2024-02-29 23:59:59.000000001-01:30"), Some(1_709_256_599_000_000_001));
        assert_eq!(date_time_ns("2000-03-01 00:00:00"), Some(951_868_800_000_000_000));
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for text in [
            "",
            "NaN",
            "2023-02-29 00:00:00",
            "2100-02-29 00:00:00",
            "2023-13-01 00:00:00",
            "2023-11-31 00:00:00",
            "2023-11-16 24:00:00",
            "2023-11-16 18:60:00",
            "2023-11-16 18:15:46.",
            "2023-11-16 18:15:46.1234567890",
            "2023-11-16 18:15:46 UTC",
            "2023-11-16",
            "2023-11-16 18:15:4é",
            "+023-11-16 18:15:46",
        ] {
            assert_eq!(date_time_ns(text), None, "{text}");
        }
    }
}
