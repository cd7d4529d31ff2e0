//! Pairs of prompt and output length without times: CSV with a header of known names, or the first two columns.

use super::TraceRow;
use super::fields::{Read, columns as header_columns, pick, split, tokens};

/// Known headers; the first is that of ShareGPT and other data sets as serving simulators prepare them.
pub(super) const HEADERS: [[&str; 2]; 2] =
    [["num_prefill_tokens", "num_decode_tokens"], ["prompt_tokens", "output_tokens"]];

/// Whether the line is a header that tells the format.
pub(super) fn is_known_header(line: &str) -> bool {
    HEADERS.iter().any(|names| header_columns(line, *names).is_ok())
}

/// The columns to read, and whether the line is a header: one that does not start with a number.
pub(super) fn columns(first: &str) -> Read<([usize; 2], bool)> {
    if let Some(positions) = HEADERS.iter().find_map(|names| header_columns(first, *names).ok()) {
        return Ok((positions, true));
    }
    let found = split(first)?;
    if found.len() < 2 {
        return Err(format!("found `{first:.60}`, expected at least two columns: prompt and output tokens"));
    }
    let header = !found[0].starts_with(|c: char| c.is_ascii_digit() || c == '-');
    Ok(([0, 1], header))
}

/// The row in `line`.
pub(super) fn parse(line: &str, columns: &[usize; 2]) -> Read<TraceRow> {
    let [prompt, output] = pick(line, columns, HEADERS[1])?;
    Ok(TraceRow {
        at_ns: 0,
        prompt_tokens: tokens(HEADERS[1][0], prompt)?,
        output_tokens: tokens(HEADERS[1][1], output)?,
        priority: None,
        session: None,
        runs: Vec::new(),
    })
}
