//! Mooncake: JSONL with timestamp (milliseconds), input_length, output_length, and hash_ids, one per 512-token block
//! of the prompt, the last of which may be partial. Equal ids imply equal everything before them. Other keys are
//! ignored.

use super::TraceRow;
use super::fields::{Read, block_runs, json_time, json_tokens, member, object};

const BLOCK_TOKENS: u32 = 512;

/// The row in `line`.
pub(super) fn parse(line: &str) -> Read<TraceRow> {
    let row = object(line)?;
    let prompt_tokens = json_tokens(&row, "input_length")?;
    Ok(TraceRow {
        at_ns: json_time(&row, "timestamp", 1_000_000)?,
        prompt_tokens,
        output_tokens: json_tokens(&row, "output_length")?,
        priority: None,
        session: None,
        runs: block_runs("hash_ids", member(&row, "hash_ids")?, prompt_tokens, BLOCK_TOKENS)?,
    })
}
