//! Published serving runs, one row each.

use std::collections::BTreeMap;
use std::path::PathBuf;

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
    /// As SGLang's `bench_serving` draws them from 1 to these limits of prompt and output.
    SglangRandom(u32, u32),
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

    /// Whether its version is this one or later.
    pub fn is_at_least(&self, major: u32, minor: u32) -> bool {
        version_parts(&self.version) >= (major, minor)
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

    /// Work of the front end on each request, in ns, that is known of the version: vLLM 0.11.0 parses the model's chat
    /// template again for every chat request (vllm-project/vllm, pull request 25794; later versions keep the result).
    /// GPUStack sends chat requests (`--backend openai-chat`); gpt-oss has a format of its own instead of a template.
    pub fn known_front_end_ns(&self) -> u64 {
        let parses = self.engine == EngineName::Vllm
            && self.version.trim_start_matches('v').starts_with("0.11.0")
            && self.source.starts_with("gpustack")
            && !self.model.contains("gpt-oss");
        if parses { TEMPLATE_NS } else { 0 }
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

/// Time to parse a chat template and list its variables: Qwen3's, 4 kB, takes 11.4 ms at least and 11.8 ms in the median of
/// 60 tries (Jinja2 3.1.6, Python 3.11, one core of an AMD EPYC). Measured by itself, not fitted to runs.
pub const TEMPLATE_NS: u64 = 11_500_000;

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

/// The first two numbers of a version such as `v0.11.0`; zero where there are none.
fn version_parts(version: &str) -> (u32, u32) {
    let mut parts =
        version.split(|letter: char| !letter.is_ascii_digit()).filter_map(|part| part.parse().ok());
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// The numbers of a text, such as 205 and 220 of `~205-220`.
pub(super) fn numbers(text: &str) -> Vec<f64> {
    text.split(|letter: char| !letter.is_ascii_digit() && letter != '.')
        .filter_map(|part| part.trim_matches('.').parse().ok())
        .collect()
}

/// The pages of `runs`, each once, with whether it is held out.
pub fn pages(runs: &[Run]) -> BTreeMap<(String, String), bool> {
    runs.iter().map(|run| ((run.source.clone(), run.page.clone()), run.is_held_out())).collect()
}
