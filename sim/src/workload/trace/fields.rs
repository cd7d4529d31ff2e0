//! Fields of rows: CSV columns and JSON members, as whole token counts and exact nanoseconds. Errors are messages
//! without a place, which the caller adds.

use super::super::{LAST_ARRIVAL, MAX_TOKENS, TokenRun};
use serde_json::{Map, Value};

/// A message about a row.
pub(super) type Read<T> = Result<T, String>;

/// How much of a field a message repeats.
const SHOWN_CHARS_MAX: usize = 60;

/// What was found in a field, shortened.
fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

/// The error of a field.
pub(super) fn wrong(column: &str, found: &str, expected: &str) -> String {
    format!("column {column}: found `{}`, expected {expected}", shown(found))
}

/// Splits a CSV line; quotes around a field are removed, and commas in them kept. Doubled quotes within a field stay
/// as they are: no column that is read has text of that kind.
pub(super) fn split(line: &str) -> Read<Vec<&str>> {
    let mut quoted = false;
    let fields = line.split(|character| {
        quoted ^= character == '"';
        character == ',' && !quoted
    });
    let fields = fields.map(unquote).collect();
    if quoted { Err("a quoted column does not end on this line".to_string()) } else { Ok(fields) }
}

/// A field without the blanks around it.
fn trimmed(field: &str) -> &str {
    match field.as_bytes() {
        [first, .., last] if first.is_ascii_graphic() && last.is_ascii_graphic() => field,
        _ => field.trim(),
    }
}

/// A field without the blanks and quotes around it.
fn unquote(field: &str) -> &str {
    let field = field.trim();
    field.strip_prefix('"').and_then(|inner| inner.strip_suffix('"')).unwrap_or(field)
}

/// The positions of the columns `names` in a header line.
pub(super) fn columns<const N: usize>(header: &str, names: [&str; N]) -> Read<[usize; N]> {
    let found = split(header)?;
    let mut positions = [0; N];
    for (position, name) in positions.iter_mut().zip(names) {
        *position = found.iter().position(|column| column.eq_ignore_ascii_case(name)).ok_or_else(|| {
            format!(
                "column {name} is missing: found the header `{}`, expected {}",
                shown(header),
                names.join(",")
            )
        })?;
    }
    Ok(positions)
}

/// The columns at `positions`.
pub(super) fn pick<'a, const N: usize>(
    line: &'a str,
    positions: &[usize; N],
    names: [&str; N],
) -> Read<[&'a str; N]> {
    let mut picked = [None; N];
    let mut take = |number: usize, field: &'a str| {
        for (picked, position) in picked.iter_mut().zip(positions) {
            if *position == number {
                *picked = Some(field);
            }
        }
    };
    let mut count = 0;
    if line.as_bytes().contains(&b'"') {
        for field in split(line)? {
            take(count, field);
            count += 1;
        }
    } else {
        let mut start = 0;
        let ends = line.bytes().enumerate().filter(|(_, byte)| *byte == b',').map(|(at, _)| at);
        for end in ends.chain([line.len()]) {
            take(count, trimmed(&line[start..end]));
            start = end + 1;
            count += 1;
        }
    }
    let mut fields = [""; N];
    for (((field, picked), position), name) in fields.iter_mut().zip(picked).zip(positions).zip(names) {
        *field = picked.ok_or_else(|| {
            format!("column {name}: the row has only {count} columns, expected at least {}", position + 1)
        })?;
    }
    Ok(fields)
}

/// A token count, 1 to `MAX_TOKENS`.
pub(super) fn tokens(column: &str, text: &str) -> Read<u32> {
    match text.parse::<u32>() {
        Ok(count @ 1..=MAX_TOKENS) => Ok(count),
        _ => Err(wrong(column, text, &expected_tokens(text == "0"))),
    }
}

fn expected_tokens(zero: bool) -> String {
    let remedy = if zero { "; `on_error: skip` leaves out such rows" } else { "" };
    format!("a whole number of tokens, 1 to {MAX_TOKENS}{remedy}")
}

/// A time written as a decimal number of units of `unit_ns` nanoseconds, to the nearest nanosecond; digits below one
/// nanosecond are rounded half up.
pub(super) fn time(column: &str, text: &str, unit_ns: u64) -> Read<u64> {
    let failed = || wrong(column, text, "a time of 0 or more");
    if text.contains(['e', 'E']) {
        // Scientific notation, as data frames write large numbers.
        let value = text.parse::<f64>().map_err(|_| failed())? * unit_ns as f64;
        let inside = (0.0..=LAST_ARRIVAL.0 as f64).contains(&value);
        return if inside { Ok(value.round() as u64) } else { Err(failed()) };
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) {
        return Err(failed());
    }
    let whole: u64 = whole.parse().map_err(|_| failed())?;
    // Eighteen digits keep the product below 2^127.
    let fraction = &fraction[..fraction.len().min(18)];
    let scale = 10u128.pow(fraction.len() as u32);
    let numerator = fraction.parse::<u128>().unwrap_or(0);
    let total =
        u128::from(whole) * u128::from(unit_ns) + (numerator * u128::from(unit_ns) + scale / 2) / scale;
    u64::try_from(total).ok().filter(|ns| *ns <= LAST_ARRIVAL.0).ok_or_else(failed)
}

/// The JSON object in `line`.
pub(super) fn object(line: &str) -> Read<Map<String, Value>> {
    match serde_json::from_str(line) {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) => Err(format!("found `{}`, expected a JSON object", shown(line))),
        Err(error) => {
            // The library counts lines within this one line; only its column helps.
            let text = error.to_string();
            let message = text.split(" at line ").next().unwrap_or_default();
            Err(format!("not valid JSON at column {}: {message}", error.column()))
        }
    }
}

/// A member of an object.
pub(super) fn member<'a>(row: &'a Map<String, Value>, name: &str) -> Read<&'a Value> {
    row.get(name).ok_or_else(|| format!("column {name}: is missing"))
}

/// A token count of an object.
pub(super) fn json_tokens(row: &Map<String, Value>, name: &str) -> Read<u32> {
    let value = member(row, name)?;
    match value.as_u64() {
        Some(count) if (1..=u64::from(MAX_TOKENS)).contains(&count) => Ok(count as u32),
        count => Err(wrong(name, &value.to_string(), &expected_tokens(count == Some(0)))),
    }
}

/// A time of an object, in units of `unit_ns` nanoseconds.
pub(super) fn json_time(row: &Map<String, Value>, name: &str, unit_ns: u64) -> Read<u64> {
    let value = member(row, name)?;
    match value {
        Value::Number(number) => time(name, &number.to_string(), unit_ns),
        _ => Err(wrong(name, &value.to_string(), "a time of 0 or more")),
    }
}

/// The runs of a prompt given as ids of blocks of `block_tokens` tokens, the last of which may be partial.
pub(super) fn block_runs(
    name: &str,
    ids: &Value,
    prompt_tokens: u32,
    block_tokens: u32,
) -> Read<Vec<TokenRun>> {
    let Value::Array(ids) = ids else {
        return Err(wrong(name, &ids.to_string(), "a list of block ids"));
    };
    let expected = prompt_tokens.div_ceil(block_tokens) as usize;
    if ids.len() != expected {
        return Err(format!(
            "column {name}: found {} ids, expected {expected}: {prompt_tokens} tokens in blocks of {block_tokens}",
            ids.len()
        ));
    }
    let mut left = prompt_tokens;
    ids.iter()
        .map(|id| {
            let tokens = left.min(block_tokens);
            left -= tokens;
            match id.as_u64() {
                Some(id) => Ok(TokenRun { id, tokens }),
                None => Err(wrong(name, &id.to_string(), "a block id: a whole number, 0 or more")),
            }
        })
        .collect()
}
