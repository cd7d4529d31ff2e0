//! Which format a file has.

use super::bench::Bench;
use super::{guidellm, own, prometheus, recorded, serving};
use crate::truth::FileKind;
use serde_json::Value;
use sim::{Error, Result};
use std::path::Path;

/// A file of more bytes than this is refused.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// What is read, for messages.
const FORMATS: &str = "the result JSON of `vllm bench serve`, JSON lines of `sglang.bench_serving`, a report of GuideLLM, a text \
                       dump of vLLM's metrics, a result or a pack of `servesim truth`, or lines with prompt_tokens, output_tokens, \
                       ttft_ms and e2el_ms";

/// The runs of a file.
///
/// # Errors
/// A file that cannot be read, is cut short, or has none of the known formats.
pub fn read_bench(path: &Path) -> Result<Vec<Bench>> {
    let text = match path.extension().is_some_and(|ending| ending == "gz") {
        true => crate::truth::read_text(path)?,
        false => sim::document::read_text(path, MAX_FILE_BYTES)?,
    };
    read_text(&path.display().to_string(), &text)
}

/// The same of a text; `label` stands for the file in messages.
///
/// # Errors
/// As [`read_bench`].
pub fn read_text(label: &str, text: &str) -> Result<Vec<Bench>> {
    let start = text.trim_start();
    if start.lines().any(|line| line.starts_with("vllm:")) {
        return Ok(vec![prometheus::read(label, text)?]);
    }
    if !start.starts_with('{') {
        let found = match start.is_empty() {
            true => "is empty".to_string(),
            false => {
                let line = start.lines().next().unwrap_or("").trim_end();
                format!("starts with `{}`", line.chars().take(20).collect::<String>())
            }
        };
        return Err(Error::file(label, format!("{found}; expected {FORMATS}")));
    }
    let text = strict(text);
    match serde_json::from_str::<Value>(&text) {
        Ok(value) => one(label, &value),
        // Several values one after the other: JSON lines.
        Err(error) if error.is_syntax() && error.to_string().starts_with("trailing characters") => {
            lines(label, &text)
        }
        Err(error) => Err(json_error(label, &error, error.line() as u64)),
    }
}

fn one(label: &str, value: &Value) -> Result<Vec<Bench>> {
    if value.get("benchmarks").is_some() {
        return guidellm::read(label, value);
    }
    if let Some(kind) = FileKind::of(value) {
        return recorded::read(label, value, kind);
    }
    if serving::is_result(value) {
        return Ok(vec![serving::read(label, value)?]);
    }
    if own::is_line(value) {
        return Ok(vec![own::read(label, &[(1, value.clone())])?]);
    }
    let keys: Vec<&str> =
        value.as_object().into_iter().flatten().take(5).map(|(key, _)| key.as_str()).collect();
    Err(Error::file(
        label,
        format!("is JSON with {}, which is no known result; expected {FORMATS}", keys.join(", ")),
    ))
}

fn lines(label: &str, text: &str) -> Result<Vec<Bench>> {
    let mut values = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let number = index as u64 + 1;
        let value: Value = serde_json::from_str(line).map_err(|error| json_error(label, &error, number))?;
        values.push((number, value));
    }
    match values.first() {
        Some((_, first)) if serving::is_result(first) => {
            values.iter().map(|(number, value)| serving::read(&format!("{label}:{number}"), value)).collect()
        }
        Some((_, first)) if own::is_line(first) => Ok(vec![own::read(label, &values)?]),
        Some((_, first)) => one(label, first),
        None => Err(Error::file(label, format!("is empty; expected {FORMATS}"))),
    }
}

pub(crate) fn json_error(label: &str, error: &serde_json::Error, line: u64) -> Error {
    let message = match error.is_eof() {
        true => {
            "the JSON ends in the middle of a value: the file is cut short; copy it again, or repeat the run"
                .to_string()
        }
        false => format!("is not JSON: {error}"),
    };
    Error::new(message).at(label, line, 0)
}

/// Python writes numbers that JSON does not have: outside of texts, `Infinity` becomes `"inf"` and `NaN` becomes `null`.
fn strict(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut in_text, mut escaped) = (false, false);
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        if !in_text {
            let python = [("-Infinity", "null"), ("Infinity", "\"inf\""), ("NaN", "null")];
            if let Some((word, json)) = python.iter().find(|(word, _)| rest.starts_with(word)) {
                out.push_str(json);
                rest = rest.get(word.len()..).unwrap_or("");
                continue;
            }
        }
        match letter {
            _ if escaped => escaped = false,
            '\\' if in_text => escaped = true,
            '"' => in_text = !in_text,
            _ => {}
        }
        out.push(letter);
        rest = rest.get(letter.len_utf8()..).unwrap_or("");
    }
    out
}
