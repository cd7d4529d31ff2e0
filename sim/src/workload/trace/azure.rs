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
        ..TraceRow::default()
    })
}

/// Nanoseconds from 1970-01-01 00:00:00 UTC to `YYYY-MM-DD hh:mm:ss[.fraction][Z|±hh:mm]`, of the years 1971 to 2200;
/// without an offset the time counts as UTC.
fn date_time_ns(text: &str) -> Option<u64> {
    let (head, rest) = text.as_bytes().split_first_chunk::<19>()?;
    let digit = |at: usize| Some(u64::from(head[at].wrapping_sub(b'0'))).filter(|digit| *digit < 10);
    let two = |at: usize| Some(digit(at)? * 10 + digit(at + 1)?);
    let separators = [head[4], head[7], head[10], head[13], head[16]];
    if !matches!(separators, [b'-', b'-', b' ' | b'T', b':', b':']) {
        return None;
    }
    let (year, month, day) = (two(0)? * 100 + two(2)?, two(5)?, two(8)?);
    let (hour, minute, second) = (two(11)?, two(14)?, two(17)?);
    let valid = (1971..=2200).contains(&year)
        && (1..=12).contains(&month)
        && (1..=days_in_month(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    if !valid {
        return None;
    }
    let (fraction_ns, offset) = match rest {
        [b'.', rest @ ..] => fraction_ns(rest)?,
        rest => (0, rest),
    };
    let offset = str::from_utf8(offset).ok()?;
    let seconds = ((days_from_civil(year, month, day) * 24 + hour) * 60 + minute) * 60 + second;
    let utc = i128::from(seconds) - i128::from(offset_seconds(offset)?);
    u64::try_from(utc * 1_000_000_000 + i128::from(fraction_ns)).ok()
}

/// The nanoseconds of the one to nine digits of a fraction of a second, and what follows them.
fn fraction_ns(text: &[u8]) -> Option<(u64, &[u8])> {
    let (mut ns, mut unit_ns, mut rest) = (0, 1_000_000_000, text);
    while let [digit @ b'0'..=b'9', after @ ..] = rest {
        unit_ns /= 10;
        if unit_ns == 0 {
            return None;
        }
        ns += u64::from(digit - b'0') * unit_ns;
        rest = after;
    }
    (rest.len() < text.len()).then_some((ns, rest))
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
