//! BurstGPT: CSV with Timestamp (seconds from the start), Model, Request tokens, Response tokens, Total tokens, Log
//! Type. A failed request has no response tokens, which is an error unless such rows are skipped.

use super::TraceRow;
use super::fields::{Read, pick, time, tokens};

pub(super) const COLUMNS: [&str; 3] = ["Timestamp", "Request tokens", "Response tokens"];

/// The row in `line`.
pub(super) fn parse(line: &str, columns: &[usize; 3]) -> Read<TraceRow> {
    let [at, prompt, output] = pick(line, columns, COLUMNS)?;
    Ok(TraceRow {
        at_ns: time(COLUMNS[0], at, 1_000_000_000)?,
        prompt_tokens: tokens(COLUMNS[1], prompt)?,
        output_tokens: tokens(COLUMNS[2], output)?,
        priority: None,
        session: None,
        runs: Vec::new(),
    })
}
