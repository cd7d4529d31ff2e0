//! Requests of tenants as CSV: arrival_s (seconds), tenant, prompt_tokens, output_tokens.

use super::TraceRow;
use super::fields::{Read, pick, time, tokens, wrong};

pub(super) const COLUMNS: [&str; 4] = ["arrival_s", "tenant", "prompt_tokens", "output_tokens"];

/// The row in `line`.
pub(super) fn parse(line: &str, columns: &[usize; 4]) -> Read<TraceRow> {
    let [at, tenant, prompt, output] = pick(line, columns, COLUMNS)?;
    if tenant.is_empty() {
        return Err(wrong(COLUMNS[1], tenant, "a tenant's name"));
    }
    Ok(TraceRow {
        at_ns: time(COLUMNS[0], at, 1_000_000_000)?,
        prompt_tokens: tokens(COLUMNS[2], prompt)?,
        output_tokens: tokens(COLUMNS[3], output)?,
        tenant: Some(tenant.into()),
        ..TraceRow::default()
    })
}
