//! The rows of `cases_index.csv` as runs.

use super::runs::{EngineName, Load, Metric, Run, Shape, Stat, Statistic, ThroughputUnit, numbers};
use super::settings::flag_value;
use crate::measurement::csv_error;
use sim::document::io_message;
use sim::{Error, Result};
use std::collections::BTreeMap;
use std::path::Path;

/// Columns of latencies.
const LATENCIES: [(&str, Statistic); 13] = [
    ("ttft_mean", (Metric::Ttft, Stat::Mean)),
    ("ttft_p50", (Metric::Ttft, Stat::P50)),
    ("ttft_p90", (Metric::Ttft, Stat::P90)),
    ("ttft_p99", (Metric::Ttft, Stat::P99)),
    ("tpot_mean", (Metric::Tpot, Stat::Mean)),
    ("tpot_p50", (Metric::Tpot, Stat::P50)),
    ("tpot_p99", (Metric::Tpot, Stat::P99)),
    ("itl_mean", (Metric::Itl, Stat::Mean)),
    ("itl_p50", (Metric::Itl, Stat::P50)),
    ("itl_p99", (Metric::Itl, Stat::P99)),
    ("e2e_latency_mean", (Metric::E2el, Stat::Mean)),
    ("e2e_latency_p50", (Metric::E2el, Stat::P50)),
    ("e2e_latency_p99", (Metric::E2el, Stat::P99)),
];

/// Columns of throughput, the first that a row has counts.
const THROUGHPUTS: [(&str, ThroughputUnit); 3] = [
    ("output_throughput_mean", ThroughputUnit::OutputTokens),
    ("total_throughput_mean", ThroughputUnit::AllTokens),
    ("request_throughput_mean", ThroughputUnit::Requests),
];

/// A file of more bytes than this is not an index of runs.
const MAX_FILE_BYTES: u64 = 64 << 20;

type Record = BTreeMap<String, String>;

/// The runs of `cases_index.csv` in `folder`, but static batches; in the order of the file. A row with the figures of an
/// earlier row keeps its place and says so in [`Run::unusable`].
///
/// # Errors
/// A missing file or column, or a figure that cannot be read, with file and line.
pub fn read_runs(folder: &Path) -> Result<Vec<Run>> {
    let path = folder.join("cases_index.csv");
    let label = path.display().to_string();
    let fail = |error: &std::io::Error| Error::file(&label, io_message(error));
    if std::fs::metadata(&path).map_err(|error| fail(&error))?.len() > MAX_FILE_BYTES {
        return Err(Error::file(label, format!("holds more than {MAX_FILE_BYTES} bytes")));
    }
    let text = std::fs::read(&path).map_err(|error| fail(&error))?;
    let mut reader = csv::Reader::from_reader(text.as_slice());
    let header = reader.headers().map_err(|error| csv_error(&label, &error))?.clone();
    let mut runs: Vec<Run> = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| csv_error(&label, &error))?;
        let line = record.position().map_or(0, csv::Position::line);
        let cells: Record = header.iter().map(String::from).zip(record.iter().map(String::from)).collect();
        let row = Row { label: &label, line, cells: &cells, folder };
        if row.text("load_type")? == "static_batch" {
            continue;
        }
        if let Some(mut run) = row.run()? {
            if let Some(earlier) = runs.iter().find(|earlier| is_copy(earlier, &run)) {
                run.unusable = Some(format!("its figures are those of {} to the last digit", earlier.id));
            }
            runs.push(run);
        }
    }
    Ok(runs)
}

/// Whether two rows of a source state the same figures: at least four of them, all equal.
fn is_copy(earlier: &Run, run: &Run) -> bool {
    earlier.source == run.source && run.measured.len() >= 4 && earlier.measured == run.measured
}

struct Row<'a> {
    label: &'a str,
    line: u64,
    cells: &'a Record,
    folder: &'a Path,
}

impl Row<'_> {
    fn fail(&self, column: &str, message: String) -> Error {
        Error::new(message).key(column).at(self.label, self.line, 0)
    }

    fn text(&self, column: &str) -> Result<&str> {
        match self.cells.get(column) {
            Some(text) => Ok(text.trim()),
            None => Err(self.fail(column, "the column is missing".to_string())),
        }
    }

    fn optional(&self, column: &str) -> Result<Option<f64>> {
        let text = self.text(column)?;
        if text.is_empty() {
            return Ok(None);
        }
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() && number > 0.0 => Ok(Some(number)),
            _ => Err(self.fail(column, format!("found `{text}`, expected a positive number"))),
        }
    }

    /// The last number of a text such as `concurrency 16`.
    fn count(&self, column: &str) -> Result<Option<u32>> {
        let text = self.text(column)?;
        Ok(numbers(text).last().map(|number| *number as u32))
    }

    /// A mean length: what was measured where the row says `actual mean`, the middle of what it states otherwise.
    fn length(&self, column: &str) -> Result<f64> {
        let text = self.text(column)?;
        let actual = text.split("actual mean").nth(1).unwrap_or(text);
        let stated = numbers(actual);
        match stated.len() {
            0 => Err(self.fail(column, format!("found `{text}`, expected a number of tokens"))),
            count => Ok(stated.iter().sum::<f64>() / count as f64),
        }
    }

    fn run(&self) -> Result<Option<Run>> {
        let engine = match self.text("engine")? {
            "vLLM" => EngineName::Vllm,
            "SGLang" => EngineName::Sglang,
            "TensorRT-LLM" => EngineName::TensorRtLlm,
            _ => return Ok(None),
        };
        let distribution = self.text("length_dist")?;
        let shape = match distribution {
            text if text.starts_with("constant") => Shape::Constant,
            text if text.starts_with("ShareGPT") => Shape::ShareGpt,
            _ => {
                let command = self.text("other_config")?;
                let limit = |flags: &[&str]| flags.iter().find_map(|flag| flag_value(command, flag));
                let prompt = limit(&["--random-input-len", "--random-input"]);
                let output = limit(&["--random-output-len", "--random-output"]);
                match prompt.zip(output) {
                    Some((prompt, output))
                        if command.contains("bench_serving") || command.contains("sglang serve") =>
                    {
                        Shape::SglangRandom(prompt, output)
                    }
                    _ => Shape::Uniform,
                }
            }
        };
        let load = match self.text("load_type")? {
            "burst" | "offline" => Load::Burst,
            "poisson" => Load::Poisson(self.count("load_value")?.map_or(1.0, f64::from)),
            "closed_loop" => Load::ClosedLoop(self.count("load_value")?.unwrap_or(1)),
            "trace_replay" => Load::Replay(self.folder.join(trace_of(distribution))),
            other => return Err(self.fail("load_type", format!("found `{other}`, which is not known"))),
        };
        let mut measured = BTreeMap::new();
        for (column, statistic) in LATENCIES {
            if let Some(value) = self.optional(column)? {
                measured.insert(statistic, value);
            }
        }
        let mut unit = ThroughputUnit::OutputTokens;
        for (column, of) in THROUGHPUTS {
            if let Some(value) = self.optional(column)? {
                measured.insert((Metric::Throughput, Stat::Mean), value);
                unit = of;
                break;
            }
        }
        let command = self.text("other_config")?.to_string();
        let source_path = self.text("source_path")?;
        let stated = |column: &str| self.text(column).map(String::from);
        Ok(Some(Run {
            id: stated("group_id")?,
            source: stated("source")?,
            page: source_path.split('§').next().unwrap_or(source_path).trim().to_string(),
            engine,
            version: stated("engine_version")?,
            model: stated("model")?,
            weights: stated("weight_dtype")?,
            kv: stated("kv_dtype")?,
            gpu: stated("gpu")?,
            tensor: self.count("tp")?.unwrap_or(1),
            pipeline: self.count("pp")?.unwrap_or(1),
            expert: stated("ep")?,
            data: stated("dp")?,
            prompt_tokens: self.length("isl")?,
            output_tokens: self.length("osl")?,
            shape,
            load,
            requests: self.count("num_requests")?.unwrap_or(1).max(1),
            max_num_seqs: self.text("max_num_seqs")?.parse().ok(),
            max_num_batched_tokens: self.text("max_num_batched_tokens")?.parse().ok(),
            unusable: unusable(distribution, &command, self.text("notes")?),
            command,
            measured,
            unit,
        }))
    }
}

/// What of a run servesim has no model for.
fn unusable(distribution: &str, command: &str, notes: &str) -> Option<String> {
    let speculates = command.contains("SPECULATIVE")
        || command.contains("--speculative")
        || notes.contains("accept length");
    if speculates {
        return Some("it speculates, and with which acceptance is stated for few".to_string());
    }
    (distribution.starts_with("image") || command.contains("--image"))
        .then(|| "its prompts have images".to_string())
}

/// The file that a text such as `exact per-request replay file traces/x.csv` names.
fn trace_of(distribution: &str) -> &str {
    distribution.split_whitespace().find(|word| word.starts_with("traces/")).unwrap_or("traces")
}
