//! Sessions of coding agents (kv-cache-tester): JSONL, one session per line, with its requests in order: `in`, `out`
//! (tokens), `think_time` (seconds after the previous answer) and `blocks`, runs [first id, how many] of the ids of the
//! prompt's full blocks, which mean something inside their session only. The turns of a sub-agent follow where it was
//! called, as if its caller waited for it. An output of no tokens counts as one, for an engine that computes a prompt
//! gives a token.

use super::fields::{Read, json_tokens, member, object, time, wrong};
use super::{ScriptTurn, SessionScript};
use crate::identity::TokenRun;
use crate::units::SimDuration;
use serde_json::{Map, Value};

/// Ids of a session's blocks are below this.
const SESSION_IDS: u64 = 1 << 28;
/// The tails of its prompts, which fill no block, have ids from here.
const TAIL_IDS: u64 = 1 << 27;
/// Sub-agents may call others this deep.
const DEPTH_MAX: u32 = 8;

/// The session in `line`, number `number` of the file.
pub(super) fn parse(line: &str, number: u64) -> Read<SessionScript> {
    let row = object(line)?;
    let block_tokens = json_tokens(&row, "block_size")?;
    let mut reader = Reader { block_tokens, first_id: number * SESSION_IDS, turns: Vec::new() };
    reader.read(&row, 0)?;
    if reader.turns.is_empty() {
        return Err("column requests: found none, expected 1 or more".into());
    }
    Ok(SessionScript { turns: reader.turns })
}

struct Reader {
    block_tokens: u32,
    /// Where the session's ids start among those of all sessions.
    first_id: u64,
    turns: Vec<ScriptTurn>,
}

impl Reader {
    fn read(&mut self, row: &Map<String, Value>, depth: u32) -> Read<()> {
        if depth > DEPTH_MAX {
            return Err(format!("column requests: sub-agents more than {DEPTH_MAX} deep"));
        }
        let requests = member(row, "requests")?;
        let requests = requests
            .as_array()
            .ok_or_else(|| wrong("requests", &requests.to_string(), "a list of requests"))?;
        for request in requests {
            let Value::Object(request) = request else {
                return Err(wrong("requests", &request.to_string(), "an object"));
            };
            if request.contains_key("requests") {
                self.read(request, depth + 1)?;
            } else {
                let turn = self.turn(request)?;
                self.turns.push(turn);
            }
        }
        Ok(())
    }

    fn turn(&self, request: &Map<String, Value>) -> Read<ScriptTurn> {
        let prompt_tokens = json_tokens(request, "in")?;
        let output_tokens =
            if member(request, "out")?.as_u64() == Some(0) { 1 } else { json_tokens(request, "out")? };
        let think = match request.get("think_time") {
            None | Some(Value::Null) => 0,
            Some(Value::Number(seconds)) => time("think_time", &seconds.to_string(), 1_000_000_000)?,
            Some(other) => return Err(wrong("think_time", &other.to_string(), "seconds, 0 or more")),
        };
        let runs = self.runs(member(request, "blocks")?, prompt_tokens)?;
        Ok(ScriptTurn { think: SimDuration(think), prompt_tokens, output_tokens, runs })
    }

    /// Neighbouring ids are one run: two prompts that start with the same ids have the same runs, but for the length of
    /// the last, so they share exactly those tokens.
    fn runs(&self, blocks: &Value, prompt_tokens: u32) -> Read<Vec<TokenRun>> {
        let failed = || wrong("blocks", &blocks.to_string(), "a list of [first id, how many]");
        let mut runs: Vec<TokenRun> = Vec::new();
        let mut next_id = None;
        let mut left = prompt_tokens;
        for block in blocks.as_array().ok_or_else(failed)? {
            let pair = block.as_array().map_or(&[][..], Vec::as_slice);
            let [first, count] = pair else { return Err(failed()) };
            let (first, count) = first.as_u64().zip(count.as_u64()).ok_or_else(failed)?;
            let end = first.checked_add(count).filter(|end| *end <= TAIL_IDS).ok_or_else(failed)?;
            let tokens = count
                .checked_mul(u64::from(self.block_tokens))
                .filter(|tokens| *tokens <= u64::from(left))
                .ok_or_else(|| {
                    format!("column blocks: found more full blocks than {prompt_tokens} tokens have")
                })? as u32;
            left -= tokens;
            match runs.last_mut() {
                Some(run) if next_id == Some(first) => run.tokens += tokens,
                _ if tokens > 0 => runs.push(TokenRun { id: self.first_id + first, tokens }),
                _ => {}
            }
            next_id = Some(end);
        }
        if left > 0 {
            let id = self.first_id + TAIL_IDS + self.turns.len() as u64;
            runs.push(TokenRun { id, tokens: left });
        }
        Ok(runs)
    }
}
