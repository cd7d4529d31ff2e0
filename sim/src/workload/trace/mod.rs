//! Traces: files of requests. docs/traces.md describes the formats. A trace is read line by line through a bounded
//! reader, gzipped or not, and checked row by row.

mod azure;
mod burstgpt;
mod fields;
mod lengths;
mod lines;
mod mooncake;
mod servesim;

pub use servesim::write_arrival;

use super::spec::{OnError, TraceFormat, TraceSpec};
use super::{LAST_ARRIVAL, TokenRun};
use crate::error::{Error, Result};
use crate::units::Span;
use lines::Lines;
use std::path::Path;

/// One request of a trace, after slicing, scaling and capping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceRow {
    /// Arrival in nanoseconds; 0 when the format has no times.
    pub at_ns: u64,
    /// Prompt length in tokens, at least 1.
    pub prompt_tokens: u32,
    /// Output length in tokens, at least 1.
    pub output_tokens: u32,
    /// Smaller is more important; none when the format has no priorities.
    pub priority: Option<i32>,
    /// The session that it belongs to, when the row says.
    pub session: Option<u32>,
    /// Identity of the prompt's tokens, summing to `prompt_tokens`; empty when the row says nothing about it.
    pub runs: Vec<TokenRun>,
}

/// The chosen part of a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// The requests in order of time, at least one.
    pub rows: Vec<TraceRow>,
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
    Mooncake,
    Servesim,
}

impl RowReader {
    /// The reader for a file whose first line is `first`, and whether that line is a header.
    fn new(format: Option<TraceFormat>, first: &str) -> std::result::Result<(RowReader, bool), String> {
        match format.map_or_else(|| detect(first), Ok)? {
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

    /// The row in `line`, with the file's own time.
    fn parse(&self, line: &str) -> std::result::Result<TraceRow, String> {
        match self {
            RowReader::Azure(columns) => azure::parse(line, columns),
            RowReader::Burstgpt(columns) => burstgpt::parse(line, columns),
            RowReader::Lengths(columns) => lengths::parse(line, columns),
            RowReader::Mooncake => mooncake::parse(line),
            RowReader::Servesim => servesim::parse(line),
        }
    }
}

/// The format that a file's first line shows.
fn detect(first: &str) -> std::result::Result<TraceFormat, String> {
    if first.trim_start().starts_with('{') {
        return if first.contains("\"arrival_ns\"") || first.contains("\"arrival_ms\"") {
            Ok(TraceFormat::Servesim)
        } else if first.contains("\"timestamp\"") && first.contains("\"hash_ids\"") {
            Ok(TraceFormat::Mooncake)
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
    if lengths::is_known_header(first) {
        return Ok(TraceFormat::Lengths);
    }
    let shown: String = first.chars().take(80).collect();
    Err(format!(
        "found `{shown}`, which is no known header; expected {} (azure), {} (burstgpt), {} (lengths), or JSON \
         objects (mooncake, servesim); say which with `format:`",
        azure::COLUMNS.join(","),
        burstgpt::COLUMNS.join(","),
        lengths::HEADERS[0].join(","),
    ))
}

/// Reads the part of a trace that `spec` chooses; its path is relative to `base_dir`. Errors about a row name file and
/// line; errors about the file as a whole have line 0.
pub fn read(spec: &TraceSpec, base_dir: &Path) -> Result<Trace> {
    let mut lines = Lines::open(&base_dir.join(&spec.path))?;
    let label = lines.label().to_string();
    let mut slice = Slice::new(spec);
    let mut skipped_rows = 0;
    let mut reader: Option<RowReader> = None;
    while let Some((number, text)) = lines.next_line()? {
        let row = text.and_then(|text| match &reader {
            Some(reader) => reader.parse(text).map(Some),
            None => {
                let (found, header) =
                    RowReader::new(spec.format, text).map_err(|message| format!("not a trace: {message}"))?;
                let row = if header { None } else { Some(found.parse(text)) };
                reader = Some(found);
                row.transpose()
            }
        });
        let outcome = match row {
            Ok(None) => continue,
            Ok(Some(row)) => slice.offer(number, row, matches!(reader, Some(RowReader::Azure(_)))),
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
    if slice.rows.is_empty() {
        let skipped = if skipped_rows > 0 { format!(" ({skipped_rows} malformed)") } else { String::new() };
        let message = match slice.last {
            None => format!("is an empty trace: no usable rows{skipped}"),
            Some(_) => format!("no row of the trace is left after from, until and skip{skipped}"),
        };
        return Err(Error::file(label, message));
    }
    let has_times = !matches!(reader, Some(RowReader::Lengths(_)));
    Ok(Trace { rows: slice.rows, skipped_rows, has_times })
}

/// Chooses rows, checks their order, and moves, scales and caps them.
struct Slice<'a> {
    spec: &'a TraceSpec,
    rows: Vec<TraceRow>,
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
        Slice { spec, rows: Vec::new(), base_ns: None, last: None, passed: 0, start_ns }
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
        cap(&mut row, self.spec);
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
fn cap(row: &mut TraceRow, spec: &TraceSpec) {
    if let Some(cap) = spec.max_output_tokens {
        row.output_tokens = row.output_tokens.min(cap);
    }
    let Some(cap) = spec.max_prompt_tokens.filter(|cap| *cap < row.prompt_tokens) else { return };
    row.prompt_tokens = cap;
    let mut left = cap;
    row.runs.retain_mut(|run| {
        run.tokens = run.tokens.min(left);
        left -= run.tokens;
        run.tokens > 0
    });
}

#[cfg(test)]
mod published_tests;
#[cfg(test)]
mod tests;
