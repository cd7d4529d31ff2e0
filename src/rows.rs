//! One row per request and per step, as CSV or JSON lines by the file's name.

use crate::output::WholeFile;
use anyhow::{Result, bail};
use serde::Serialize;
use sim::metrics;
use sim::replica::StepRecord;
use sim::request::{Outcome, RequestId, RequestTable};
use sim::units::SimTime;
use std::io::Write;
use std::path::Path;

/// Writes rows of one kind.
pub enum RowWriter {
    Csv(Box<csv::Writer<WholeFile>>),
    JsonLines(WholeFile),
}

impl RowWriter {
    /// Starts the file; its ending tells the form.
    pub fn create(path: &Path) -> Result<RowWriter> {
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("csv") => Ok(RowWriter::Csv(Box::new(csv::Writer::from_writer(WholeFile::create(path)?)))),
            Some("jsonl") => Ok(RowWriter::JsonLines(WholeFile::create(path)?)),
            _ => bail!("{}: found an unknown ending, expected .csv or .jsonl", path.display()),
        }
    }

    /// Adds a row.
    pub fn write<T: Serialize>(&mut self, row: &T) -> Result<()> {
        match self {
            RowWriter::Csv(writer) => writer.serialize(row)?,
            RowWriter::JsonLines(file) => {
                serde_json::to_writer(&mut *file, row)?;
                file.write_all(b"\n")?;
            }
        }
        Ok(())
    }

    /// Completes the file.
    pub fn finish(self) -> Result<()> {
        match self {
            RowWriter::Csv(writer) => match writer.into_inner() {
                Ok(file) => file.finish(),
                Err(error) => bail!("{}", error.error()),
            },
            RowWriter::JsonLines(file) => file.finish(),
        }
    }
}

/// One request. Times in ns since the start of the run; empty where they never happened.
#[derive(Serialize)]
struct RequestRow {
    id: u32,
    replica: u32,
    outcome: &'static str,
    arrival_ns: u64,
    prompt_tokens: u32,
    output_tokens: u32,
    priority: i32,
    first_scheduled_ns: Option<u64>,
    first_token_ns: Option<u64>,
    last_token_ns: Option<u64>,
    ttft_ns: Option<u64>,
    tpot_ns: Option<u64>,
    max_itl_ns: u64,
    e2el_ns: Option<u64>,
    preemptions: u32,
    cached_tokens: u32,
}

impl RequestRow {
    fn new(table: &RequestTable, id: RequestId) -> RequestRow {
        let i = id.index();
        let happened = |time: SimTime| (time != SimTime::NEVER).then_some(time.0);
        let finished = table.outcome[i] == Outcome::Finished;
        RequestRow {
            id: id.0,
            replica: table.replica[i],
            outcome: match table.outcome[i] {
                Outcome::Unfinished => "unfinished",
                Outcome::Finished => "finished",
                Outcome::Rejected => "rejected",
            },
            arrival_ns: table.arrival[i].0,
            prompt_tokens: table.prompt_tokens[i],
            output_tokens: table.output_tokens[i],
            priority: table.priority[i],
            first_scheduled_ns: happened(table.first_scheduled[i]),
            first_token_ns: happened(table.first_token[i]),
            last_token_ns: happened(table.last_token[i]),
            ttft_ns: finished.then(|| metrics::ttft_ns(table, id)),
            tpot_ns: finished.then(|| metrics::tpot_ns(table, id)).flatten(),
            max_itl_ns: table.max_gap_ns[i],
            e2el_ns: finished.then(|| metrics::e2el_ns(table, id)),
            preemptions: table.preemptions[i],
            cached_tokens: table.cached_tokens[i],
        }
    }
}

/// Writes every request of a run.
pub fn write_requests(mut writer: RowWriter, table: &RequestTable) -> Result<()> {
    for id in table.ids() {
        writer.write(&RequestRow::new(table, id))?;
    }
    writer.finish()
}

/// One step.
#[derive(Serialize)]
pub struct StepRow {
    replica: u32,
    start_ns: u64,
    duration_ns: u64,
    batch_requests: u64,
    new_tokens: u64,
    prefill_tokens: u64,
    prefill_requests: u64,
    decode_requests: u64,
    context_tokens: u64,
    sampled_requests: u64,
    preempted_requests: u64,
    running_requests: u32,
    waiting_requests: u32,
    free_blocks: u32,
}

impl StepRow {
    /// The row of a step.
    pub fn new(step: &StepRecord<'_>) -> StepRow {
        StepRow {
            replica: step.replica,
            start_ns: step.start.0,
            duration_ns: step.duration.0,
            batch_requests: step.shape.batch_requests(),
            new_tokens: step.shape.new_tokens(),
            prefill_tokens: step.shape.prefill_tokens,
            prefill_requests: step.shape.prefill_requests,
            decode_requests: step.shape.decode_requests,
            context_tokens: step.shape.context_tokens(),
            sampled_requests: step.shape.sampled_requests,
            preempted_requests: u64::from(step.preempted_requests),
            running_requests: step.running_requests,
            waiting_requests: step.waiting_requests,
            free_blocks: step.free_blocks,
        }
    }
}
