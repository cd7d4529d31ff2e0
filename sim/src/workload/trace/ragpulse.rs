//! RAGPulse (arXiv 2511.12979): JSONL with timestamp (seconds, as text), input_length, output_length, session_id, and
//! hash_ids: lists of ids of content chunks. A prompt is its system chunks, passages, history, web results and question,
//! in this order; what their lengths leave of input_length is the template's, which is taken as unlike any other and
//! last. The lengths are in files beside the trace.

use super::TraceRow;
use super::fields::{Read, json_tokens, member, object, time, wrong};
use super::lines::Lines;
use crate::identity::TokenRun;
use rustc_hash::FxHashMap;
use serde_json::{Map, Value};
use std::path::Path;
use std::sync::Mutex;

/// Lists of chunks in the order of the prompt, their files, and the key of their ids there.
const KINDS: [(&str, &str, &str); 5] = [
    ("sys_prompt", "1_sys_prompt.jsonl", "sys_prompt_id"),
    ("passages_ids", "2_passages.jsonl", "passage_id"),
    ("history", "3_history.jsonl", "history_id"),
    ("web_search", "5_web_search.jsonl", "web_search_id"),
    ("user_input", "4_user_input.jsonl", "user_input_id"),
];

/// Ids of chunks of a kind start here.
const KIND_IDS: u64 = 1 << 40;

/// Lengths of all chunks, and the sessions seen so far.
pub(super) struct Chunks {
    tokens: [FxHashMap<u64, u32>; 5],
    sessions: Mutex<FxHashMap<String, u32>>,
}

impl Chunks {
    /// Reads the lengths from the files in the folder of the trace at `path`, gzipped or not.
    pub(super) fn beside(path: &Path) -> Read<Chunks> {
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut tokens: [FxHashMap<u64, u32>; 5] = Default::default();
        for ((_, file, key), tokens) in KINDS.iter().zip(&mut tokens) {
            let gzipped = folder.join(format!("{file}.gz"));
            let path = if gzipped.is_file() { gzipped } else { folder.join(file) };
            let mut lines = Lines::open(&path).map_err(|error| error.to_string())?;
            while let Some((number, text)) = lines.next_line().map_err(|error| error.to_string())? {
                let entry = text.and_then(|text| {
                    let row = object(text)?;
                    let id = member(&row, key)?;
                    let id = id.as_u64().ok_or_else(|| wrong(key, &id.to_string(), "a chunk's id"))?;
                    Ok((id, json_tokens(&row, "token_length")?))
                });
                let (id, length) =
                    entry.map_err(|message| format!("{}:{number}: {message}", path.display()))?;
                tokens.insert(id, length);
            }
        }
        Ok(Chunks { tokens, sessions: Mutex::default() })
    }

    /// The row in `line`, number `number` of the file.
    pub(super) fn parse(&self, line: &str, number: u64) -> Read<TraceRow> {
        let row = object(line)?;
        let at = member(&row, "timestamp")?;
        let at = at.as_str().map_or_else(|| at.to_string(), str::to_string);
        let prompt_tokens = json_tokens(&row, "input_length")?;
        Ok(TraceRow {
            at_ns: time("timestamp", &at, 1_000_000_000)?,
            prompt_tokens,
            output_tokens: json_tokens(&row, "output_length")?,
            session: Some(self.session(&row)?),
            runs: self.runs(&row, prompt_tokens, number)?,
            ..TraceRow::default()
        })
    }

    /// Sessions are numbered as they appear.
    fn session(&self, row: &Map<String, Value>) -> Read<u32> {
        let value = member(row, "session_id")?;
        let name = value.as_str().ok_or_else(|| wrong("session_id", &value.to_string(), "a text"))?;
        let mut sessions = self.sessions.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let next = sessions.len() as u32 + 1;
        Ok(*sessions.entry(name.to_string()).or_insert(next))
    }

    fn runs(&self, row: &Map<String, Value>, prompt_tokens: u32, number: u64) -> Read<Vec<TokenRun>> {
        let lists = member(row, "hash_ids")?;
        let mut runs = Vec::new();
        let mut left = prompt_tokens;
        for (kind, ((list, file, _), lengths)) in KINDS.iter().zip(&self.tokens).enumerate() {
            let found = lists.get(list);
            let ids = found
                .and_then(Value::as_array)
                .ok_or_else(|| format!("column hash_ids.{list}: is missing"))?;
            for id in ids {
                let known = id.as_u64().and_then(|id| Some((id, *lengths.get(&id)?)));
                let expected = format!("the id of a chunk in {file}");
                let (id, tokens) =
                    known.ok_or_else(|| wrong(&format!("hash_ids.{list}"), &id.to_string(), &expected))?;
                let tokens = tokens.min(left);
                left -= tokens;
                if tokens > 0 {
                    runs.push(TokenRun { id: KIND_IDS * kind as u64 + id, tokens });
                }
            }
        }
        if left > 0 {
            runs.push(TokenRun { id: KIND_IDS * KINDS.len() as u64 + number, tokens: left });
        }
        Ok(runs)
    }
}
