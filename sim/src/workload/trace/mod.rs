//! Traces: files of requests. docs/traces.md describes the formats. A trace is read line by line through a bounded
//! reader, gzipped or not, and checked row by row.

mod agentic;
mod azure;
mod burstgpt;
mod fields;
mod lengths;
mod lines;
mod mooncake;
mod own_csv;
mod ragpulse;
mod servegen;
mod servesim;

pub(super) use servegen::{Client, Family, LengthCounts, RateWindow, WINDOW_S, read_clients};
pub use servesim::write_arrival;

use super::spec::{OnError, TraceFormat, TraceSpec};
use super::{LAST_ARRIVAL, TokenRun};
use crate::error::{Error, Result};
use crate::units::{SimDuration, Span};
use lines::Lines;
use std::path::Path;

/// One request of a trace, after slicing, scaling and capping.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TraceRow {
    /// Arrival in nanoseconds; 0 when the format has no times.
    pub at_ns: u64,
    /// Prompt length in tokens, at least 1.
    pub prompt_tokens: u32,
    /// Output length in tokens, at least 1.
    pub output_tokens: u32,
    /// Smaller is more important; none when the format has no priorities.
    pub priority: Option<i32>,
    /// Which session it is of; none when the format does not say.
    pub session: Option<u32>,
    /// Who sent it; none when the format does not say.
    pub tenant: Option<Box<str>>,
    /// Names the tokens of the reply, where later prompts repeat them.
    pub output_run: Option<u64>,
    /// Identity of the prompt's tokens, summing to `prompt_tokens`; empty when the row says nothing about it.
    pub runs: Vec<TokenRun>,
}

/// A turn of a recorded session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptTurn {
    /// Time after the answer before it.
    pub think: SimDuration,
    /// Length of the whole prompt in tokens.
    pub prompt_tokens: u32,
    /// Output length in tokens.
    pub output_tokens: u32,
    /// Identity of the prompt's tokens.
    pub runs: Vec<TokenRun>,
}

/// A recorded session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionScript {
    /// Its turns in order, at least one.
    pub turns: Vec<ScriptTurn>,
}

/// The chosen part of a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// The requests in order of time, at least one; none of a trace of sessions.
    pub rows: Vec<TraceRow>,
    /// The sessions of a trace of sessions.
    pub sessions: Vec<SessionScript>,
    /// Malformed rows that were left out.
    pub skipped_rows: u64,
    /// Whether the format has times.
    pub has_times: bool,
}

impl TraceSpec {
    /// The whole of the file at `path`, as it is.
    pub fn whole(path: &Path) -> TraceSpec {
        TraceSpec {
            path: path.to_path_buf(),
            format: None,
            skip: 0,
            limit: None,
            from: None,
            until: None,
            time_scale: None,
            rate: None,
            max_prompt_tokens: None,
            max_output_tokens: None,
            on_error: OnError::Fail,
        }
    }
}

/// How a row is read. CSV formats carry the positions of their columns.
enum RowReader {
    Azure([usize; 3]),
    Burstgpt([usize; 3]),
    Lengths([usize; 2]),
    Csv(own_csv::Columns),
    Mooncake,
    Servesim,
    Ragpulse(Box<ragpulse::Chunks>),
    Agentic,
}

impl RowReader {
    /// The reader for a file whose first line is `first`, and whether that line is a header.
    fn new(
        format: Option<TraceFormat>,
        first: &str,
        path: &Path,
    ) -> std::result::Result<(RowReader, bool), String> {
        match format.map_or_else(|| detect(first), Ok)? {
            TraceFormat::Agentic => Ok((RowReader::Agentic, false)),
            TraceFormat::Ragpulse => {
                Ok((RowReader::Ragpulse(Box::new(ragpulse::Chunks::beside(path)?)), false))
            }
            TraceFormat::Csv => Ok((RowReader::Csv(own_csv::Columns::of(first)?), true)),
            TraceFormat::Azure => Ok((RowReader::Azure(fields::columns(first, azure::COLUMNS)?), true)),
            TraceFormat::Burstgpt => {
                Ok((RowReader::Burstgpt(fields::columns(first, burstgpt::COLUMNS)?), true))
            }
            TraceFormat::Lengths => {
                lengths::columns(first).map(|(columns, header)| (RowReader::Lengths(columns), header))
            }
            TraceFormat::Mooncake => Ok((RowReader::Mooncake, false)),
            TraceFormat::Servesim => Ok((RowReader::Servesim, false)),
        }
    }

    /// What is in `line`, with the file's own time.
    fn parse(&self, line: &str, number: u64) -> std::result::Result<Item, String> {
        match self {
            RowReader::Azure(columns) => azure::parse(line, columns).map(Item::Row),
            RowReader::Burstgpt(columns) => burstgpt::parse(line, columns).map(Item::Row),
            RowReader::Lengths(columns) => lengths::parse(line, columns).map(Item::Row),
            RowReader::Csv(columns) => columns.parse(line).map(Item::Row),
            RowReader::Mooncake => mooncake::parse(line).map(Item::Row),
            RowReader::Servesim => servesim::parse(line).map(Item::Row),
            RowReader::Ragpulse(chunks) => chunks.parse(line, number).map(Item::Row),
            RowReader::Agentic => agentic::parse(line, number).map(Item::Session),
        }
    }
}

/// What a line holds.
enum Item {
    Row(TraceRow),
    Session(SessionScript),
}

/// The format that a file's first line shows.
fn detect(first: &str) -> std::result::Result<TraceFormat, String> {
    if first.trim_start().starts_with('{') {
        return if first.contains("\"timestamp\"") && first.contains("\"passages_ids\"") {
            Ok(TraceFormat::Ragpulse)
        } else if first.contains("\"arrival_ns\"") || first.contains("\"arrival_ms\"") {
            Ok(TraceFormat::Servesim)
        } else if first.contains("\"timestamp\"") && first.contains("\"hash_ids\"") {
            Ok(TraceFormat::Mooncake)
        } else if first.contains("\"block_size\"") && first.contains("\"requests\"") {
            Ok(TraceFormat::Agentic)
        } else {
            Err("an object of no known format; expected the keys arrival_ns, prompt_tokens, output_tokens \
                 (servesim) or timestamp, input_length, output_length, hash_ids (mooncake)"
                .to_string())
        };
    }
    let known = [(TraceFormat::Azure, azure::COLUMNS), (TraceFormat::Burstgpt, burstgpt::COLUMNS)];
    if let Some((format, _)) = known.iter().find(|(_, names)| fields::columns(first, *names).is_ok()) {
        return Ok(*format);
    }
    if own_csv::Columns::of(first).is_ok() {
        return Ok(TraceFormat::Csv);
    }
    if lengths::is_known_header(first) {
        return Ok(TraceFormat::Lengths);
    }
    let shown: String = first.chars().take(80).collect();
    Err(format!(
        "found `{shown}`, which is no known header; expected {} (csv), {} (azure), {} (burstgpt), {} (lengths), or \
         JSON objects (mooncake, servesim); say which with `format:`",
        own_csv::COLUMNS.join(","),
        azure::COLUMNS.join(","),
        burstgpt::COLUMNS.join(","),
        lengths::HEADERS[0].join(","),
    ))
}

/// Reads the part of a trace that `spec` chooses; its path is relative to `base_dir`. Errors about a row name file and
/// line; errors about the file as a whole have line 0.
pub fn read(spec: &TraceSpec, base_dir: &Path) -> Result<Trace> {
    let path = base_dir.join(&spec.path);
    let mut lines = Lines::open(&path)?;
    let label = lines.label().to_string();
    let mut slice = Slice::new(spec);
    let mut skipped_rows = 0;
    let mut reader: Option<RowReader> = None;
    // RAGPulse is not in order of time: all its rows are read first.
    let mut unordered: Vec<(u64, TraceRow)> = Vec::new();
    while let Some((number, text)) = lines.next_line()? {
        let item = text.and_then(|text| match &reader {
            Some(reader) => reader.parse(text, number).map(Some),
            None => {
                let (found, header) = RowReader::new(spec.format, text, &path)
                    .map_err(|message| format!("not a trace: {message}"))?;
                let item = if header { None } else { Some(found.parse(text, number)) };
                reader = Some(found);
                item.transpose()
            }
        });
        let outcome = match item {
            Ok(None) => continue,
            Ok(Some(Item::Row(row))) if matches!(reader, Some(RowReader::Ragpulse(_))) => {
                unordered.push((number, row));
                continue;
            }
            Ok(Some(Item::Row(row))) => slice.offer(number, row, matches!(reader, Some(RowReader::Azure(_)))),
            Ok(Some(Item::Session(session))) => Ok(slice.offer_session(session)),
            Err(message) => Err(message),
        };
        match outcome {
            Ok(true) => {}
            Ok(false) => break,
            // Without a header there is nothing to go on with.
            Err(_) if spec.on_error == OnError::Skip && reader.is_some() => skipped_rows += 1,
            Err(message) => return Err(Error::new(message).at(label, number, 0)),
        }
    }
    unordered.sort_by_key(|(_, row)| row.at_ns);
    for (number, row) in unordered {
        if !slice.offer(number, row, false).map_err(|message| Error::new(message).at(&label, number, 0))? {
            break;
        }
    }
    if slice.rows.is_empty() && slice.sessions.is_empty() {
        let skipped = if skipped_rows > 0 { format!(" ({skipped_rows} malformed)") } else { String::new() };
        let message = match slice.last {
            None => format!("is an empty trace: no usable rows{skipped}"),
            Some(_) => format!("no row of the trace is left after from, until and skip{skipped}"),
        };
        return Err(Error::file(label, message));
    }
    let has_times = !matches!(reader, Some(RowReader::Lengths(_) | RowReader::Agentic));
    Ok(Trace { rows: slice.rows, sessions: slice.sessions, skipped_rows, has_times })
}

/// Chooses rows, checks their order, and moves, scales and caps them.
struct Slice<'a> {
    spec: &'a TraceSpec,
    rows: Vec<TraceRow>,
    sessions: Vec<SessionScript>,
    /// The file's own time of its first row, where that is what times count from.
    base_ns: Option<u64>,
    /// Line and own time of the last good row.
    last: Option<(u64, u64)>,
    passed: u64,
    /// Trace time that becomes time 0.
    start_ns: u64,
}

impl<'a> Slice<'a> {
    fn new(spec: &'a TraceSpec) -> Self {
        let start_ns = spec.from.map_or(0, |from| from.0);
        Slice { spec, rows: Vec::new(), sessions: Vec::new(), base_ns: None, last: None, passed: 0, start_ns }
    }

    /// Takes a session, or leaves it out; false when no later one can be wanted. Sessions have no clock: `from` and
    /// `until` are not for them, and `time_scale` multiplies the think times.
    fn offer_session(&mut self, mut session: SessionScript) -> bool {
        self.last = Some((0, 0));
        if self.passed < self.spec.skip {
            self.passed += 1;
            return true;
        }
        for turn in &mut session.turns {
            if let Some(scale) = self.spec.time_scale {
                turn.think = SimDuration((turn.think.0 as f64 * scale).round() as u64);
            }
            let spec = self.spec;
            cap(spec, &mut turn.prompt_tokens, &mut turn.output_tokens, &mut turn.runs);
        }
        self.sessions.push(session);
        self.spec.limit.is_none_or(|limit| (self.sessions.len() as u64) < limit)
    }

    /// Takes the row of line `line`, or leaves it out; false when no later row can be wanted. `dated`: times are dates,
    /// and count from the first row.
    fn offer(&mut self, line: u64, mut row: TraceRow, dated: bool) -> std::result::Result<bool, String> {
        if let Some((earlier_line, earlier_ns)) = self.last
            && row.at_ns < earlier_ns
        {
            return Err(format!(
                "out of order: this row arrives {} before line {earlier_line}; sort the trace by time",
                Span(earlier_ns - row.at_ns)
            ));
        }
        self.last = Some((line, row.at_ns));
        let base_ns = *self.base_ns.get_or_insert(if dated { row.at_ns } else { 0 });
        let trace_ns = row.at_ns - base_ns;
        if self.spec.until.is_some_and(|until| trace_ns >= until.0) {
            return Ok(false);
        }
        if self.spec.from.is_some_and(|from| trace_ns < from.0) {
            return Ok(true);
        }
        if self.passed < self.spec.skip {
            self.passed += 1;
            return Ok(true);
        }
        if self.rows.is_empty() && self.spec.skip > 0 {
            self.start_ns = trace_ns;
        }
        row.at_ns = scale(trace_ns - self.start_ns, self.spec.time_scale)?;
        cap(self.spec, &mut row.prompt_tokens, &mut row.output_tokens, &mut row.runs);
        self.rows.push(row);
        Ok(self.spec.limit.is_none_or(|limit| (self.rows.len() as u64) < limit))
    }
}

/// `time_ns` times the scale, rounded to whole nanoseconds.
fn scale(time_ns: u64, scale: Option<f64>) -> std::result::Result<u64, String> {
    let scaled = scale.map_or(time_ns, |scale| (time_ns as f64 * scale).round() as u64);
    if scaled > LAST_ARRIVAL.0 {
        return Err(format!("arrives after {}, later than any run lasts", Span(LAST_ARRIVAL.0)));
    }
    Ok(scaled)
}

/// Cuts prompt and output to the caps, and the identity of the prompt with it.
fn cap(spec: &TraceSpec, prompt_tokens: &mut u32, output_tokens: &mut u32, runs: &mut Vec<TokenRun>) {
    if let Some(cap) = spec.max_output_tokens {
        *output_tokens = (*output_tokens).min(cap);
    }
    let Some(cap) = spec.max_prompt_tokens.filter(|cap| cap < prompt_tokens) else { return };
    *prompt_tokens = cap;
    let mut left = cap;
    runs.retain_mut(|run| {
        run.tokens = run.tokens.min(left);
        left -= run.tokens;
        run.tokens > 0
    });
}

#[cfg(test)]
mod published_tests;
#[cfg(test)]
mod tests;
