//! Published serving runs, one row each.

use crate::measurement::csv_error;
use sim::document::io_message;
use sim::{Error, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What a figure is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    /// Time to first token, ms.
    Ttft,
    /// Mean time per output token of a request, ms.
    Tpot,
    /// Gap between two tokens, ms.
    Itl,
    /// Time to last token, ms.
    E2el,
    /// Tokens, or else requests, per second: every row has one of them.
    Throughput,
}

impl Metric {
    /// As tables head it.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Ttft => "TTFT",
            Metric::Tpot => "TPOT",
            Metric::Itl => "ITL",
            Metric::E2el => "E2EL",
            Metric::Throughput => "throughput",
        }
    }
}

/// Which statistic of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stat {
    /// Arithmetic mean.
    Mean,
    /// Median.
    P50,
    /// 90th percentile.
    P90,
    /// 99th percentile.
    P99,
}

impl Stat {
    /// As tables head it.
    pub fn name(self) -> &'static str {
        match self {
            Stat::Mean => "mean",
            Stat::P50 => "p50",
            Stat::P90 => "p90",
            Stat::P99 => "p99",
        }
    }
}

/// A figure of a run.
pub type Statistic = (Metric, Stat);

/// The engine that ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EngineName {
    /// vLLM.
    Vllm,
    /// SGLang.
    Sglang,
    /// TensorRT-LLM.
    TensorRtLlm,
}

impl EngineName {
    /// As its makers write it.
    pub fn name(self) -> &'static str {
        match self {
            EngineName::Vllm => "vLLM",
            EngineName::Sglang => "SGLang",
            EngineName::TensorRtLlm => "TensorRT-LLM",
        }
    }
}

/// How requests were sent.
#[derive(Debug, Clone, PartialEq)]
pub enum Load {
    /// All at once.
    Burst,
    /// Exponential gaps, requests per second.
    Poisson(f64),
    /// So many clients that wait for their answers.
    ClosedLoop(u32),
    /// At the times of a file beside the rows.
    Replay(PathBuf),
}

/// How the unit of throughput is counted in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThroughputUnit {
    /// Generated tokens per second.
    OutputTokens,
    /// Prompt and generated tokens per second.
    AllTokens,
    /// Requests per second.
    Requests,
}

/// The lengths that a row states.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    /// All the same.
    Constant,
    /// Prompts and answers of ShareGPT as `vllm bench` samples them.
    ShareGpt,
    /// Whole numbers from 1 to about twice the mean, equally often.
    Uniform,
}

/// One published run.
#[derive(Debug, Clone)]
pub struct Run {
    /// `group_id` of the row.
    pub id: String,
    /// Who published it.
    pub source: String,
    /// The page or file it stands on: pages are held out whole.
    pub page: String,
    /// The engine.
    pub engine: EngineName,
    /// Its version, as stated.
    pub version: String,
    /// The model, as stated.
    pub model: String,
    /// Format of the weights, as stated.
    pub weights: String,
    /// Format of the KV cache, as stated.
    pub kv: String,
    /// The GPU, as stated.
    pub gpu: String,
    /// Ranks: tensor, pipeline.
    pub tensor: u32,
    /// Pipeline stages.
    pub pipeline: u32,
    /// Expert ranks: `yes` is all.
    pub expert: String,
    /// Data-parallel ranks.
    pub data: String,
    /// Mean prompt length in tokens.
    pub prompt_tokens: f64,
    /// Mean output length in tokens.
    pub output_tokens: f64,
    /// How lengths spread around their means.
    pub shape: Shape,
    /// How requests were sent.
    pub load: Load,
    /// Requests sent.
    pub requests: u32,
    /// Most requests at once, where stated.
    pub max_num_seqs: Option<u32>,
    /// Most tokens per step, where stated.
    pub max_num_batched_tokens: Option<u32>,
    /// The serve command and other settings, as stated.
    pub command: String,
    /// Every figure of the row.
    pub measured: BTreeMap<Statistic, f64>,
    /// What throughput counts.
    pub unit: ThroughputUnit,
    /// Why it cannot be used, when that shows in the row itself.
    pub unusable: Option<String>,
}

impl Run {
    /// Whether no fit may see it: a hash of its page, so that runs of one page never stand on both sides.
    pub fn is_held_out(&self) -> bool {
        hash(&format!("{}|{}", self.source, self.page)).is_multiple_of(2)
    }

    /// Whether requests queued, by the measurement alone: everything was sent at once, or, with a rate of its own, half
    /// of the requests waited more than [`QUEUED_STEPS`] steps for their first token. Then only the throughput says
    /// something about the engine: latencies grow with the length of the run. Clients that wait for their answers
    /// cannot queue up.
    pub fn is_saturated(&self) -> bool {
        match self.load {
            Load::Burst => true,
            Load::ClosedLoop(_) => false,
            Load::Poisson(_) | Load::Replay(_) => {
                let get = |metric| self.measured.get(&(metric, Stat::P50)).copied();
                match (get(Metric::Ttft), get(Metric::Tpot)) {
                    (Some(ttft), Some(tpot)) => ttft > QUEUED_STEPS * tpot,
                    _ => true,
                }
            }
        }
    }

    /// The figure by which a metric is judged: the median where the row has it, the mean otherwise.
    pub fn headline(&self, metric: Metric) -> Option<(Statistic, f64)> {
        [Stat::P50, Stat::Mean]
            .into_iter()
            .find_map(|stat| Some(((metric, stat), *self.measured.get(&(metric, stat))?)))
    }

    /// The versions of an engine that are taken as one: what a residual is fitted for.
    pub fn generation(&self) -> &'static str {
        let (major, minor) = version_parts(&self.version);
        match (self.engine, major, minor) {
            (EngineName::Vllm, 0, ..=7) => "vLLM 0.6",
            (EngineName::Vllm, 0, 8) => "vLLM 0.8",
            (EngineName::Vllm, 0, 9..=13) => "vLLM 0.9 to 0.13",
            (EngineName::Vllm, ..) => "vLLM 0.19",
            (EngineName::Sglang, ..) => "SGLang 0.5",
            (EngineName::TensorRtLlm, ..) => "TensorRT-LLM 1",
        }
    }

    /// Load and lengths in a word, for tables.
    pub fn load_name(&self) -> String {
        let load = match &self.load {
            Load::Burst => "burst".to_string(),
            Load::Poisson(rate) => format!("Poisson {rate}/s"),
            Load::ClosedLoop(clients) => format!("{clients} clients"),
            Load::Replay(_) => "trace".to_string(),
        };
        format!("{load}, {:.0}/{:.0}", self.prompt_tokens, self.output_tokens)
    }
}

/// With more steps than this before the first token, in the median, requests queued.
pub const QUEUED_STEPS: f64 = 5.0;

/// FNV-1a, 64 bits, with a final mix so that low bits spread.
fn hash(text: &str) -> u64 {
    let mut state = 0xcbf2_9ce4_8422_2325_u64;
    for byte in text.bytes() {
        state = (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    state ^= state >> 32;
    state = state.wrapping_mul(0xd6e8_feb8_6659_fd93);
    state ^ (state >> 32)
}

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
            _ => Shape::Uniform,
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

/// The first two numbers of a version such as `v0.11.0`; zero where there are none.
fn version_parts(version: &str) -> (u32, u32) {
    let mut parts =
        version.split(|letter: char| !letter.is_ascii_digit()).filter_map(|part| part.parse().ok());
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// The numbers of a text, such as 205 and 220 of `~205-220`.
fn numbers(text: &str) -> Vec<f64> {
    text.split(|letter: char| !letter.is_ascii_digit() && letter != '.')
        .filter_map(|part| part.trim_matches('.').parse().ok())
        .collect()
}

/// The pages of `runs`, each once, with whether it is held out.
pub fn pages(runs: &[Run]) -> BTreeMap<(String, String), bool> {
    runs.iter().map(|run| ((run.source.clone(), run.page.clone()), run.is_held_out())).collect()
}
