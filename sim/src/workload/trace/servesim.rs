//! This project's own traces: JSONL, one request per line. Unknown keys are errors.

use super::super::{Arrival, MAX_TOKENS, TokenRun};
use super::TraceRow;
use super::fields::{Read, block_runs, json_time, json_tokens, object, wrong};
use crate::document::hint;
use serde_json::{Map, Value};
use std::io::{self, Write};

const KEYS: [&str; 10] = [
    "id",
    "arrival_ns",
    "arrival_ms",
    "prompt_tokens",
    "output_tokens",
    "priority",
    "tenant",
    "hash_ids",
    "hash_block_tokens",
    "runs",
];

/// The row in `line`.
pub(super) fn parse(line: &str) -> Read<TraceRow> {
    let row = object(line)?;
    if let Some(unknown) = row.keys().find(|key| !KEYS.contains(&key.as_str())) {
        return Err(format!(
            "column {unknown}: unknown key{}; known: {}",
            hint(unknown, &KEYS),
            KEYS.join(", ")
        ));
    }
    let at_ns = match (row.contains_key("arrival_ns"), row.contains_key("arrival_ms")) {
        (true, false) => json_time(&row, "arrival_ns", 1)?,
        (false, true) => json_time(&row, "arrival_ms", 1_000_000)?,
        (true, true) => {
            return Err("column arrival_ms: cannot go with arrival_ns; remove one of the two".into());
        }
        (false, false) => return Err("column arrival_ns: is missing".into()),
    };
    let prompt_tokens = json_tokens(&row, "prompt_tokens")?;
    Ok(TraceRow {
        at_ns,
        prompt_tokens,
        output_tokens: json_tokens(&row, "output_tokens")?,
        priority: priority(&row)?,
        session: None,
        runs: identity(&row, prompt_tokens)?,
    })
}

fn priority(row: &Map<String, Value>) -> Read<Option<i32>> {
    let Some(value) = row.get("priority") else { return Ok(None) };
    match value.as_i64().and_then(|number| i32::try_from(number).ok()) {
        Some(priority) => Ok(Some(priority)),
        None => Err(wrong("priority", &value.to_string(), "a whole number of 32 bits")),
    }
}

/// The identity of the prompt: `runs`, or `hash_ids` with `hash_block_tokens`.
fn identity(row: &Map<String, Value>, prompt_tokens: u32) -> Read<Vec<TokenRun>> {
    match (row.get("runs"), row.get("hash_ids"), row.get("hash_block_tokens")) {
        (None, None, None) => Ok(Vec::new()),
        (Some(given), None, None) => runs(given, prompt_tokens),
        (None, Some(ids), Some(block)) => {
            let block_tokens = json_tokens(row, "hash_block_tokens")
                .map_err(|_| wrong("hash_block_tokens", &block.to_string(), "a whole number, 1 or more"))?;
            block_runs("hash_ids", ids, prompt_tokens, block_tokens)
        }
        (None, Some(_), None) => {
            Err("column hash_block_tokens: is missing; it gives the size of the hash_ids".into())
        }
        (None, None, Some(_)) => {
            Err("column hash_ids: is missing, although hash_block_tokens is given".into())
        }
        (Some(_), _, _) => Err("column runs: cannot go with hash_ids; remove one of the two".into()),
    }
}

/// Runs given as a list of [id, tokens].
fn runs(given: &Value, prompt_tokens: u32) -> Read<Vec<TokenRun>> {
    let failed = |found: &Value| wrong("runs", &found.to_string(), "a list of [id, tokens]");
    let mut runs = Vec::new();
    let mut total = 0u64;
    for entry in given.as_array().ok_or_else(|| failed(given))? {
        let numbers = entry.as_array().map_or(&[][..], Vec::as_slice);
        let [id, tokens] = numbers else { return Err(failed(entry)) };
        match (id.as_u64(), tokens.as_u64()) {
            (Some(id), Some(tokens)) if (1..=u64::from(MAX_TOKENS)).contains(&tokens) => {
                runs.push(TokenRun { id, tokens: tokens as u32 });
                total += tokens;
            }
            _ => return Err(failed(entry)),
        }
    }
    if !runs.is_empty() && total != u64::from(prompt_tokens) {
        return Err(format!(
            "column runs: found {total} tokens, expected {prompt_tokens} as in prompt_tokens"
        ));
    }
    Ok(runs)
}

/// Writes one request as a line of a trace that [`read`](super::read) reads back as it was. `id` is the request's
/// number in the run. Fails only as `out` fails.
pub fn write_arrival(out: &mut impl Write, id: u64, arrival: &Arrival) -> io::Result<()> {
    write!(
        out,
        "{{\"id\":{id},\"arrival_ns\":{},\"prompt_tokens\":{},\"output_tokens\":{}",
        arrival.at.0, arrival.prompt_tokens, arrival.output_tokens
    )?;
    if arrival.priority != 0 {
        write!(out, ",\"priority\":{}", arrival.priority)?;
    }
    for (index, run) in arrival.runs.iter().enumerate() {
        let before = if index == 0 { ",\"runs\":[" } else { "," };
        write!(out, "{before}[{},{}]", run.id, run.tokens)?;
    }
    let end = if arrival.runs.is_empty() { "}\n" } else { "]}\n" };
    out.write_all(end.as_bytes())
}
